//! Rollout policy: a small share of the units goes to the next revision first, the same ones every
//! time, and more in steps while the guardrails hold. When they break, all go back.
//!
//! ```toml
//! [rollout]
//! policy = "canary@1"
//!
//! [rollout.config]
//! steps = [5, 25, 50, 100]
//! interval_ms = 600_000
//! guardrails = { max_error_rate = 0.01, latency_ms = 100, min_requests = 500 }
//! pinned = { next = ["ada"], live = ["bob"] }
//! ```
//!
//! Units that are pinned are where they are pinned as long as the rollout lasts.

use std::collections::BTreeMap;

use berth_guardrails::{Guardrails, LIVE, NEXT, Steps};
use berth_sdk::{
    ConfigError, Decision, Evaluation, Observation, Observe, Plan, Policy, PolicyError, Router,
    Share, Subject,
};
use serde::Deserialize;

/// The most units that are pinned, so that a router is quickly made.
const MOST_PINNED: usize = 1000;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// The next revision's share in each step, in percent.
    steps: Vec<f64>,
    /// How long each step lasts at least, in milliseconds.
    interval_ms: u64,
    guardrails: Guardrails,
    pinned: Pinned,
    sessions: Sessions,
}

/// Units that have their revision by name.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pinned {
    next: Vec<String>,
    live: Vec<String>,
}

/// What the next revision is to have of the models' sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Sessions {
    /// As much as its share, and the live one the rest.
    #[default]
    Shared,
    /// As much as the live one, beside it.
    Own,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            steps: vec![5.0, 25.0, 50.0, 100.0],
            interval_ms: 60_000,
            guardrails: Guardrails::default(),
            pinned: Pinned::default(),
            sessions: Sessions::default(),
        }
    }
}

impl Config {
    fn steps(&self) -> Result<Steps, ConfigError> {
        let shares = self.steps.iter().map(|percent| percent / 100.0).collect();
        let guardrails = self.guardrails.clone();
        let steps = Steps { shares, interval_ms: self.interval_ms, guardrails };
        steps.check("steps")?;
        Ok(steps)
    }

    /// The arm of each unit that is pinned.
    fn pinned(&self, observation: &impl Observe) -> Result<BTreeMap<String, u32>, ConfigError> {
        let Pinned { next, live } = &self.pinned;
        let mut pinned = BTreeMap::new();
        for (units, arm, key) in [(next, NEXT, "pinned.next"), (live, LIVE, "pinned.live")] {
            for (at, unit) in units.iter().enumerate() {
                if pinned.insert(unit.clone(), arm).is_some_and(|before| before != arm) {
                    let message = format!("{unit:?} is pinned to the other revision too");
                    return Err(ConfigError::new(format!("{key}[{at}]"), message));
                }
            }
        }
        if pinned.len() > MOST_PINNED {
            let message = format!("{} are too many: pin at most {MOST_PINNED}", pinned.len());
            return Err(ConfigError::new("pinned", message));
        }
        if !pinned.is_empty() && observation.unit().is_none() {
            let message = "the endpoint names no `unit`, so none can be pinned";
            return Err(ConfigError::new("pinned", message));
        }
        Ok(pinned)
    }
}

struct Canary;

impl Policy for Canary {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        evaluate(&config, observation, plan)
    }
}

fn evaluate(
    config: &Config,
    observation: &impl Observe,
    plan: Option<Plan>,
) -> Result<Evaluation, PolicyError> {
    let pinned = config.pinned(observation)?;
    let mut evaluation = config.steps()?.evaluate(observation, plan)?;
    if config.sessions == Sessions::Own {
        for arm in &mut evaluation.arms {
            arm.sessions = 1.0;
        }
    }
    if pinned.is_empty() {
        // Its router would only draw from the weights.
        evaluation.attributes.push(("router".into(), "idle".into()));
    }
    Ok(evaluation)
}

/// Has units that are pinned where they belong.
struct Pins {
    pinned: BTreeMap<String, u32>,
    shares: Vec<Share>,
}

impl Router for Pins {
    type Config = Config;

