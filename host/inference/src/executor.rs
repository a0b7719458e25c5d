//! The threads that run what must not hold up its caller, for each device their own: bounded queues,
//! a fair share for each lane, and batches of what waits.

use std::collections::{BTreeMap, HashMap, VecDeque, hash_map};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::InferenceError;
use crate::batch::{self, Entry};
use crate::deadline::Ticket;
use crate::model::{Few, Opened};
use crate::onnxruntime::Device;

#[cfg(test)]
mod tests;

/// Whose inferences share a queue on each device: an endpoint's. Where several lanes have something
/// waiting, the one with the fewest runs under way is next, and among equals the one that has had the
/// least time of that device.
#[derive(Default)]
pub struct Lane(Mutex<BTreeMap<Device, Arc<Share>>>);

/// A lane's share of one device.
pub(crate) struct Share {
    number: u64,
    /// Nanoseconds of runs, as they count against other lanes.
    used: AtomicU64,
}

/// Threads behind the queues of all lanes: those that were asked for, and more while lanes that have
/// none running would wait for one.
pub(crate) struct Executor {
    shared: Arc<Shared>,
    lanes: AtomicU64,
}

/// Those that are there when nothing runs, where one lane has so many runs at once.
pub(crate) fn threads(each: usize) -> usize {
    2 * each.max(1)
}

/// Threads beyond those that were asked for, at most. Where as many lanes are slow at once, one more
/// waits until a run of theirs ends.
pub(crate) const MORE: usize = 256;

struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    /// Runs of one lane at once, at least 1.
    each: usize,
    /// Runs of all lanes at once beyond which only lanes that have none begin one.
    shared: usize,
    /// The lanes in which something waits or runs.
    busy: HashMap<u64, Busy>,
    /// Runs under way.
    running: usize,
    /// The time used by the lane that was last served: one that was at rest begins no further back,
    /// or it would have all threads until it had caught up.
    now: u64,
    /// Threads that are there, and those of them that wait for something to do.
    threads: usize,
    resting: usize,
    /// Threads that could not be started.
    missed: u64,
    closed: bool,
}

struct Busy {
    lane: Arc<Share>,
    waiting: VecDeque<Entry>,
    running: usize,
}

/// What a thread may do.
enum Next {
    Run(Arc<Share>, Vec<Entry>),
    /// Nothing before then: what waits is gathered for a batch.
    At(Instant),
    Wait,
}

impl Lane {
    /// What the lane has of a device.
    pub(crate) fn share(&self, device: &Device, executor: &Executor) -> Arc<Share> {
        let mut shares = lock(&self.0);
        Arc::clone(shares.entry(device.clone()).or_insert_with(|| executor.share()))
    }
}

impl Executor {
    /// Starts `2 * each` threads, of which one lane has at most `each` at once, and at least 1.
    pub(crate) fn start(each: usize) -> std::io::Result<Self> {
        let state = State::new(each);
        let threads = state.shared;
        let shared = Arc::new(Shared { state: Mutex::new(state), arrived: Condvar::new() });
        // Made first, so that the others end when one cannot be started.
        let executor = Self { shared, lanes: AtomicU64::new(0) };
        for _ in 0..threads {
            lock(&executor.shared.state).threads += 1;
            executor.shared.start_thread()?;
        }
        Ok(executor)
    }

    fn share(&self) -> Arc<Share> {
        let number = self.lanes.fetch_add(1, Ordering::Relaxed);
        Arc::new(Share { number, used: AtomicU64::new(0) })
    }

    /// Takes what nobody waits for any more out of the lane's queue.
    pub(crate) fn forget(&self, lane: &Share, ticket: &Arc<Ticket>) {
        let forgotten = {
            let mut state = lock(&self.shared.state);
            let Some(busy) = state.busy.get_mut(&lane.number) else { return };
            let place = busy.waiting.iter().position(|entry| Arc::ptr_eq(&entry.ticket, ticket));
            let forgotten = place.and_then(|place| busy.waiting.remove(place));
            state.leave_out(lane.number);
            // What was held with it may be alone now, and so held no longer.
            if state.is_pending() {
                self.shared.arrived.notify_one();
            }
            forgotten
        };
        // Its tensors are freed without the lock.
        drop(forgotten);
    }

    /// What waits and what runs in a lane.
    pub(crate) fn queue(&self, lane: &Share) -> (usize, usize) {
        let state = lock(&self.shared.state);
        state.busy.get(&lane.number).map_or((0, 0), |busy| (busy.waiting.len(), busy.running))
    }

    /// Refuses what could not be queued for a model in a lane.
    pub(crate) fn expect_room(
        &self,
        lane: &Share,
        opened: &Arc<Opened>,
    ) -> Result<(), InferenceError> {
        let mut state = lock(&self.shared.state);
        state.busy.get_mut(&lane.number).map_or(Ok(()), |busy| busy.expect_room(opened))
    }

