//! The threads that run what must not hold up its caller: bounded queues, a fair share for each
//! lane, and batches of what waits.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::InferenceError;
use crate::batch::{self, Entry};
use crate::deadline::Ticket;

/// Whose inferences share a queue: an endpoint's. Where several lanes have something waiting, the
/// one with the fewest runs under way is next, and among equals the one that has had the least time.
pub struct Lane {
    number: u64,
    /// Nanoseconds of runs, as they count against other lanes.
    used: AtomicU64,
}

/// A fixed number of threads behind the queues of all lanes.
pub(crate) struct Executor {
    shared: Arc<Shared>,
    lanes: AtomicU64,
    pub(crate) threads: usize,
}

struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    /// Runs of one lane at once: fewer than there are threads, so that one is left for the others.
    each: usize,
}

#[derive(Default)]
struct State {
    /// The lanes in which something waits or runs.
    busy: HashMap<u64, Busy>,
    /// The time used by the lane that was last served: one that was at rest begins no further back,
    /// or it would have all threads until it had caught up.
    now: u64,
    closed: bool,
}

struct Busy {
    lane: Arc<Lane>,
    waiting: VecDeque<Entry>,
    running: usize,
}

/// What a thread may do.
enum Next {
    Run(Arc<Lane>, Vec<Entry>),
    /// Nothing before then: what waits is gathered for a batch.
    At(Instant),
    Wait,
}

impl Executor {
    /// Starts `threads` threads, of which one lane has at most `each` at once.
    pub(crate) fn start(threads: usize, each: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            arrived: Condvar::new(),
            each: each.max(1),
        });
        let executor = Self { shared, lanes: AtomicU64::new(0), threads: threads.max(1) };
        for number in 0..executor.threads {
            let shared = Arc::clone(&executor.shared);
            std::thread::Builder::new()
                .name(format!("berth-infer-{number}"))
                .spawn(move || work(&shared))?;
        }
        Ok(executor)
    }

    /// A new lane.
    pub(crate) fn lane(&self) -> Arc<Lane> {
        let number = self.lanes.fetch_add(1, Ordering::Relaxed);
        Arc::new(Lane { number, used: AtomicU64::new(0) })
    }

    /// Takes what nobody waits for any more out of the lane's queue.
    pub(crate) fn forget(&self, lane: &Lane, ticket: &Arc<Ticket>) {
        let forgotten = {
            let mut state = lock(&self.shared.state);
            let Some(busy) = state.busy.get_mut(&lane.number) else { return };
            let place = busy.waiting.iter().position(|entry| Arc::ptr_eq(&entry.ticket, ticket));
            place.and_then(|place| busy.waiting.remove(place))
        };
        // Its tensors are freed without the lock.
        drop(forgotten);
    }

    /// What waits and what runs in a lane.
    pub(crate) fn queue(&self, lane: &Lane) -> (usize, usize) {
        let state = lock(&self.shared.state);
        state.busy.get(&lane.number).map_or((0, 0), |busy| (busy.waiting.len(), busy.running))
    }

    /// Queues an inference, or refuses it at once when the model's queue in the lane is full of
    /// those that somebody waits for.
    pub(crate) fn submit(&self, lane: &Arc<Lane>, entry: Entry) -> Result<(), InferenceError> {
        let mut state = lock(&self.shared.state);
        let now = state.now;
        let busy = state.busy.entry(lane.number).or_insert_with(|| {
            lane.used.fetch_max(now, Ordering::Relaxed);
            Busy { lane: Arc::clone(lane), waiting: VecDeque::new(), running: 0 }
        });
        let most = entry.opened.options.queue.max(1);
        if busy.waits_for(&entry) >= most {
            busy.waiting.retain(|entry| !entry.ticket.is_dead());
            if busy.waits_for(&entry) >= most {
                return Err(InferenceError::Overloaded);
            }
        }
        busy.waiting.push_back(entry);
        drop(state);
        self.shared.arrived.notify_one();
        Ok(())
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // The threads are not joined: the last job may hold the last reference to this.
        let mut state = lock(&self.shared.state);
        state.closed = true;
        let busy = std::mem::take(&mut state.busy);
        drop(state);
        self.shared.arrived.notify_all();
        drop(busy);
    }
}

