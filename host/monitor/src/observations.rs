//! What is observed of arms while a policy decides about them: two revisions, or the variants of one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lately::{Lately, LatelyUnits};
use crate::predictions::now_ms;
use crate::tally::{Counters, End, Tally};
use crate::units::{UnitMoments, Units};
use crate::values::{Names, Sum, Sums, Value};

/// The most places in which the same is counted: in the whole, and in a slice or of shadows.
const SHARDS: [usize; 2] = [16, 4];

/// The most declared slices.
pub const SLICES: usize = 16;

/// By what a request counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Exposed {
    /// The arm's index.
    pub arm: usize,
    /// The declared slices that it is in, a bit each, the first one the lowest.
    pub slices: u16,
    /// The hash of its unit, when it has one.
    pub unit: Option<u64>,
    /// The probability with which its arm was drawn, above 0 to 1, where that is told.
    pub propensity: Option<f64>,
}

/// What was observed of an arm since the plan of its policy began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Of all of its requests.
    #[serde(flatten)]
    pub whole: Tally,
    /// Of those in each declared slice.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slices: BTreeMap<String, Tally>,
    /// Of the copies that it got as a shadow.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub shadow: Tally,
    /// Moments over units, where requests have one. A unit that came before and after a restart of
    /// the host counts as two.
    #[serde(default)]
    pub units: UnitMoments,
    /// Sums over units of what each has had since the plan changed, where requests have one: of the
    /// whole (no name), and of each slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lately: Vec<(Option<String>, Lately)>,
    /// The number of the last feedback whose reward is among the values.
    #[serde(default = "all_feedback")]
    pub feedback: u64,
}

/// What was stored when feedback had no numbers has all that came until now: they are times.
fn all_feedback() -> u64 {
    now_ms() * 1000
}

/// The counters of arms.
pub struct Observations {
    slices: Vec<String>,
    names: Names,
    arms: Box<[Arm]>,
    units: Units,
    lately: LatelyUnits,
    /// The plan has changed since the host was started, so that what was there before is not lately.
    begun_anew: AtomicBool,
    /// The number of the last feedback that was counted.
    feedback: RwLock<u64>,
}

struct Arm {
    /// What had been observed before the host was started.
    before: Observed,
    /// The whole, then the slices.
    parts: Box<[Part]>,
    shadow: OnceLock<Counters>,
}

/// Made when it is first needed.
#[derive(Default)]
struct Part {
    counters: OnceLock<Counters>,
    sums: OnceLock<Box<Sums>>,
}

impl Part {
    fn total(&self, before: &Tally, names: &Names) -> Tally {
        let mut total = match self.counters.get() {
            Some(counters) => counters.total(before),
            None => before.clone(),
        };
        for (place, sum) in self.sums.get().into_iter().flat_map(|sums| sums.all()) {
            let Some(name) = names.name(place) else { continue };
            let known = total.values.entry(name).or_default();
            *known = known.with(sum);
        }
        total
    }
}

impl Observations {
    /// Goes on from what had been observed `before` of each arm, in the whole and in the slices of
    /// these names, at most [`SLICES`].
    pub fn new(before: Vec<Observed>, slices: Vec<String>) -> Self {
        let names = Names::new();
        for Observed { whole, slices, .. } in &before {
            let parts = [whole].into_iter().chain(slices.values());
            // Those that were known keep their places before others come.
            parts.flat_map(|part| part.values.keys()).for_each(|name| {
                names.named(name);
            });
        }
        let arm = |before| Arm {
            before,
            parts: (0..=slices.len()).map(|_| Part::default()).collect(),
            shadow: OnceLock::new(),
        };
        let feedback = RwLock::new(before.iter().map(|arm| arm.feedback).max().unwrap_or(0));
        let arms = before.into_iter().map(arm).collect();
        let (units, lately, begun_anew) = <(Units, LatelyUnits, AtomicBool)>::default();
        Self { names, arms, units, lately, begun_anew, slices, feedback }
    }

    /// The plan has changed: what units have done lately begins anew.
    pub fn begin_anew(&self) {
        self.lately.forget();
        self.begun_anew.store(true, Relaxed);
    }

    /// The names of the slices.
    pub fn slices(&self) -> &[String] {
        &self.slices
    }

    /// A request came to its end after `latency`, and its processor reported `values` by name.
    pub fn note<'a>(
        &self,
        at: Exposed,
        end: End,
        latency: Duration,
        values: impl Iterator<Item = (&'a str, Sum)>,
    ) {
        let at = self.declared(at);
        for (part, shards) in self.parts(at) {
            part.counters.get_or_init(|| Counters::new(shards)).note(end, latency);
        }
        let placed =
            values.filter_map(|(name, sum)| Some((self.names.place(Value::Metric(name))?, sum)));
        let placed = placed.inspect(|&(place, sum)| self.sum(at, place, sum));
        match at.unit {
            Some(unit) => {
                let placed: Vec<(usize, Sum)> = placed.collect();
                let drawn = (at.arm, at.propensity.unwrap_or(1.0));
                self.units.note(unit, drawn, end, &placed);
                self.lately.note(unit, at, Some(end), &placed);
            }
            None => placed.for_each(drop),
        }
    }

