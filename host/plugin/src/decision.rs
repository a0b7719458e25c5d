//! What policies decide, as plain values, and the checks that let the host follow it.

use serde::{Deserialize, Serialize};

use crate::bindings::policy::exports::berth::plugin::{evaluating, routing};
use crate::trap::Trap;

/// The largest plan, in bytes.
const PLAN: usize = 64 << 10;

/// The most fallbacks or shadows that a decision names.
const NAMED: usize = 16;

/// What a policy remembers between evaluations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the layout of `data`.
    pub schema: String,
    /// The policy's own bytes, at most 64 KiB.
    pub data: Vec<u8>,
}

/// What an arm should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArmState {
    /// Not loaded.
    Stopped,
    /// Loaded and warm, without traffic.
    Standby,
    /// Taking traffic.
    Ready,
}

/// What a policy wants of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmEvaluation {
    /// The arm's index.
    pub arm: usize,
    /// Its share of traffic relative to the others: finite, not negative.
    pub weight: f64,
    /// What it should be.
    pub state: ArmState,
    /// Its share of the model sessions, 0 to 1.
    pub sessions: f64,
    /// Whether it gets a copy of what it is not chosen for.
    pub shadow: bool,
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A routing policy's only phase.
    Steady,
    /// Traffic moves.
    Progressing,
    /// It waits for evidence.
    Holding,
    /// The last arm takes over.
    Succeeded,
    /// The first arm stays.
    Failed,
}

/// A policy's decision on shares, checked: arms exist, weights are finite, not negative and not all
/// zero, the plan is within its size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// What it wants of the arms that it names.
    pub arms: Vec<ArmEvaluation>,
    /// What it remembers.
    pub plan: Plan,
    /// Where the rollout stands.
    pub phase: Phase,
    /// Why, for people.
    pub message: String,
    /// When to evaluate next, in milliseconds from now.
    pub next_tick_ms: Option<u64>,
    /// Further named values.
    pub attributes: Vec<(String, String)>,
}

/// The attribute of an evaluation that says for what part of the requests, 0 to 1, its shadows get a
/// copy; without it, of all.
const SHADOW_SAMPLE: &str = "shadow-sample";

/// The attribute of an evaluation by which it says that its router would only draw from its weights,
/// so that no request has to wait for one.
const IDLE_ROUTER: (&str, &str) = ("router", "idle");

impl Evaluation {
    /// For what part of the requests, 0 to 1, an arm gets a copy.
    pub fn shadow(&self, arm: usize) -> f64 {
        let named = |known: &&ArmEvaluation| known.arm == arm && known.shadow;
        self.arms.iter().find(named).map_or(0.0, |_| sample(&self.attributes).unwrap_or(1.0))
    }

    /// Whether a router of its policy has a say.
    pub fn asks_router(&self) -> bool {
        let idle = |(name, value): &(String, String)| (&**name, &**value) == IDLE_ROUTER;
        !self.attributes.iter().any(idle)
    }

    /// The weight of each of `arms` arms, in their order.
    pub fn weights(&self, arms: usize) -> Vec<f64> {
        let mut weights = vec![0.0; arms];
        for arm in &self.arms {
            weights[arm.arm] = arm.weight;
        }
        weights
    }
}

/// An arm's part of a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The arm's index.
    pub arm: usize,
    /// Its weight relative to the others.
    pub weight: f64,
}

/// A router's decision on one request, checked as an evaluation is.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to draw from.
    pub shares: Vec<Share>,
    /// Arms to try, in order, when the drawn one cannot answer.
    pub fallbacks: Vec<usize>,
    /// Arms that get a copy, with the probability of each.
    pub shadows: Vec<Share>,
    /// Why.
    pub reason: String,
}

/// Why a policy gave no decision that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PolicyError {
    /// Its configuration does not fit.
    #[error("config{}: {message}", if key.is_empty() { String::new() } else { format!(" key {key:?}") })]
    Config {
        /// The key that is wrong; empty for the whole.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// It reported a failure of its own.
    #[error("the policy failed: {0}")]
    Failed(String),
    /// It trapped or ran out of fuel.
    #[error("the policy was stopped: {0}")]
    Trap(Box<Trap>),
    /// Its decision cannot be followed.
    #[error("the policy decided what cannot be: {0}")]
    Wrong(String),
    /// It decided differently on the same input just now.
    #[error("the policy is not pure: it decided differently on the same input")]
    Impure,
    /// It did so before, and is not asked again.
    #[error("the policy is not asked any more: it decided differently on the same input before")]
    Quarantined,
}

impl PolicyError {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Config { .. } => "config",
            Self::Failed(_) => "failed",
            Self::Trap(trap) => trap.kind,
            Self::Wrong(_) => "wrong",
            Self::Impure => "impure",
            Self::Quarantined => "quarantined",
        }
    }

    /// Whether it ran out of fuel, a policy's clock: no fault, as its work may only be much.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Trap(trap) if trap.kind == "fuel")
    }
}

/// The part that an evaluation's attributes say, when they say one.
fn sample(attributes: &[(String, String)]) -> Option<f64> {
    let said = attributes.iter().find(|(name, _)| name == SHADOW_SAMPLE);
    said.and_then(|(_, value)| value.parse().ok()).filter(|part| (0.0..=1.0).contains(part))
}

