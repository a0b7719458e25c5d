//! The host under test, a client.

#[cfg(target_os = "linux")]
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod proxy;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

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

/// Sends a request again and again while `work` goes on, and fails unless every answer is 200. What
/// `work` is given waits until the next of them was answered.
pub(crate) fn beside(host: &Host, request: &Request, work: impl FnOnce(&dyn Fn())) {
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let stopping = Stop(&stop);
        let client = scope.spawn(|| {
            let mut connection = host.connect();
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.send(request).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let another = || {
            let before = answered.load(Ordering::Relaxed);
            until("another request is answered", || {
                client.is_finished() || answered.load(Ordering::Relaxed) > before
            });
        };
        another();
        work(&another);
        another();
        drop(stopping);
        client.join().expect("the other requests never failed");
    });
}

/// Numbers that look random and are the same for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Others in every run, unless `BERTH_SEED` says which. A test that fails shows the seed.
    pub(crate) fn seeded() -> Self {
        let now = || UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = std::env::var("BERTH_SEED").map_or_else(|_| now(), |seed| seed.parse().unwrap());
        eprintln!("BERTH_SEED={seed}");
        Self(seed.max(1))
    }

    /// From 0 up to, not including, `below`.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % below
    }
}
