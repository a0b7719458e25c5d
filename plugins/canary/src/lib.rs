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
//! ```

use berth_guardrails::{Guardrails, Steps};
use berth_sdk::{Evaluation, Observation, Plan, Policy, PolicyError};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// The next revision's share in each step, in percent.
    steps: Vec<f64>,
    /// How long each step lasts at least, in milliseconds.
    interval_ms: u64,
    guardrails: Guardrails,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            steps: vec![5.0, 25.0, 50.0, 100.0],
            interval_ms: 60_000,
            guardrails: Guardrails::default(),
        }
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
        let Config { steps, interval_ms, guardrails } = config;
        let shares = steps.into_iter().map(|percent| percent / 100.0).collect();
        let steps = Steps { shares, interval_ms, guardrails };
        steps.check("steps")?;
        steps.evaluate(observation, plan)
    }
}

berth_sdk::export_policy!(Canary);
