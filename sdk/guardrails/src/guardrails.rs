//! Guardrails: what an arm must keep to, for policies that move traffic.
//!
//! Each is judged by an interval that holds however often it is looked at. Without data nothing
//! passes, and with little of it nothing is decided but what is plain.

use berth_sdk::{ConfigError, Observation};
use berth_statistics::{Alpha, Effect, Proportion, Verdict, sequential};
use serde::{Deserialize, Serialize};

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
    /// Fewer requests than this pass nothing.
    pub min_requests: u64,
    /// How often a guardrail may be taken for kept when it is broken, or for broken when it is kept.
    pub alpha: f64,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            max_error_rate: 0.01,
            max_error_increase: None,
            max_refused_rate: None,
            latency_ms: None,
            max_slow_rate: 0.01,
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
    /// How many requests tell as much as one would if each were of another unit: 1 or more. The worst
    /// case, in which all requests of a unit come to the same.
    #[serde(skip)]
    pub alike: f64,
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
        let rates = [
            ("max_error_rate", Some(self.max_error_rate)),
            ("max_error_increase", self.max_error_increase),
            ("max_refused_rate", self.max_refused_rate),
            ("max_slow_rate", Some(self.max_slow_rate)),
        ];
        for (name, rate) in rates {
            if let Some(rate) = rate.filter(|rate| !(0.0..=1.0).contains(rate)) {
                let message = format!("{rate} is no share: use 0 to 1");
                return Err(ConfigError::new(format!("{key}.{name}"), message));
            }
        }
        if let Some(ms) = self.latency_ms.filter(|ms| !(*ms > 0.0 && ms.is_finite())) {
            let message = format!("{ms} is no time: use milliseconds above 0");
            return Err(ConfigError::new(format!("{key}.latency_ms"), message));
        }
        if self.min_requests == 0 {
            let message = "use 1 or more: without data nothing passes";
            return Err(ConfigError::new(format!("{key}.min_requests"), message));
        }
        self.alpha().map(drop).map_err(|message| ConfigError::new(format!("{key}.alpha"), message))
    }

    fn alpha(&self) -> Result<Alpha, String> {
        Alpha::new(self.alpha).map_err(|error| error.to_string())
    }

    /// What was counted of an arm since its rollout began.
    pub fn counts(&self, observation: &Observation, arm: u32) -> Counts {
        let measure = |name| observation.measure(arm, name, None);
        let count = |name| measure(name).map_or(0, |measure| measure.count);
        let timed = count("latency-seconds");
        let slow = self.latency_ms.map_or(0, |ms| {
            let within = observation.at_most(arm, "latency-seconds", None, ms / 1e3);
            timed.saturating_sub(within.unwrap_or(timed))
        });
        let units = measure("requests-of-units").filter(|measure| measure.sum > 0.0);
        Counts {
            requests: count("requests"),
            errors: count("errors"),
            refused: count("refused"),
            slow,
            alike: units.map_or(1.0, |units| (units.sum_of_squares / units.sum).max(1.0)),
        }
    }

    /// Whether the next revision keeps to them, by what was counted of both.
    pub fn judge(&self, live: &Counts, next: &Counts) -> Judgement {
        let Ok(alpha) = self.alpha() else {
            return Judgement::Hold("alpha is no probability".into());
        };
        let mut unsure = None;
        let mut hold = |verdict: Verdict, text: &dyn Fn() -> String| match verdict {
            Verdict::Broken => Some(Judgement::Fail(text())),
            Verdict::Inconclusive => {
                unsure.get_or_insert_with(|| format!("{}, which decides nothing yet", text()));
                None
            }
            Verdict::Holds => None,
        };
        let limit = self.latency_ms.unwrap_or_default();
        let slow = self.latency_ms.map(|_| self.max_slow_rate);
        for (count, most, what) in [
            (next.errors, Some(self.max_error_rate), "failed".to_owned()),
            (next.slow, slow, format!("took longer than {limit} ms")),
            (next.refused, self.max_refused_rate, "were refused as the caller's fault".to_owned()),
        ] {
            let Some(most) = most else { continue };
            // All may: there is nothing to find out.
            let verdict = match most >= 1.0 {
                true => Verdict::Holds,
                false => sequential::proportion(next.of(count), alpha).at_most(most),
            };
            let text = || {
                let (requests, most) = (next.requests, percent(most));
                format!("{count} of {requests} requests {what}, at most {most} % may")
            };
            if let Some(failed) = hold(verdict, &text) {
                return failed;
            }
        }
        if let Some(most) = self.max_error_increase {
            let (before, after) = (live.of(live.errors), next.of(next.errors));
            // Valid as long as shares stand still, as they do in a step.
            let interval = match Effect::new(most) {
                Ok(margin) => sequential::guardrail(before, after, margin, alpha).interval,
                Err(_) => sequential::proportions_exact(before, after, alpha).interval,
            };
            let text = || {
                format!(
                    "{} of {} requests failed and {} of {} of the live revision, at most {} % more may",
                    next.errors,
                    next.requests,
                    live.errors,
                    live.requests,
                    percent(most)
                )
            };
            if let Some(failed) = hold(interval.at_most(most), &text) {
                return failed;
            }
        }
        if next.requests < self.min_requests {
            return Judgement::Hold(format!("{} of {} requests", next.requests, self.min_requests));
        }
        unsure.map_or(Judgement::Pass, Judgement::Hold)
    }
}

