//! The endpoints as an operator sees them.

use berth_monitor::Observed;
use berth_plugin::Phase;
use berth_store::Change;
use berth_tensor::Name;
use serde::Serialize;

use crate::catalog::read;
use crate::compare::Compare;
use crate::documents::{ENDPOINT, EndpointRecord, EndpointState, Revision, Rollout};
use crate::error::ControlError;
use crate::examples::Example;
use crate::host::Host;
use crate::numbers::{Lies, Numbers};
use crate::rolling::{ARMS, Endpoint};
use crate::routing::Routed;

/// Changes to an endpoint that its history shows.
pub(crate) const HISTORY: usize = 200;

/// An endpoint as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointView {
    /// Its name.
    pub name: Name,
    /// The id of the revision that answers.
    pub live: Option<String>,
    /// The id of the revision applied last.
    pub applied: String,
    /// What became of that.
    pub state: EndpointState,
    /// Why it failed or does not answer.
    pub problem: Option<String>,
    /// The live revision, or the applied one when none is live.
    pub revision: Revision,
    /// The share of traffic of each variant, 0 to 1, by the standing shares.
    pub shares: Vec<f64>,
    /// Whether the routing policy is not asked any more, because it answered differently on the same
    /// input or failed again and again: the standing shares decide.
    pub quarantined: bool,
    /// What the routing policy said last.
    pub said: Option<Said>,
    /// What was observed of each variant since the revision went live.
    pub observed: Vec<Numbers>,
    /// How traffic moves to the applied revision, or has moved.
    pub rollout: Option<Rollout>,
}

/// What a routing policy said.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// Where it stands.
    pub phase: Phase,
    /// Why, in its words.
    pub message: String,
    /// When it wants to be asked next, in milliseconds.
    pub next_tick_ms: Option<u64>,
}

/// What the shadows of an endpoint did, as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowView {
    /// The endpoint.
    pub endpoint: Name,
    /// When two answers agree.
    pub compare: Compare,
    /// Those that had copies: variants of the live revision, and the next revision of the last rollout.
    pub arms: Vec<ShadowArm>,
    /// Copies that were dropped for want of room, since the host was started.
    pub dropped: u64,
    /// Answers that are farthest from the live ones, worst first, since the host was started.
    pub examples: Vec<Example>,
}

/// What a shadow did.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowArm {
    /// The variant, or `next`.
    pub name: String,
    /// Copies that it had.
    pub copies: u64,
    /// Of these, those that it failed to answer.
    pub errors: u64,
    /// Answers that were compared.
    pub compared: u64,
    /// Of these, those that agreed with the live ones.
    pub agreed: u64,
    /// The latency within which half of the copies came to their end, in milliseconds.
    pub median_ms: Option<f64>,
    /// The same of 99 %.
    pub p99_ms: Option<f64>,
}

impl ShadowArm {
    /// None where it had no copy.
    fn of(name: &str, observed: &Observed) -> Option<Self> {
        let Numbers { requests, errors, median_ms, p99_ms, .. } = Numbers::from(&observed.shadow);
        let found = |lies: Lies| lies.found;
        let agreement = observed.whole.values.get("agreement").copied().unwrap_or_default();
        (requests > 0).then(|| Self {
            name: name.to_owned(),
            copies: requests,
            errors,
            compared: agreement.count,
            agreed: agreement.sum as u64,
            median_ms: median_ms.map(found),
            p99_ms: p99_ms.map(found),
        })
    }
}

/// One step in an endpoint's history.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryEntry {
    /// The store's number of the commit.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// The id of the revision; none when the endpoint was deleted.
    pub revision: Option<String>,
    /// What became of it, or `deleted`.
    pub state: String,
    /// Why it failed.
    pub problem: Option<String>,
}

impl Host {
    /// All endpoints, by name.
    pub fn endpoints(&self) -> Result<Vec<EndpointView>, ControlError> {
        self.records()?.into_iter().map(|(name, record)| self.view(name, record)).collect()
    }

    /// One endpoint.
    pub fn show(&self, name: &Name) -> Result<EndpointView, ControlError> {
        let record = self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        self.view(name.clone(), record)
    }

