//! Rollout policy: the live revision is stopped and freed before the next is made ready, so that
//! memory never holds both. Requests in between are answered 503.
//!
//! ```toml
//! [rollout]
//! policy = "recreate@1"
//! ```
//!
//! When the next revision cannot be made ready, the host goes back to the one that was live.

use berth_guardrails::{LIVE, NEXT, two_revisions};
use berth_sdk::{ArmState, Evaluation, NoConfig, Observation, Phase, Plan, Policy, PolicyError};

struct Recreate;

impl Policy for Recreate {
    type Config = NoConfig;

    fn evaluate(
        _: NoConfig,
        observation: &Observation,
        _: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        two_revisions(observation)?;
        let mut evaluation = match observation.ready(NEXT) {
            true => Evaluation::moving(1.0, Phase::Succeeded, "the next revision is ready"),
            false => Evaluation::moving(1.0, Phase::Progressing, "one goes, then the other comes"),
        };
        evaluation.arms[LIVE as usize].state = ArmState::Stopped;
        Ok(evaluation)
    }
}

berth_sdk::export_policy!(Recreate);
