//! The end of a request: the one place from which it is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_plugin::{Reply, Request};

use crate::draw::Drawn;
use crate::error::RequestError;
use crate::live::{LiveRevision, LiveVariant, PredictionId};
use crate::rolling::Exposure;

/// What is known of a request once a variant has answered it or failed to.
pub struct Ended<'a> {
    /// The prediction's id, which also says when it began.
    pub prediction: PredictionId,
    /// The request as the variant had it, with its attributes.
    pub request: &'a Arc<Request>,
    /// Whether the answer had to be tensors.
    pub wants_tensors: bool,
    /// Whether the client named the variant: nothing was drawn.
    pub direct: bool,
    /// Which variant was drawn, why and how probable that was.
    pub drawn: &'a Drawn,
    /// Which revision was drawn, while there is a rollout.
    pub exposure: Option<&'a Exposure>,
    /// The answer.
    pub result: &'a Result<Reply, RequestError>,
    /// When the request was decoded.
    pub start: Instant,
    /// From then to its answer.
    pub latency: Duration,
}

impl Ended<'_> {
    /// The probability with which revision and variant were drawn.
    pub fn propensity(&self) -> f64 {
        self.drawn.propensity * self.exposure.map_or(1.0, |exposure| exposure.propensity)
    }
}

impl LiveRevision {
    /// A request came to its end. On the response's path: what takes long is handed on.
    pub(crate) fn ended(&self, ended: &Ended<'_>) {
        if ended.direct {
            return;
        }
        let LiveVariant { metrics, .. } = &self.variants[ended.drawn.arm];
        let error = ended.result.as_ref().err();
        metrics.answered(error.map(RequestError::reason), ended.latency);
        if let Some(exposure) = ended.exposure {
            exposure.ended(error, ended.latency);
        }
    }
}
