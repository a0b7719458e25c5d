//! What the store of one processor call holds.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use berth_inference::InferenceError;
use berth_tensor::{DataType, Tensor, TensorError, tensor};
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, StoreContextMut, UpdateDeadline};

use crate::engine::ProcessorLimits;
use crate::processor::{Bindings, Usage};
use crate::turns::{Rank, Turn, Turns};
use crate::wasi::{Said, Start};
use crate::{Reply, Request};

/// The data of a processor's store.
pub(crate) struct State {
    pub(crate) table: ResourceTable,
    pub(crate) request: Arc<Request>,
    pub(crate) reply: Reply,
    pub(crate) bindings: Arc<Bindings>,
    pub(crate) deadline: Instant,
    pub(crate) account: Account,
    pub(crate) said: Said,
    /// Why the last inference failed: the plugin's own failure may only pass it on.
    pub(crate) failed_inference: Option<InferenceError>,
}

/// What a call has used, and what it may use.
pub(crate) struct Account {
    pub(crate) limits: ProcessorLimits,
    /// Shared with the inferences under way, which charge what they answer when they end.
    pub(crate) host_bytes: Arc<HostBytes>,
    pub(crate) inferences: usize,
    /// Making the instance; zero until it is made.
    pub(crate) instantiate: Duration,
    /// Calls of the host's functions so far, those of WASI left out.
    pub(crate) host_calls: u64,
    pub(crate) memory: u64,
    /// Whether the guest was refused memory and has asked the host for nothing since.
    pub(crate) memory_refused: bool,
    pub(crate) cpu: Arc<CpuClock>,
    pub(crate) stopped: Option<Stop>,
}

/// Why the host stopped a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Deadline,
    Cpu,
}

/// Why bytes of the guest's were not copied into a tensor.
#[derive(Debug)]
pub(crate) enum NotCopied {
    Unfit(TensorError),
    Over(OverHostBytes),
}

/// The host would have to hold more for the guest than its limit, in bytes.
#[derive(Debug, thiserror::Error)]
#[error(
    "the tensors and bodies that the host holds for the request would exceed its limit of {0} bytes"
)]
pub(crate) struct OverHostBytes(pub(crate) u64);

impl State {
    /// Counts a call of one of the host's functions, all of which come by here.
    pub(crate) fn called(&mut self) -> &mut Self {
        self.account.host_calls += 1;
        // Whoever goes on to call has found a way without that memory.
        self.account.memory_refused = false;
        self
    }
}

impl Account {
    pub(crate) fn new(limits: ProcessorLimits, turns: &Arc<Turns>) -> Self {
        Self {
            limits,
            host_bytes: Arc::new(HostBytes::of(limits.host_bytes)),
            inferences: 0,
            instantiate: Duration::ZERO,
            host_calls: 0,
            memory: 0,
            memory_refused: false,
            cpu: CpuClock::new(turns),
            stopped: None,
        }
    }

    /// Takes note of bytes that the host is to hold.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), OverHostBytes> {
        self.host_bytes.hold(bytes)
    }

    /// A tensor with a copy of the guest's bytes, held from then on.
    pub(crate) fn copied(
        &self,
        datatype: DataType,
        shape: Vec<u64>,
        data: &[u8],
    ) -> Result<Tensor, NotCopied> {
        tensor::check(datatype, &shape, data).map_err(NotCopied::Unfit)?;
        let charge = self.host_bytes.charge(data.len() as u64).map_err(NotCopied::Over)?;
        let tensor = Tensor::new(datatype, shape, Bytes::copy_from_slice(data));
        let tensor = tensor.map_err(NotCopied::Unfit)?;
        charge.hand_over();
        Ok(tensor)
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.host_bytes.release(bytes);
    }

    fn usage(&self) -> Usage {
        Usage {
            instantiate: self.instantiate,
            cpu: self.cpu.used(),
            memory: self.memory,
            host_bytes: self.host_bytes.peak.load(Relaxed),
            host_calls: self.host_calls,
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let usage = self.account.usage();
        self.request.reports.worked(usage.cpu);
        self.bindings.sink.used(&usage);
    }
}

