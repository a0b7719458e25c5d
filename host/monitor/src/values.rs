//! Values that requests bring beside their end: what processors report, rewards, agreement of shadows.

use std::array;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// The most names of processors' own metrics that are observed of an endpoint.
const METRICS: usize = 32;

/// All names: of rewards, of agreement, of processors' metrics.
const NAMES: usize = 2 + METRICS;

/// The largest value.
const LARGEST: f64 = 1e100;

/// What comes before the name of a processor's metric.
const METRIC: &str = "metric:";

/// How often something was reported and what it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    /// How often.
    pub count: u64,
    /// The sum of the values.
    pub sum: f64,
    /// The sum of their squares.
    pub squares: f64,
}

impl Sum {
    /// One value. Beyond 10^100 it counts as that, so that no sum of squares is beyond all numbers,
    /// which JSON could not hold.
    pub fn of(value: f64) -> Self {
        let value = value.clamp(-LARGEST, LARGEST);
        Self { count: 1, sum: value, squares: value * value }
    }

    /// These values and others.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            squares: self.squares + other.squares,
        }
    }
}

/// What a value is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// What feedback brought: `reward`.
    Reward,
    /// Whether a shadow answered as the live arm did, 1 or 0: `agreement`.
    Agreement,
    /// A processor's own metric, by its name: `metric:NAME`.
    Metric(&'a str),
}

/// The names in use: each takes a place and keeps it. Without a lock.
pub(crate) struct Names([OnceLock<Box<str>>; METRICS]);

impl Names {
    pub(crate) fn new() -> Self {
        Self(array::from_fn(|_| OnceLock::new()))
    }

    /// The place of a value; none when there is no room for another name.
    pub(crate) fn place(&self, value: Value<'_>) -> Option<usize> {
        let name = match value {
            Value::Reward => return Some(0),
            Value::Agreement => return Some(1),
            Value::Metric(name) => name,
        };
        let takes = |place: &OnceLock<Box<str>>| **place.get_or_init(|| name.into()) == *name;
        self.0.iter().position(takes).map(|at| at + 2)
    }

    /// The place of a name as a policy knows it.
    pub(crate) fn named(&self, name: &str) -> Option<usize> {
        match name {
            "reward" => self.place(Value::Reward),
            "agreement" => self.place(Value::Agreement),
            name => self.place(Value::Metric(name.strip_prefix(METRIC)?)),
        }
    }

    /// The name of a place, as a policy knows it.
    pub(crate) fn name(&self, place: usize) -> Option<String> {
        match place {
            0 => Some("reward".to_owned()),
            1 => Some("agreement".to_owned()),
            place => Some(format!("{METRIC}{}", self.0.get(place - 2)?.get()?)),
        }
    }
}

/// Sums by the place of their name.
pub(crate) struct Sums([Counted; NAMES]);

#[derive(Default)]
struct Counted {
    count: AtomicU64,
    /// Each an f64.
    sum: AtomicU64,
    squares: AtomicU64,
}

impl Sums {
    pub(crate) fn new() -> Self {
        Self(array::from_fn(|_| Counted::default()))
    }

    pub(crate) fn add(&self, place: usize, values: Sum) {
        let counted = &self.0[place];
        counted.count.fetch_add(values.count, Relaxed);
        add(&counted.sum, values.sum);
        add(&counted.squares, values.squares);
    }

    /// The sums that are not of nothing, by their places.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, Sum)> {
        let value = |bits: &AtomicU64| f64::from_bits(bits.load(Relaxed));
        let sums = self.0.iter().map(move |counted| Sum {
            count: counted.count.load(Relaxed),
            sum: value(&counted.sum),
            squares: value(&counted.squares),
        });
        sums.enumerate().filter(|(_, sum)| sum.count > 0)
    }
}

/// Adds to the f64 in an atomic.
pub(crate) fn add(bits: &AtomicU64, value: f64) {
    let sum = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
    // Always given, so never refused.
    let _ = bits.fetch_update(Relaxed, Relaxed, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_place_while_there_is_room() {
        let names = Names::new();
        for round in 0..2 {
            for at in 0..40 {
                let name = format!("n{at}");
                let place = (at < METRICS).then_some(at + 2);
                assert_eq!(names.place(Value::Metric(&name)), place, "{name}, round {round}");
            }
        }
        for (name, place) in [("reward", Some(0)), ("metric:n3", Some(5)), ("n3", None)] {
            assert_eq!(names.named(name), place);
            assert_eq!(place.and_then(|place| names.name(place)).is_some(), place.is_some());
        }
        assert_eq!(names.name(5).as_deref(), Some("metric:n3"));
    }
}
