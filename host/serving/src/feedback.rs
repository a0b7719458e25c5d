//! What clients say of predictions afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use berth_monitor::predictions::{Labels, PredictionsSpec, Summary};
use berth_store::{Feedback, Said};
use berth_tensor::Name;
use serde::Serialize;

use crate::error::{ControlError, RequestError};
use crate::evaluations::Rewarded;
use crate::host::{FEEDBACKS, Host};
use crate::prepare::blocking;
use crate::recording::Recording;

/// How much feedback is read again at once.
const AGAIN: usize = 10_000;

/// What became of feedback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Received {
    /// On the disk now.
    pub accepted: u64,
    /// Said before of the same prediction; that stands.
    pub duplicate: u64,
    /// Of predictions that were not recorded, or are not kept any more.
    pub unknown: u64,
}

impl Host {
    /// Lets go of what was said of predictions that are not kept any more.
    pub(crate) fn forget_feedback(&self, endpoint: &str) {
        let Some(oldest_ms) = self.recorder().oldest_ms(endpoint) else { return };
        if let Err(error) = self.store().feedback().forget(endpoint, u128::from(oldest_ms) << 80) {
            tracing::warn!(endpoint, "feedback on old predictions stays: {error}");
        }
    }

    /// What is declared of an endpoint's predictions: by a revision that answers, or one before; where
    /// there is none, what holds where a file says nothing.
    fn declared(&self, endpoint: &str) -> Result<PredictionsSpec, RequestError> {
        let answers = self.endpoint(endpoint)?.revisions();
        let mut known = answers.iter().filter_map(|revision| revision.recording.as_ref());
        if let Some(Recording { declared, .. }) = known.next() {
            return Ok(declared.spec.clone());
        }
        let name = endpoint.parse::<Name>().map_err(ControlError::from);
        let recorded = name.and_then(|name| self.recorded(&name)).map_err(|error| match error {
            ControlError::Conflict(problem) => RequestError::Invalid(problem),
            error => {
                tracing::error!(endpoint, "feedback is not kept: {error}");
                RequestError::Failed("the feedback could not be kept; send it again".into())
            }
        });
        recorded.map(|(spec, _)| spec)
    }

    /// Has an endpoint answer after a start of the host, and counts the rewards that had come before and
    /// were not stored with what was observed. No other comes meanwhile.
    pub(crate) async fn go_on_counting(self: &Arc<Self>, endpoint: &Name, answer: impl FnOnce()) {
        let _alone = self.feedbacks.acquire_many(FEEDBACKS as u32).await;
        answer();
        let (host, name) = (Arc::clone(self), endpoint.clone());
        if let Err(error) = blocking(move || host.count_again(&name)).await {
            let endpoint = endpoint.as_str();
            tracing::error!(endpoint, "rewards that came before are not counted: {error}");
        }
    }

    fn count_again(&self, endpoint: &Name) -> Result<(), ControlError> {
        let Ok(answers) = self.endpoint(endpoint.as_str()) else { return Ok(()) };
        let Some(mut last) = answers.counted() else { return Ok(()) };
        let Ok(spec) = self.declared(endpoint.as_str()) else { return Ok(()) };
        loop {
            let read = self.store().feedback().after(endpoint.as_str(), last, AGAIN)?;
            let Some(&(number, _)) = read.last() else { return Ok(()) };
            let found = find(self, endpoint.as_str(), read.iter().map(|(_, said)| said))?;
            for (number, said) in &read {
                count(self, endpoint.as_str(), said, &found, &spec, (*number, true));
            }
            last = number;
        }
    }

