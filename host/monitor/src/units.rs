//! What is observed of units, such as users, who come again and again: their requests are not
//! independent of each other, so that statistics need moments over units.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::failing::{Failing, more_alike};
use crate::tally::End;
use crate::values::{Names, Sum};

/// Places in which units are kept, so that threads seldom wait for each other.
pub(crate) const SHARDS: usize = 16;

/// The most units of one place, and the most that is kept of them: an arm, or a value on it, is one.
const UNITS: usize = 256;
const KEPT: usize = 16 * UNITS;

/// Moments over the units of an arm: sums over units of what came to each on this arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitMoments {
    /// Units with a request on this arm.
    pub units: u64,
    /// Of these, those whose first request of all was on it, where chance had a choice.
    pub first: u64,
    /// Of two arms, the moments of this one's probability when the first request of a unit was drawn,
    /// over all units for which chance had a choice.
    #[serde(default)]
    pub expected: Sum,
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
    /// The most requests of a unit.
    #[serde(default)]
    pub most: u64,
    /// Requests that failed, of units that had such, whether or not they are among those above: of the
    /// units that had most, the others as if each had one.
    #[serde(default)]
    pub failing: Sum,
    /// The same of requests that were refused as the caller's fault, or of those units above that had
    /// such, where by that more of them are of one unit.
    #[serde(default)]
    pub refused: Sum,
    /// Of values by name, such as `reward`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, ValueMoments>,
}

/// Moments over the units of an arm that have values of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ValueMoments {
    /// Units with a value.
    pub units: u64,
    /// The sums of a unit's values.
    pub sums: f64,
    /// Their squares.
    pub sums_squares: f64,
    /// How many values a unit has.
    pub counts: f64,
    /// Their squares.
    pub counts_squares: f64,
    /// Products of the sum and the number.
    pub sums_counts: f64,
}

impl ValueMoments {
    pub(crate) fn with(self, other: &Self) -> Self {
        Self {
            units: self.units + other.units,
            sums: self.sums + other.sums,
            sums_squares: self.sums_squares + other.sums_squares,
            counts: self.counts + other.counts,
            counts_squares: self.counts_squares + other.counts_squares,
            sums_counts: self.sums_counts + other.sums_counts,
        }
    }
}

/// The values of both, those of one name together.
pub(crate) fn by_name(
    one: &BTreeMap<String, ValueMoments>,
    other: &BTreeMap<String, ValueMoments>,
) -> BTreeMap<String, ValueMoments> {
    let mut values = one.clone();
    for (name, other) in other {
        let known = values.entry(name.clone()).or_default();
        *known = known.with(other);
    }
    values
}

impl UnitMoments {
    fn add(&mut self, on: &OnArm, names: &Names) {
        for value in &on.values {
            let Some(name) = names.name(value.place) else { continue };
            let known = self.values.entry(name).or_default();
            *known = known.with(&value.moments());
        }
        if on.requests == 0 {
            return;
        }
        let (requests, errors) = (f64::from(on.requests), f64::from(on.errors));
        self.units += 1;
        self.requests += requests;
        self.requests_squares += requests * requests;
        self.errors += errors;
        self.errors_squares += errors * errors;
        self.errors_requests += errors * requests;
        self.most = self.most.max(on.requests.into());
        if on.refused > 0 {
            self.refused = self.refused.with(Sum::of(on.refused.into()));
        }
    }

    /// These and those of other units.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let values = by_name(&self.values, &other.values);
        Self {
            units: self.units + other.units,
            first: self.first + other.first,
            expected: self.expected.with(other.expected),
            requests: self.requests + other.requests,
            requests_squares: self.requests_squares + other.requests_squares,
            errors: self.errors + other.errors,
            errors_squares: self.errors_squares + other.errors_squares,
            errors_requests: self.errors_requests + other.errors_requests,
            most: self.most.max(other.most),
            failing: self.failing.with(other.failing),
            refused: self.refused.with(other.refused),
            values,
        }
    }
}

