//! The units whose requests fail or are refused most often, so that one that does so again and again
//! is not taken for many.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lately::entry;
use crate::tally::End;
use crate::units::SHARDS;
use crate::values::Sum;

/// The most units that are told apart in one shard.
const UNITS: usize = 64;

/// Units by their hash, [`UNITS`] in each shard, by Space-Saving (Metwally, Agrawal and El Abbadi
/// 2005, Efficient Computation of Frequent and Top-k Elements in Data Streams): where there is no
/// room, a unit takes the place of the one that had fewest such requests, and is ranked as if it had
/// had those too. So of N such requests in a shard, whatever has more than N / [`UNITS`] is there,
/// and what is counted of it lacks at most as many.
pub(crate) struct Failing([Mutex<Shard>; SHARDS]);

#[derive(Default)]
struct Shard {
    /// By their hash, in an order that follows from what came.
    units: HashMap<u64, Unit, BuildHasherDefault<DefaultHasher>>,
    /// What those had that gave way.
    rest: Vec<Bad>,
}

#[derive(Default)]
struct Unit {
    /// By how many it ranks: its own, and those of the one whose place it took.
    rank: u64,
    bad: Vec<Bad>,
}

/// How often requests ended badly on an arm, in the whole (0) or in a slice.
#[derive(Clone, Copy)]
struct Bad {
    at: (usize, usize),
    failed: u32,
    refused: u32,
}

/// Requests of units that failed, and such that were refused: of those units that are told apart as
/// they had them, and the others as if each was of another unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct BadOfUnits {
    pub(crate) failed: Sum,
    pub(crate) refused: Sum,
}

impl Shard {
    fn note(&mut self, hash: u64, places: impl Iterator<Item = (usize, usize)>, failed: bool) {
        if self.units.len() >= UNITS && !self.units.contains_key(&hash) {
            let fewest = self.units.iter().min_by_key(|(_, unit)| unit.rank);
            let fewest = fewest.map(|(&fewest, _)| fewest);
            let Some(unit) = fewest.and_then(|fewest| self.units.remove(&fewest)) else { return };
            unit.bad.iter().for_each(|bad| bad.add_to(&mut self.rest));
            self.units.insert(hash, Unit { rank: unit.rank, bad: Vec::new() });
        }
        let unit = self.units.entry(hash).or_default();
        unit.rank += 1;
        let [failed, refused] = [failed, !failed].map(u32::from);
        places.for_each(|at| Bad { at, failed, refused }.add_to(&mut unit.bad));
    }
}

impl Bad {
    fn add_to(self, all: &mut Vec<Self>) {
        let new = || Self { at: self.at, failed: 0, refused: 0 };
        let known = entry(all, |bad| bad.at == self.at, new);
        known.failed = known.failed.saturating_add(self.failed);
        known.refused = known.refused.saturating_add(self.refused);
    }
}

impl Default for Failing {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Failing {
    /// Begins anew, with none.
    pub(crate) fn forget(&self) {
        (0..SHARDS).for_each(|at| *self.shard(at) = Shard::default());
    }

    /// A request of a unit, by its mixed hash, came to its end, and counts at these places: an arm and
    /// a part of it. Only where it ended badly there is something to note.
    pub(crate) fn note(&self, hash: u64, places: impl Iterator<Item = (usize, usize)>, end: End) {
        let failed = match end {
            End::Answered => return,
            End::Failed => true,
            End::Refused => false,
        };
        self.shard(hash as usize % SHARDS).note(hash, places, failed);
    }

    /// What there was of so many arms, each of so many parts.
    pub(crate) fn sums(&self, arms: usize, parts: usize) -> Vec<Vec<BadOfUnits>> {
        let mut sums = vec![vec![BadOfUnits::default(); parts]; arms];
        let mut add = |bad: &Bad, sum: fn(u32) -> Sum| {
            let Some(of) = sums.get_mut(bad.at.0).and_then(|arm| arm.get_mut(bad.at.1)) else {
                return;
            };
            of.failed = of.failed.with(sum(bad.failed));
            of.refused = of.refused.with(sum(bad.refused));
        };
        for at in 0..SHARDS {
            let shard = self.shard(at);
            let units = shard.units.values().flat_map(|unit| &unit.bad);
            units.for_each(|bad| add(bad, of_one));
            shard.rest.iter().for_each(|bad| add(bad, of_each));
        }
        sums
    }

