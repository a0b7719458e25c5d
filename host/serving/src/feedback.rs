//! What clients say of predictions afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use berth_monitor::predictions::{Recorder, Summary};
use berth_store::{Feedback, Store};
use serde::Serialize;

use crate::error::{ControlError, RequestError};
use crate::host::Host;
use crate::prepare::blocking;

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
    /// Keeps what is said of predictions of an endpoint; what counts is on the disk when this returns.
    pub async fn feedback(
        self: &Arc<Self>,
        endpoint: &str,
        said: Vec<Feedback>,
    ) -> Result<Received, RequestError> {
        let revision = self.endpoint(endpoint)?.standing()?;
        if revision.recording.is_none() {
            return Err(RequestError::Invalid(format!(
                "endpoint {endpoint:?} records no predictions, so none can be told from another: [predictions] in its file has them recorded"
            )));
        }
        let _turn = self.feedbacks.acquire().await;
        let (host, name) = (Arc::clone(self), endpoint.to_owned());
        let done = blocking(move || keep(host.store(), host.recorder(), &name, said));
        let received = done.await.map_err(|error| {
            tracing::error!(endpoint, "feedback is not kept: {error}");
            RequestError::Failed("the feedback could not be kept; send it again".into())
        })?;
        let Received { accepted, duplicate, unknown } = received;
        berth_monitor::feedback(endpoint, accepted, duplicate, unknown);
        Ok(received)
    }
}

fn keep(
    store: &Store,
    recorder: &Recorder,
    endpoint: &str,
    mut said: Vec<Feedback>,
) -> Result<Received, ControlError> {
    let ids: Vec<u128> = said.iter().map(|feedback| feedback.prediction).collect();
    let found = recorder.find(endpoint, &ids)?;
    let found: HashMap<u128, Summary> = found.into_iter().map(|known| (known.id, known)).collect();
    let all = said.len();
    said.retain(|feedback| found.contains_key(&feedback.prediction));
    let added = store.feedback().add(endpoint, &said)?;
    let accepted = added.iter().filter(|&&added| added).count();
    Ok(Received {
        accepted: accepted as u64,
        duplicate: (said.len() - accepted) as u64,
        unknown: (all - said.len()) as u64,
    })
}
