//! How an arm answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::span::Span;
use super::traffic::{TrafficError, refuse, share};

/// How an arm answers. What a file leaves out stays as it was: at first one request in a thousand
/// fails, half take at most 20 ms and 99 % at most 100 ms, there are no rewards, all answers agree,
/// and it is ready after 5 s.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// The part of requests that fail by the model's, the plugin's or the host's fault.
    pub error_rate: Option<f64>,
    /// The part of requests that are refused as the caller's fault.
    pub refused_rate: Option<f64>,
    /// How long an answer takes, log-normal.
    pub latency: Option<Latency>,
    /// What an answered request earns.
    pub reward: Option<Values>,
    /// What its processor observes of an answered request, by the number's name.
    pub metrics: BTreeMap<String, Values>,
    /// As a shadow, the part of its answers that agree with the one that was given.
    pub agreement: Option<f64>,
    /// How long it takes to be made ready.
    pub prepare: Option<Prepare>,
}

/// A log-normal latency by two of its quantiles, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Half of the requests take no longer.
    pub median_ms: f64,
    /// 99 % of the requests take no longer.
    pub p99_ms: f64,
}

/// Numbers at random: `rate`, the probability of 1 in place of 0, or `mean` and `deviation` of a
/// normal distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Values {
    /// The probability of 1.
    pub rate: Option<f64>,
    /// The mean.
    pub mean: Option<f64>,
    /// The standard deviation.
    pub deviation: Option<f64>,
    /// Of a reward, how long after the request it comes.
    pub after: Option<Span>,
}

/// What becomes of an arm that is made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepare {
    /// It is ready after this.
    Takes(Span),
    /// It cannot be prepared, which is found after 5 s.
    Fails,
}

impl Behaviour {
    pub(super) fn check(&self, key: &str) -> Result<(), TrafficError> {
        share(&format!("{key}.error_rate"), self.error_rate)?;
        share(&format!("{key}.refused_rate"), self.refused_rate)?;
        share(&format!("{key}.agreement"), self.agreement)?;
        if let Some(Latency { median_ms, p99_ms }) = self.latency
            && !(median_ms > 0.0 && p99_ms >= median_ms && p99_ms <= 3_600_000.0)
        {
            let problem = "give median_ms above 0 and p99_ms that is no less, up to an hour";
            return refuse(format!("{key}.latency"), problem);
        }
        if let Some(reward) = &self.reward {
            reward.check(&format!("{key}.reward"))?;
        }
        for (name, values) in &self.metrics {
            let key = format!("{key}.metrics.{name}");
            values.check(&key)?;
            if values.after.is_some() {
                return refuse(format!("{key}.after"), "only a reward comes later");
            }
        }
        Ok(())
    }
}

impl Values {
    fn check(&self, key: &str) -> Result<(), TrafficError> {
        match (self.rate, self.mean, self.deviation) {
            (Some(rate), None, None) => share(&format!("{key}.rate"), Some(rate)),
            (None, Some(mean), deviation) => {
                let deviation = deviation.unwrap_or(0.0);
                if mean.is_finite() && deviation >= 0.0 && deviation.is_finite() {
                    return Ok(());
                }
                refuse(key, "give a finite mean, and a deviation of 0 or more")
            }
            _ => refuse(key, "give rate, or mean and deviation"),
        }
    }
}

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.rate, self.mean, self.deviation) {
            (Some(rate), _, _) => write!(f, "rate {rate}"),
            (None, mean, deviation) => {
                write!(f, "mean {} ± {}", mean.unwrap_or(0.0), deviation.unwrap_or(0.0))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Prepare {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text == "fails" {
            return Ok(Self::Fails);
        }
        Span::parse(&text).map(Self::Takes).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is neither a span of time (\"5s\") nor \"fails\""))
        })
    }
}
