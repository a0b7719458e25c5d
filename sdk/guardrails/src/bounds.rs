//! Bounds on what feedback and processors report: rewards, confidence, a drift score.

use berth_sdk::{ConfigError, Observe};
use berth_statistics::{Alpha, Effect, Verdict};
use serde::Deserialize;

use crate::evidence::{self, Metric, Since, Values};
use crate::guardrails::{Baseline, check_slice};

/// Between what the mean of a metric must stay.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The metric.
    pub metric: Metric,
    /// The slice, as the endpoint declares it; the whole without one.
    pub slice: Option<String>,
    /// The least mean of the next revision.
    pub min: Option<f64>,
    /// The most.
    pub max: Option<f64>,
    /// By how much it may be below the live revision's.
    pub max_fall: Option<f64>,
    /// By how much it may be above the live revision's.
    pub max_rise: Option<f64>,
    /// How far from the bound is worth telling, in the metric's own unit: a tenth of the bound when
    /// left out. Another one takes longer, and is no less right.
    pub effect: Option<f64>,
}

impl Bound {
    /// Refuses what holds for nothing. `key` is where the configuration has it.
    pub(crate) fn check(&self, key: &str) -> Result<(), ConfigError> {
        if let Some(slice) = &self.slice {
            check_slice(key, slice)?;
        }
        let limits = [
            ("min", self.min, f64::NEG_INFINITY),
            ("max", self.max, f64::NEG_INFINITY),
            ("max_fall", self.max_fall, 0.0),
            ("max_rise", self.max_rise, 0.0),
        ];
        if limits.iter().all(|(_, limit, _)| limit.is_none()) {
            return Err(ConfigError::new(key, "give `min`, `max`, `max_fall` or `max_rise`"));
        }
        for (name, limit, least) in limits {
            let Some(limit) = limit else { continue };
            let wrong = |message| Err(ConfigError::new(format!("{key}.{name}"), message));
            if !limit.is_finite() || limit < least {
                return wrong(format!("{limit} is no bound: use a number, for a margin 0 or more"));
            }
            if self.effect(limit).is_none() {
                let message = match self.effect {
                    Some(effect) => format!("{effect} is no effect: use a number above 0"),
                    None => "beside a bound of 0, give `effect`: how far from it is worth telling"
                        .to_owned(),
                };
                return Err(ConfigError::new(format!("{key}.effect"), message));
            }
        }
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min > max
        {
            return Err(ConfigError::new(format!("{key}.min"), "it is above `max`"));
        }
        Ok(())
    }

    fn effect(&self, limit: f64) -> Option<Effect> {
        Effect::new(self.effect.unwrap_or(limit.abs() / 10.0)).ok()
    }

    /// What was observed of an arm.
    pub(crate) fn observed(&self, observation: &impl Observe, arm: u32, since: Since) -> Values {
        self.metric.observed(observation, arm, self.slice.as_slice(), since)
    }

    /// Whether it compares the next revision with the live one.
    pub(crate) fn compares(&self) -> bool {
        self.max_fall.is_some() || self.max_rise.is_some()
    }

    /// Whether the next revision may differ from the live one by nothing.
    pub(crate) fn without_margin(&self) -> bool {
        [self.max_fall, self.max_rise].into_iter().flatten().any(|margin| margin <= 0.0)
    }

    /// Whether there is so much of the live revision that as much again of the next, if that were the
    /// same, would tell it from one that is worse by half of what is allowed.
    pub(crate) fn told(&self, live: &Values, alpha: Alpha) -> bool {
        [self.max_fall, self.max_rise].into_iter().flatten().all(|margin| {
            let Some(effect) = self.effect(margin) else { return true };
            let interval = evidence::difference(live, live, alpha, effect).interval;
            interval.at_most(margin / 2.0) == Verdict::Holds
        })
    }

    /// What is found of each of its limits, and what it goes by.
    pub(crate) fn findings(
        &self,
        live: &Values,
        next: &Values,
        baseline: Baseline,
        alpha: Alpha,
    ) -> Vec<(Verdict, String)> {
        let name = match &self.slice {
            Some(slice) => format!("{} of {slice}", self.metric.name()),
            None => self.metric.name().to_owned(),
        };
        let of = |values: &Values| match values.count {
            0 => "nothing".to_owned(),
            count => format!("{} in {count}", number(values.mean())),
        };
        let mut findings = Vec::new();
        for (limit, least) in [(self.min, true), (self.max, false)] {
            let Some(limit) = limit else { continue };
            let Some(effect) = self.effect(limit) else { continue };
            let interval = evidence::mean(next, alpha, effect);
            let (verdict, words) = match least {
                true => (interval.at_least(limit), "at least"),
                false => (interval.at_most(limit), "at most"),
            };
            findings.push((verdict, format!("{name} is {}, {words} {limit} is right", of(next))));
        }
        for (margin, fall) in [(self.max_fall, true), (self.max_rise, false)] {
            let Some(margin) = margin else { continue };
            let Some(effect) = self.effect(margin) else { continue };
            let interval = evidence::difference(live, next, alpha, effect).interval;
            let (verdict, words) = match fall {
                true => (interval.at_least(-margin), "less"),
                false => (interval.at_most(margin), "more"),
            };
            let text = format!(
                "{name} is {} and {} of the live revision{}, at most {margin} {words} is right",
                of(next),
                of(live),
                baseline.words()
            );
            findings.push((baseline.verdict(verdict, [live.units(), next.units()]), text));
        }
        findings
    }
}

