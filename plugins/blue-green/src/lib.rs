//! Rollout policy: the next revision is made ready in full beside the live one, then all traffic is
//! switched at once. The old one stays ready for as long as the new one proves itself, so that the
//! switch back is as quick.
//!
//! ```toml
//! [rollout]
//! policy = "blue-green@1"
//! config = { bake_ms = 600_000, guardrails = { max_error_rate = 0.01, min_requests = 1000 } }
//! ```

use berth_guardrails::{Guardrails, Steps};
use berth_sdk::{Evaluation, Observation, Plan, Policy, PolicyError};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// How long the old revision stays ready after the switch at least, in milliseconds.
    bake_ms: u64,
    guardrails: Guardrails,
}

impl Default for Config {
    fn default() -> Self {
        Self { bake_ms: 60_000, guardrails: Guardrails::default() }
    }
}

struct BlueGreen;

impl Policy for BlueGreen {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let Config { bake_ms, guardrails } = config;
        let switch = Steps { shares: vec![1.0], interval_ms: bake_ms, guardrails };
        switch.check("bake_ms")?;
        switch.evaluate(observation, plan)
    }
}

berth_sdk::export_policy!(BlueGreen);
