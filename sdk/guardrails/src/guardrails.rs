//! Guardrails: what an arm must keep to, for policies that move traffic.
//!
//! Each is judged by an interval that holds however often it is looked at. Without data nothing
//! passes, and with little of it nothing is decided but what is plain.

use berth_sdk::{ConfigError, Observe};
use berth_statistics::{Alpha, Effect, Interval, Proportion, Verdict, sequential};
use serde::{Deserialize, Serialize};

use crate::assignment;
use crate::bounds::Bound;
use crate::evidence::{Since, Values, worst};
use crate::latency::{self, LEAST_RATIO, Times};

/// The most slices and the most bounds, so that plans stay small.
const MOST: usize = 32;

/// What an arm must keep to. The configuration of policies has it under a key of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guardrails {
    /// The most of its requests that may fail by the model's, the plugin's or the host's fault, 0 to 1.
    pub max_error_rate: f64,
    /// By how much that part may be more than the live revision's, 0 to 1.
    pub max_error_increase: Option<f64>,
    /// The most of its requests that may be refused as the caller's fault, 0 to 1.
    pub max_refused_rate: Option<f64>,
    /// The time within which requests are to come to their end, in milliseconds.
    pub latency_ms: Option<f64>,
    /// The most of them that may take longer, 0 to 1. The host tells times apart by an eighth, and
    /// this counts in the arm's favour.
    pub max_slow_rate: f64,
    /// How many times as long as the live revision's its requests may take, 1.3 or more: by the time
    /// within which 95 % of them come to their end.
    pub max_latency_ratio: Option<f64>,
    /// What declared slices must keep to beside the whole.
    pub slices: Vec<Floor>,
    /// Between what rewards and processors' own metrics must stay.
    pub bounds: Vec<Bound>,
    /// Fewer requests than this pass nothing.
    pub min_requests: u64,
    /// How often a guardrail may be taken for kept when it is broken, or for broken when it is kept.
    pub alpha: f64,
}

/// What the requests of a slice must keep to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// The slice, as the endpoint declares it: `ATTRIBUTE=VALUE`.
    pub slice: String,
    /// As for the whole.
    pub max_error_rate: Option<f64>,
    /// As for the whole.
    pub max_refused_rate: Option<f64>,
    /// As for the whole, by its `latency_ms`.
    pub max_slow_rate: Option<f64>,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            max_error_rate: 0.01,
            max_error_increase: None,
            max_refused_rate: None,
            latency_ms: None,
            max_slow_rate: 0.01,
            max_latency_ratio: None,
            slices: Vec::new(),
            bounds: Vec::new(),
            min_requests: 100,
            alpha: 0.01,
        }
    }
}

/// What was counted of an arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that came to their end.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that were refused as the caller's fault.
    pub refused: u64,
    /// Those that took longer than they are to take.
    pub slow: u64,
    /// How many of each tell as much as one would if each were of another unit.
    #[serde(default)]
    pub alike: Alike,
}

/// How many tell as much as one would if each were of another unit: 1 or more, or 0 for what is not
/// there. The worst case, in which all that a unit has comes to the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alike {
    /// Of requests.
    pub requests: f64,
    /// Of those that failed.
    pub errors: f64,
    /// Of those that were refused.
    pub refused: f64,
    /// Of those that took too long.
    pub slow: f64,
}

/// When the live revision had the requests that the next one's are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Baseline {
    /// At the same time.
    #[default]
    Beside,
    /// Before, when it still had a share.
    Before {
        /// Whether the next revision had one too, and kept to all guardrails beside it.
        kept: bool,
    },
}

/// What guardrails look at, of two arms: the live one and the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// All requests.
    pub whole: [Counts; 2],
    /// Those of each slice that has a guardrail.
    pub slices: Vec<[Counts; 2]>,
    /// What bounds hold for.
    pub bounds: Vec<[Values; 2]>,
    /// How long requests took, where that is compared.
    #[serde(default)]
    pub times: [Times; 2],
    /// How likely units fall to arms as they did, when they do by the shares.
    #[serde(skip)]
    pub assignment: Option<f64>,
    /// When what is there of the live one came.
    #[serde(skip)]
    pub baseline: Baseline,
}

