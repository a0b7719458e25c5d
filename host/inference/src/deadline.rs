//! Stops runs whose time is up.
//!
//! One thread sleeps until the earliest deadline of all runs, those on their caller's thread
//! included, so that no model can hold a thread for longer than its request has.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use berth_tensor::Tensor;
use crossbeam_queue::ArrayQueue;
use tokio::sync::oneshot;

use crate::InferenceError;
use crate::onnxruntime::session::Stop;

/// What a run comes to: the outputs in the order asked for.
pub(crate) type Answer = Result<Vec<Tensor>, InferenceError>;

/// A call of ONNX Runtime, for as many requests as share it. It is stopped when none of them wants
/// it any more.
pub(crate) struct Run {
    pub(crate) stop: Stop,
    wanted: AtomicUsize,
}

impl Run {
    /// A run that one holder wants: a request, or whoever gathers requests for it.
    pub(crate) fn new() -> Result<Arc<Self>, InferenceError> {
        let stop = Stop::new().map_err(InferenceError::Runtime)?;
        Ok(Arc::new(Self { stop, wanted: AtomicUsize::new(1) }))
    }

    /// One holder wants it no more; answers whether another does.
    pub(crate) fn unwanted(&self) -> bool {
        let others = self.wanted.fetch_sub(1, Ordering::AcqRel) > 1;
        if !others {
            self.stop.stop();
        }
        others
    }
}

/// One inference from its request to its end, shared by whoever may end it.
pub(crate) struct Ticket {
    dead: AtomicBool,
    ended: AtomicBool,
    /// What it runs in, once it does.
    run: Mutex<Option<Arc<Run>>>,
    reply: Mutex<Option<oneshot::Sender<Answer>>>,
}

impl Ticket {
    /// A ticket whose first answer goes to `reply`, and which is in `run` already or joins one later.
    pub(crate) fn new(reply: Option<oneshot::Sender<Answer>>, run: Option<Arc<Run>>) -> Arc<Self> {
        let (dead, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { dead, ended, run: Mutex::new(run), reply: Mutex::new(reply) })
    }

    /// Whether nobody waits for the answer any more, or its time is up.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Has the ticket end in `run`, or says that it is dead.
    pub(crate) fn join(&self, run: &Arc<Run>) -> bool {
        let mut place = lock(&self.run);
        if self.is_dead() {
            return false;
        }
        run.wanted.fetch_add(1, Ordering::AcqRel);
        *place = Some(Arc::clone(run));
        true
    }

    /// The run has come to its end: there is nothing left to stop.
    pub(crate) fn ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Ends the run when no other request is in it, or keeps it from beginning.
    fn kill(&self) {
        if !self.dead.swap(true, Ordering::AcqRel)
            && let Some(run) = lock(&self.run).as_ref()
        {
            run.unwanted();
        }
    }

    /// Answers, unless that has happened.
    pub(crate) fn answer(&self, answer: Answer) {
        if let Some(reply) = lock(&self.reply).take() {
            // The caller may have gone; then nobody wants the answer.
            let _ = reply.send(answer);
        }
    }
}

/// A ticket under watch. Dropping it ends the run, if it has not ended.
pub(crate) struct Watched<'a> {
    deadlines: &'a Deadlines,
    key: (Instant, u64),
    ticket: Arc<Ticket>,
    /// The run, when it is on its caller's thread and nobody else has the ticket.
    here: Option<Arc<Run>>,
}

impl std::ops::Deref for Watched<'_> {
    type Target = Arc<Ticket>;

    fn deref(&self) -> &Arc<Ticket> {
        &self.ticket
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let ours = lock(&self.deadlines.shared.state).pending.remove(&self.key).is_some();
        if !self.ticket.ended.swap(false, Ordering::AcqRel) {
            self.ticket.kill();
        } else if let Some(run) = self.here.take().filter(|_| ours) {
            // Nobody else has it any more, nor has it been stopped. When there are enough, it goes.
            let _ = self.deadlines.spare.push((Arc::clone(&self.ticket), run));
        }
    }
}

/// The deadlines of all runs of a runtime, and the thread that watches them.
pub(crate) struct Deadlines {
    shared: Arc<Shared>,
    /// Tickets of runs that have ended on their caller's thread: making one takes a tenth of a
    /// small run.
    spare: ArrayQueue<(Arc<Ticket>, Arc<Run>)>,
}

/// The most tickets kept for the next runs.
const SPARE: usize = 64;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    sooner: Condvar,
}

#[derive(Default)]
struct State {
    pending: BTreeMap<(Instant, u64), Arc<Ticket>>,
    count: u64,
    /// When the thread looks next by itself; none while it waits for a first deadline.
    wakes_at: Option<Instant>,
    closed: bool,
}

impl Deadlines {
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("berth-deadlines".to_owned())
            .spawn(move || watch(&watched))?;
        Ok(Self { shared, spare: ArrayQueue::new(SPARE) })
    }

    /// Watches a run on the caller's thread: at `deadline` it is stopped.
    pub(crate) fn watch_here(
        &self,
        deadline: Instant,
    ) -> Result<(Watched<'_>, Arc<Run>), InferenceError> {
        let (ticket, run) = match self.spare.pop() {
            Some(spare) => spare,
            None => {
                let run = Run::new()?;
                (Ticket::new(None, Some(Arc::clone(&run))), run)
            }
        };
        let mut watched = self.watch(deadline, ticket);
        watched.here = Some(Arc::clone(&run));
        Ok((watched, run))
    }

    /// Watches a run: at `deadline` it is stopped and answered with a timeout.
    pub(crate) fn watch(&self, deadline: Instant, ticket: Arc<Ticket>) -> Watched<'_> {
        let mut state = lock(&self.shared.state);
        let key = (deadline, state.count);
        state.count += 1;
        state.pending.insert(key, Arc::clone(&ticket));
        // Waking the thread costs more than a small run, and deadlines mostly come in order.
        if state.wakes_at.is_none_or(|wakes_at| deadline < wakes_at) {
            state.wakes_at = Some(deadline);
            self.shared.sooner.notify_one();
        }
        drop(state);
        Watched { deadlines: self, key, ticket, here: None }
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.sooner.notify_one();
    }
}

fn watch(shared: &Shared) {
    let mut state = lock(&shared.state);
    while !state.closed {
        let now = Instant::now();
        let mut expired = Vec::new();
        while let Some(first) = state.pending.first_entry().filter(|first| first.key().0 <= now) {
            expired.push(first.remove());
        }
        if !expired.is_empty() {
            drop(state);
            for ticket in expired {
                // Who is woken may panic, and the other deadlines hold all the same.
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    ticket.kill();
                    ticket.answer(Err(InferenceError::Timeout));
                }));
            }
            state = lock(&shared.state);
            continue;
        }
        // It wakes when it has said, also when that run has ended: else the next would have to wake it.
        let first = state.pending.first_key_value().map(|(key, _)| key.0);
        let said = state.wakes_at.filter(|&wakes_at| wakes_at > now);
        state.wakes_at = first.into_iter().chain(said).min();
        state = match state.wakes_at {
            None => shared.sooner.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(wakes_at) => {
                let wait = wakes_at.saturating_duration_since(now);
                shared.sooner.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}

/// Locks what stays sound wherever a panic may have left it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