    /// Queues an inference, or refuses it at once when the model's queue in the lane is full of
    /// those that somebody waits for.
    pub(crate) fn submit(&self, lane: &Arc<Share>, entry: Entry) -> Result<(), InferenceError> {
        let may_begin = lock(&self.shared.state).submit(lane, entry)?;
        // Else whoever ends a run looks for the next by itself.
        if may_begin {
            self.shared.arrived.notify_one();
        }
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
    /// Whether one more entry for a model may wait. Those that nobody waits for go before it is
    /// refused.
    fn expect_room(&mut self, opened: &Arc<Opened>) -> Result<(), InferenceError> {
        let has_room = |waiting: &VecDeque<Entry>| {
            let most = opened.options.queue.max(1);
            let same = |other: &&Entry| Arc::ptr_eq(&other.opened, opened);
            waiting.len() < most || waiting.iter().filter(same).count() < most
        };
        if has_room(&self.waiting) {
            return Ok(());
        }
        self.waiting.retain(|entry| !entry.ticket.is_dead());
        if has_room(&self.waiting) { Ok(()) } else { Err(InferenceError::Overloaded) }
    }

    /// The places of those that run next, together; or until when all that wait are held for more.
    /// What is held of one model holds up no other model.
    fn gather(&self, now: Instant) -> Option<Result<Few<usize>, Instant>> {
        let mut held: Few<&Arc<Opened>> = Few::new();
        let mut at: Option<Instant> = None;
        for (place, entry) in self.waiting.iter().enumerate() {
            if entry.ticket.is_dead() || held.iter().any(|&it| Arc::ptr_eq(it, &entry.opened)) {
                continue;
            }
            match batch::together(&self.waiting, place, now) {
                Ok(together) => return Some(Ok(together)),
                Err(due) => {
                    held.push(&entry.opened);
                    at = Some(at.map_or(due, |at| at.min(due)));
                }
            }
        }
        at.map(Err)
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
    fn new(each: usize) -> Self {
        Self { each: each.max(1), shared: threads(each), ..Self::default() }
    }

    /// Queues an inference and answers whether its lane may begin a run.
    fn submit(&mut self, lane: &Arc<Share>, entry: Entry) -> Result<bool, InferenceError> {
        let now = self.now;
        let busy = self.busy.entry(lane.number).or_insert_with(|| {
            lane.used.fetch_max(now, Ordering::Relaxed);
            Busy { lane: Arc::clone(lane), waiting: VecDeque::new(), running: 0 }
        });
        busy.expect_room(&entry.opened)?;
        busy.waiting.push_back(entry);
        let running = busy.running;
        Ok(self.may_begin(running))
    }

    /// Whether a lane may begin a run that has so many under way. One that has none always may, so
    /// that no number of slow lanes holds it up.
    fn may_begin(&self, running: usize) -> bool {
        running == 0 || (running < self.each && self.running < self.shared)
    }

    fn next(&mut self, now: Instant) -> Next {
        let mut at = None;
        let mut best: Option<(usize, u64, u64, Few<usize>)> = None;
        for (&number, busy) in &self.busy {
            if !self.may_begin(busy.running) {
                continue;
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
            self.running += 1;
            self.now = self.now.max(used);
            return Next::Run(Arc::clone(&busy.lane), busy.take(&together));
        }
        at.map_or(Next::Wait, Next::At)
    }

    /// Whether there may be something to do for one more thread, now or soon.
    fn is_pending(&self) -> bool {
        self.busy.values().any(|busy| !busy.waiting.is_empty() && self.may_begin(busy.running))
    }

    fn finished(&mut self, lane: &Share, took: Duration) {
        lane.used.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        self.running -= 1;
        if let Some(busy) = self.busy.get_mut(&lane.number) {
            busy.running -= 1;
        }
        self.leave_out(lane.number);
    }

    /// Forgets a lane in which nothing waits or runs.
    fn leave_out(&mut self, number: u64) {
        if let hash_map::Entry::Occupied(busy) = self.busy.entry(number)
            && busy.get().running == 0
            && busy.get().waiting.is_empty()
        {
            busy.remove();
        }
    }
}

impl Shared {
    /// Starts a thread that has been counted.
    fn start_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("berth-infer".to_owned());
        let started = thread.spawn(move || work(&shared));
        if let Err(error) = &started {
            let mut state = lock(&self.state);
            state.threads -= 1;
            state.missed += 1;
            // The log has the first, and then fewer and fewer.
            if state.missed.is_power_of_two() {
                tracing::warn!(
                    "no more threads for models, so that slow endpoints may hold up others: {error}"
                );
            }
        }
        started.map(drop)
    }

    /// Called by a thread that is about to run something: has another look out for what else there
    /// is to do meanwhile.
    fn hand_over(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.resting > 0 {
            let pending = state.is_pending();
            drop(state);
            // Who wakes may have slept until some time that nobody else knows of.
            if pending {
                self.arrived.notify_one();
            }
        } else if state.threads < state.shared + MORE {
            state.threads += 1;
            drop(state);
            // Without it, who ends a run looks for the next.
            let _ = self.start_thread();
        }
    }
}

fn work(shared: &Arc<Shared>) {
    let mut state = lock(&shared.state);
    while !state.closed {
        let due = match state.next(Instant::now()) {
            Next::Run(lane, entries) => {
                shared.hand_over(state);
                let start = Instant::now();
                run(entries);
                state = lock(&shared.state);
                state.finished(&lane, start.elapsed());
                continue;
            }
            // The others are enough.
            Next::Wait if state.resting >= state.shared => break,
            Next::Wait => None,
            Next::At(due) => Some(due),
        };
        state.resting += 1;
        state = match due.map(|due| due.saturating_duration_since(Instant::now())) {
            None => shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(wait) => {
                let woken = shared.arrived.wait_timeout(state, wait);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.resting -= 1;
    }
    state.threads -= 1;
}

/// Runs what belongs together. A panic is a failure of these requests, not a thread less.
fn run(entries: Vec<Entry>) {
    let tickets: Few<_> = entries.iter().map(|entry| Arc::clone(&entry.ticket)).collect();
    let panicked = || InferenceError::Runtime("the host panicked in this run".to_owned());
    let ran = catch_unwind(AssertUnwindSafe(|| batch::run(entries)));
    if ran.is_err() {
        // Whoever is woken may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            tickets.iter().for_each(|ticket| ticket.answer(Err(panicked())));
        }));
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