/// Whether an arm keeps to its guardrails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It does.
    Pass,
    /// It cannot be said yet, and why.
    Hold(String),
    /// It does not, and how.
    Fail(String),
}

impl Guardrails {
    /// Refuses what no arm could be held against. `key` is where the configuration has them.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let rates = |key: &str, rates: &[(&str, Option<f64>)]| {
            let wrong = |rate: &f64| !(0.0..=1.0).contains(rate);
            match rates.iter().find_map(|&(name, rate)| Some((name, rate.filter(wrong)?))) {
                None => Ok(()),
                Some((name, rate)) => {
                    let message = format!("{rate} is no share: use 0 to 1");
                    Err(ConfigError::new(format!("{key}.{name}"), message))
                }
            }
        };
        rates(
            key,
            &[
                ("max_error_rate", Some(self.max_error_rate)),
                ("max_error_increase", self.max_error_increase),
                ("max_refused_rate", self.max_refused_rate),
                ("max_slow_rate", Some(self.max_slow_rate)),
            ],
        )?;
        if let Some(ms) = self.latency_ms.filter(|ms| !(*ms > 0.0 && ms.is_finite())) {
            let message = format!("{ms} is no time: use milliseconds above 0");
            return Err(ConfigError::new(format!("{key}.latency_ms"), message));
        }
        let tells = LEAST_RATIO..f64::INFINITY;
        if let Some(ratio) = self.max_latency_ratio.filter(|ratio| !tells.contains(ratio)) {
            let message = format!(
                "{ratio} is too little to tell: the host tells times apart by an eighth, so use {LEAST_RATIO} or more"
            );
            return Err(ConfigError::new(format!("{key}.max_latency_ratio"), message));
        }
        if self.min_requests == 0 {
            let message = "use 1 or more: without data nothing passes";
            return Err(ConfigError::new(format!("{key}.min_requests"), message));
        }
        for (name, given) in [("slices", self.slices.len()), ("bounds", self.bounds.len())] {
            if given > MOST {
                let message = format!("{given} are too many: use at most {MOST}");
                return Err(ConfigError::new(format!("{key}.{name}"), message));
            }
        }
        for (at, floor) in self.slices.iter().enumerate() {
            let key = format!("{key}.slices[{at}]");
            let limits = [
                ("max_error_rate", floor.max_error_rate),
                ("max_refused_rate", floor.max_refused_rate),
                ("max_slow_rate", floor.max_slow_rate),
            ];
            rates(&key, &limits)?;
            check_slice(&key, &floor.slice)?;
            if limits.iter().all(|(_, limit)| limit.is_none()) {
                let message = "give `max_error_rate`, `max_refused_rate` or `max_slow_rate`";
                return Err(ConfigError::new(key, message));
            }
            if floor.max_slow_rate.is_some() && self.latency_ms.is_none() {
                let message = "it goes by the guardrails' `latency_ms`: give that";
                return Err(ConfigError::new(format!("{key}.max_slow_rate"), message));
            }
        }
        for (at, bound) in self.bounds.iter().enumerate() {
            bound.check(&format!("{key}.bounds[{at}]"))?;
        }
        self.alpha().map(drop).map_err(|message| ConfigError::new(format!("{key}.alpha"), message))
    }

    fn alpha(&self) -> Result<Alpha, String> {
        Alpha::new(self.alpha).map_err(|error| error.to_string())
    }

    /// What was observed of two arms, since observing began. `since` is as far back as units are told
    /// apart: as far as what is judged of it.
    pub fn evidence(&self, observation: &impl Observe, arms: [u32; 2], since: Since) -> Evidence {
        let counts =
            |slice: Option<&str>| arms.map(|arm| self.counts(observation, arm, slice, since));
        Evidence {
            whole: counts(None),
            slices: self.slices.iter().map(|floor| counts(Some(&floor.slice))).collect(),
            bounds: self
                .bounds
                .iter()
                .map(|bound| arms.map(|arm| bound.observed(observation, arm, since)))
                .collect(),
            times: match self.max_latency_ratio {
                Some(_) => arms.map(|arm| Times::observed(observation, arm)),
                None => <[Times; 2]>::default(),
            },
            assignment: assignment::by_expectation(observation, arms[1]),
            baseline: Baseline::Beside,
        }
    }

    fn counts(
        &self,
        observation: &impl Observe,
        arm: u32,
        slice: Option<&str>,
        since: Since,
    ) -> Counts {
        let measure = |name| observation.measure(arm, name, slice);
        let count = |name| measure(name).map_or(0, |measure| measure.count);
        let timed = count("latency-seconds");
        let slow = self.latency_ms.map_or(0, |ms| {
            let within = observation.at_most(arm, "latency-seconds", slice, ms / 1e3);
            timed.saturating_sub(within.unwrap_or(timed))
        });
        let of_units = |name| since.measure(observation, arm, name, slice);
        // How many slow ones a unit has had is not told: no more than it has had requests.
        let most = of_units("most-requests-of-a-unit").map_or(0.0, |most| most.sum);
        Counts {
            requests: count("requests"),
            errors: count("errors"),
            refused: count("refused"),
            slow,
            alike: Alike {
                requests: worst(of_units("requests-of-units")),
                errors: worst(of_units("errors-of-units"))
                    .max(worst(of_units("errors-of-failing-units"))),
                refused: worst(of_units("refused-of-units")),
                slow: most.min(slow as f64),
            },
        }
    }

    /// Whether the next revision keeps to them, by the evidence of both. What is broken counts for
    /// more than what is not known yet.
    pub fn judge(&self, evidence: &Evidence) -> Judgement {
        let Ok(alpha) = self.alpha() else {
            return Judgement::Hold("alpha is no probability".into());
        };
        let findings = self.findings(evidence, alpha);
        if let Some((_, text)) = findings.iter().find(|(verdict, _)| *verdict == Verdict::Broken) {
            return Judgement::Fail(text.clone());
        }
        let requests = evidence.whole[1].requests;
        if requests < self.min_requests {
            return Judgement::Hold(format!("{requests} of {} requests", self.min_requests));
        }
        if let Some(why) = assignment::mismatch(evidence.assignment) {
            return Judgement::Hold(why);
        }
        let unsure = findings.iter().find(|(verdict, _)| *verdict == Verdict::Inconclusive);
        unsure.map_or(Judgement::Pass, |(_, text)| {
            Judgement::Hold(format!("{text}, which decides nothing yet"))
        })
    }

    /// Whether any of them compares the next revision with the live one.
    pub fn compare(&self) -> bool {
        self.max_error_increase.is_some()
            || self.max_latency_ratio.is_some()
            || self.bounds.iter().any(Bound::compares)
    }

    /// The key of the first that allows the next revision nothing beside the live one.
    pub(crate) fn without_margin(&self) -> Option<String> {
        let whole = self.max_error_increase.filter(|most| *most <= 0.0);
        let bound = || self.bounds.iter().position(Bound::without_margin);
        whole
            .map(|_| "max_error_increase".to_owned())
            .or_else(|| Some(format!("bounds[{}]", bound()?)))
    }

    /// Whether there is enough of the live revision for all that is compared with it later, when it
    /// has no share any more: as much again of the next, if that were the same, would tell it from
    /// one that is worse by half of what is allowed. None when there is; else what there is, and how
    /// much more is needed where units go on as they are.
    pub fn too_little(&self, evidence: &Evidence) -> Option<String> {
        let alpha = self.alpha().ok()?;
        let [live, _] = &evidence.whole;
        let increase = |times: f64| {
            let live = live.times(times);
            self.max_error_increase.is_none_or(|most| {
                error_increase(&live, &live, most / 2.0, alpha).at_most(most / 2.0)
                    == Verdict::Holds
            })
        };
        let slower = |times: f64| {
            let of = (&evidence.times[0].times(times), live.alike.requests);
            self.max_latency_ratio
                .is_none_or(|most| latency::ratio([of, of], alpha).at_most(most) == Verdict::Holds)
        };
        let requests = |times: f64| live.times(times).requests >= self.min_requests;
        let whole = |times: f64| requests(times) && increase(times) && slower(times);
        if !whole(1.0) {
            let found = format!("{} requests", live.requests);
            let units = live.of(live.errors, live.alike.errors).trials;
            return Some(missing(&found, units, whole));
        }
        self.bounds.iter().zip(&evidence.bounds).find_map(|(bound, [live, _])| {
            let enough = |times: f64| bound.told(&live.times(times), alpha);
            let found = || format!("{} values of {}", live.count, bound.metric.name());
            (!enough(1.0)).then(|| missing(&found(), live.units(), enough))
        })
    }

    /// What is found of each guardrail, and what it goes by.
    fn findings(&self, evidence: &Evidence, alpha: Alpha) -> Vec<(Verdict, String)> {
        let [live, next] = &evidence.whole;
        let slow = self.latency_ms.map(|_| self.max_slow_rate);
        let whole = [Some(self.max_error_rate), slow, self.max_refused_rate];
        let mut findings = self.rates(next, whole, "", alpha);
        if let Some(most) = self.max_error_increase {
            // Valid as long as shares stand still, as they do in a step.
            let verdict = error_increase(live, next, most, alpha).at_most(most);
            let units = [live, next].map(|counts| counts.of(0, 1.0).trials);
            let text = format!(
                "{} of {} requests failed and {} of {} of the live revision{}, at most {} % more may",
                next.errors,
                next.requests,
                live.errors,
                live.requests,
                evidence.baseline.words(),
                percent(most)
            );
            findings.push((evidence.baseline.verdict(verdict, units), text));
        }
        if let Some(most) = self.max_latency_ratio {
            let [before, after] = &evidence.times;
            let alike = [(before, live.alike.requests), (after, next.alike.requests)];
            let verdict = latency::ratio(alike, alpha).at_most(most);
            let units = [live, next].map(|counts| counts.of(0, 1.0).trials);
            let text = latency::words([before, after], evidence.baseline.words(), most);
            findings.push((evidence.baseline.verdict(verdict, units), text));
        }
        for (floor, [_, next]) in self.slices.iter().zip(&evidence.slices) {
            let limits = [floor.max_error_rate, floor.max_slow_rate, floor.max_refused_rate];
            let of = format!(" of {}", floor.slice);
            findings.extend(self.rates(next, limits, &of, alpha));
        }
        for (bound, [live, next]) in self.bounds.iter().zip(&evidence.bounds) {
            findings.extend(bound.findings(live, next, evidence.baseline, alpha));
        }
        findings
    }

    /// What is found of the most that may fail, be slow and be refused.
    fn rates(
        &self,
        next: &Counts,
        limits: [Option<f64>; 3],
        of: &str,
        alpha: Alpha,
    ) -> Vec<(Verdict, String)> {
        let limit = self.latency_ms.unwrap_or_default();
        let alike = &next.alike;
        let words = [
            (next.errors, alike.errors, "failed".to_owned()),
            (next.slow, alike.slow, format!("took longer than {limit} ms")),
            (next.refused, alike.refused, "were refused as the caller's fault".to_owned()),
        ];
        let findings = limits.into_iter().zip(words).filter_map(|(most, (count, alike, what))| {
            let most = most?;
            // All may: there is nothing to find out.
            let verdict = match most >= 1.0 {
                true => Verdict::Holds,
                false => sequential::proportion(next.of(count, alike), alpha).at_most(most),
            };
            let (requests, most) = (next.requests, percent(most));
            Some((
                verdict,
                format!("{count} of {requests} requests{of} {what}, at most {most} % may"),
            ))
        });
        findings.collect()
    }
}

