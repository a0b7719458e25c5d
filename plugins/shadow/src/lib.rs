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

use berth_sdk::{Evaluation, Observation, Plan, Policy, PolicyError};

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

berth_sdk::export_policy!(Shadow);
