//! The end of a request: the one place from which it is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_monitor::{End, Exposed, Sum};
use berth_plugin::{Reply, Report, Request};

use crate::draw::Drawn;
use crate::error::RequestError;
use crate::live::{LiveRevision, PredictionId};
use crate::rolling::Exposure;
use crate::shadow::Watched;

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
    /// The declared slices that it is in, a bit each, the first one the lowest: those of the revision,
    /// during a rollout those of the next one.
    pub slices: u16,
    /// The hash by which its unit is counted, when it has one.
    pub unit: Option<u64>,
    /// Which variant was drawn, why and how probable that was.
    pub drawn: &'a Drawn,
    /// Why and when the drawn variant failed, where a fallback had the request after it.
    pub fallen: Option<(&'a RequestError, Duration)>,
    /// The index of the variant that answered or failed last: the drawn one, or a fallback.
    pub answered: usize,
    /// Which revision was drawn, while there is a rollout.
    pub exposure: Option<&'a Exposure>,
    /// The answer.
    pub result: &'a Result<Reply, RequestError>,
    /// What the drawn variant's processor reported, where that is observed.
    pub reports: &'a [Report],
    /// When the request was decoded.
    pub start: Instant,
    /// From then to its answer.
    pub latency: Duration,
}

/// A request that a variant has. Its end is counted once: when it is told, or else when this is
/// dropped, because its client has gone.
pub(crate) struct Underway<'a> {
    pub(crate) revision: &'a Arc<LiveRevision>,
    pub(crate) prediction: PredictionId,
    pub(crate) request: Arc<Request>,
    pub(crate) wants_tensors: bool,
    pub(crate) direct: bool,
    pub(crate) exposure: Option<Exposure>,
    pub(crate) drawn: Drawn,
    /// The variant that has it.
    pub(crate) answered: usize,
    pub(crate) fallen: Option<(RequestError, Duration)>,
    /// What the drawn variant has reported, once another one has the request.
    pub(crate) reports: Option<Vec<Report>>,
    pub(crate) start: Instant,
    pub(crate) ended: bool,
}

impl Underway<'_> {
    /// Another variant has it from here on.
    pub(crate) fn fall_back(&mut self, to: usize, error: &RequestError, latency: Duration) {
        self.fallen.get_or_insert_with(|| (error.clone(), latency));
        self.reports.get_or_insert_with(|| self.request.reports.take());
        self.answered = to;
    }

    /// It came to its end.
    pub(crate) fn end(&mut self, result: &Result<Reply, RequestError>) {
        self.ended = true;
        let Self { revision, request, exposure, .. } = &*self;
        let (slices, unit) = match exposure {
            Some(exposure) => (exposure.at.slices, exposure.at.unit),
            None => {
                (revision.slices.of(&request.attributes), revision.unit_of(&request.attributes))
            }
        };
        let reports = self.reports.take().unwrap_or_else(|| self.request.reports.take());
        self.revision.ended(&Ended {
            prediction: self.prediction,
            request: &self.request,
            wants_tensors: self.wants_tensors,
            direct: self.direct,
            slices,
            unit,
            drawn: &self.drawn,
            fallen: self.fallen.as_ref().map(|(error, latency)| (error, *latency)),
            answered: self.answered,
            exposure: self.exposure.as_ref(),
            result,
            reports: &reports,
            start: self.start,
            latency: self.start.elapsed(),
        });
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(&Err(RequestError::Gone));
        }
    }
}

impl Ended<'_> {
    /// The probability with which revision and variant were drawn.
    pub fn propensity(&self) -> f64 {
        self.drawn.propensity * self.exposure.map_or(1.0, |exposure| exposure.propensity)
    }
}

impl LiveRevision {
    /// A request came to its end. On the response's path: what takes long is handed on.
    pub(crate) fn ended(self: &Arc<Self>, ended: &Ended<'_>) {
        self.record(ended);
        if ended.direct {
            return;
        }
        self.copy(ended);
        let error = ended.result.as_ref().err();
        let metrics = &self.variants[ended.answered].metrics;
        metrics.answered(error.map(RequestError::reason), ended.latency);
        let values = || {
            ended.reports.iter().map(|Report { name, count, sum, squares }| {
                (name.as_str(), Sum { count: *count, sum: *sum, squares: *squares })
            })
        };
        if let Some(exposure) = ended.exposure {
            exposure.observations().note(exposure.at, end(error), ended.latency, values());
        }
        if let Some(routed) = self.routed() {
            let Drawn { arm, propensity, .. } = *ended.drawn;
            let at = Exposed {
                arm,
                slices: self.own_slices(ended),
                unit: ended.unit,
                propensity: Some(propensity),
            };
            // Where it fell back, the drawn variant is judged by its own end.
            let (error, latency) =
                ended.fallen.map_or((error, ended.latency), |(error, at)| (Some(error), at));
            routed.observations().note(at, end(error), latency, values());
        }
    }
}

impl LiveRevision {
    /// Has the shadows of a request get their copies.
    fn copy(self: &Arc<Self>, ended: &Ended<'_>) {
        // There is no answer to compare with.
        if matches!(ended.result, Err(RequestError::Gone)) {
            return;
        }
        for &arm in ended.drawn.shadows.iter().filter(|&&arm| arm != ended.answered) {
            let at = Exposed { arm, slices: self.own_slices(ended), unit: None, propensity: None };
            self.shadows.copy(ended, Watched::Variants, at, self, arm);
        }
        if let Some((rolling, next)) = ended.exposure.and_then(Exposure::copy) {
            let variant = next.choose(&ended.request.attributes, ended.prediction).arm;
            let at = Exposed { arm: 1, slices: ended.slices, unit: None, propensity: None };
            self.shadows.copy(ended, Watched::Arms(Arc::clone(rolling)), at, next, variant);
        }
    }

    /// The slices of a request as this revision declares them, whose variants are observed by them:
    /// during a rollout it counts by those of the next one.
    fn own_slices(&self, ended: &Ended<'_>) -> u16 {
        match ended.exposure {
            Some(_) => self.slices.of(&ended.request.attributes),
            None => ended.slices,
        }
    }
}

/// What became of a request, as far as an arm is to be judged by it.
pub(crate) fn end(error: Option<&RequestError>) -> End {
    match error {
        None => End::Answered,
        Some(RequestError::NotFound(_) | RequestError::Forbidden(_) | RequestError::Invalid(_)) => {
            End::Refused
        }
        Some(
            RequestError::Failed(_)
            | RequestError::Timeout(_)
            | RequestError::CpuTime(_)
            | RequestError::Unavailable(_)
            | RequestError::Overloaded
            // Whoever has waited in vain cannot be told from whoever has changed their mind, and a
            // variant that never answers has no other end.
            | RequestError::Gone,
        ) => End::Failed,
    }
}