/// What was found of the live revision, of so many units, and how many more there are to be: until so
/// many times as much of the same is enough.
fn missing(found: &str, units: u64, enough: impl Fn(f64) -> bool) -> String {
    let found = format!("{found} of the live revision so far");
    if units == 0 {
        return found;
    }
    let found = format!("{found}, which tell as much as {units} units with one each");
    let mut doublings = (1..=20).map(|doublings| f64::from(1u32 << doublings));
    let Some(most) = doublings.find(|&times| enough(times)) else {
        return format!("{found}; a million times as many would still be too few");
    };
    let (mut least, mut most) = (most / 2.0, most);
    for _ in 0..4 {
        let middle = (least + most) / 2.0;
        if enough(middle) { most = middle } else { least = middle }
    }
    let more = (units as f64 * (most - 1.0)).ceil();
    format!("{found}; it takes about {more} more units, as requests of the same ones tell little")
}

/// By how much more of the next revision's requests fail.
fn error_increase(live: &Counts, next: &Counts, margin: f64, alpha: Alpha) -> Interval {
    let [before, after] = [live, next].map(|counts| counts.of(counts.errors, counts.alike.errors));
    match Effect::new(margin) {
        Ok(margin) => sequential::guardrail(before, after, margin, alpha).interval,
        Err(_) => sequential::proportions_exact(before, after, alpha).interval,
    }
}

