//! The host under test, a client.

pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod http;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use berth_onnx::small as onnx;
pub(crate) use host::Host;
pub(crate) use http::{Answer, Connection, Request};

/// How long anything may take before a test gives up: a bound on hanging, not an expectation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until `condition` holds, and fails when it never does.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "this never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sets a flag that threads look at when it is dropped, so that they also end when a test fails.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// From 0 up to, not including, `below`.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % below
    }
}
