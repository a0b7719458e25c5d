//! How many requests came to which end, and how long they took. Counting takes no lock, and threads that
//! count do not wait for each other.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::values::{Sum, add};

/// Buckets of latency for each doubling: neighbours are at most an eighth apart.
const PER_DOUBLING: u32 = 3;

/// From 0 to 2^32 microseconds, more than the longest timeout.
const BUCKETS: usize = ((32 - PER_DOUBLING as usize) + 1) << PER_DOUBLING;

/// What became of a request, as far as its arm is to be judged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was answered.
    Answered,
    /// It was refused as the caller's fault.
    Refused,
    /// It failed by the model's, the plugin's or the host's fault.
    Failed,
}

/// What was observed of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that came to their end.
    pub requests: u64,
    /// Of these, those that failed by the model's, the plugin's or the host's fault.
    pub errors: u64,
    /// Of these, those that were refused as the caller's fault.
    pub refused: u64,
    /// The sum of the latencies of all but the refused, in seconds.
    pub latency_sum: f64,
    /// The sum of their squares.
    pub latency_squares: f64,
    /// How many of them fell into each bucket that is not empty, ascending.
    pub latency: Vec<(u16, u64)>,
    /// Values by name, such as `reward` or `metric:faces`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Sum>,
}

impl Tally {
    /// Whether nothing was observed.
    pub fn is_empty(&self) -> bool {
        self.requests == 0 && self.values.is_empty()
    }

    /// Upper bounds of buckets of latency, in seconds, and how many fell between each and the one
    /// before: every bucket that is not empty, and one before it where there is a gap.
    pub fn latencies(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut last = 0;
        self.latency.iter().flat_map(move |&(bucket, count)| {
            let gap = (bucket > last).then(|| (upper_bound(usize::from(bucket) - 1), 0));
            last = bucket + 1;
            gap.into_iter().chain([(upper_bound(bucket.into()), count)])
        })
    }

    /// The latency within which a part `q`, 0 to 1, of the requests came to their end, in seconds.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total: u64 = self.latency.iter().map(|&(_, count)| count).sum();
        let rank = ((q * total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        self.latencies()
            .find(|&(_, count)| {
                seen += count;
                seen >= rank
            })
            .map(|(bound, _)| bound)
    }
}

/// The counters behind a [`Tally`].
pub(crate) struct Counters(Box<[Shard]>);

/// On cache lines of its own.
#[repr(align(128))]
struct Shard {
    requests: AtomicU64,
    errors: AtomicU64,
    refused: AtomicU64,
    micros: AtomicU64,
    /// An f64, in seconds squared.
    squares: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

impl Shard {
    fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            squares: AtomicU64::new(0),
            latency: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Counters {
    /// The same counted in as many places as there are cores, at most in `most`.
    pub(crate) fn new(most: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self((0..cores.next_power_of_two().min(most)).map(|_| Shard::new()).collect())
    }

    pub(crate) fn note(&self, end: End, latency: Duration) {
        let shard = &self.0[this_thread() % self.0.len()];
        shard.requests.fetch_add(1, Relaxed);
        match end {
            End::Refused => {
                shard.refused.fetch_add(1, Relaxed);
                return;
            }
            End::Failed => {
                shard.errors.fetch_add(1, Relaxed);
            }
            End::Answered => {}
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        shard.micros.fetch_add(micros, Relaxed);
        let seconds = latency.as_secs_f64();
        add(&shard.squares, seconds * seconds);
        shard.latency[bucket(micros)].fetch_add(1, Relaxed);
    }

    /// What was counted, and what had been `before`; its values are those of before.
    pub(crate) fn total(&self, before: &Tally) -> Tally {
        let sum = |of: fn(&Shard) -> &AtomicU64| -> u64 {
            self.0.iter().map(|shard| of(shard).load(Relaxed)).sum()
        };
        let squares = self.0.iter().map(|shard| f64::from_bits(shard.squares.load(Relaxed)));
        let mut latency = [0; BUCKETS];
        for &(bucket, count) in &before.latency {
            if let Some(total) = latency.get_mut(usize::from(bucket)) {
                *total += count;
            }
        }
        for shard in &self.0 {
            for (total, count) in latency.iter_mut().zip(&shard.latency) {
                *total += count.load(Relaxed);
            }
        }
        let latency = (0..).zip(latency).filter(|&(_, count)| count > 0).collect();
        Tally {
            requests: before.requests + sum(|shard| &shard.requests),
            errors: before.errors + sum(|shard| &shard.errors),
            refused: before.refused + sum(|shard| &shard.refused),
            latency_sum: before.latency_sum + sum(|shard| &shard.micros) as f64 / 1e6,
            latency_squares: before.latency_squares + squares.sum::<f64>(),
            latency,
            values: before.values.clone(),
        }
    }
}

/// A number of this thread's own.
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed));
    }
    NUMBER.get()
}

/// The bucket of so many microseconds.
fn bucket(micros: u64) -> usize {
    let micros = micros.min(u64::from(u32::MAX));
    let doubling = 63u32.saturating_sub(micros.leading_zeros());
    if doubling < PER_DOUBLING {
        return micros as usize;
    }
    let part = (micros >> (doubling - PER_DOUBLING)) & ((1 << PER_DOUBLING) - 1);
    (((doubling - PER_DOUBLING + 1) as usize) << PER_DOUBLING) + part as usize
}

/// Where a bucket ends, in seconds.
fn upper_bound(bucket: usize) -> f64 {
    let (doubling, part) = (bucket >> PER_DOUBLING, bucket & ((1 << PER_DOUBLING) - 1));
    let micros = match doubling {
        0 => part as u64 + 1,
        _ => ((1u64 << PER_DOUBLING) + part as u64 + 1) << (doubling - 1),
    };
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_above_what_falls_into_it_and_by_an_eighth_at_most() {
        let mut last = 0;
        for micros in (0..5000).chain((5000..1 << 32).step_by(9_999_991)).chain([u64::MAX]) {
            let bucket = bucket(micros);
            assert!(bucket < BUCKETS && bucket >= last, "{micros}");
            last = bucket;
            let (micros, bound) = (micros.min(u64::from(u32::MAX)), upper_bound(bucket) * 1e6);
            let most = (micros as f64 * 1.125 + 1.0).ceil();
            assert!(bound > micros as f64 && bound <= most, "{micros} is below {bound}");
        }
    }
}