/// The units of arms, as many as there is room for: those whose hash is below a bound, which halves
/// when they are too many. So those kept are a sample that nothing has picked. Those that fail or are
/// refused most are also kept by themselves, whatever their hash.
pub(crate) struct Units {
    failing: Failing,
    bound: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
}

struct Shard {
    /// The bound that its units are below; it may be behind.
    bound: u64,
    /// By their hash, in an order that follows from what came, so that sums over them are the same to
    /// the last bit wherever the same comes; no client can make them many.
    units: HashMap<u64, Unit, BuildHasherDefault<DefaultHasher>>,
    /// How much is kept of them.
    kept: usize,
}

#[derive(Default)]
struct Unit {
    /// The arm of its first request, and the probability with which it was drawn.
    first: Option<(usize, f64)>,
    /// The arms that it has been on.
    arms: Vec<OnArm>,
}

struct OnArm {
    arm: usize,
    requests: u32,
    errors: u32,
    refused: u32,
    values: Vec<OfName>,
}

/// A unit's values of a name on an arm.
pub(crate) struct OfName {
    pub(crate) place: usize,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl OfName {
    pub(crate) fn add(&mut self, Sum { count, sum, .. }: Sum) {
        self.count += count;
        self.sum += sum;
    }

    pub(crate) fn moments(&self) -> ValueMoments {
        let (sum, count) = (self.sum, self.count as f64);
        ValueMoments {
            units: 1,
            sums: sum,
            sums_squares: sum * sum,
            counts: count,
            counts_squares: count * count,
            sums_counts: sum * count,
        }
    }
}

impl Unit {
    fn kept(&self) -> usize {
        self.arms.iter().map(|on| 1 + on.values.len()).sum()
    }

    fn on(&mut self, arm: usize) -> &mut OnArm {
        let at = self.arms.iter().position(|on| on.arm == arm).unwrap_or(self.arms.len());
        if at == self.arms.len() {
            let none = OnArm { arm, requests: 0, errors: 0, refused: 0, values: Vec::new() };
            self.arms.push(none);
        }
        &mut self.arms[at]
    }
}

impl OnArm {
    fn add(&mut self, place: usize, sum: Sum) {
        match self.values.iter_mut().find(|value| value.place == place) {
            Some(value) => value.add(sum),
            None => self.values.push(OfName { place, count: sum.count, sum: sum.sum }),
        }
    }
}

impl Shard {
    fn keep_below(&mut self, bound: u64) {
        if bound < self.bound {
            self.bound = bound;
            self.units.retain(|&hash, _| hash < bound);
            self.kept = self.units.values().map(Unit::kept).sum();
        }
    }
}

impl Default for Units {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { bound: u64::MAX, units: HashMap::default(), kept: 0 });
        let bound = AtomicU64::new(u64::MAX);
        Self { failing: Failing::default(), bound, shards: std::array::from_fn(|_| shard()) }
    }
}

