//! Rollout policy: traffic moves to the next revision in equal steps, each of which waits until the
//! one before has kept to its guardrails. When it does not, all goes back.
//!
//! ```toml
//! [rollout]
//! policy = "rolling@1"
//! config = { steps = 4, interval_ms = 30_000, guardrails = { max_error_rate = 0.02 } }
//! ```

use berth_guardrails::{Guardrails, Steps};
use berth_sdk::{Evaluation, Observation, Plan, Policy, PolicyError};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// How many steps.
    steps: u8,
    /// How long each step lasts at least, in milliseconds.
    interval_ms: u64,
    guardrails: Guardrails,
}

impl Default for Config {
    fn default() -> Self {
        Self { steps: 4, interval_ms: 10_000, guardrails: Guardrails::default() }
    }
}

struct Rolling;

impl Policy for Rolling {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let Config { steps, interval_ms, guardrails } = config;
        let shares = (1..=steps).map(|step| f64::from(step) / f64::from(steps)).collect();
        let steps = Steps { shares, interval_ms, guardrails };
        steps.check("steps")?;
        steps.evaluate(observation, plan)
    }
}

berth_sdk::export_policy!(Rolling);
