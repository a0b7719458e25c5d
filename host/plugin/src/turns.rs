//! Whose turn it is: as many guests run at once as there are cores, the others wait.
//!
//! What waits has no instance yet, or none that runs, so that instances are few and their memory is
//! where the last one left it. A guest that has run for long goes behind those that have not run
//! yet, but for one turn in four: a short call waits for no long one, and a long one goes on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::clock::Clock;

/// Turns to run for guests. The clock ticks while there is one.
pub(crate) struct Turns {
    waiting: Mutex<Waiting>,
    clock: Arc<Clock>,
}

struct Waiting {
    free: usize,
    /// Calls that have not run for long yet.
    fresh: VecDeque<oneshot::Sender<Turn>>,
    /// Calls that have.
    long: VecDeque<oneshot::Sender<Turn>>,
    /// Turns given to fresh ones since the last that was given to a long one.
    streak: u32,
}

/// The right to run until it is dropped.
pub(crate) struct Turn(Option<Arc<Turns>>);

/// Which of those that wait comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    Fresh,
    Long,
}

impl Turns {
    /// Fresh ones that have a turn before a long one has one.
    const STREAK: u32 = 3;

    /// Turns for `cores` guests at once.
    pub(crate) fn new(cores: usize, clock: Arc<Clock>) -> Arc<Self> {
        let (fresh, long) = (VecDeque::new(), VecDeque::new());
        let waiting = Mutex::new(Waiting { free: cores.max(1), fresh, long, streak: 0 });
        Arc::new(Self { waiting, clock })
    }

    /// Waits for a turn.
    pub(crate) async fn take(self: &Arc<Self>, rank: Rank) -> Turn {
        loop {
            let turn = {
                let mut waiting = self.lock();
                if waiting.free > 0 {
                    waiting.free -= 1;
                    self.clock.begin();
                    return Turn(Some(Arc::clone(self)));
                }
                let (give, turn) = oneshot::channel();
                match rank {
                    Rank::Fresh => waiting.fresh.push_back(give),
                    Rank::Long => waiting.long.push_back(give),
                }
                turn
            };
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }

    /// Hands a turn on to the next that still waits.
    fn pass_on(self: Arc<Self>) {
        loop {
            let Some(next) = self.lock().next() else { return self.clock.end() };
            match next.send(Turn(Some(Arc::clone(&self)))) {
                Ok(()) => return,
                // Its request has been given up.
                Err(mut turn) => turn.0 = None,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Who is next; when nobody is, the turn is free.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        if self.streak >= Turns::STREAK || self.fresh.is_empty() {
            self.streak = 0;
            if let Some(long) = self.long.pop_front() {
                return Some(long);
            }
        }
        self.streak += 1;
        let fresh = self.fresh.pop_front();
        self.free += usize::from(fresh.is_none());
        fresh
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use super::*;

    type Taking = Pin<Box<dyn Future<Output = Turn>>>;

    /// The turn, when it has come.
    async fn come(taking: &mut Taking) -> Option<Turn> {
        poll_fn(|cx| match taking.as_mut().poll(cx) {
            Poll::Ready(turn) => Poll::Ready(Some(turn)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn waiting(turns: &Arc<Turns>, rank: Rank) -> Taking {
        let turns = Arc::clone(turns);
        let mut taking: Taking = Box::pin(async move { turns.take(rank).await });
        assert!(come(&mut taking).await.is_none(), "it has to wait");
        taking
    }

    #[tokio::test]
    async fn there_are_no_more_turns_than_cores() {
        let turns = Turns::new(2, Arc::default());
        let (first, second) = (turns.take(Rank::Fresh).await, turns.take(Rank::Long).await);
        let mut third = waiting(&turns, Rank::Fresh).await;
        drop(first);
        let third = come(&mut third).await.unwrap();
        drop((second, third));
        assert_eq!(turns.lock().free, 2);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_waits_for_any_more_goes_on() {
        let turns = Turns::new(1, Arc::default());
        let first = turns.take(Rank::Fresh).await;
        let gone = waiting(&turns, Rank::Fresh).await;
        let given = waiting(&turns, Rank::Fresh).await;
        let mut last = waiting(&turns, Rank::Fresh).await;
        drop(gone);
        drop(first);
        // Given to it, but never looked at.
        drop(given);
        drop(come(&mut last).await.unwrap());
        assert_eq!(turns.lock().free, 1);
    }

    #[tokio::test]
    async fn long_ones_wait_for_fresh_ones_but_not_for_ever() {
        let turns = Turns::new(1, Arc::default());
        let mut held = turns.take(Rank::Fresh).await;
        let ranks = [[Rank::Long; 3].as_slice(), [Rank::Fresh; 5].as_slice()].concat();
        let mut all = Vec::new();
        for rank in ranks {
            all.push((rank, waiting(&turns, rank).await));
        }
        let mut order = String::new();
        while !all.is_empty() {
            drop(held);
            let mut next = None;
            for (at, (rank, taking)) in all.iter_mut().enumerate() {
                if let Some(turn) = come(taking).await {
                    next = Some((at, *rank, turn));
                    break;
                }
            }
            let (at, rank, turn) = next.unwrap();
            order.push(if rank == Rank::Fresh { 'f' } else { 'l' });
            held = turn;
            drop(all.remove(at));
        }
        assert_eq!(order, "ffflffll");
    }
}