    /// What the shadows of an endpoint did.
    pub fn shadows(&self, name: &Name) -> Result<ShadowView, ControlError> {
        let record = self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        let endpoint = self.snapshot.load().live.get(name).cloned();
        let observed = match &endpoint {
            Some(Endpoint::Rolling(rolling)) => rolling.observed(),
            _ if record.rollout.is_some() => self.last_observed(name)?,
            _ => Vec::new(),
        };
        let next = observed.get(1).and_then(|next| ShadowArm::of(ARMS[1], next));
        let standing = endpoint.and_then(|endpoint| endpoint.standing().ok());
        let routed = standing.as_ref().and_then(|live| live.routed());
        let variants = routed.map_or_else(Vec::new, |routed| {
            let arms = routed.variants().iter().zip(routed.observed());
            arms.filter_map(|(name, observed)| ShadowArm::of(name, &observed)).collect()
        });
        let (dropped, mut examples) =
            standing.as_ref().map(|live| live.share.shadows.all()).unwrap_or_default();
        // Those of a revision that is neither live nor next are of the past.
        let now = [record.live, Some(record.applied)].map(|digest| digest.map(|d| d.short()));
        examples.retain(|example| now.iter().flatten().any(|id| *id == example.revision));
        let applied = self.revision(record.applied)?;
        Ok(ShadowView {
            endpoint: name.clone(),
            compare: applied.shadow.unwrap_or_default().compare,
            arms: variants.into_iter().chain(next).collect(),
            dropped,
            examples,
        })
    }

    /// What was done to an endpoint, latest first.
    pub fn history(&self, name: &Name) -> Result<Vec<HistoryEntry>, ControlError> {
        let entries = self.store().history(ENDPOINT, name.as_str(), HISTORY)?;
        if entries.is_empty() {
            return Err(no_endpoint(name));
        }
        let view = |entry: berth_store::Entry| {
            let (revision, state, problem) = match entry.change {
                Change::Put { document, .. } => {
                    let record: EndpointRecord = read(ENDPOINT, name.as_str(), document)?;
                    let state = document_word(&record.state);
                    (Some(record.applied.short()), state, record.problem)
                }
                Change::Delete { .. } => (None, "deleted".to_owned(), None),
            };
            Ok(HistoryEntry {
                sequence: entry.sequence,
                time_ms: entry.time,
                who: entry.note.who,
                why: entry.note.why,
                revision,
                state,
                problem,
            })
        };
        entries.into_iter().map(view).collect()
    }

    fn view(&self, name: Name, record: EndpointRecord) -> Result<EndpointView, ControlError> {
        let snapshot = self.snapshot.load();
        let live = snapshot.live.get(&name).map(Endpoint::revisions);
        // Arm 0 of a rollout is the live revision, when it is not stopped.
        let live = live.and_then(|mut live| (!live.is_empty()).then(|| live.swap_remove(0)));
        let revision = self.revision(record.live.unwrap_or(record.applied))?;
        let routed = live.as_ref().and_then(|live| live.routed());
        Ok(EndpointView {
            live: record.live.map(|digest| digest.short()),
            applied: record.applied.short(),
            state: record.state,
            problem: record.problem.or_else(|| snapshot.waiting.get(&name).cloned()),
            shares: live.as_ref().map_or_else(Vec::new, |live| live.shares()),
            quarantined: routed.is_some_and(Routed::quarantined),
            said: routed.and_then(Routed::said).map(|said| Said {
                phase: said.phase,
                message: said.message,
                next_tick_ms: said.next_tick_ms,
            }),
            observed: routed
                .map(|routed| routed.observed().iter().map(Numbers::from).collect())
                .unwrap_or_default(),
            rollout: record.rollout,
            revision,
            name,
        })
    }
}

pub(crate) fn no_endpoint(name: &Name) -> ControlError {
    ControlError::NotFound(format!("there is no endpoint {name}"))
}

fn document_word(state: &EndpointState) -> String {
    match state {
        EndpointState::Preparing => "preparing",
        EndpointState::Live => "live",
        EndpointState::Rolling => "rolling",
        EndpointState::Failed => "failed",
    }
    .to_owned()
}