/// An evaluation that can be followed among so many `arms`.
pub(crate) fn checked(
    evaluation: evaluating::Evaluation,
    arms: usize,
) -> Result<Evaluation, PolicyError> {
    let wanted: Vec<ArmEvaluation> = evaluation
        .arms
        .into_iter()
        .map(|arm| ArmEvaluation {
            arm: arm.arm as usize,
            weight: arm.weight,
            state: match arm.state {
                evaluating::ArmState::Stopped => ArmState::Stopped,
                evaluating::ArmState::Standby => ArmState::Standby,
                evaluating::ArmState::Ready => ArmState::Ready,
            },
            sessions: arm.sessions,
            shadow: arm.shadow,
        })
        .collect();
    check_shares(wanted.iter().map(|arm| (arm.arm, arm.weight)), arms)?;
    if let Some(arm) = wanted.iter().find(|arm| !(0.0..=1.0).contains(&arm.sessions)) {
        return Err(PolicyError::Wrong(format!(
            "arm {} gets {} of the sessions",
            arm.arm, arm.sessions
        )));
    }
    let says = evaluation.attributes.iter().any(|(name, _)| name == SHADOW_SAMPLE);
    if says && sample(&evaluation.attributes).is_none() {
        return Err(PolicyError::Wrong(format!("its {SHADOW_SAMPLE} is no number of 0 to 1")));
    }
    let plan = Plan { schema: evaluation.plan.schema, data: evaluation.plan.data };
    if plan.data.len() + plan.schema.len() > PLAN {
        return Err(PolicyError::Wrong(format!(
            "its plan has {} bytes, the most is {PLAN}",
            plan.data.len() + plan.schema.len()
        )));
    }
    Ok(Evaluation {
        arms: wanted,
        plan,
        phase: match evaluation.phase {
            evaluating::Phase::Steady => Phase::Steady,
            evaluating::Phase::Progressing => Phase::Progressing,
            evaluating::Phase::Holding => Phase::Holding,
            evaluating::Phase::Succeeded => Phase::Succeeded,
            evaluating::Phase::Failed => Phase::Failed,
        },
        message: evaluation.message,
        next_tick_ms: evaluation.next_tick_ms,
        attributes: evaluation.attributes,
    })
}

/// A decision that can be followed among so many `arms`.
pub(crate) fn decided(decision: routing::Decision, arms: usize) -> Result<Decision, PolicyError> {
    let from_wit = |share: &routing::Share| Share { arm: share.arm as usize, weight: share.weight };
    let shares: Vec<Share> = decision.shares.iter().map(from_wit).collect();
    check_shares(shares.iter().map(|share| (share.arm, share.weight)), arms)?;
    if decision.shadows.len() > NAMED || decision.fallbacks.len() > NAMED {
        return Err(PolicyError::Wrong(format!("more than {NAMED} fallbacks or shadows")));
    }
    let shadows: Vec<Share> = decision.shadows.iter().map(from_wit).collect();
    if let Some(shadow) =
        shadows.iter().find(|shadow| shadow.arm >= arms || !(0.0..=1.0).contains(&shadow.weight))
    {
        return Err(PolicyError::Wrong(format!(
            "shadow {} with probability {}",
            shadow.arm, shadow.weight
        )));
    }
    let fallbacks: Vec<usize> = decision.fallbacks.iter().map(|&arm| arm as usize).collect();
    if let Some(arm) = fallbacks.iter().find(|&&arm| arm >= arms) {
        return Err(PolicyError::Wrong(format!("fallback {arm} of {arms} arms")));
    }
    Ok(Decision { shares, fallbacks, shadows, reason: decision.reason })
}

fn check_shares(
    shares: impl Iterator<Item = (usize, f64)>,
    arms: usize,
) -> Result<(), PolicyError> {
    let mut seen = vec![false; arms];
    let mut sum = 0.0;
    for (arm, weight) in shares {
        match seen.get_mut(arm) {
            None => return Err(PolicyError::Wrong(format!("arm {arm} of {arms}"))),
            Some(true) => return Err(PolicyError::Wrong(format!("arm {arm} is named twice"))),
            Some(seen) => *seen = true,
        }
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(PolicyError::Wrong(format!("arm {arm} gets weight {weight}")));
        }
        sum += weight;
    }
    if !(sum.is_finite() && sum > 0.0) {
        return Err(PolicyError::Wrong(format!("the weights come to {sum}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shares: &[(usize, f64)], fits: bool) {
        assert_eq!(check_shares(shares.iter().copied(), 2).is_ok(), fits, "{shares:?}");
    }

    #[test]
    fn shares_must_be_usable() {
        check(&[(0, 1.0)], true);
        check(&[(0, 0.0), (1, 3.0)], true);
        check(&[], false);
        check(&[(0, 0.0)], false);
        check(&[(2, 1.0)], false);
        check(&[(0, 1.0), (0, 1.0)], false);
        check(&[(0, f64::NAN), (1, 1.0)], false);
        check(&[(0, -1.0), (1, 2.0)], false);
        check(&[(0, f64::INFINITY)], false);
        check(&[(0, f64::MAX), (1, f64::MAX)], false);
    }
}
