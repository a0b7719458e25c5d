//! What units did lately: since the plan of a policy changed, in the whole and in each slice.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::failing::{Failing, more_alike};
use crate::observations::Exposed;
use crate::tally::End;
use crate::units::{OfName, SHARDS, ValueMoments, by_name, mixed};
use crate::values::{Names, Sum};

/// The most units of one place, and the most that is kept of them: a part of an arm, or a value there,
/// is one.
const UNITS: usize = 256;
const KEPT: usize = 16 * UNITS;

/// Sums over units of what each has had on an arm, in the whole or in a slice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lately {
    /// Requests.
    pub requests: Sum,
    /// The most requests of a unit.
    pub most: u64,
    /// Those that failed, of units that had such: of the units that had most, the others as if each had
    /// one; or of a sample of all units, where by that more of them are of one unit.
    pub errors: Sum,
    /// The same of those that were refused as the caller's fault.
    pub refused: Sum,
    /// Values by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, ValueMoments>,
}

impl Lately {
    /// These and those of other units.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let values = by_name(&self.values, &other.values);
        Self {
            requests: self.requests.with(other.requests),
            most: self.most.max(other.most),
            errors: self.errors.with(other.errors),
            refused: self.refused.with(other.refused),
            values,
        }
    }
}

/// The units that came lately, as many as there is room for: those whose hash is below a bound, which
/// halves when they are too many. Those that fail or are refused most are also kept by themselves,
/// whatever their hash.
pub(crate) struct LatelyUnits {
    failing: Failing,
    bound: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
}

type ByHash<T> = HashMap<u64, Vec<T>, BuildHasherDefault<DefaultHasher>>;

struct Shard {
    /// The bound that its units are below; it may be behind.
    bound: u64,
    units: ByHash<Came>,
    /// How much is kept of them.
    kept: usize,
}

/// What came to a unit on an arm, in the whole (0) or in a slice.
struct Came {
    at: (usize, usize),
    requests: u32,
    errors: u32,
    refused: u32,
    values: Vec<OfName>,
}

impl Shard {
    fn new() -> Self {
        Self { bound: u64::MAX, units: HashMap::default(), kept: 0 }
    }

    fn keep_below(&mut self, bound: u64) {
        if bound < self.bound {
            self.bound = bound;
            self.units.retain(|&hash, _| hash < bound);
            self.kept = self.units.values().map(|came| kept(came)).sum();
        }
    }
}

fn kept(came: &[Came]) -> usize {
    came.iter().map(|came| 1 + came.values.len()).sum()
}

/// What is kept there, made where it is not.
pub(crate) fn entry<T>(
    all: &mut Vec<T>,
    is: impl Fn(&T) -> bool,
    new: impl FnOnce() -> T,
) -> &mut T {
    let at = all.iter().position(is).unwrap_or(all.len());
    if at == all.len() {
        all.push(new());
    }
    &mut all[at]
}

/// Where a request counts.
fn places(at: Exposed) -> impl Iterator<Item = (usize, usize)> {
    let slices = (0..16).filter(move |bit| at.slices & (1 << bit) != 0);
    [0].into_iter().chain(slices.map(|bit| bit + 1)).map(move |part| (at.arm, part))
}

impl Default for LatelyUnits {
    fn default() -> Self {
        let shard = || Mutex::new(Shard::new());
        let bound = AtomicU64::new(u64::MAX);
        Self { failing: Failing::default(), bound, shards: std::array::from_fn(|_| shard()) }
    }
}

impl LatelyUnits {
    /// Begins anew, with none.
    pub(crate) fn forget(&self) {
        for at in 0..SHARDS {
            *self.shard(at) = Shard::new();
        }
        self.bound.store(u64::MAX, Relaxed);
        self.failing.forget();
    }

    /// A request of a unit, by its hash, came to its end, or where it had before, a value came in.
    pub(crate) fn note(&self, hash: u64, at: Exposed, end: Option<End>, values: &[(usize, Sum)]) {
        let hash = mixed(hash);
        if let Some(end) = end {
            self.failing.note(hash, places(at), end);
        }
        let bound = self.bound.load(Relaxed);
        if hash >= bound {
            return;
        }
        let mut shard = self.shard(hash as usize % SHARDS);
        shard.keep_below(bound);
        while shard.kept >= KEPT || shard.units.len() >= UNITS && !shard.units.contains_key(&hash) {
            let bound = shard.bound / 2;
            self.bound.fetch_min(bound, Relaxed);
            shard.keep_below(bound);
        }
        if hash >= shard.bound {
            return;
        }
        let known = shard.units.entry(hash).or_default();
        let before = kept(known);
        for place in places(at) {
            let new = || Came { at: place, requests: 0, errors: 0, refused: 0, values: Vec::new() };
            let came = entry(known, |came| came.at == place, new);
            let count = |count: &mut u32, came| *count = count.saturating_add(u32::from(came));
            count(&mut came.requests, end.is_some());
            count(&mut came.errors, end == Some(End::Failed));
            count(&mut came.refused, end == Some(End::Refused));
            for &(place, sum) in values {
                let new = || OfName { place, count: 0, sum: 0.0 };
                entry(&mut came.values, |value| value.place == place, new).add(sum);
            }
        }
        let grown = kept(known) - before;
        shard.kept += grown;
    }

