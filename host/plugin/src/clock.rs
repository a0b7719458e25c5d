//! The clock that interrupts guests: it ticks while one of them runs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use wasmtime::Engine;

/// How often running guests let others run and have their limits checked.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without a guest before the clock rests, so that it does not stop between two calls of the
/// same guest; each costs some microseconds.
const IDLE_TICKS: u32 = 3;

/// Raises the epoch while guests run, and rests while none does or all of them wait.
#[derive(Default)]
pub(crate) struct Clock {
    running: AtomicUsize,
    asleep: Mutex<bool>,
    wake: Condvar,
}

impl Clock {
    /// One that ticks for `engine` for as long as it is held.
    pub(crate) fn start(engine: Engine) -> std::io::Result<Arc<Self>> {
        let clock = Arc::new(Self::default());
        let weak = Arc::downgrade(&clock);
        std::thread::Builder::new().name("epoch".into()).spawn(move || tick(&weak, &engine))?;
        Ok(clock)
    }

    /// A guest runs from here on.
    pub(crate) fn begin(&self) {
        if self.running.fetch_add(1, Ordering::SeqCst) == 0 {
            let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut *asleep) {
                self.wake.notify_one();
            }
        }
    }

    /// A guest does not run any more.
    pub(crate) fn end(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(clock: &Weak<Clock>, engine: &Engine) {
    let mut idle = 0;
    while let Some(clock) = clock.upgrade() {
        if clock.running.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle > IDLE_TICKS {
            let mut asleep = clock.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            *asleep = true;
            // A guest that began just now has seen `asleep` unset and will not wake us.
            if clock.running.load(Ordering::SeqCst) > 0 {
                *asleep = false;
            }
            // Bounded, so that the thread ends some time after the clock is let go of.
            let rest = Duration::from_secs(5);
            let rested = clock.wake.wait_timeout_while(asleep, rest, |asleep| *asleep);
            let (mut asleep, rested) = rested.unwrap_or_else(PoisonError::into_inner);
            *asleep = false;
            idle = if rested.timed_out() { IDLE_TICKS } else { 0 };
        }
        drop(clock);
        std::thread::sleep(TICK);
        engine.increment_epoch();
    }
}
