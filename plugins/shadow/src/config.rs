//! The configuration as it is written, and checked against the endpoint.

use berth_guardrails::rolls_out;
use berth_sdk::{ConfigError, Observe};
use berth_statistics::{Alpha, SettingError};
use serde::Deserialize;

/// A decision names no more shadows.
const MOST_CANDIDATES: usize = 16;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The part of the requests that goes to the candidate too.
    pub(crate) share: f64,
    /// The least part of the answers that is to agree.
    pub(crate) min_agreement: f64,
    /// With fewer answers compared, nothing passes.
    pub(crate) min_compared: u64,
    /// The most of the candidate's requests that may fail, by whoever's fault.
    pub(crate) max_error_rate: f64,
    /// The time within which the candidate is to answer, in milliseconds.
    pub(crate) latency_ms: Option<f64>,
    /// The most of its requests that may take longer.
    pub(crate) max_slow_rate: f64,
    /// How long it lasts at least.
    pub(crate) min_ms: u64,
    /// How often one of these may be taken for kept when it is broken, or the other way.
    pub(crate) alpha: f64,
    /// How often to look.
    pub(crate) interval_ms: u64,
    /// Under `[routing]`, the candidates; all but the first arm when left out.
    pub(crate) candidates: Option<Vec<String>>,
    /// What a candidate that passes gets under `[routing]`.
    pub(crate) then: Then,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Then {
    /// All traffic.
    Switch,
    /// What it had: nothing but copies.
    #[default]
    Hold,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            share: 1.0,
            min_agreement: 0.99,
            min_compared: 1000,
            max_error_rate: 0.01,
            latency_ms: None,
            max_slow_rate: 0.01,
            min_ms: 0,
            alpha: 0.01,
            interval_ms: 10_000,
            candidates: None,
            then: Then::default(),
        }
    }
}

/// A configuration that fits an endpoint.
pub(crate) struct Setting {
    pub(crate) config: Config,
    pub(crate) alpha: Alpha,
    /// The names of the arms.
    pub(crate) arms: Vec<String>,
    pub(crate) candidates: Vec<u32>,
    /// Whether the arms are two revisions.
    pub(crate) rollout: bool,
}

impl Setting {
    pub(crate) fn new(config: Config, observation: &impl Observe) -> Result<Self, ConfigError> {
        let arms = observation.arms();
        let rollout = rolls_out(&arms);
        let alpha = Alpha::new(config.alpha)
            .map_err(|error: SettingError| ConfigError::new("alpha", error.to_string()))?;
        let wrong = |key: &str, message: String| Err(ConfigError::new(key, message));
        if !(config.share > 0.0 && config.share <= 1.0) {
            return wrong("share", format!("{} is no share: use above 0, up to 1", config.share));
        }
        if !(config.min_agreement > 0.0 && config.min_agreement < 1.0) {
            let message = "use a number between 0 and 1: nothing shows that all answers agree";
            return wrong("min_agreement", message.into());
        }
        for (key, rate) in
            [("max_error_rate", config.max_error_rate), ("max_slow_rate", config.max_slow_rate)]
        {
            if !(0.0..=1.0).contains(&rate) {
                return wrong(key, format!("{rate} is no share: use 0 to 1"));
            }
        }
        if config.latency_ms.is_some_and(|ms| !(ms > 0.0 && ms.is_finite())) {
            return wrong("latency_ms", "use milliseconds above 0".into());
        }
        if config.min_compared == 0 {
            return wrong("min_compared", "use 1 or more: without data nothing passes".into());
        }
        let candidates = match &config.candidates {
            None => (1..arms.len() as u32).collect(),
            Some(_) if rollout => {
                return wrong(
                    "candidates",
                    "in a rollout it is the next revision: leave it out".into(),
                );
            }
            Some(names) => {
                let mut candidates = Vec::new();
                for (at, name) in names.iter().enumerate() {
                    let found = (0..).zip(&arms).find(|(_, arm)| *arm == name);
                    match found {
                        Some((arm, _)) if arm > 0 && !candidates.contains(&arm) => {
                            candidates.push(arm);
                        }
                        Some((0, _)) => {
                            let message = format!("{name:?} is the first arm, which answers");
                            return wrong(&format!("candidates[{at}]"), message);
                        }
                        Some(_) => {
                            return wrong(&format!("candidates[{at}]"), "it is named twice".into());
                        }
                        None => {
                            let arms = arms.join(", ");
                            let message = format!("there is no arm `{name}`; the arms are {arms}");
                            return wrong(&format!("candidates[{at}]"), message);
                        }
                    }
                }
                candidates
            }
        };
        if candidates.is_empty() || candidates.len() > MOST_CANDIDATES {
            let message = format!(
                "there are {} candidates beside the first arm: have 1 to {MOST_CANDIDATES}",
                candidates.len()
            );
            return wrong("candidates", message);
        }
        Ok(Self { config, alpha, arms, candidates, rollout })
    }
}

#[cfg(test)]
mod tests {
    use berth_sdk::{Observed, config};

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |text: &str, arms: &[&str], key: &str| {
            let checked = config::parse::<Config>(text)
                .and_then(|config| Setting::new(config, &Observed::new(arms)));
            assert_eq!(checked.err().map_or(String::new(), |error| error.key), key, "{text}");
        };
        let (two, three) = (&["live", "next"][..], &["a", "b", "c"][..]);
        check("{}", two, "");
        check("{}", three, "");
        check("{}", &["a"], "candidates");
        check(r#"{"share": 0}"#, two, "share");
        check(r#"{"share": 0.1}"#, two, "");
        check(r#"{"min_agreement": 1}"#, two, "min_agreement");
        check(r#"{"min_compared": 0}"#, two, "min_compared");
        check(r#"{"max_error_rate": 2}"#, two, "max_error_rate");
        check(r#"{"latency_ms": 0}"#, two, "latency_ms");
        check(r#"{"alpha": 0}"#, two, "alpha");
        check(r#"{"candidates": ["next"]}"#, two, "candidates");
        check(r#"{"candidates": ["c"]}"#, three, "");
        check(r#"{"candidates": ["a"]}"#, three, "candidates[0]");
        check(r#"{"candidates": ["c", "c"]}"#, three, "candidates[1]");
        check(r#"{"candidates": ["d"]}"#, three, "candidates[0]");
        check(r#"{"candidates": []}"#, three, "candidates");
    }
}
