//! Policy: more traffic to the arm that earns more, as rewards come in, however late they are.
//!
//! ```toml
//! [routing]
//! policy = "bandit@1"
//! config = { method = "thompson", floor = 0.05 }
//! ```
//!
//! Shares are set at each look and hold until the next, so the host knows the probability of each
//! draw. No chance is used: Thompson sampling's share of an arm is the probability that it is the
//! best, and that is computed. Under `[rollout]` the arms are the live revision and the next, and
//! the bandit ends once it is plain which of the two earns more.
//!
//! - `config`: the configuration as it is written, and checked against the endpoint
//! - `earned`: what arms earned, old rewards counting less
//! - `shares`: what follows from it

mod config;
mod earned;
mod shares;
#[cfg(test)]
mod simulation;

use berth_sdk::{Evaluation, Observation, Plan, Policy, PolicyError};

use crate::config::Config;

struct Bandit;

impl Policy for Bandit {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        config.check(observation)?;
        shares::evaluate(&config, observation, plan)
    }
}

berth_sdk::export_policy!(Bandit);