/// What the host holds for one call, in bytes.
pub(crate) struct HostBytes {
    limit: u64,
    now: AtomicU64,
    peak: AtomicU64,
}

impl HostBytes {
    pub(crate) fn of(limit: u64) -> Self {
        Self { limit, now: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    fn hold(&self, bytes: u64) -> Result<(), OverHostBytes> {
        let more = |now: u64| now.checked_add(bytes).filter(|&held| held <= self.limit);
        match self.now.fetch_update(Relaxed, Relaxed, more) {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Relaxed);
                Ok(())
            }
            Err(_) => Err(OverHostBytes(self.limit)),
        }
    }

    fn release(&self, bytes: u64) {
        let _ = self.now.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_sub(bytes)));
    }

    /// Forgets what is held: a benchmark calls an instance again and again.
    pub(crate) fn clear(&self) {
        self.now.store(0, Relaxed);
    }

    /// Holds bytes until the charge is dropped.
    pub(crate) fn charge(self: &Arc<Self>, bytes: u64) -> Result<Charge, OverHostBytes> {
        self.hold(bytes)?;
        Ok(Charge { account: Arc::clone(self), bytes })
    }
}

/// Bytes held on an account until this is dropped.
pub(crate) struct Charge {
    account: Arc<HostBytes>,
    bytes: u64,
}

impl Charge {
    /// Leaves the bytes on the account, for whoever takes them over to release.
    pub(crate) fn hand_over(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.release(self.bytes);
    }
}

/// The CPU time of a turn, after which a guest goes behind others: most calls are done by then.
const SLICE: Duration = Duration::from_millis(5);

/// A guest's turn, and the CPU time that it has used: that of the thread that polls its future,
/// what the host works for it left out. Time in which the system ran something else is nobody's:
/// neither the guest's, which is limited, nor the turn's, or a crowded machine would change turns
/// after less and less work. Touched by one thread at a time, and between two polls by none.
pub(crate) struct CpuClock {
    turns: Arc<Turns>,
    turn: Mutex<Option<Turn>>,
    /// What is not the turn's of what had been used, in nanoseconds; below zero, by wrapping, when
    /// the host has worked for the guest since it began.
    turn_since_ns: AtomicU64,
    used_ns: AtomicU64,
    /// The thread's time at which the guest went on, in nanoseconds, plus one; 0 while it does not
    /// run.
    since_ns: AtomicU64,
    waiting: AtomicBool,
}

/// The CPU time of this thread, in nanoseconds: a call of the system, which takes some 300 of them.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl CpuClock {
    pub(crate) fn new(turns: &Arc<Turns>) -> Arc<Self> {
        Arc::new(Self {
            turns: Arc::clone(turns),
            turn: Mutex::new(None),
            turn_since_ns: AtomicU64::new(0),
            used_ns: AtomicU64::new(0),
            since_ns: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
        })
    }

    /// The guest runs from here on, if it does not wait; answers the thread's time.
    fn go(&self) -> u64 {
        if self.waiting.load(Relaxed) {
            return 0;
        }
        let now = thread_ns();
        self.since_ns.store(now + 1, Relaxed);
        now
    }

    /// The guest does not run from here on; answers the thread's time, if it did.
    fn halt(&self) -> u64 {
        let since = self.since_ns.swap(0, Relaxed);
        if since == 0 {
            return 0;
        }
        let now = thread_ns();
        self.used_ns.fetch_add((now + 1).saturating_sub(since), Relaxed);
        now
    }

    /// The time so far. While the guest runs, for its thread alone to ask.
    pub(crate) fn used(&self) -> Duration {
        let since = self.since_ns.load(Relaxed);
        let running = if since > 0 { (thread_ns() + 1).saturating_sub(since) } else { 0 };
        Duration::from_nanos(self.used_ns.load(Relaxed) + running)
    }

    /// Waits for a turn to run.
    async fn take_turn(&self, rank: Rank) {
        let turn = self.turns.take(rank).await;
        self.turn_since_ns.store(self.used().as_nanos() as u64, Relaxed);
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
    }

    fn end_turn(&self) {
        drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Whether a turn that came to `used` has lasted long enough.
    fn is_up(&self, used: Duration) -> bool {
        let since = self.turn_since_ns.load(Relaxed);
        Duration::from_nanos((used.as_nanos() as u64).wrapping_sub(since)) >= SLICE
    }

    /// Lets others run first.
    async fn give_way(self: Arc<Self>) {
        self.end_turn();
        // Not only other guests.
        tokio::task::yield_now().await;
        self.take_turn(Rank::Long).await;
    }

    /// Runs host work that is not charged to the guest. What is done at once is the turn's, which
    /// others wait for meanwhile; where it takes time, another guest has the turn.
    pub(crate) async fn wait<F: Future>(self: Arc<Self>, work: F) -> F::Output {
        let halted = self.halt();
        self.waiting.store(true, Relaxed);
        let mut work = pin!(work);
        let at_once = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        match at_once {
            Poll::Ready(output) => {
                self.waiting.store(false, Relaxed);
                let worked = self.go().saturating_sub(halted);
                self.turn_since_ns.fetch_sub(worked, Relaxed);
                output
            }
            Poll::Pending => {
                self.end_turn();
                let output = work.await;
                let rank = if self.used() < SLICE { Rank::Fresh } else { Rank::Long };
                self.take_turn(rank).await;
                self.waiting.store(false, Relaxed);
                self.go();
                output
            }
        }
    }

    /// Runs a guest's future once it has a turn, and charges its time.
    pub(crate) async fn charge<F: Future>(self: Arc<Self>, rank: Rank, guest: F) -> F::Output {
        self.take_turn(rank).await;
        let mut guest = pin!(guest);
        poll_fn(|cx| {
            self.go();
            let polled = guest.as_mut().poll(cx);
            self.halt();
            polled
        })
        .await
    }
}

