//! A rollout under way as requests see it: two revisions, and what share each has.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use berth_monitor::{Exposed, Observations, Observed};
use berth_plugin::{Evaluation, Observation, Subject, unit_hash};
use berth_tensor::{Digest, Name};
use tokio::sync::Notify;

use crate::catalog::now_ms;
use crate::documents::{Revision, Rollout};
use crate::draw::Shares;
use crate::error::RequestError;
use crate::live::{LiveRevision, PredictionId, counted_unit};
use crate::measures;
use crate::rollout_router::RolloutRouter;
use crate::slices::Slices;
use crate::spec::AttributeSource;

/// What policies call the arms of a rollout.
pub const ARMS: [&str; 2] = ["live", "next"];

/// What answers at an endpoint. Taken once by each request.
#[derive(Clone)]
pub enum Endpoint {
    /// Its live revision.
    Live(Arc<LiveRevision>),
    /// One of two revisions.
    Rolling(Arc<Rolling>),
}

/// The revision that answers a request, from here on to its last byte.
pub struct Chosen {
    /// The revision.
    pub revision: Arc<LiveRevision>,
    /// By which arm the request counts, while there is a rollout.
    pub exposure: Option<Exposure>,
}

/// A request that a rollout has drawn an arm for.
pub struct Exposure {
    rolling: Arc<Rolling>,
    /// The probability, above 0 to 1, with which it was drawn.
    pub propensity: f64,
    /// By what it counts.
    pub at: Exposed,
    /// The next revision, where it gets a copy.
    copy: Option<Arc<LiveRevision>>,
}

impl Exposure {
    /// Where it counts.
    pub(crate) fn observations(&self) -> &Observations {
        &self.rolling.observations
    }

    /// The next revision, where it gets a copy of the request, and the rollout that it is of.
    pub(crate) fn copy(&self) -> Option<(&Arc<Rolling>, &Arc<LiveRevision>)> {
        self.copy.as_ref().map(|next| (&self.rolling, next))
    }
}

impl Endpoint {
    /// The revision that speaks for the endpoint where no request is drawn: the live one, or while
    /// that is stopped the next.
    pub fn standing(&self) -> Result<Arc<LiveRevision>, RequestError> {
        match self {
            Self::Live(revision) => Ok(Arc::clone(revision)),
            Self::Rolling(rolling) => {
                let held = rolling.held.load();
                let found = held.arms.iter().flatten().next();
                found.map(Arc::clone).ok_or_else(|| rolling.between())
            }
        }
    }

    /// The revision that answers a request, by the prediction's id where it has no unit. `read` finds the
    /// value of the unit, where it is needed.
    pub fn choose(
        self,
        id: PredictionId,
        mut read: impl FnMut(&AttributeSource) -> Result<Option<String>, RequestError>,
    ) -> Result<Chosen, RequestError> {
        match self {
            Self::Live(revision) => Ok(Chosen { revision, exposure: None }),
            Self::Rolling(rolling) => {
                let unit = match &rolling.unit {
                    Some(source) => read(source)?,
                    None => None,
                };
                let hash = unit_hash(&rolling.salt, unit.as_deref(), id.chance());
                let held = rolling.held.load();
                let asked = match (&held.arms, &*rolling.router.load()) {
                    ([Some(_), Some(_)], Some(router)) => {
                        let subject = rolling.subject(id, &mut read)?;
                        let in_force = held.shares.probabilities(ARMS.len())[1];
                        router.shares(rolling.endpoint.as_str(), &subject, in_force, id)
                    }
                    _ => None,
                };
                let drawn = asked.as_ref().unwrap_or(&held.shares).draw(hash);
                let ready = |(arm, propensity): (usize, f64)| {
                    Some((Arc::clone(held.arms[arm].as_ref()?), arm, propensity))
                };
                // Where only one is there, it has every request.
                let found = match &held.arms {
                    [Some(_), Some(_)] => ready(drawn),
                    _ => ready((0, 1.0)).or_else(|| ready((1, 1.0))),
                };
                let (revision, arm, propensity) = found.ok_or_else(|| rolling.between())?;
                let copy = held.arms[1].as_ref().filter(|_| arm == 0 && held.shadow > 0.0);
                let copy = copy.filter(|_| id.falls_below(held.shadow, 1)).map(Arc::clone);
                drop(held);
                let source = |name: &str| rolling.attributes.get(name).cloned();
                let slices = rolling.slices.read(source, read)?;
                let unit = unit.as_deref().map(counted_unit);
                let at = Exposed { arm, slices, unit, propensity: Some(propensity) };
                Ok(Chosen { revision, exposure: Some(Exposure { rolling, propensity, at, copy }) })
            }
        }
    }

    /// The number of the feedback after which some may not have been counted; none where nothing counts it.
    pub(crate) fn counted(&self) -> Option<u64> {
        let rolling = match self {
            Self::Live(_) => None,
            Self::Rolling(rolling) => Some(rolling.observations().feedback()),
        };
        let revisions = self.revisions();
        let routed = revisions.iter().filter_map(|live| live.routed());
        routed.map(|routed| routed.observations().feedback()).chain(rolling).min()
    }