impl Baseline {
    /// What a comparison comes to, with so many units of the live revision and of the next.
    ///
    /// Of the live revision there is no more to come. So where the next one has shown beside it that
    /// it keeps to all, and has as many units as that again, what is not plainly broken is kept.
    pub(crate) fn verdict(self, found: Verdict, [live, next]: [u64; 2]) -> Verdict {
        let enough = live > 0 && next >= live;
        match (self, found) {
            (Self::Before { kept: true }, Verdict::Inconclusive) if enough => Verdict::Holds,
            _ => found,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Beside => "",
            Self::Before { .. } => " before",
        }
    }
}

/// Refuses what is no name of a slice.
pub(crate) fn check_slice(key: &str, slice: &str) -> Result<(), ConfigError> {
    match slice.split_once('=') {
        Some((attribute, _)) if !attribute.is_empty() => Ok(()),
        _ => Err(ConfigError::new(
            format!("{key}.slice"),
            format!(
                "{slice:?} is no slice: use one that the endpoint declares, \"ATTRIBUTE=VALUE\""
            ),
        )),
    }
}

impl Evidence {
    /// What was observed after `before`.
    pub fn since(&self, before: &Self) -> Self {
        let counts = |now: &[Counts; 2], before: Option<&[Counts; 2]>| {
            let before = before.copied().unwrap_or_default();
            [0, 1].map(|arm| now[arm].since(&before[arm]))
        };
        let values = |now: &[Values; 2], before: Option<&[Values; 2]>| {
            let before = before.copied().unwrap_or_default();
            [0, 1].map(|arm| now[arm].since(&before[arm]))
        };
        let slices = self.slices.iter().enumerate();
        let bounds = self.bounds.iter().enumerate();
        Self {
            whole: counts(&self.whole, Some(&before.whole)),
            slices: slices.map(|(at, now)| counts(now, before.slices.get(at))).collect(),
            bounds: bounds.map(|(at, now)| values(now, before.bounds.get(at))).collect(),
            times: [0, 1].map(|arm| self.times[arm].since(&before.times[arm])),
            assignment: self.assignment,
            baseline: self.baseline,
        }
    }