impl Counts {
    /// What was counted after `before`: of each unit in the same proportion, as far as is known.
    pub fn since(&self, before: &Self) -> Self {
        let requests = self.requests.saturating_sub(before.requests);
        let part = requests as f64 / self.requests.max(1) as f64;
        Self {
            requests,
            errors: self.errors.saturating_sub(before.errors),
            refused: self.refused.saturating_sub(before.refused),
            slow: self.slow.saturating_sub(before.slow),
            alike: (self.alike * part).max(1.0),
        }
    }

    /// So many of the requests, as if each were of another unit.
    fn of(&self, count: u64) -> Proportion {
        let alike = self.alike.max(1.0);
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
mod tests {
    use super::*;

    fn counts(requests: u64, errors: u64, slow: u64) -> Counts {
        Counts { requests, errors, slow, refused: 0, alike: 1.0 }
    }

    #[track_caller]
    fn check(guardrails: &Guardrails, live: &Counts, next: &Counts, expected: &str) {
        let found = match guardrails.judge(live, next) {
            Judgement::Pass => "pass".to_owned(),
            Judgement::Hold(why) => format!("hold: {why}"),
            Judgement::Fail(why) => format!("fail: {why}"),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn little_data_holds_unless_it_is_plain() {
        let limits =
            Guardrails { max_error_rate: 0.02, latency_ms: Some(5.0), ..Guardrails::default() };
        let limits = Guardrails { max_slow_rate: 0.02, ..limits };
        let live = Counts::default();
        for (requests, errors, slow, expected) in [
            (0, 0, 0, "hold: 0 of 100 requests"),
            (99, 0, 0, "hold: 99 of 100 requests"),
            (
                100,
                0,
                0,
                "hold: 0 of 100 requests failed, at most 2 % may, which decides nothing yet",
            ),
            (
                100,
                2,
                0,
                "hold: 2 of 100 requests failed, at most 2 % may, which decides nothing yet",
            ),
            (1000, 0, 0, "pass"),
            (1000, 3, 3, "pass"),
            (2, 2, 0, "fail: 2 of 2 requests failed, at most 2 % may"),
            (1000, 60, 0, "fail: 60 of 1000 requests failed, at most 2 % may"),
            (1000, 0, 60, "fail: 60 of 1000 requests took longer than 5 ms, at most 2 % may"),
        ] {
            check(&limits, &live, &counts(requests, errors, slow), expected);
        }
    }

    #[test]
    fn more_errors_than_the_live_revision_has_fail() {
        let limits = Guardrails {
            max_error_rate: 1.0,
            max_error_increase: Some(0.05),
            ..Guardrails::default()
        };
        check(&limits, &counts(2000, 200, 0), &counts(2000, 200, 0), "pass");
        check(
            &limits,
            &counts(1000, 100, 0),
            &counts(1000, 300, 0),
            "fail: 300 of 1000 requests failed and 100 of 1000 of the live revision, at most 5 % more may",
        );
        // Without a live revision to compare with, nothing is known.
        check(
            &limits,
            &Counts::default(),
            &counts(1000, 0, 0),
            "hold: 0 of 1000 requests failed and 0 of 0 of the live revision, at most 5 % more may, which decides nothing yet",
        );
    }

    #[test]
    fn what_one_unit_does_many_times_counts_once() {
        let limits = Guardrails { max_error_rate: 0.05, ..Guardrails::default() };
        let live = Counts::default();
        // A thousand requests, of a thousand users and of ten.
        check(&limits, &live, &counts(1000, 0, 0), "pass");
        let of_ten = |errors| Counts { alike: 100.0, ..counts(1000, errors, 0) };
        let unsure = "hold: 0 of 1000 requests failed, at most 5 % may, which decides nothing yet";
        check(&limits, &live, &of_ten(0), unsure);
        // One user whose requests all fail proves nothing; nine of ten do.
        let unsure =
            "hold: 100 of 1000 requests failed, at most 5 % may, which decides nothing yet";
        check(&limits, &live, &of_ten(100), unsure);
        let broken = "fail: 900 of 1000 requests failed, at most 5 % may";
        check(&limits, &live, &of_ten(900), broken);
    }

    #[test]
    fn what_nothing_can_be_held_against_is_refused() {
        let key = |guardrails: Guardrails| match guardrails.check("guardrails") {
            Ok(()) => String::new(),
            Err(error) => error.key,
        };
        let usual = Guardrails::default;
        assert_eq!(key(usual()), "");
        for (guardrails, expected) in [
            (Guardrails { max_error_rate: 1.1, ..usual() }, "guardrails.max_error_rate"),
            (Guardrails { max_slow_rate: f64::NAN, ..usual() }, "guardrails.max_slow_rate"),
            (Guardrails { max_refused_rate: Some(-0.1), ..usual() }, "guardrails.max_refused_rate"),
            (Guardrails { latency_ms: Some(0.0), ..usual() }, "guardrails.latency_ms"),
            (Guardrails { min_requests: 0, ..usual() }, "guardrails.min_requests"),
            (Guardrails { alpha: 0.0, ..usual() }, "guardrails.alpha"),
        ] {
            assert_eq!(key(guardrails), expected);
        }
    }
}