    /// Every revision that answers.
    pub(crate) fn revisions(&self) -> Vec<Arc<LiveRevision>> {
        match self {
            Self::Live(revision) => vec![Arc::clone(revision)],
            Self::Rolling(rolling) => rolling.held.load().arms.iter().flatten().cloned().collect(),
        }
    }
}

/// A rollout under way.
pub struct Rolling {
    endpoint: Name,
    arms: [Digest; 2],
    started_ms: u64,
    /// Of this rollout alone, so that units are drawn anew in each.
    salt: String,
    /// Where the next revision has its unit from.
    unit: Option<AttributeSource>,
    /// The next revision's attributes, the name of its unit and its slices.
    attributes: BTreeMap<Name, AttributeSource>,
    unit_name: Option<String>,
    slices: Slices,
    /// What requests see.
    held: ArcSwap<Held>,
    /// What looks at each request, where the policy does.
    router: ArcSwapOption<RolloutRouter>,
    states: Mutex<[Arm; 2]>,
    observations: Observations,
    /// What the policy said last, committed or not.
    said: Mutex<Option<Evaluation>>,
    /// Why it has said nothing since.
    failed: Mutex<Option<String>>,
    wake: Notify,
}

struct Held {
    arms: [Option<Arc<LiveRevision>>; 2],
    shares: Shares,
    /// For what part of the live revision's requests the next one gets a copy.
    shadow: f64,
}

/// An arm as it is now.
pub(crate) enum Arm {
    Stopped,
    /// Out of the way of requests, some of which may still hold it.
    Leaving(Weak<LiveRevision>),
    Preparing,
    Ready(Arc<LiveRevision>),
    /// It could not be prepared.
    Broken(String),
}

/// An arm as it is now, for whoever brings about what a policy wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArmStatus {
    /// It holds nothing.
    Stopped,
    /// Requests under way hold it still.
    Leaving,
    /// It is being prepared.
    Preparing,
    /// It answers.
    Ready,
    /// It could not be prepared, and why.
    Broken(String),
}