    /// The sums of so many arms, each the whole and so many slices.
    pub(crate) fn sums(&self, arms: usize, slices: usize, names: &Names) -> Vec<Vec<Lately>> {
        let mut sums = vec![vec![Lately::default(); slices + 1]; arms];
        let bound = self.bound.load(Relaxed);
        for at in 0..SHARDS {
            let mut shard = self.shard(at);
            shard.keep_below(bound);
            for came in shard.units.values().flatten() {
                let of = &mut sums[came.at.0][came.at.1];
                of.most = of.most.max(came.requests.into());
                for (sum, count) in [
                    (&mut of.requests, came.requests),
                    (&mut of.errors, came.errors),
                    (&mut of.refused, came.refused),
                ] {
                    if count > 0 {
                        *sum = sum.with(Sum::of(f64::from(count)));
                    }
                }
                for value in &came.values {
                    let Some(name) = names.name(value.place) else { continue };
                    let known = of.values.entry(name).or_default();
                    *known = known.with(&value.moments());
                }
            }
        }
        let failing = self.failing.sums(arms, slices + 1);
        for (of, bad) in sums.iter_mut().flatten().zip(failing.iter().flatten()) {
            of.errors = more_alike(bad.failed, of.errors);
            of.refused = more_alike(bad.refused, of.refused);
        }
        sums
    }

    fn shard(&self, at: usize) -> MutexGuard<'_, Shard> {
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(arm: usize, slices: u16) -> Exposed {
        Exposed { arm, slices, ..Exposed::default() }
    }

    fn sum(of: &[f64]) -> Sum {
        of.iter().fold(Sum::default(), |sum, &value| sum.with(Sum::of(value)))
    }

    #[test]
    fn units_are_told_apart_in_the_whole_and_in_slices_until_they_are_forgotten() {
        let (units, names) = (LatelyUnits::default(), Names::new());
        let reward = [(0, Sum::of(0.5))];
        for (unit, slices, end, times) in [
            (1, 0b01, End::Answered, 3),
            (1, 0b00, End::Failed, 2),
            (2, 0b01, End::Refused, 4),
            (3, 0b10, End::Answered, 1),
        ] {
            for _ in 0..times {
                units.note(unit, at(1, slices), Some(end), &[]);
            }
        }
        units.note(3, at(1, 0b10), None, &reward);
        let sums = units.sums(2, 2, &names);
        assert_eq!(sums[0], vec![Lately::default(); 3]);
        let [whole, first, second] = &sums[1][..] else { panic!("{sums:?}") };
        assert_eq!((whole.requests, whole.most), (sum(&[5.0, 4.0, 1.0]), 5));
        assert_eq!((whole.errors, whole.refused), (sum(&[2.0]), sum(&[4.0])));
        assert_eq!((first.requests, first.most), (sum(&[3.0, 4.0]), 4));
        assert_eq!((first.errors, first.refused), (Sum::default(), sum(&[4.0])));
        assert_eq!((second.requests, second.values["reward"].sums), (sum(&[1.0]), 0.5));
        units.forget();
        assert_eq!(units.sums(2, 2, &names)[1], vec![Lately::default(); 3]);
    }

    #[test]
    fn of_many_units_a_part_is_kept_and_one_that_fails_often_is_known() {
        let (units, names) = (LatelyUnits::default(), Names::new());
        for unit in 0..100_000u64 {
            // As good as random.
            let hash = mixed(mixed(unit + 1));
            units.note(hash, at(0, 0), Some(End::Answered), &[]);
        }
        for _ in 0..60 {
            units.note(7, at(0, 0), Some(End::Failed), &[]);
        }
        let whole = &units.sums(1, 0, &names)[0][0];
        let kept = whole.requests.count;
        assert!((500..=(SHARDS * UNITS) as u64).contains(&kept), "{kept} are kept");
        assert_eq!(whole.errors, sum(&[60.0]));
        // They may be any number, what is kept of them is not.
        for unit in 0..100_000u64 {
            for _ in 0..1 + unit % 2 {
                units.note(mixed(mixed(unit + 9)), at(0, 0), Some(End::Refused), &[]);
            }
        }
        let whole = &units.sums(1, 0, &names)[0][0];
        // Half of the units had two: 5 in 3 are of one, as a sample tells that is not of the worst.
        let alike = whole.refused.squares / whole.refused.sum;
        assert!((1.6..1.75).contains(&alike), "{:?}", whole.refused);
        // One that comes later than all of those.
        for _ in 0..20_000 {
            units.note(3, at(0, 0), Some(End::Refused), &[]);
        }
        let whole = &units.sums(1, 0, &names)[0][0];
        assert!(whole.refused.squares > 3.5e8, "{:?}", whole.refused);
        assert_eq!(whole.errors.sum, 60.0);
    }
}
