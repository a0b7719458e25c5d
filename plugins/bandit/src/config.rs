//! The configuration as it is written, and checked against the endpoint.

use berth_guardrails::{Better, Guardrails, Metric, rolls_out};
use berth_sdk::{ConfigError, Observe};
use berth_statistics::Alpha;
use serde::Deserialize;

/// Beyond this, an evaluation could use up its fuel.
const MOST_ARMS: usize = 16;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) method: Method,
    /// What arms earn.
    pub(crate) metric: Metric,
    /// Which of more and less is better; by default more of what is reported, less of errors and
    /// latency.
    pub(crate) better: Option<Better>,
    /// The least share of each arm.
    pub(crate) floor: f64,
    /// The share that epsilon-greedy divides among all arms.
    pub(crate) epsilon: f64,
    /// Until each arm has so many rewards, all have the same share.
    pub(crate) min_rewards: u64,
    /// After so long a reward counts half; with 0, always in full.
    pub(crate) half_life_ms: u64,
    /// How often shares are set.
    pub(crate) interval_ms: u64,
    /// How often a rollout may end with the one that earns less.
    pub(crate) alpha: f64,
    /// What the next revision must keep to in a rollout.
    pub(crate) guardrails: Option<Guardrails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Method {
    /// An arm's share is the probability that it is the best.
    #[default]
    Thompson,
    /// The arm with the best mean has all that is not explored.
    EpsilonGreedy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            method: Method::default(),
            metric: Metric::Reported("reward".into()),
            better: None,
            floor: 0.05,
            epsilon: 0.1,
            min_rewards: 20,
            half_life_ms: 86_400_000,
            interval_ms: 10_000,
            alpha: 0.01,
            guardrails: None,
        }
    }
}

impl Config {
    pub(crate) fn higher_is_better(&self) -> bool {
        self.metric.higher_is_better(self.better)
    }

    pub(crate) fn check(&self, observation: &impl Observe) -> Result<(), ConfigError> {
        let arms = observation.arms();
        let wrong = |key: &str, message: String| Err(ConfigError::new(key, message));
        if arms.len() < 2 || arms.len() > MOST_ARMS {
            let message = format!("there are {} arms: choose among 2 to {MOST_ARMS}", arms.len());
            return wrong("", message);
        }
        let most = 1.0 / arms.len() as f64;
        if !(0.0..=most).contains(&self.floor) {
            let message = format!(
                "{} is no share that each of {} arms can have: use 0 to {most}",
                self.floor,
                arms.len()
            );
            return wrong("floor", message);
        }
        if !(0.0..=1.0).contains(&self.epsilon) {
            return wrong("epsilon", format!("{} is no share: use 0 to 1", self.epsilon));
        }
        if self.min_rewards < 2 {
            return wrong("min_rewards", "use 2 or more: one reward tells nothing".into());
        }
        if let Err(error) = Alpha::new(self.alpha) {
            return wrong("alpha", error.to_string());
        }
        match &self.guardrails {
            Some(_) if !rolls_out(&arms) => wrong(
                "guardrails",
                "they are for the next revision of a rollout: here, leave them out".into(),
            ),
            Some(guardrails) if guardrails.compare() => wrong(
                "guardrails",
                "shares follow what is earned, and revisions are compared by that alone: leave out `max_error_increase`, `max_latency_ratio`, `max_fall` and `max_rise`, or use canary or ab-test, whose shares stand still".into(),
            ),
            Some(guardrails) => guardrails.check("guardrails"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_sdk::{Observed, config};

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |text: &str, arms: &[&str], key: &str| {
            let checked =
                config::parse::<Config>(text).and_then(|config| config.check(&Observed::new(arms)));
            assert_eq!(checked.err().map_or(String::new(), |error| error.key), key, "{text}");
        };
        let (two, three) = (&["live", "next"][..], &["a", "b", "c"][..]);
        check("{}", two, "");
        check("{}", three, "");
        check(r#"{"floor": 0.34}"#, three, "floor");
        check(r#"{"floor": 0.34}"#, two, "");
        check(r#"{"floor": -0.1}"#, two, "floor");
        check(r#"{"epsilon": 1.5}"#, two, "epsilon");
        check(r#"{"min_rewards": 1}"#, two, "min_rewards");
        check(r#"{"half_life_ms": 0}"#, two, "");
        check(r#"{"guardrails": {"max_error_increase": 0.01}}"#, two, "guardrails");
        let fall = r#"{"guardrails": {"bounds": [{"metric": "reward", "max_fall": 0.1}]}}"#;
        check(fall, two, "guardrails");
        check(r#"{"alpha": 0}"#, two, "alpha");
        check(r#"{"method": "ucb"}"#, two, "method");
        check(r#"{"metric": "clicks"}"#, two, "metric");
        check(r#"{"guardrails": {}}"#, two, "");
        check(r#"{"guardrails": {}}"#, three, "guardrails");
        check(r#"{"guardrails": {"alpha": 7}}"#, two, "guardrails.alpha");
    }
}