impl Rolling {
    /// Arms that hold nothing yet.
    pub(crate) fn new(rollout: &Rollout, next: &Revision, observed: Vec<Observed>) -> Self {
        let source = next.unit.as_ref().and_then(|unit| next.attributes.get(unit));
        Self {
            endpoint: next.endpoint.clone(),
            arms: rollout.arms,
            started_ms: rollout.started_ms,
            salt: format!("{}\n{}", next.endpoint, rollout.arms[1]),
            unit: source.cloned(),
            attributes: next.attributes.clone(),
            unit_name: next.unit.as_ref().map(ToString::to_string),
            slices: Slices::new(&next.slices),
            held: ArcSwap::from_pointee(Held {
                arms: [None, None],
                shares: shares(rollout.share),
                shadow: shadow(rollout),
            }),
            router: ArcSwapOption::empty(),
            states: Mutex::new([Arm::Stopped, Arm::Stopped]),
            observations: Observations::new(observed, next.slices.clone()),
            said: Mutex::new(rollout.evaluation.clone()),
            failed: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Name {
        &self.endpoint
    }

    /// The revision of an arm.
    pub fn revision(&self, arm: usize) -> Digest {
        self.arms[arm]
    }

    /// When it began, in milliseconds since 1970.
    pub(crate) fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// Whether `rollout` is this one.
    pub fn is(&self, rollout: &Rollout) -> bool {
        (self.arms, self.started_ms) == (rollout.arms, rollout.started_ms)
    }

    /// What the policy said last, also where it changed nothing.
    pub fn said(&self) -> Option<Evaluation> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What keeps the policy from deciding, or from looking at requests.
    pub fn problem(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failed.or_else(|| {
            self.quarantined().then(|| {
                "its router is in quarantine: the shares alone decide where requests go, and the next revision's does not rise; promote or abort it".to_owned()
            })
        })
    }

    /// Whether the policy's router is not asked any more.
    pub fn quarantined(&self) -> bool {
        self.router.load().as_ref().is_some_and(|router| router.quarantined())
    }

    /// Notes that the policy gave nothing, and why.
    pub fn fails(&self, why: String) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Notes what the policy said.
    pub fn says(&self, evaluation: Evaluation) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(evaluation);
    }

    /// Waits until there may be something to do before the next tick.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Has whoever waits in [`Rolling::woken`] look again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// What the arms are now.
    pub fn statuses(&self) -> [ArmStatus; 2] {
        let mut states = self.states();
        states.each_mut().map(|state| match state {
            Arm::Leaving(held) if held.strong_count() > 0 => ArmStatus::Leaving,
            Arm::Leaving(_) => {
                *state = Arm::Stopped;
                ArmStatus::Stopped
            }
            Arm::Stopped => ArmStatus::Stopped,
            Arm::Preparing => ArmStatus::Preparing,
            Arm::Ready(..) => ArmStatus::Ready,
            Arm::Broken(problem) => ArmStatus::Broken(problem.clone()),
        })
    }

    /// Draws as was committed from now on.
    pub fn follow(&self, rollout: &Rollout) {
        let states = self.states();
        self.publish(&states, shares(rollout.share), shadow(rollout));
    }

    /// Has a router look at each request from now on, or none.
    pub fn ask(&self, router: Option<Arc<RolloutRouter>>) {
        self.router.store(router);
    }

    /// A request as a router sees it, by what the next revision declares.
    fn subject(
        &self,
        id: PredictionId,
        mut read: impl FnMut(&AttributeSource) -> Result<Option<String>, RequestError>,
    ) -> Result<Subject, RequestError> {
        let mut attributes = Vec::with_capacity(self.attributes.len());
        for (name, source) in &self.attributes {
            if let Some(value) = read(source)? {
                attributes.push((name.to_string(), value));
            }
        }
        let unit = self.unit_name.as_ref();
        let unit = unit.and_then(|unit| attributes.iter().position(|(name, _)| name == unit));
        Ok(Subject { attributes: attributes.into(), unit, chance: id.chance() })
    }

    /// Where requests count.
    pub(crate) fn observations(&self) -> &Observations {
        &self.observations
    }

    /// What was observed of the arms until now.
    pub fn observed(&self) -> Vec<Observed> {
        self.observations.total()
    }

    /// What a policy sees now, of what was `observed`.
    pub fn observation(&self, rollout: &Rollout, observed: &[Observed]) -> Observation {
        let statuses = self.statuses();
        let arms = ARMS.iter().zip(statuses).zip(observed).map(|((name, status), observed)| {
            measures::arm((*name).to_owned(), status == ArmStatus::Ready, observed)
        });
        Observation {
            now_ms: now_ms(),
            seed: u64::from_le_bytes(*self.arms[1].as_bytes().first_chunk().unwrap_or(&[0; 8])),
            config: serde_json::Value::Object(rollout.policy.config.clone()).to_string(),
            arms: arms.collect(),
            attributes: self.attributes.keys().map(ToString::to_string).collect(),
            unit: self.unit_name.clone(),
        }
    }

    /// Puts a revision in as an arm.
    pub(crate) fn put(&self, arm: usize, state: Arm) {
        let mut states = self.states();
        states[arm] = state;
        self.publish_arms(&states);
        drop(states);
        self.wake();
    }

    /// Marks an arm as being prepared, unless it is on its way already.
    pub(crate) fn begin(&self, arm: usize) -> bool {
        let mut states = self.states();
        let begins = !matches!(states[arm], Arm::Preparing | Arm::Ready(..));
        if begins {
            states[arm] = Arm::Preparing;
        }
        begins
    }

    /// Takes an arm out of the way of requests, and answers the revision that it was.
    pub(crate) fn take(&self, arm: usize) -> Option<Arc<LiveRevision>> {
        let mut states = self.states();
        match &states[arm] {
            Arm::Ready(..) => {}
            Arm::Broken(_) => {
                states[arm] = Arm::Stopped;
                return None;
            }
            Arm::Stopped | Arm::Leaving(_) | Arm::Preparing => return None,
        }
        let taken = match mem::replace(&mut states[arm], Arm::Stopped) {
            Arm::Ready(revision) => revision,
            state => {
                states[arm] = state;
                return None;
            }
        };
        states[arm] = Arm::Leaving(Arc::downgrade(&taken));
        self.publish_arms(&states);
        Some(taken)
    }

    /// An arm that is ready.
    pub(crate) fn ready(&self, arm: usize) -> Option<Arc<LiveRevision>> {
        match &self.states()[arm] {
            Arm::Ready(revision) => Some(Arc::clone(revision)),
            _ => None,
        }
    }

    /// The same with other arms.
    fn publish_arms(&self, states: &[Arm; 2]) {
        let held = self.held.load();
        self.publish(states, held.shares.clone(), held.shadow);
    }

    fn publish(&self, states: &[Arm; 2], shares: Shares, shadow: f64) {
        let arms = states.each_ref().map(|state| match state {
            Arm::Ready(revision) => Some(Arc::clone(revision)),
            _ => None,
        });
        self.held.store(Arc::new(Held { arms, shares, shadow }));
    }

    fn states(&self) -> std::sync::MutexGuard<'_, [Arm; 2]> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there is no answer while one revision has gone and the other is not there yet.
    fn between(&self) -> RequestError {
        RequestError::Unavailable(format!(
            "endpoint {:?} is between two revisions; try again later",
            self.endpoint.as_str()
        ))
    }
}

/// For what part of the live revision's requests the next one gets a copy.
fn shadow(rollout: &Rollout) -> f64 {
    rollout.evaluation.as_ref().map_or(0.0, |evaluation| evaluation.shadow(1))
}

/// Shares of the live revision and the next.
fn shares(next: f64) -> Shares {
    Shares::from_weights(&[1.0 - next, next])
}
