//! Policy: units go to arms at random until a test of a metric decides which arm is to stay.
//!
//! ```toml
//! [rollout]
//! policy = "ab-test@1"
//!
//! [rollout.config]
//! metric = "reward"
//! effect = 0.02
//! ```
//!
//! Under `[rollout]` the arms are the live revision and the next, and the test promotes or aborts.
//! Under `[routing]` they are the variants, and the one that wins gets all traffic, or nothing
//! moves (`then = "hold"`). The first arm is what the others are compared with.
//!
//! - `config`: the configuration as it is written, and checked against the endpoint
//! - `trial`: what is remembered, observed and decided
//! - `finding`: what is found of an arm beside the first

mod config;
mod finding;
#[cfg(test)]
mod simulation;
mod trial;

use berth_sdk::{
    Decision, Evaluation, Observation, Plan, Policy, PolicyError, Router, Share, Subject,
};

use crate::config::{Config, Only, Setting};

struct AbTest;

impl Policy for AbTest {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        trial::evaluate(&Setting::new(config, observation)?, observation, plan)
    }
}

/// Keeps whoever is not in the test on the first arm.
struct Restriction {
    only: Option<Only>,
    /// What those in the test are drawn from.
    shares: Vec<Share>,
}

impl Router for Restriction {
    type Config = Config;

    fn create(config: Config, observation: &Observation, plan: Plan) -> Result<Self, PolicyError> {
        let setting = Setting::new(config, observation)?;
        let weights = trial::weights(&setting, &plan)?;
        let shares = (0..).zip(weights).filter(|&(_, weight)| weight > 0.0);
        let shares = shares.map(|(arm, weight)| Share { arm, weight }).collect();
        Ok(Self { only: setting.only, shares })
    }

    fn route(&self, subject: &Subject) -> Decision {
        let inside = self.only.as_ref().is_none_or(|only| {
            subject.attribute(&only.attribute).is_some_and(|value| only.values.contains(&value))
        });
        match inside {
            true => Decision::shares(self.shares.clone(), "test"),
            false => Decision::arm(0, "outside"),
        }
    }
}

berth_sdk::export_policy!(AbTest, router: Restriction);