    fn create(config: Config, observation: &Observation, plan: Plan) -> Result<Self, PolicyError> {
        let share = config.steps()?.share(&plan)?;
        let shares = [(LIVE, 1.0 - share), (NEXT, share)];
        let shares = shares.map(|(arm, weight)| Share { arm, weight }).into();
        Ok(Self { pinned: config.pinned(observation)?, shares })
    }

    fn route(&self, subject: &Subject) -> Decision {
        self.decide(subject.unit().as_deref())
    }
}

impl Pins {
    fn decide(&self, unit: Option<&str>) -> Decision {
        match unit.and_then(|unit| self.pinned.get(unit)) {
            Some(&arm) => Decision::arm(arm, "pinned"),
            None => Decision::shares(self.shares.clone(), "step"),
        }
    }
}

berth_sdk::export_policy!(Canary, router: Pins);

#[cfg(test)]
mod tests {
    use berth_sdk::{Observed, config};

    use super::*;

    fn observed() -> Observed {
        Observed { unit: Some("user".into()), ..Observed::new(&["live", "next"]) }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |text: &str, observed: &Observed, key: &str| {
            let evaluated = config::parse::<Config>(text)
                .map_err(PolicyError::from)
                .and_then(|config| evaluate(&config, observed, None));
            let found = match evaluated {
                Ok(_) => String::new(),
                Err(PolicyError::Config(error)) => error.key,
                Err(error) => panic!("{text}: {error:?}"),
            };
            assert_eq!(found, key, "{text}");
        };
        let two = observed();
        check("{}", &two, "");
        check(r#"{"steps": [50, 10, 100]}"#, &two, "steps");
        check(r#"{"pinned": {"next": ["ada"], "live": ["bob"]}}"#, &two, "");
        check(r#"{"pinned": {"next": ["ada"], "live": ["bob", "ada"]}}"#, &two, "pinned.live[1]");
        check(r#"{"pinned": {"nobody": []}}"#, &two, "pinned.nobody");
        check(r#"{"sessions": "some"}"#, &two, "sessions");
        let no_unit = Observed { unit: None, ..observed() };
        check(r#"{"pinned": {"next": ["ada"]}}"#, &no_unit, "pinned");
        check("{}", &no_unit, "");
        check("{}", &Observed::new(&["a", "b"]), "");
    }

    #[test]
    fn pinned_units_have_their_revision() {
        let pins = Pins {
            pinned: [("ada".to_owned(), NEXT), ("bob".to_owned(), LIVE)].into(),
            shares: vec![Share { arm: LIVE, weight: 0.95 }, Share { arm: NEXT, weight: 0.05 }],
        };
        for (unit, expected, reason) in [
            (Some("ada"), &[(NEXT, 1.0)][..], "pinned"),
            (Some("bob"), &[(LIVE, 1.0)], "pinned"),
            (Some("cleo"), &[(LIVE, 0.95), (NEXT, 0.05)], "step"),
            (None, &[(LIVE, 0.95), (NEXT, 0.05)], "step"),
        ] {
            let decision = pins.decide(unit);
            let shares = decision.shares.iter().map(|share| (share.arm, share.weight));
            assert_eq!((shares.collect::<Vec<_>>(), &*decision.reason), (expected.into(), reason));
        }
    }

    #[test]
    fn only_pins_need_its_router() {
        for (text, idle, sessions) in [
            ("{}", true, [0.95, 0.05]),
            (r#"{"sessions": "own"}"#, true, [1.0, 1.0]),
            (r#"{"pinned": {"next": ["ada"]}}"#, false, [0.95, 0.05]),
        ] {
            let config = config::parse::<Config>(text).unwrap();
            let evaluation = evaluate(&config, &observed(), None).unwrap();
            let said = evaluation.attributes.contains(&("router".into(), "idle".into()));
            let of: Vec<f64> = evaluation.arms.iter().map(|arm| arm.sessions).collect();
            assert_eq!((said, &of[..]), (idle, &sessions[..]), "{text}");
        }
    }
}