/// A number as people read it, with four digits that count.
pub fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str) -> Bound {
        serde_json::from_str(text).unwrap()
    }

    /// So many values that lie one apart around a mean, or 0 and 1 where the mean is between.
    fn values(count: u64, mean: f64, deviation: f64) -> Values {
        let n = count as f64;
        let squares = n * (mean * mean + deviation * deviation);
        Values { count, sum: n * mean, squares, alike: 1.0 }
    }

    /// Of so many that are 1 at this rate.
    fn binary(count: u64, rate: f64) -> Values {
        let sum = count as f64 * rate;
        Values { count, sum, squares: sum, alike: 1.0 }
    }

    #[test]
    fn bounds_hold_and_break_by_evidence() {
        let check = |text: &str, live: Values, next: Values, expected| {
            let findings =
                bound(text).findings(&live, &next, Baseline::Beside, Alpha::new(0.01).unwrap());
            assert_eq!(findings[0].0, expected, "{text}: {findings:?}");
        };
        let none = Values::default();
        let (holds, broken, unsure) = (Verdict::Holds, Verdict::Broken, Verdict::Inconclusive);
        let least = r#"{"metric": "metric:confidence", "min": 0.6}"#;
        check(least, none, none, unsure);
        check(least, none, values(20, 0.9, 0.1), unsure);
        check(least, none, values(1000, 0.62, 0.1), holds);
        check(least, none, values(1000, 0.58, 0.1), broken);
        // A thousand requests of ten users tell as much as ten.
        check(least, none, Values { alike: 100.0, ..values(1000, 0.62, 0.1) }, unsure);
        let most = r#"{"metric": "metric:drift", "max": 0.2}"#;
        check(most, none, values(1000, 0.1, 0.1), holds);
        check(most, none, values(1000, 0.3, 0.1), broken);
        // All of them right, and none of them.
        let right = r#"{"metric": "reward", "min": 0.9}"#;
        check(right, none, binary(1000, 1.0), holds);
        check(right, none, binary(5, 1.0), unsure);
        check(right, none, binary(1000, 0.0), broken);
        let fall = r#"{"metric": "reward", "max_fall": 0.05}"#;
        check(fall, binary(2000, 0.9), binary(2000, 0.9), holds);
        check(fall, binary(2000, 0.9), binary(2000, 0.6), broken);
        check(fall, none, binary(2000, 0.9), unsure);
        check(fall, binary(2000, 1.0), binary(2000, 1.0), holds);
        let rise = r#"{"metric": "latency", "max_rise": 0.01}"#;
        check(rise, values(5000, 0.1, 0.02), values(5000, 0.102, 0.02), holds);
        check(rise, values(5000, 0.1, 0.02), values(5000, 0.12, 0.02), broken);
    }

    #[test]
    fn what_is_found_is_said() {
        let alpha = Alpha::new(0.01).unwrap();
        let live = values(10, 0.5, 0.1);
        let said = |text: &str, next| bound(text).findings(&live, &next, Baseline::Beside, alpha);
        let least = r#"{"metric": "metric:c", "slice": "segment=vip", "min": 0.6}"#;
        let found = said(least, values(30, 0.123456, 0.1));
        assert_eq!(found[0].1, "metric:c of segment=vip is 0.1235 in 30, at least 0.6 is right");
        let found = said(least, Values::default());
        assert_eq!(found[0].1, "metric:c of segment=vip is nothing, at least 0.6 is right");
        for (value, text) in [(0.0, "0"), (1234.5, "1234"), (0.05, "0.05"), (1e-3, "0.001")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn bounds_that_hold_for_nothing_are_refused() {
        for (text, key) in [
            (r#"{"metric": "reward"}"#, "b"),
            (r#"{"metric": "reward", "min": 0.0}"#, "b.effect"),
            (r#"{"metric": "reward", "min": 0.0, "effect": 0.1}"#, ""),
            (r#"{"metric": "reward", "min": 0.5, "effect": -1.0}"#, "b.effect"),
            (r#"{"metric": "reward", "min": 0.5, "max": 0.4}"#, "b.min"),
            (r#"{"metric": "reward", "max_fall": -0.5}"#, "b.max_fall"),
            (r#"{"metric": "reward", "min": 0.5, "slice": "vip"}"#, "b.slice"),
            (r#"{"metric": "reward", "min": 0.5, "slice": "segment=vip"}"#, ""),
        ] {
            let found = bound(text).check("b").err().map_or(String::new(), |error| error.key);
            assert_eq!(found, key, "{text}");
        }
    }
}