    fn shard(&self, at: usize) -> MutexGuard<'_, Shard> {
        self.0[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of two tellings of the same, that by which more of them are of one unit.
pub(crate) fn more_alike(one: Sum, other: Sum) -> Sum {
    let alike = |of: Sum| if of.sum > 0.0 { of.squares / of.sum } else { 0.0 };
    if alike(other) > alike(one) { other } else { one }
}

/// So many of one unit; none of none.
fn of_one(count: u32) -> Sum {
    if count > 0 { Sum::of(count.into()) } else { Sum::default() }
}

/// So many, each of another unit.
fn of_each(count: u32) -> Sum {
    let sum = f64::from(count);
    Sum { count: count.into(), sum, squares: sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::mixed;

    /// What a unit has had that comes again and again among many that come `each` so often, before it
    /// or beside it.
    #[track_caller]
    fn check(others: u64, each: u64, own: u32, beside: bool) {
        let failing = Failing::default();
        let note = |unit: u64, end| failing.note(mixed(mixed(unit)), [(1, 0)].into_iter(), end);
        let mut left = own;
        for time in 0..each {
            for unit in 1..=others {
                note(unit * 7919, End::Refused);
                let due = u64::from(own) * (time * others + unit) / (each * others);
                while beside && u64::from(own - left) < due {
                    note(1, End::Refused);
                    left -= 1;
                }
            }
        }
        (0..left).for_each(|_| note(1, End::Refused));
        let Sum { count, sum, squares } = failing.sums(2, 1)[1][0].refused;
        let all = (others * each) as f64 + f64::from(own);
        assert_eq!(sum, all);
        // It lacks at most what its rank may be too high by.
        let least = f64::from(own) - all / UNITS as f64;
        assert!(squares >= least * least && count > 0, "{count} {sum} {squares}");
        // And no unit is there for more than it had.
        let truth = f64::from(own) * f64::from(own) + (others * each * each) as f64;
        assert!(squares <= truth, "{squares} of {truth}");
    }

    #[test]
    fn one_that_comes_again_and_again_is_known_among_any_number() {
        for beside in [false, true] {
            check(2400, 1, 2500, beside);
            check(100_000, 1, 20_000, beside);
            check(2000, 5, 2000, beside);
            check(10, 1, 3, beside);
        }
    }

    #[test]
    fn what_ended_badly_counts_where_it_did() {
        let failing = Failing::default();
        let of = |counts: &[f64]| {
            counts.iter().fold(Sum::default(), |sum, &count| sum.with(Sum::of(count)))
        };
        for (unit, places, end, times) in [
            (1, &[(0, 0), (0, 1)][..], End::Failed, 3),
            (1, &[(0, 0)], End::Refused, 2),
            (2, &[(0, 0)], End::Failed, 1),
            (3, &[(0, 0)], End::Answered, 9),
            // Of an arm and a part that nobody asks for.
            (4, &[(7, 0), (0, 7)], End::Failed, 1),
        ] {
            (0..times).for_each(|_| failing.note(unit, places.iter().copied(), end));
        }
        let sums = failing.sums(2, 2);
        let whole = BadOfUnits { failed: of(&[3.0, 1.0]), refused: of(&[2.0]) };
        let part = BadOfUnits { failed: of(&[3.0]), ..BadOfUnits::default() };
        assert_eq!(sums[0], [whole, part]);
        assert_eq!(sums[1], [BadOfUnits::default(); 2]);
        failing.forget();
        assert_eq!(failing.sums(1, 1)[0][0], BadOfUnits::default());
    }
}
