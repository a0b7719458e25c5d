//! The numbers that a processor reports of one request, and where its time went.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most names that are noted of a request.
const NAMES: usize = 32;

/// The largest value that is noted; beyond it, it counts as that.
const LARGEST: f64 = 1e100;

/// What a processor reports of one request, where somebody wants to know. By default nobody does.
#[derive(Debug, Default)]
pub struct Reports {
    wanted: bool,
    noted: Mutex<Vec<Report>>,
    cpu_ns: AtomicU64,
    models_ns: AtomicU64,
}

/// Where the time of a request went that a processor had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// On a core, in the processor.
    pub cpu: Duration,
    /// Waiting for models, which have queues of their own.
    pub models: Duration,
}

/// A processor that waits for a model.
pub(crate) struct Waiting<'a>(&'a Reports, Instant);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Self(reports, since) = self;
        reports.models_ns.fetch_add(since.elapsed().as_nanos() as u64, Relaxed);
    }
}

/// What was reported of one request by a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The name.
    pub name: String,
    /// How often.
    pub count: u64,
    /// The sum of the values.
    pub sum: f64,
    /// The sum of their squares.
    pub squares: f64,
}

impl Reports {
    /// Notes what is reported only if it is `wanted`.
    pub fn new(wanted: bool) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Where the time went until now.
    pub fn times(&self) -> Times {
        let of = |ns: &AtomicU64| Duration::from_nanos(ns.load(Relaxed));
        Times { cpu: of(&self.cpu_ns), models: of(&self.models_ns) }
    }

    pub(crate) fn worked(&self, took: Duration) {
        self.cpu_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// The processor waits for a model until this is dropped.
    pub(crate) fn waits(&self) -> Waiting<'_> {
        Waiting(self, Instant::now())
    }

    /// What was reported since this was asked last.
    pub fn take(&self) -> Vec<Report> {
        match self.wanted {
            true => mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner)),
            false => Vec::new(),
        }
    }

    pub(crate) fn add(&self, name: &str, value: f64) {
        if !self.wanted {
            return;
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let value = value.clamp(-LARGEST, LARGEST);
        let at = noted.iter().position(|report| report.name == name).unwrap_or(noted.len());
        if at == NAMES {
            return;
        }
        if at == noted.len() {
            noted.push(Report { name: name.to_owned(), count: 0, sum: 0.0, squares: 0.0 });
        }
        let report = &mut noted[at];
        report.count += 1;
        report.sum += value;
        report.squares += value * value;
    }
}
