//! The configuration as it is written, and checked against the endpoint.

use std::collections::BTreeMap;

use berth_guardrails::{Better, Guardrails, Metric, rolls_out};
use berth_sdk::{ConfigError, Observe};
use berth_statistics::{Alpha, Effect, Power, SettingError};
use serde::Deserialize;

/// Beyond this, plans would grow too large.
const MOST_ARMS: usize = 16;
/// The host declares no more slices.
const MOST_VALUES: usize = 16;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// What is compared.
    pub(crate) metric: Metric,
    /// Which of more and less is better; by default more of what is reported, less of errors and
    /// latency.
    pub(crate) better: Option<Better>,
    /// The smallest difference worth finding, in the metric's own unit.
    pub(crate) effect: f64,
    /// How often it may find what is not there.
    #[serde(default = "alpha")]
    pub(crate) alpha: f64,
    /// How often a fixed test is to find an effect that is there.
    #[serde(default = "power")]
    pub(crate) power: f64,
    #[serde(default)]
    pub(crate) method: Method,
    #[serde(default)]
    pub(crate) aim: Aim,
    /// What a decision does under `[routing]`.
    #[serde(default)]
    pub(crate) then: Then,
    /// The weights of the arms; equal when left out.
    #[serde(default)]
    pub(crate) weights: BTreeMap<String, f64>,
    /// Whose requests are in the test, by the values of an attribute; everyone's when left out.
    #[serde(default, rename = "where")]
    pub(crate) only: BTreeMap<String, Vec<String>>,
    /// How long it lasts at least.
    #[serde(default)]
    pub(crate) min_ms: u64,
    /// How long it lasts at most; without a decision the first arm stays.
    pub(crate) max_ms: Option<u64>,
    /// How often to look.
    #[serde(default = "interval")]
    pub(crate) interval_ms: u64,
    /// What ends the test in favour of the first arm.
    pub(crate) guardrails: Option<Guardrails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Method {
    /// Valid at any look.
    #[default]
    Sequential,
    /// One look, once there is as much evidence as the effect and the power take.
    Fixed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Aim {
    /// An arm wins when it is better than the first.
    #[default]
    Better,
    /// An arm wins when it is worse by less than the effect.
    NotWorse,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Then {
    /// The winner gets all traffic.
    #[default]
    Switch,
    /// Shares stay as they are.
    Hold,
}

fn alpha() -> f64 {
    0.05
}

fn power() -> f64 {
    0.8
}

fn interval() -> u64 {
    10_000
}

/// Whose requests are in the test.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Only {
    pub(crate) attribute: String,
    pub(crate) values: Vec<String>,
}

/// A configuration that fits an endpoint.
pub(crate) struct Setting {
    pub(crate) config: Config,
    pub(crate) alpha: Alpha,
    pub(crate) power: Power,
    pub(crate) effect: Effect,
    /// The names of the arms.
    pub(crate) arms: Vec<String>,
    /// Their weights.
    pub(crate) weights: Vec<f64>,
    pub(crate) only: Option<Only>,
    /// Whether the arms are two revisions.
    pub(crate) rollout: bool,
}

impl Setting {
    pub(crate) fn new(config: Config, observation: &impl Observe) -> Result<Self, ConfigError> {
        let arms = observation.arms();
        if arms.len() < 2 || arms.len() > MOST_ARMS {
            let message = format!("there are {} arms: compare 2 to {MOST_ARMS}", arms.len());
            return Err(ConfigError::new("", message));
        }
        for (arm, weight) in &config.weights {
            let key = format!("weights.{arm}");
            if !arms.contains(arm) {
                let message = format!("there is no arm `{arm}`; the arms are {}", arms.join(", "));
                return Err(ConfigError::new(key, message));
            }
            if !(*weight > 0.0 && *weight <= 1e6) {
                let message = format!("{weight} is no weight of a test: use a number above 0");
                return Err(ConfigError::new(key, message));
            }
        }
        let equal = config.weights.is_empty();
        let mut weights = Vec::with_capacity(arms.len());
        for arm in &arms {
            match config.weights.get(arm) {
                Some(&weight) => weights.push(weight),
                None if equal => weights.push(1.0),
                None => {
                    let message = format!("arm `{arm}` has none: give each arm one, or none any");
                    return Err(ConfigError::new("weights", message));
                }
            }
        }
        if config.max_ms.is_some_and(|most| most < config.min_ms) {
            return Err(ConfigError::new("max_ms", "it is less than `min_ms`"));
        }
        if let Some(guardrails) = &config.guardrails {
            guardrails.check("guardrails")?;
        }
        let only = only(&config.only, &observation.attributes())?;
        let rollout = rolls_out(&arms);
        let wrong =
            |key: &'static str| move |error: SettingError| ConfigError::new(key, error.to_string());
        Ok(Self {
            alpha: Alpha::new(config.alpha).map_err(wrong("alpha"))?,
            power: Power::new(config.power).map_err(wrong("power"))?,
            effect: Effect::new(config.effect).map_err(wrong("effect"))?,
            config,
            arms,
            weights,
            only,
            rollout,
        })
    }

    /// The slices that are in the test; none for the whole.
    pub(crate) fn slices(&self) -> Vec<String> {
        let slices = self
            .only
            .iter()
            .flat_map(|only| only.values.iter().map(|value| format!("{}={value}", only.attribute)));
        slices.collect()
    }

    /// 1 where more of the metric is better, −1 where less is.
    pub(crate) fn sign(&self) -> f64 {
        if self.config.metric.higher_is_better(self.config.better) { 1.0 } else { -1.0 }
    }
}

fn only(
    given: &BTreeMap<String, Vec<String>>,
    declared: &[String],
) -> Result<Option<Only>, ConfigError> {
    let Some((attribute, values)) = given.first_key_value() else { return Ok(None) };
    if given.len() > 1 {
        let message = "name one attribute: what was observed is told by one at a time";
        return Err(ConfigError::new("where", message));
    }
    let key = format!("where.{attribute}");
    if !declared.contains(attribute) {
        let message = format!("the endpoint declares no `{attribute}`: declare it in `attributes`");
        return Err(ConfigError::new(key, message));
    }
    let mut values = values.clone();
    values.sort();
    values.dedup();
    if values.is_empty() || values.len() > MOST_VALUES {
        return Err(ConfigError::new(key, format!("give 1 to {MOST_VALUES} values")));
    }
    Ok(Some(Only { attribute: attribute.clone(), values }))
}

#[cfg(test)]
mod tests {
    use berth_sdk::{Observed, config};

    use super::*;

    fn check(text: &str, arms: &[&str], expected: Result<&[f64], &str>) {
        let mut observed = Observed::new(arms);
        observed.attributes = vec!["region".into()];
        let setting = config::parse(text).and_then(|config| Setting::new(config, &observed));
        match (setting, expected) {
            (Ok(setting), Ok(weights)) => assert_eq!(setting.weights, weights, "{text}"),
            (Err(error), Err(key)) => assert_eq!(error.key, key, "{text}: {error:?}"),
            (Ok(_), Err(key)) => panic!("{text}: not refused for {key:?}"),
            (Err(error), Ok(_)) => panic!("{text}: {error:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let two = &["live", "next"][..];
        let given = |rest: &str| format!(r#"{{"metric": "reward", "effect": 0.1{rest}}}"#);
        check(&given(""), two, Ok(&[1.0, 1.0]));
        check(&given(r#", "weights": {"a": 2, "b": 1}"#), &["a", "b"], Ok(&[2.0, 1.0]));
        check(&given(r#", "weights": {"c": 2}"#), &["a", "b"], Err("weights.c"));
        check(&given(r#", "weights": {"a": 2}"#), &["a", "b"], Err("weights"));
        check(&given(r#", "weights": {"a": 0, "b": 1}"#), &["a", "b"], Err("weights.a"));
        check(&given(""), &["a"], Err(""));
        check(&given(r#", "where": {"region": ["eu"]}"#), two, Ok(&[1.0, 1.0]));
        check(&given(r#", "where": {"region": []}"#), two, Err("where.region"));
        check(&given(r#", "where": {"tier": ["vip"]}"#), two, Err("where.tier"));
        check(&given(r#", "min_ms": 2, "max_ms": 1"#), two, Err("max_ms"));
        check(&given(r#", "alpha": 2"#), two, Err("alpha"));
        check(&given(r#", "method": "peek""#), two, Err("method"));
        check(&given(r#", "guardrails": {"alpha": 0}"#), two, Err("guardrails.alpha"));
        check(r#"{"metric": "clicks", "effect": 0.1}"#, two, Err("metric"));
        check(r#"{"metric": "reward"}"#, two, Err("effect"));
    }
}
