//! What is observed of units, such as users, who come again and again: their requests are not
//! independent of each other, so that statistics need moments over units.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Places in which units are kept, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// The most units of one place.
const UNITS: usize = 256;

/// Moments over the units of an arm: sums over units of what came to each on this arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitMoments {
    /// Units with a request on this arm.
    pub units: u64,
    /// Of these, those whose first request of the rollout was on it.
    pub first: u64,
    /// Requests.
    pub requests: f64,
    /// Their squares.
    pub requests_squares: f64,
    /// Requests that failed.
    pub errors: f64,
    /// Their squares.
    pub errors_squares: f64,
    /// Products of failed requests and requests.
    pub errors_requests: f64,
}

impl UnitMoments {
    fn add(&mut self, unit: &Unit, arm: usize) {
        let Counted { requests, errors } = unit.arms[arm];
        if requests == 0 {
            return;
        }
        let (requests, errors) = (f64::from(requests), f64::from(errors));
        self.units += 1;
        self.first += u64::from(unit.first == arm);
        self.requests += requests;
        self.requests_squares += requests * requests;
        self.errors += errors;
        self.errors_squares += errors * errors;
        self.errors_requests += errors * requests;
    }

    /// These and those of other units.
    pub fn with(self, other: &Self) -> Self {
        Self {
            units: self.units + other.units,
            first: self.first + other.first,
            requests: self.requests + other.requests,
            requests_squares: self.requests_squares + other.requests_squares,
            errors: self.errors + other.errors,
            errors_squares: self.errors_squares + other.errors_squares,
            errors_requests: self.errors_requests + other.errors_requests,
        }
    }
}

/// The units of two arms, as many as there is room for: those whose hash is below a bound, which
/// halves when they are too many. So those kept are a sample that nothing has picked.
pub struct Units {
    bound: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
}

struct Shard {
    /// The bound that its units are below; it may be behind.
    bound: u64,
    units: HashMap<u64, Unit>,
}

struct Unit {
    /// The arm of its first request.
    first: usize,
    arms: [Counted; 2],
}

#[derive(Clone, Copy, Default)]
struct Counted {
    requests: u32,
    errors: u32,
}

impl Shard {
    fn keep_below(&mut self, bound: u64) {
        if bound < self.bound {
            self.bound = bound;
            self.units.retain(|&hash, _| hash < bound);
        }
    }
}

impl Default for Units {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { bound: u64::MAX, units: HashMap::new() });
        Self { bound: AtomicU64::new(u64::MAX), shards: std::array::from_fn(|_| shard()) }
    }
}

impl Units {
    /// A request of a unit, by its hash, came to its end on an arm.
    pub fn note(&self, hash: u64, arm: usize, failed: bool) {
        // Whichever arm a unit is on follows from its hash, so the sample goes by another.
        let hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let mut bound = self.bound.load(Relaxed);
        if hash >= bound {
            return;
        }
        let mut shard = self.shard(hash as usize % SHARDS);
        shard.keep_below(bound);
        while shard.units.len() >= UNITS && !shard.units.contains_key(&hash) {
            bound = shard.bound / 2;
            self.bound.fetch_min(bound, Relaxed);
            shard.keep_below(bound);
        }
        if hash >= shard.bound {
            return;
        }
        let new = || Unit { first: arm, arms: [Counted::default(); 2] };
        let counted = &mut shard.units.entry(hash).or_insert_with(new).arms[arm];
        counted.requests = counted.requests.saturating_add(1);
        counted.errors = counted.errors.saturating_add(u32::from(failed));
    }

    /// The moments of both arms.
    pub fn moments(&self) -> [UnitMoments; 2] {
        let mut moments = [UnitMoments::default(); 2];
        let bound = self.bound.load(Relaxed);
        for at in 0..SHARDS {
            let mut shard = self.shard(at);
            shard.keep_below(bound);
            for unit in shard.units.values() {
                for (arm, moments) in moments.iter_mut().enumerate() {
                    moments.add(unit, arm);
                }
            }
        }
        moments
    }

    fn shard(&self, at: usize) -> MutexGuard<'_, Shard> {
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(unit: u64) -> u64 {
        // SplitMix64's steps: as good as random.
        let mixed = (unit + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
    }

    #[test]
    fn moments_are_over_units() {
        let units = Units::default();
        for (unit, arm, times, failed) in [(1, 0, 3, 0), (1, 1, 2, 2), (2, 0, 1, 1), (3, 1, 4, 1)] {
            for time in 0..times {
                units.note(hash(unit), arm, time < failed);
            }
        }
        let live = UnitMoments {
            units: 2,
            first: 2,
            requests: 4.0,
            requests_squares: 10.0,
            errors: 1.0,
            errors_squares: 1.0,
            errors_requests: 1.0,
        };
        let next = UnitMoments {
            units: 2,
            first: 1,
            requests: 6.0,
            requests_squares: 20.0,
            errors: 3.0,
            errors_squares: 5.0,
            errors_requests: 8.0,
        };
        assert_eq!(units.moments(), [live, next]);
    }

    #[test]
    fn of_many_units_a_part_is_kept_whole() {
        let units = Units::default();
        for round in 0..2 {
            for unit in 0..100_000 {
                units.note(hash(unit), usize::from(unit % 10 == 0), round == 1);
            }
        }
        let [live, next] = units.moments();
        let kept = live.units + next.units;
        assert!((500..=(SHARDS * UNITS) as u64).contains(&kept), "{kept} are kept");
        let part = next.units as f64 / kept as f64;
        assert!((part - 0.1).abs() < 0.05, "{part} of those kept are on the second arm");
        // Every one of them has both its requests.
        assert_eq!((live.requests, live.errors), (2.0 * live.units as f64, live.units as f64));
    }
}