/// Called at every tick of the clock while the guest runs.
pub(crate) fn on_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data_mut();
    let account = &mut state.account;
    if Instant::now() >= state.deadline {
        account.stopped = Some(Stop::Deadline);
        return Ok(UpdateDeadline::Interrupt);
    }
    let used = account.cpu.used();
    if used >= account.limits.cpu {
        account.stopped = Some(Stop::Cpu);
        return Ok(UpdateDeadline::Interrupt);
    }
    // A thread that gives way to others, as those of shadows, may be without a core for long.
    if account.cpu.is_up(used) || berth_inference::runs_are_kept_here() {
        let clock = Arc::clone(&account.cpu);
        return Ok(UpdateDeadline::YieldCustom(1, Box::pin(clock.give_way())));
    }
    Ok(UpdateDeadline::Yield(1))
}

impl ResourceLimiter for Account {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = desired as u64 <= self.limits.memory;
        if granted {
            self.memory = self.memory.max(desired as u64);
        }
        self.memory_refused = !granted;
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= 20_000)
    }
}

impl Start for State {
    fn said(&mut self) -> &mut Said {
        &mut self.said
    }
}

impl crate::bindings::processor::berth::plugin::types::Host for State {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works for as long as a turn lasts.
    fn work() {
        let start = thread_ns();
        while thread_ns() - start < SLICE.as_nanos() as u64 {}
    }

    #[tokio::test]
    async fn only_the_work_of_the_guest_itself_is_charged() {
        const ASLEEP: Duration = Duration::from_millis(100);
        let idle: fn() = || {};
        let sleep: fn() = || std::thread::sleep(ASLEEP);
        let work: fn() = work;
        let cases = [
            ("nothing", idle, idle, false, false),
            ("off the processor", sleep, idle, false, false),
            ("the guest", work, idle, true, true),
            ("the host, in its turn", idle, work, false, true),
        ];
        for (name, guest, host, charged, is_up) in cases {
            let clock = CpuClock::new(&Turns::new(1, Arc::default()));
            let inside = Arc::clone(&clock);
            let seen = Arc::clone(&clock).charge(Rank::Fresh, async move {
                guest();
                Arc::clone(&inside).wait(async { host() }).await;
                inside.is_up(inside.used())
            });
            assert_eq!(seen.await, is_up, "{name}");
            assert_eq!(clock.used() >= SLICE, charged, "{name}: {:?}", clock.used());
        }
    }
}