    /// Keeps what is said of predictions of an endpoint; what counts is on the disk when this returns.
    pub async fn feedback(
        self: &Arc<Self>,
        endpoint: &str,
        said: Vec<Feedback>,
    ) -> Result<Received, RequestError> {
        let spec = self.declared(endpoint)?;
        check(&said, &spec)?;
        let _turn = self.feedbacks.acquire().await;
        let (host, name) = (Arc::clone(self), endpoint.to_owned());
        let done = blocking(move || keep(&host, &name, said, &spec));
        let received = done.await.map_err(|error| {
            tracing::error!(endpoint, "feedback is not kept: {error}");
            RequestError::Failed("the feedback could not be kept; send it again".into())
        })?;
        let Received { accepted, duplicate, unknown } = received;
        berth_monitor::feedback(endpoint, accepted, duplicate, unknown);
        Ok(received)
    }
}

/// Refuses what would make nothing of the scores.
fn check(said: &[Feedback], spec: &PredictionsSpec) -> Result<(), RequestError> {
    for (at, feedback) in said.iter().enumerate() {
        let (what, number) = match &feedback.said {
            Said::Reward(reward) => ("reward", Some(*reward)),
            Said::Label(label) if spec.labels == Labels::Numbers => ("label", label.parse().ok()),
            Said::Label(_) => continue,
        };
        if !number.is_some_and(f64::is_finite) {
            let problem = format!("entry {at}: {what}: give a finite number");
            return Err(RequestError::Invalid(problem));
        }
    }
    Ok(())
}

/// Keeps what is said of predictions that are known, and counts what of it is new and worth something.
fn keep(
    host: &Host,
    endpoint: &str,
    mut said: Vec<Feedback>,
    spec: &PredictionsSpec,
) -> Result<Received, ControlError> {
    let found = find(host, endpoint, said.iter())?;
    let all = said.len();
    said.retain(|feedback| found.contains_key(&feedback.prediction));
    // In the order of their numbers: what was counted last says what was counted.
    let _alone = host.rewards.lock().unwrap_or_else(PoisonError::into_inner);
    let added = host.store().feedback().add(endpoint, &said)?;
    for (feedback, added) in said.iter().zip(&added) {
        if let Some(number) = added {
            count(host, endpoint, feedback, &found, spec, (*number, false));
        }
    }
    let accepted = added.iter().flatten().count();
    Ok(Received {
        accepted: accepted as u64,
        duplicate: (said.len() - accepted) as u64,
        unknown: (all - said.len()) as u64,
    })
}

/// The predictions that feedback is on, as far as they are known.
fn find<'a>(
    host: &Host,
    endpoint: &str,
    said: impl Iterator<Item = &'a Feedback>,
) -> Result<HashMap<u128, Summary>, ControlError> {
    let ids: HashSet<u128> = said.map(|feedback| feedback.prediction).collect();
    let found = host.recorder().find(endpoint, &ids)?;
    Ok(found.into_iter().map(|known| (known.id, known)).collect())
}

/// Counts what feedback is worth for the arms that had the request.
fn count(
    host: &Host,
    endpoint: &str,
    said: &Feedback,
    found: &HashMap<u128, Summary>,
    spec: &PredictionsSpec,
    feedback: (u64, bool),
) {
    let Some(of) = found.get(&said.prediction) else { return };
    let Some(value) = value(&said.said, of, spec) else { return };
    // Where the client named the variant itself, nothing is to be learned of a draw.
    let Some(drawn) = &of.drawn else { return };
    host.reward(&Rewarded {
        endpoint,
        revision: &of.revision,
        variant: drawn,
        in_rollout: of.arm.as_deref().map(|arm| (arm, (of.id >> 80) as u64)),
        unit: of.unit_hash,
        slices: of.slices,
        value,
        feedback,
    });
}

/// What feedback is worth: a reward as it is, a label 1 where it is what was predicted and 0 elsewhere.
fn value(said: &Said, of: &Summary, spec: &PredictionsSpec) -> Option<f64> {
    match said {
        Said::Reward(reward) => Some(*reward),
        Said::Label(_) if spec.labels == Labels::Numbers => None,
        Said::Label(label) => {
            of.predicted.as_ref().map(|predicted| f64::from(u8::from(predicted == label)))
        }
    }
}