impl Busy {
    /// Entries for the same model that wait.
    fn waits_for(&self, entry: &Entry) -> usize {
        if self.waiting.len() < entry.opened.options.queue.max(1) {
            return self.waiting.len();
        }
        self.waiting.iter().filter(|other| Arc::ptr_eq(&other.opened, &entry.opened)).count()
    }

    /// How many entries may run with the first, itself included; and until when more are waited
    /// for. Nothing waits alone.
    fn gather(&self, now: Instant) -> Option<Result<Vec<usize>, Instant>> {
        let first = self.waiting.front()?;
        let (together, full) = batch::together(&self.waiting);
        let due = first.since + first.opened.options.delay;
        if !full && self.waiting.len() > 1 && together.len() > 1 && due > now {
            return Some(Err(due));
        }
        Some(Ok(together))
    }

    fn take(&mut self, together: &[usize]) -> Vec<Entry> {
        // From the back, so that the places before stay what they are.
        let mut entries: Vec<_> =
            together.iter().rev().filter_map(|&place| self.waiting.remove(place)).collect();
        entries.reverse();
        entries
    }
}

impl State {
    fn next(&mut self, each: usize, now: Instant) -> Next {
        let mut at = None;
        let mut best: Option<(usize, u64, u64, Vec<usize>)> = None;
        for (&number, busy) in &mut self.busy {
            if busy.running >= each {
                continue;
            }
            while busy.waiting.front().is_some_and(|first| first.ticket.is_dead()) {
                busy.waiting.pop_front();
            }
            let used = busy.lane.used.load(Ordering::Relaxed);
            if best.as_ref().is_some_and(|best| (best.0, best.1) <= (busy.running, used)) {
                continue;
            }
            match busy.gather(now) {
                None => {}
                Some(Err(due)) => at = Some(at.map_or(due, |at: Instant| at.min(due))),
                Some(Ok(together)) => best = Some((busy.running, used, number, together)),
            }
        }
        if let Some((_, used, number, together)) = best
            && let Some(busy) = self.busy.get_mut(&number)
        {
            busy.running += 1;
            self.now = self.now.max(used);
            return Next::Run(Arc::clone(&busy.lane), busy.take(&together));
        }
        self.busy.retain(|_, busy| busy.running > 0 || !busy.waiting.is_empty());
        at.map_or(Next::Wait, Next::At)
    }

    fn finished(&mut self, lane: &Lane, took: Duration) {
        lane.used.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        if let Some(busy) = self.busy.get_mut(&lane.number) {
            busy.running -= 1;
        }
    }
}

fn work(shared: &Shared) {
    let mut state = lock(&shared.state);
    while !state.closed {
        match state.next(shared.each, Instant::now()) {
            Next::Run(lane, entries) => {
                drop(state);
                let start = Instant::now();
                let tickets: Vec<_> =
                    entries.iter().map(|entry| Arc::clone(&entry.ticket)).collect();
                // A panic is a failure of these requests, not a thread less.
                if catch_unwind(AssertUnwindSafe(|| batch::run(entries))).is_err() {
                    for ticket in tickets {
                        ticket.answer(Err(InferenceError::Runtime(
                            "the host panicked in this run".to_owned(),
                        )));
                    }
                }
                state = lock(&shared.state);
                state.finished(&lane, start.elapsed());
            }
            Next::At(due) => {
                let wait = due.saturating_duration_since(Instant::now());
                let woken = shared.arrived.wait_timeout(state, wait);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            Next::Wait => {
                state = shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