/// Another hash: whichever arm a unit is on may follow from its own, so that no sample goes by that.
pub(crate) fn mixed(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

impl Units {
    /// A request of a unit, by its hash, came to its end on an arm that was drawn with a probability,
    /// with values by the places of their names.
    pub(crate) fn note(
        &self,
        hash: u64,
        (arm, propensity): (usize, f64),
        end: End,
        values: &[(usize, Sum)],
    ) {
        self.failing.note(mixed(hash), [(arm, 0)].into_iter(), end);
        self.change(hash, |unit| {
            unit.first.get_or_insert((arm, propensity));
            let on = unit.on(arm);
            on.requests = on.requests.saturating_add(1);
            on.errors = on.errors.saturating_add(u32::from(end == End::Failed));
            on.refused = on.refused.saturating_add(u32::from(end == End::Refused));
            values.iter().for_each(|&(place, sum)| on.add(place, sum));
        });
    }

    /// Values of a name came in for a unit that was on an arm.
    pub(crate) fn value(&self, hash: u64, arm: usize, place: usize, sum: Sum) {
        self.change(hash, |unit| unit.on(arm).add(place, sum));
    }

    fn change(&self, hash: u64, change: impl FnOnce(&mut Unit)) {
        let hash = mixed(hash);
        let mut bound = self.bound.load(Relaxed);
        if hash >= bound {
            return;
        }
        let mut shard = self.shard(hash as usize % SHARDS);
        shard.keep_below(bound);
        while shard.kept >= KEPT || shard.units.len() >= UNITS && !shard.units.contains_key(&hash) {
            bound = shard.bound / 2;
            self.bound.fetch_min(bound, Relaxed);
            shard.keep_below(bound);
        }
        if hash >= shard.bound {
            return;
        }
        let unit = shard.units.entry(hash).or_default();
        let before = unit.kept();
        change(unit);
        let grown = unit.kept() - before;
        shard.kept += grown;
    }

    /// The moments of so many arms.
    pub(crate) fn moments(&self, arms: usize, names: &Names) -> Vec<UnitMoments> {
        let mut moments = vec![UnitMoments::default(); arms];
        let bound = self.bound.load(Relaxed);
        for at in 0..SHARDS {
            let mut shard = self.shard(at);
            shard.keep_below(bound);
            for unit in shard.units.values() {
                for on in &unit.arms {
                    moments[on.arm].add(on, names);
                }
                // Where there was no choice, nothing tells whether chance is fair.
                let Some((first, propensity)) = unit.first.filter(|&(_, drawn)| drawn < 1.0) else {
                    continue;
                };
                moments[first].first += 1;
                if let [one, other] = &mut moments[..] {
                    let of = |arm| if arm == first { propensity } else { 1.0 - propensity };
                    one.expected = one.expected.with(Sum::of(of(0)));
                    other.expected = other.expected.with(Sum::of(of(1)));
                }
            }
        }
        for (moments, bad) in moments.iter_mut().zip(self.failing.sums(arms, 1)) {
            let [bad] = bad[..] else { continue };
            moments.failing = bad.failed;
            moments.refused = more_alike(bad.refused, moments.refused);
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
    use crate::values::Value;

    fn hash(unit: u64) -> u64 {
        // SplitMix64's steps: as good as random.
        let mixed = (unit + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
    }

    #[test]
    fn moments_are_over_units() {
        let (units, names) = (Units::default(), Names::new());
        let faces = names.place(Value::Metric("faces")).unwrap();
        for (unit, arm, times, failed) in [(1, 0, 3, 0), (1, 2, 2, 2), (2, 0, 1, 1), (3, 2, 4, 1)] {
            for time in 0..times {
                let values = [(faces, Sum::of(f64::from(time)))];
                let values = if unit == 3 { &values[..] } else { &[] };
                // The second unit's arm was the only one that there was.
                let propensity = if unit == 2 { 1.0 } else { 0.5 };
                let end = if time < failed { End::Failed } else { End::Answered };
                units.note(hash(unit), (arm, propensity), end, values);
            }
        }
        let live = UnitMoments {
            units: 2,
            first: 1,
            expected: Sum::default(),
            requests: 4.0,
            requests_squares: 10.0,
            errors: 1.0,
            errors_squares: 1.0,
            errors_requests: 1.0,
            most: 3,
            failing: Sum::of(1.0),
            refused: Sum::default(),
            values: BTreeMap::new(),
        };
        // One unit, four values: 0, 1, 2, 3.
        let faces = ValueMoments {
            units: 1,
            sums: 6.0,
            sums_squares: 36.0,
            counts: 4.0,
            counts_squares: 16.0,
            sums_counts: 24.0,
        };
        let next = UnitMoments {
            units: 2,
            first: 1,
            expected: Sum::default(),
            requests: 6.0,
            requests_squares: 20.0,
            errors: 3.0,
            errors_squares: 5.0,
            errors_requests: 8.0,
            most: 4,
            failing: Sum::of(2.0).with(Sum::of(1.0)),
            refused: Sum::default(),
            values: BTreeMap::from([("metric:faces".to_owned(), faces)]),
        };
        let expected = [live, UnitMoments::default(), next];
        assert_eq!(units.moments(3, &names), expected);
        // A reward alone is no exposure.
        units.value(hash(4), 1, 0, Sum::of(2.0));
        let rewarded = &units.moments(3, &names)[1];
        assert_eq!((rewarded.units, rewarded.first, rewarded.values["reward"].sums), (0, 0, 2.0));
    }

    #[test]
    fn one_that_is_refused_or_fails_again_and_again_is_known_among_many() {
        let (units, names) = (Units::default(), Names::new());
        for unit in 0..40_000 {
            units.note(hash(unit), (0, 0.5), End::Answered, &[]);
            if unit % 10 == 0 {
                units.note(hash(unit), (0, 0.5), End::Failed, &[]);
            }
        }
        for _ in 0..2000 {
            units.note(hash(50_001), (0, 0.5), End::Failed, &[]);
            units.note(hash(50_002), (0, 0.5), End::Refused, &[]);
        }
        let moments = &units.moments(1, &names)[0];
        assert_eq!((moments.failing.sum, moments.refused), (6000.0, Sum::of(2000.0)));
        // What one had of them, as good as all of what it had.
        let one = 2000.0 - 6000.0 / 64.0;
        assert!(moments.failing.squares > one * one, "{:?}", moments.failing);
    }

    #[test]
    fn of_many_units_a_part_is_kept_whole() {
        let (units, names) = (Units::default(), Names::new());
        for round in 0..2 {
            for unit in 0..100_000 {
                let drawn = if unit % 10 == 0 { (1, 0.1) } else { (0, 0.9) };
                let end = if round == 1 { End::Failed } else { End::Answered };
                units.note(hash(unit), drawn, end, &[]);
            }
        }
        let moments = units.moments(2, &names);
        let [live, next] = &moments[..] else { panic!("{moments:?}") };
        let kept = live.units + next.units;
        assert!((500..=(SHARDS * UNITS) as u64).contains(&kept), "{kept} are kept");
        let part = next.units as f64 / kept as f64;
        assert!((part - 0.1).abs() < 0.05, "{part} of those kept are on the second arm");
        // What is expected is of both arms, and close to what came.
        for (arm, share) in [(live, 0.9), (next, 0.1)] {
            let expected = &arm.expected;
            let (all, sum) = (kept as f64, kept as f64 * share);
            assert_eq!(expected.count, kept);
            assert!((expected.sum - sum).abs() < 1e-6 * all, "{expected:?}");
            assert!((expected.squares - sum * share).abs() < 1e-6 * all, "{expected:?}");
            assert_eq!(arm.first, arm.units);
        }
        // Every one of them has both its requests.
        assert_eq!((live.requests, live.errors), (2.0 * live.units as f64, live.units as f64));
    }

    #[test]
    fn units_with_many_values_are_fewer() {
        let (units, names) = (Units::default(), Names::new());
        for unit in 0..20_000 {
            let values: Vec<(usize, Sum)> = (0..34).map(|place| (place, Sum::of(1.0))).collect();
            units.note(hash(unit), (unit as usize % 64, 0.5), End::Answered, &values);
        }
        let kept: usize = (0..SHARDS).map(|at| units.shard(at).kept).sum();
        let counted: u64 = units.moments(64, &names).iter().map(|arm| arm.units).sum();
        assert!(kept <= SHARDS * (KEPT + 35) && counted > 100, "{kept} of {counted} units");
    }
}