    /// The next revision's, with what the live one had before.
    #[must_use]
    pub fn after(&self, live: &Self, kept: bool) -> Self {
        let counts = |[_, next]: [Counts; 2], [live, _]: [Counts; 2]| [live, next];
        let slices = self.slices.iter().zip(&live.slices);
        let bounds = self.bounds.iter().zip(&live.bounds);
        Self {
            whole: counts(self.whole, live.whole),
            slices: slices.map(|(next, live)| counts(*next, *live)).collect(),
            bounds: bounds.map(|([_, next], [live, _])| [*live, *next]).collect(),
            times: [live.times[0].clone(), self.times[1].clone()],
            assignment: self.assignment,
            baseline: Baseline::Before { kept },
        }
    }
}

impl Counts {
    /// What was counted after `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            refused: self.refused.saturating_sub(before.refused),
            slow: self.slow.saturating_sub(before.slow),
            alike: self.alike,
        }
    }

    /// So many times as many of the same.
    fn times(&self, times: f64) -> Self {
        let of = |count: u64| (count as f64 * times).round() as u64;
        Self {
            requests: of(self.requests),
            errors: of(self.errors),
            refused: of(self.refused),
            slow: of(self.slow),
            alike: self.alike,
        }
    }

    /// So many of the requests, as if each were of another unit: requests and these count as few as
    /// the more alike of the two.
    fn of(&self, count: u64, alike: f64) -> Proportion {
        let alike = self.alike.requests.max(alike).max(1.0);
        let (count, requests) = (count as f64 / alike, self.requests as f64 / alike);
        let trials = requests.floor() as u64;
        Proportion { successes: (count.ceil() as u64).min(trials), trials }
    }
}

/// A share as people read it: `0.07` is `7`.
pub(crate) fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

#[cfg(test)]
mod tests;
