//! Guardrails: what an arm must keep to, for policies that move traffic.
//!
//! Without data nothing passes, and little of it decides nothing but what more could not change.

use serde::{Deserialize, Serialize};

use crate::{ConfigError, Observation};

/// What an arm must keep to. The configuration of policies has it under a key of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guardrails {
    /// The most of all requests that may fail by the model's, the plugin's or the host's fault, 0 to 1.
    pub max_error_rate: f64,
    /// The most of all requests that may be refused as the caller's fault, 0 to 1.
    pub max_refused_rate: f64,
    /// The time within which requests are to come to their end, in milliseconds.
    pub latency_ms: Option<f64>,
    /// The most of them that may take longer, 0 to 1. The host tells times apart by an eighth, and
    /// this counts in the arm's favour.
    pub max_slow_rate: f64,
    /// Fewer requests than this pass nothing.
    pub min_requests: u64,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            max_error_rate: 0.01,
            max_refused_rate: 1.0,
            latency_ms: None,
            max_slow_rate: 0.01,
            min_requests: 100,
        }
    }
}

/// What was counted of an arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that came to their end.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that were refused as the caller's fault.
    pub refused: u64,
    /// Those that took longer than they are to take.
    pub slow: u64,
}

/// Whether an arm keeps to its guardrails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
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
            ("max_error_rate", self.max_error_rate),
            ("max_refused_rate", self.max_refused_rate),
            ("max_slow_rate", self.max_slow_rate),
        ];
        for (name, rate) in rates {
            if !(0.0..=1.0).contains(&rate) {
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
        Ok(())
    }

    /// What was counted of an arm since its rollout began.
    pub fn counts(&self, observation: &Observation, arm: u32) -> Counts {
        let count = |name| observation.measure(arm, name, None).map_or(0, |measure| measure.count);
        let timed = count("latency-seconds");
        let slow = self.latency_ms.map_or(0, |ms| {
            let within = observation.at_most(arm, "latency-seconds", None, ms / 1e3);
            timed.saturating_sub(within.unwrap_or(timed))
        });
        Counts {
            requests: count("requests"),
            errors: count("errors"),
            refused: count("refused"),
            slow,
        }
    }

    /// Whether the arm keeps to them. It fails as soon as it could not pass any more with
    /// `min_requests` requests, or with those that there are when they are more.
    pub fn verdict(&self, counts: &Counts) -> Verdict {
        let Counts { requests, errors, refused, slow } = *counts;
        let of = requests.max(self.min_requests) as f64;
        let limit = self.latency_ms.unwrap_or_default();
        for (count, most, what) in [
            (errors, self.max_error_rate, "failed".to_owned()),
            (slow, self.max_slow_rate, format!("took longer than {limit} ms")),
            (refused, self.max_refused_rate, "were refused as the caller's fault".to_owned()),
        ] {
            if count as f64 > most * of {
                return Verdict::Fail(format!(
                    "{count} of {requests} requests {what}, at most {} % may",
                    percent(most)
                ));
            }
        }
        if requests < self.min_requests {
            return Verdict::Hold(format!("{requests} of {} requests", self.min_requests));
        }
        Verdict::Pass
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
        }
    }
}

/// A share as people read it: `0.07` is `7`.
pub(crate) fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_data_holds_unless_no_more_could_save_the_arm() {
        let guardrails =
            Guardrails { max_error_rate: 0.02, latency_ms: Some(5.0), ..Guardrails::default() };
        let check = |requests, errors, slow, expected: &str| {
            let verdict = guardrails.verdict(&Counts { requests, errors, slow, refused: 0 });
            let found = match verdict {
                Verdict::Pass => "pass".to_owned(),
                Verdict::Hold(why) => format!("hold: {why}"),
                Verdict::Fail(why) => format!("fail: {why}"),
            };
            assert_eq!(found, expected);
        };
        check(0, 0, 0, "hold: 0 of 100 requests");
        check(99, 2, 0, "hold: 99 of 100 requests");
        check(100, 0, 0, "pass");
        check(100, 2, 1, "pass");
        check(3, 3, 0, "fail: 3 of 3 requests failed, at most 2 % may");
        check(1000, 20, 10, "pass");
        check(1000, 21, 0, "fail: 21 of 1000 requests failed, at most 2 % may");
        check(1000, 0, 11, "fail: 11 of 1000 requests took longer than 5 ms, at most 1 % may");
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
            (Guardrails { latency_ms: Some(0.0), ..usual() }, "guardrails.latency_ms"),
            (Guardrails { min_requests: 0, ..usual() }, "guardrails.min_requests"),
        ] {
            assert_eq!(key(guardrails), expected);
        }
    }
}