    /// A value came in for a request that came to its end before.
    pub fn value(&self, at: Exposed, value: Value<'_>, sum: Sum) {
        let at = self.declared(at);
        let Some(place) = self.names.place(value) else { return };
        self.sum(at, place, sum);
        if let (Some(unit), Value::Reward) = (at.unit, value) {
            self.units.value(unit, at.arm, place, sum);
            self.lately.note(unit, at, None, &[(place, sum)]);
        }
    }

    /// A reward came in by the feedback of this number. Of what is read `again` only that counts which
    /// came after the last that was counted.
    pub fn reward(&self, at: Exposed, reward: Sum, (number, again): (u64, bool)) {
        let mut last = self.feedback.write().unwrap_or_else(PoisonError::into_inner);
        if !again || number > *last {
            self.value(at, Value::Reward, reward);
            *last = number.max(*last);
        }
    }

    /// The number of the last feedback that was counted.
    pub fn feedback(&self) -> u64 {
        *self.feedback.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// An arm came to the end of a copy after `latency`.
    pub fn shadowed(&self, arm: usize, end: End, latency: Duration) {
        self.arms[arm].shadow.get_or_init(|| Counters::new(SHARDS[1])).note(end, latency);
    }

    /// What was observed of each arm until now.
    pub fn total(&self) -> Vec<Observed> {
        let none = Tally::default();
        // No reward is counted meanwhile.
        let feedback = self.feedback.read().unwrap_or_else(PoisonError::into_inner);
        let mut units = self.units.moments(self.arms.len(), &self.names).into_iter();
        let mut lately =
            self.lately.sums(self.arms.len(), self.slices.len(), &self.names).into_iter();
        let anew = self.begun_anew.load(Relaxed);
        let of = |arm: &Arm| {
            let before = &arm.before;
            let slices = self.slices.iter().zip(&arm.parts[1..]).map(|(name, part)| {
                let before = before.slices.get(name).unwrap_or(&none);
                (name.clone(), part.total(before, &self.names))
            });
            Observed {
                whole: arm.parts[0].total(&before.whole, &self.names),
                slices: slices.filter(|(_, tally)| !tally.is_empty()).collect(),
                shadow: match arm.shadow.get() {
                    Some(counters) => counters.total(&before.shadow),
                    None => before.shadow.clone(),
                },
                units: before.units.with(&units.next().unwrap_or_default()),
                lately: self.lasting(if anew { &[] } else { &before.lately }, lately.next()),
                feedback: *feedback,
            }
        };
        self.arms.iter().map(of).collect()
    }

    /// What units have done lately, with what they had done before the host was started.
    fn lasting(
        &self,
        before: &[(Option<String>, Lately)],
        now: Option<Vec<Lately>>,
    ) -> Vec<(Option<String>, Lately)> {
        let names = [None].into_iter().chain(self.slices.iter().cloned().map(Some));
        let parts = names.zip(now.unwrap_or_default()).map(|(name, now)| {
            let before = before.iter().find(|(known, _)| *known == name);
            let all = before.map_or_else(|| now.clone(), |(_, before)| before.with(&now));
            (name, all)
        });
        parts.filter(|(_, all)| *all != Lately::default()).collect()
    }

    fn sum(&self, at: Exposed, place: usize, sum: Sum) {
        for (part, _) in self.parts(at) {
            part.sums.get_or_init(|| Box::new(Sums::new())).add(place, sum);
        }
    }

    /// Without bits that are of no declared slice, wherever they come from.
    fn declared(&self, at: Exposed) -> Exposed {
        let bits = (0..self.slices.len().min(SLICES)).fold(0, |bits, bit| bits | 1 << bit);
        Exposed { slices: at.slices & bits, ..at }
    }

    /// The parts that a request counts in, each with the most places for its counters.
    fn parts(&self, at: Exposed) -> impl Iterator<Item = (&Part, usize)> {
        let parts = &self.arms[at.arm].parts;
        let slices = parts[1..].iter().enumerate();
        let within = slices.filter(move |(bit, _)| at.slices & (1 << bit) != 0);
        [(&parts[0], SHARDS[0])].into_iter().chain(within.map(|(_, part)| (part, SHARDS[1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(4);

    fn counts(tally: &Tally) -> Vec<u64> {
        tally.latencies().map(|(_, count)| count).collect()
    }

    #[test]
    fn what_is_counted_is_told_and_gone_on_with() {
        let arms = Observations::new(vec![Observed::default(); 3], Vec::new());
        let note = |end, latency| {
            arms.note(Exposed { arm: 2, ..Exposed::default() }, end, latency, [].into_iter());
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        note(End::Answered, MS);
                    }
                    note(End::Failed, Duration::from_secs(1));
                    note(End::Refused, Duration::from_secs(9));
                });
            }
        });
        let total = arms.total();
        assert_eq!(total[0], Observed::default());
        let first = &total[2].whole;
        assert_eq!((first.requests, first.errors, first.refused), (8016, 8, 8));
        assert!((first.latency_sum - 40.0).abs() < 1e-6, "{first:?}");
        assert!((first.latency_squares - 8.128).abs() < 1e-6, "{first:?}");
        assert_eq!(counts(first), [0, 8000, 0, 8]);
        let (half, all) = (first.quantile(0.5).unwrap(), first.quantile(1.0).unwrap());
        assert!((0.004..0.0046).contains(&half) && (1.0..1.13).contains(&all), "{half} {all}");
        assert_eq!(Tally::default().quantile(0.5), None);

        let next = Observations::new(total, Vec::new());
        next.note(Exposed { arm: 2, ..Exposed::default() }, End::Answered, MS, [].into_iter());
        let second = &next.total()[2].whole;
        assert_eq!((second.requests, second.errors), (8017, 8));
        assert_eq!(counts(second), [0, 8001, 0, 8]);
    }

    #[test]
    fn bits_of_no_declared_slice_count_for_nothing() {
        for declared in [0, 1, SLICES] {
            let names: Vec<String> = (0..declared).map(|at| format!("a={at}")).collect();
            let arms = Observations::new(vec![Observed::default()], names);
            let at = Exposed { slices: u16::MAX, unit: Some(7), ..Exposed::default() };
            arms.note(at, End::Failed, MS, [].into_iter());
            arms.reward(at, Sum::of(1.0), (1, false));
            arms.value(at, Value::Agreement, Sum::of(1.0));
            let total = &arms.total()[0];
            assert_eq!((total.slices.len(), total.lately.len()), (declared, declared + 1));
        }
    }

    #[test]
    fn slices_and_values_are_told_and_kept() {
        let slices = || vec!["a=1".to_owned(), "b=2".to_owned()];
        let mut before = vec![Observed::default(); 2];
        for round in 1..3u64 {
            let arms = Observations::new(before, slices());
            let at = |slices, unit| Exposed { arm: 1, slices, unit: Some(unit), propensity: None };
            let faces = [("faces", Sum::of(2.0).with(Sum::of(3.0)))];
            arms.note(at(0b10, 7), End::Answered, MS, faces.into_iter());
            arms.note(at(0b11, 8), End::Failed, MS, [].into_iter());
            arms.value(at(0b01, 8), Value::Reward, Sum::of(0.5));
            arms.value(at(0, 8), Value::Agreement, Sum::of(1.0));
            arms.shadowed(1, End::Failed, MS);
            // As it comes back from the store.
            let json = serde_json::to_value(arms.total()).unwrap();
            before = serde_json::from_value(json).unwrap();
            let arm = &before[1];
            let requests = |slice: &str| arm.slices[slice].requests;
            assert_eq!(
                (arm.whole.requests, requests("a=1"), requests("b=2")),
                (2 * round, round, 2 * round)
            );
            let times = round as f64;
            let faces = Sum { count: 2 * round, sum: 5.0 * times, squares: 13.0 * times };
            assert_eq!(arm.whole.values["metric:faces"], faces);
            assert_eq!(arm.slices["b=2"].values["metric:faces"], faces);
            assert_eq!(arm.slices["a=1"].values["reward"].sum, 0.5 * times);
            assert_eq!(arm.whole.values["agreement"].count, round);
            assert_eq!((arm.shadow.requests, arm.shadow.errors), (round, round));
            assert_eq!(arm.units.values["metric:faces"].counts, 2.0 * times);
            assert_eq!(arm.units.values["reward"].units, round);
            let lately = |part: usize| {
                let of = &arm.lately[part].1;
                (of.requests.count, of.errors.count, of.values.len())
            };
            assert_eq!(lately(0), (2 * round, round, 2));
            assert_eq!((lately(1), lately(2)), ((round, round, 1), (2 * round, round, 1)));
            assert_eq!(before[0], Observed::default());
        }
        let arms = Observations::new(before, slices());
        assert_eq!(arms.total()[1].lately.len(), 3);
        arms.begin_anew();
        assert_eq!((arms.total()[1].lately.len(), arms.total()[1].units.units), (0, 4));
    }
}
