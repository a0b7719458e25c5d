//! A rollout under way as requests see it: two revisions, and what share each has.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use berth_monitor::{End, Observations, Observed, Units};
use berth_plugin::observing::Arm as ObservedArm;
use berth_plugin::{Evaluation, Measure, Observation, unit_hash};
use berth_tensor::{Digest, Name};
use tokio::sync::Notify;

use crate::catalog::now_ms;
use crate::documents::{Revision, Rollout};
use crate::draw::Shares;
use crate::error::RequestError;
use crate::live::{LiveRevision, PredictionId};
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
    /// The arm's index among [`ARMS`].
    pub arm: usize,
    /// The probability, above 0 to 1, with which it was drawn.
    pub propensity: f64,
    /// The unit's hash, when the request has a unit.
    unit: Option<u64>,
}

impl Exposure {
    /// The request came to its end after `latency`.
    pub(crate) fn ended(&self, error: Option<&RequestError>, latency: Duration) {
        let end = match error {
            None => End::Answered,
            Some(
                RequestError::NotFound(_) | RequestError::Forbidden(_) | RequestError::Invalid(_),
            ) => End::Refused,
            Some(
                RequestError::Failed(_)
                | RequestError::Timeout(_)
                | RequestError::CpuTime(_)
                | RequestError::Unavailable(_)
                | RequestError::Overloaded,
            ) => End::Failed,
        };
        self.rolling.observations[self.arm].note(end, latency);
        if let Some(unit) = self.unit {
            self.rolling.units.note(unit, self.arm, end == End::Failed);
        }
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

    /// The revision that answers a request. `read` finds the value of the unit, where it is needed.
    pub fn choose(
        self,
        read: impl FnOnce(&AttributeSource) -> Result<Option<String>, RequestError>,
    ) -> Result<Chosen, RequestError> {
        match self {
            Self::Live(revision) => Ok(Chosen { revision, exposure: None }),
            Self::Rolling(rolling) => {
                let unit = match &rolling.unit {
                    Some(source) => read(source)?,
                    None => None,
                };
                let hash = unit_hash(&rolling.salt, unit.as_deref(), PredictionId::new().chance());
                let held = rolling.held.load();
                let drawn = held.shares.draw(hash);
                let ready = |(arm, propensity): (usize, f64)| {
                    Some((Arc::clone(held.arms[arm].as_ref()?), arm, propensity))
                };
                // Where only one is there, it has every request.
                let found = match &held.arms {
                    [Some(_), Some(_)] => ready(drawn),
                    _ => ready((0, 1.0)).or_else(|| ready((1, 1.0))),
                };
                let (revision, arm, propensity) = found.ok_or_else(|| rolling.between())?;
                drop(held);
                let unit = unit.map(|_| hash);
                Ok(Chosen { revision, exposure: Some(Exposure { rolling, arm, propensity, unit }) })
            }
        }
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
    /// The next revision's attributes and unit, for policies.
    attributes: (Vec<String>, Option<String>),
    /// What requests see.
    held: ArcSwap<Held>,
    states: Mutex<[Arm; 2]>,
    observations: [Observations; 2],
    units: Units,
    /// What the policy said last, committed or not.
    said: Mutex<Option<Evaluation>>,
    wake: Notify,
}

struct Held {
    arms: [Option<Arc<LiveRevision>>; 2],
    shares: Shares,
}

/// An arm as it is now.
pub(crate) enum Arm {
    Stopped,
    /// Out of the way of requests, some of which may still hold it.
    Leaving(Weak<LiveRevision>),
    Preparing,
    /// With the evaluation of its own routing policy.
    Ready(Arc<LiveRevision>, Option<Evaluation>),
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
    pub(crate) fn new(rollout: &Rollout, next: &Revision, observed: [Observed; 2]) -> Self {
        let source = next.unit.as_ref().and_then(|unit| next.attributes.get(unit));
        let names = next.attributes.keys().map(ToString::to_string).collect();
        Self {
            endpoint: next.endpoint.clone(),
            arms: rollout.arms,
            started_ms: rollout.started_ms,
            salt: format!("{}\n{}", next.endpoint, rollout.arms[1]),
            unit: source.cloned(),
            attributes: (names, next.unit.as_ref().map(ToString::to_string)),
            held: ArcSwap::from_pointee(Held { arms: [None, None], shares: shares(rollout.share) }),
            states: Mutex::new([Arm::Stopped, Arm::Stopped]),
            observations: observed.map(Observations::new),
            units: Units::default(),
            said: Mutex::new(rollout.evaluation.clone()),
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

    /// Whether `rollout` is this one.
    pub fn is(&self, rollout: &Rollout) -> bool {
        (self.arms, self.started_ms) == (rollout.arms, rollout.started_ms)
    }

    /// What the policy said last, also where it changed nothing.
    pub fn said(&self) -> Option<Evaluation> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what the policy said.
    pub fn says(&self, evaluation: Evaluation) {
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

    /// Draws by this share of the next revision from now on.
    pub fn share(&self, share: f64) {
        let states = self.states();
        self.publish(&states, shares(share));
    }

    /// What was observed of the arms until now.
    pub fn observed(&self) -> [Observed; 2] {
        let mut observed = self.observations.each_ref().map(Observations::total);
        for (observed, units) in observed.iter_mut().zip(self.units.moments()) {
            observed.units = observed.units.with(&units);
        }
        observed
    }

    /// What a policy sees now, of what was `observed`.
    pub fn observation(&self, rollout: &Rollout, observed: &[Observed; 2]) -> Observation {
        let statuses = self.statuses();
        let arm = |at: usize| {
            let Observed { requests, errors, refused, latency_sum, latency_squares, .. } =
                observed[at];
            let count = |name: &str, count: u64| {
                let sum = count as f64;
                (name.to_owned(), None, Measure { count, sum, sum_of_squares: sum })
            };
            let units = observed[at].units;
            let over_units = |name: &str, sum: f64, sum_of_squares: f64| {
                (name.to_owned(), None, Measure { count: units.units, sum, sum_of_squares })
            };
            let latency = Measure {
                count: requests - refused.min(requests),
                sum: latency_sum,
                sum_of_squares: latency_squares,
            };
            ObservedArm {
                name: ARMS[at].to_owned(),
                ready: statuses[at] == ArmStatus::Ready,
                measures: vec![
                    count("requests", requests),
                    count("errors", errors),
                    count("refused", refused),
                    count("first-exposures", units.first),
                    ("latency-seconds".to_owned(), None, latency),
                    over_units("requests-of-units", units.requests, units.requests_squares),
                    over_units("errors-of-units", units.errors, units.errors_squares),
                    over_units("errors-by-requests-of-units", units.errors_requests, 0.0),
                ],
                distributions: vec![(
                    "latency-seconds".to_owned(),
                    None,
                    observed[at].latencies().collect(),
                )],
            }
        };
        let (attributes, unit) = self.attributes.clone();
        Observation {
            now_ms: now_ms(),
            seed: u64::from_le_bytes(*self.arms[1].as_bytes().first_chunk().unwrap_or(&[0; 8])),
            config: serde_json::Value::Object(rollout.policy.config.clone()).to_string(),
            arms: vec![arm(0), arm(1)],
            attributes,
            unit,
        }
    }

    /// Puts a revision in as an arm.
    pub(crate) fn put(&self, arm: usize, state: Arm) {
        let mut states = self.states();
        states[arm] = state;
        self.publish(&states, self.held.load().shares.clone());
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
    pub(crate) fn take(&self, arm: usize) -> Option<(Arc<LiveRevision>, Option<Evaluation>)> {
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
            Arm::Ready(revision, evaluation) => (revision, evaluation),
            state => {
                states[arm] = state;
                return None;
            }
        };
        states[arm] = Arm::Leaving(Arc::downgrade(&taken.0));
        self.publish(&states, self.held.load().shares.clone());
        Some(taken)
    }

    /// An arm that is ready.
    pub(crate) fn ready(&self, arm: usize) -> Option<(Arc<LiveRevision>, Option<Evaluation>)> {
        match &self.states()[arm] {
            Arm::Ready(revision, evaluation) => Some((Arc::clone(revision), evaluation.clone())),
            _ => None,
        }
    }

    fn publish(&self, states: &[Arm; 2], shares: Shares) {
        let arms = states.each_ref().map(|state| match state {
            Arm::Ready(revision, _) => Some(Arc::clone(revision)),
            _ => None,
        });
        self.held.store(Arc::new(Held { arms, shares }));
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

/// Shares of the live revision and the next.
fn shares(next: f64) -> Shares {
    Shares::from_weights(&[1.0 - next, next])
}
