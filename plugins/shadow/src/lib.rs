//! Policy: every request, or a sample, also goes to the candidate; only the first arm's answers are
//! returned, and the two are compared.
//!
//! ```toml
//! [rollout]
//! policy = "shadow@1"
//! config = { min_agreement = 0.99, min_compared = 2000 }
//! ```
//!
//! Under `[rollout]` the candidate is the next revision, which takes over once the evidence shows
//! that it agrees as often as it is to. Under `[routing]` the candidates are variants, and nothing
//! moves unless `then = "switch"`.
//!
//! - `config`: the configuration as it is written, and checked against the endpoint
//! - `judgement`: what the evidence says of a candidate
//! - `standing`: what is remembered and decided

mod config;
mod judgement;
mod standing;

use berth_sdk::{
    Decision, Evaluation, Observation, Plan, Policy, PolicyError, Router, Share, Subject,
};

use crate::config::{Config, Setting};

struct Shadow;

impl Policy for Shadow {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        standing::evaluate(&Setting::new(config, observation)?, observation, plan)
    }
}

/// Has a sample of the requests go to the candidates.
struct Sample(Decision);

impl Router for Sample {
    type Config = Config;

    fn create(config: Config, observation: &Observation, plan: Plan) -> Result<Self, PolicyError> {
        let setting = Setting::new(config, observation)?;
        let (answers, shadows) = standing::arms(&setting, &plan)?;
        let mut decision = Decision::arm(answers, "answers");
        let share = setting.config.share;
        decision.shadows = shadows.into_iter().map(|arm| Share { arm, weight: share }).collect();
        Ok(Self(decision))
    }

    fn route(&self, _: &Subject) -> Decision {
        self.0.clone()
    }
}

berth_sdk::export_policy!(Shadow, router: Sample);
