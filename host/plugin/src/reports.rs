//! The numbers that a processor reports of one request.

use std::mem;
use std::sync::{Mutex, PoisonError};

/// The most names that are noted of a request.
const NAMES: usize = 32;

/// The largest value that is noted; beyond it, it counts as that.
const LARGEST: f64 = 1e100;

/// What a processor reports of one request, where somebody wants to know. By default nobody does.
#[derive(Debug, Default)]
pub struct Reports {
    wanted: bool,
    noted: Mutex<Vec<Report>>,
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
        Self { wanted, noted: Mutex::default() }
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
