//! What an operator asks of a rollout.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_plugin::{ArmState, Phase};
use berth_serving::documents::{EndpointState, Order, Outcome, Rollout};
use berth_serving::rolling::ARMS;
use berth_serving::{ArmStatus, ControlError, Host, Numbers, Rolling};
use berth_store::Note;
use berth_tensor::Name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How long an operator waits for a rollout to end as was asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// The policy is not asked any more; the shares stay.
    Pause,
    /// It is asked again.
    Resume,
    /// The next revision takes over.
    Promote,
    /// The live revision stays.
    Abort,
}

/// A rollout as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct RolloutView {
    /// The endpoint.
    pub endpoint: Name,
    /// Where the endpoint stands: `rolling`, or what became of the rollout.
    pub state: EndpointState,
    /// The policy and its version.
    pub policy: String,
    /// Its configuration.
    pub config: Map<String, Value>,
    /// The most of all traffic that one evaluation may move.
    pub max_step: Option<f64>,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// Whether it is paused.
    pub paused: bool,
    /// Where it stands, as the policy says.
    pub phase: Option<Phase>,
    /// Why, in the policy's words.
    pub message: String,
    /// What else it says by name, such as intervals that it decides by.
    pub says: BTreeMap<String, String>,
    /// What keeps the policy from deciding, where something does.
    pub problem: Option<String>,
    /// How it is to end or has ended, and by whose word.
    pub order: Option<Order>,
    /// Its two arms.
    pub arms: Vec<ArmView>,
}

/// An arm as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ArmView {
    /// `live` or `next`.
    pub name: &'static str,
    /// The id of its revision.
    pub revision: String,
    /// Its share of the requests, 0 to 1.
    pub share: f64,
    /// What the policy wants it to be.
    pub wanted: ArmState,
    /// What it is: `ready`, `preparing`, `leaving`, `stopped` or `broken`.
    pub status: &'static str,
    /// What was observed of it since the rollout began.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// The rollout under way at an endpoint, or the last one.
pub fn status(host: &Host, name: &Name) -> Result<RolloutView, ControlError> {
    let (record, rollout) = host.last_rollout(name)?;
    let rolling = under_way(host, name).filter(|rolling| rolling.is(&rollout));
    let observed = match &rolling {
        Some(rolling) => rolling.observed(),
        None => host.last_observed(name)?,
    };
    let said = rolling.as_ref().and_then(|rolling| rolling.said());
    let said = said.or_else(|| rollout.evaluation.clone());
    let status = |arm: usize| match &rolling {
        Some(rolling) => word(&rolling.statuses()[arm]),
        // It is being restored.
        None if record.state == EndpointState::Rolling => match rollout.wanted()[arm] {
            ArmState::Stopped => "stopped",
            ArmState::Standby | ArmState::Ready => "preparing",
        },
        None if rollout.share == arm as f64 => "ready",
        None => "stopped",
    };
    let arms = (0..ARMS.len()).map(|arm| ArmView {
        name: ARMS[arm],
        revision: rollout.arms[arm].short(),
        share: [1.0 - rollout.share, rollout.share][arm],
        wanted: rollout.wanted()[arm],
        status: status(arm),
        numbers: Numbers::from(&observed[arm]),
    });
    Ok(RolloutView {
        arms: arms.collect(),
        endpoint: name.clone(),
        state: record.state,
        policy: rollout.policy.policy.to_string(),
        config: rollout.policy.config.clone(),
        max_step: rollout.max_step,
        started_ms: rollout.started_ms,
        paused: rollout.paused,
        phase: said.as_ref().map(|said| said.phase),
        says: said.iter().flat_map(|said| said.attributes.iter().cloned()).collect(),
        message: said.map(|said| crate::decide::message(&said).to_owned()).unwrap_or_default(),
        problem: rolling.as_ref().and_then(|rolling| rolling.problem()),
        order: rollout.order.clone(),
    })
}

/// Does what is asked, and answers what came of it. To promote or to abort takes until the revision
/// that is to serve is ready; when that is not within 10 s, it goes on.
pub async fn ask(
    host: &Arc<Host>,
    name: &Name,
    verb: Verb,
    note: Note,
) -> Result<RolloutView, ControlError> {
    host.last_rollout(name)?;
    if tokio::time::timeout(PATIENCE, host.restored(name)).await.is_err() {
        return Err(ControlError::Conflict(format!(
            "endpoint {name} is being made ready since the host was started; ask again when it answers"
        )));
    }
    let none = || ControlError::Conflict(format!("endpoint {name} has no rollout under way"));
    let rolling = under_way(host, name).ok_or_else(none)?;
    let mut refused = None;
    let mut commit = |outcome: Option<Outcome>, why: &Note, rollout: &mut Rollout| match (
        &rollout.order,
        outcome,
    ) {
        (Some(order), _) => {
            refused = Some(format!("it is being {} already", order.outcome.word()));
        }
        (None, Some(outcome)) => {
            rollout.share = if outcome == Outcome::Promoted { 1.0 } else { 0.0 };
            let Note { who, why } = why.clone();
            rollout.order = Some(Order { outcome, who, why });
        }
        (None, None) => rollout.paused = verb == Verb::Pause,
    };
    let (word, outcome) = match verb {
        Verb::Pause => ("paused", None),
        Verb::Resume => ("resumed", None),
        Verb::Promote => ("promoted", Some(Outcome::Promoted)),
        Verb::Abort => ("aborted", Some(Outcome::Aborted)),
    };
    let why = if note.why.is_empty() { word.to_owned() } else { note.why };
    let note = Note { why, ..note };
    let mut commits = host.store().watch();
    host.commit_rollout(&rolling, &note, |rollout| commit(outcome, &note, rollout))?
        .ok_or_else(none)?;
    if let Some(problem) = refused {
        return Err(ControlError::Conflict(format!("the rollout of {name}: {problem}")));
    }
    rolling.wake();
    if outcome.is_some() {
        let over = async {
            while under_way(host, name).is_some_and(|now| Arc::ptr_eq(&now, &rolling)) {
                // The snapshot follows the commit at once.
                let _ = tokio::time::timeout(Duration::from_millis(50), commits.changed()).await;
            }
        };
        // What is not over in time is shown as it is.
        let _ = tokio::time::timeout(PATIENCE, over).await;
    }
    status(host, name)
}

fn under_way(host: &Host, name: &Name) -> Option<Arc<Rolling>> {
    host.rollouts().into_iter().find(|rolling| rolling.endpoint() == name)
}

fn word(status: &ArmStatus) -> &'static str {
    match status {
        ArmStatus::Ready => "ready",
        ArmStatus::Preparing => "preparing",
        ArmStatus::Leaving => "leaving",
        ArmStatus::Stopped => "stopped",
        ArmStatus::Broken(_) => "broken",
    }
}
