//! A revision ready to answer, and the way of a request through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_inference::{InferenceError, Lane, Model, Opened};
use berth_monitor::EndpointMetrics;
use berth_plugin::model::has_name;
use berth_plugin::processor::Signature;
use berth_plugin::{
    Bindings, Body, BoundModel, Call, CallError, Evaluation, Processor, Reply, Reports, Request,
    unit_hash,
};
use berth_tensor::{Digest, Name, NamedTensor, TensorType};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::compare::Compare;
use crate::draw::Drawn;
use crate::ended::Underway;
use crate::error::RequestError;
use crate::examples::Examples;
use crate::recording::Recording;
use crate::rolling::Exposure;
use crate::routing::{Routed, Routing};
use crate::shadow::Shadows;
use crate::sink::VariantSink;
use crate::slices::Slices;
use crate::spec::AttributeSource;
use crate::warm_up::WarmUp;

/// A revision ready to answer. Requests hold it until they are done.
pub struct LiveRevision {
    pub(crate) endpoint: Name,
    pub(crate) digest: Digest,
    /// The first digits of the digest: what clients see.
    pub(crate) id: String,
    pub(crate) attributes: Vec<(Name, AttributeSource)>,
    pub(crate) unit: Option<Name>,
    pub(crate) timeout: Duration,
    pub(crate) direct: bool,
    pub(crate) slices: Slices,
    pub(crate) routing: Routing,
    pub(crate) warm_up: Option<WarmUp>,
    /// None where nothing is recorded.
    pub(crate) recording: Option<Recording>,
    pub(crate) variants: Vec<LiveVariant>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) shadows: Arc<Shadows>,
    /// When answers of its shadows agree, and of it as a shadow.
    pub(crate) compare: Compare,
    pub(crate) share: Arc<Share>,
    /// Instances that it may hold: fewer than there are, so that one endpoint's plugin cannot take
    /// every instance from the others.
    pub(crate) most_instances: usize,
}

/// An endpoint's part of what all endpoints share, the same in all of its revisions.
pub(crate) struct Share {
    /// Instances that it holds.
    pub(crate) instances: AtomicUsize,
    /// Where its models run.
    pub(crate) lane: Arc<Lane>,
    /// What is kept of its shadows.
    pub(crate) shadows: Examples,
}

/// One of the instances that an endpoint holds.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    /// One more, unless there are as many as there may be.
    fn take(held: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one = Self(held);
        // Dropped again when it is one too many.
        (held.fetch_add(1, Ordering::Relaxed) < most).then_some(one)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many requests are let in at once, over all endpoints.
pub(crate) struct Admission {
    /// Requests under way.
    pub(crate) requests: Semaphore,
    /// Processor instances under way.
    pub(crate) instances: Semaphore,
    /// The most of each.
    pub(crate) most_requests: usize,
    pub(crate) most_instances: usize,
}

/// One way to answer, ready.
pub struct LiveVariant {
    pub(crate) name: Name,
    pub(crate) way: Way,
    pub(crate) models: Vec<BoundModel>,
    pub(crate) metrics: EndpointMetrics,
}

/// How a variant answers.
pub(crate) enum Way {
    /// Tensors go straight to the model.
    Model(Arc<Model>),
    /// A processor has the request.
    Processor(Box<Processing>),
}

impl Way {
    /// The tensors that it takes, as far as it says.
    pub(crate) fn inputs(&self) -> &[TensorType] {
        match self {
            Self::Model(model) => model.inputs(),
            Self::Processor(processing) => &processing.signature.inputs,
        }
    }

    /// Whether a processor has its requests.
    pub(crate) fn has_processor(&self) -> bool {
        matches!(self, Self::Processor(_))
    }

    /// Whether it says what it takes.
    pub(crate) fn says_inputs(&self) -> bool {
        match self {
            Self::Model(_) => true,
            Self::Processor(processing) => {
                let signature = &processing.signature;
                !(signature.inputs.is_empty() && signature.content_types.is_empty())
            }
        }
    }

    /// Whether it says what it answers.
    pub(crate) fn says_outputs(&self) -> bool {
        match self {
            Self::Model(_) => true,
            Self::Processor(processing) => {
                let signature = &processing.signature;
                !(signature.outputs.is_empty() && signature.answers.is_none())
            }
        }
    }

    /// The tensors that it answers, as far as it says.
    pub(crate) fn outputs(&self) -> &[TensorType] {
        match self {
            Self::Model(model) => model.outputs(),
            Self::Processor(processing) => &processing.signature.outputs,
        }
    }
}

/// A processor, and what its calls need.
pub(crate) struct Processing {
    pub(crate) processor: Processor,
    pub(crate) signature: Signature,
    pub(crate) bindings: Arc<Bindings>,
    pub(crate) sink: Arc<VariantSink>,
}

/// A request as the rim has decoded it.
pub struct Incoming {
    /// The host's id of the prediction.
    pub prediction: PredictionId,
    /// The client's request id, or the one made for it.
    pub request_id: String,
    /// The variant that the client asks for by name.
    pub variant: Option<String>,
    /// The body or the tensors.
    pub body: Body,
    /// The outputs asked for by name; empty for all.
    pub outputs: Vec<String>,
    /// The values of declared attributes that the request has.
    pub attributes: Vec<(String, String)>,
    /// The `traceparent` of the request.
    pub trace_context: Option<String>,
    /// Whether the answer must be tensors.
    pub wants_tensors: bool,
    /// By which arm it counts, while there is a rollout.
    pub exposure: Option<Exposure>,
}

/// The host's id of a prediction: a UUID version 7, sortable by time.
#[derive(Clone, Copy, Debug)]
pub struct PredictionId(Uuid);

impl PredictionId {
    /// A new one.
    #[expect(clippy::new_without_default, reason = "two of them are never equal")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Its 32 hexadecimal digits.
    pub fn text(self) -> String {
        self.0.simple().encode_lower(&mut [0; 32]).to_owned()
    }

    /// The same as a number.
    pub fn number(self) -> u128 {
        self.0.as_u128()
    }

    /// Whether it is among a `part`, 0 to 1, of all ids: by chance, another one for another `salt`.
    pub(crate) fn falls_below(self, part: f64, salt: u64) -> bool {
        let hash = unit_hash("shadow", None, self.chance().wrapping_add(salt));
        // 53 bits are what a double holds exactly.
        ((hash >> 11) as f64 / (1u64 << 53) as f64) < part
    }

    /// Random bits, the same for the same id: what stands for the unit where there is none.
    pub(crate) fn chance(self) -> u64 {
        self.0.as_u64_pair().1
    }
}

/// The hash by which a unit is counted, the same in all revisions and arms.
pub fn counted_unit(unit: &str) -> u64 {
    unit_hash("unit", Some(unit), 0)
}

/// What became of a request, and who answered it.
pub struct Outcome<'a> {
    /// The prediction's id, sortable by time.
    pub prediction: PredictionId,
    /// The variant that answered; none when the request came to none.
    pub variant: Option<&'a Name>,
    /// The answer.
    pub result: Result<Reply, RequestError>,
}

impl LiveRevision {
    /// The revision's id, as clients see it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Name {
        &self.endpoint
    }

    /// The declared attributes and where they come from.
    pub fn attributes(&self) -> &[(Name, AttributeSource)] {
        &self.attributes
    }

    /// The names of the variants.
    pub fn variants(&self) -> impl Iterator<Item = &Name> {
        self.variants.iter().map(|variant| &variant.name)
    }

    /// The share of traffic of each variant by the standing shares, in the order of the variants.
    pub fn shares(&self) -> Vec<f64> {
        match &self.routing {
            Routing::Only => vec![1.0],
            Routing::Policy(routed) => routed.standing().shares(self.variants.len()),
        }
    }

    /// The policy that chooses among the variants, where there are several.
    pub fn routed(&self) -> Option<&Routed> {
        match &self.routing {
            Routing::Only => None,
            Routing::Policy(routed) => Some(routed),
        }
    }

    /// The evaluation of its routing policy that stands.
    pub(crate) fn evaluation(&self) -> Option<Evaluation> {
        self.routed().map(|routed| routed.standing().evaluation().clone())
    }

    /// The models that its variants bind.
    pub(crate) fn bound(&self) -> impl Iterator<Item = &BoundModel> {
        self.variants.iter().flat_map(|variant| &variant.models)
    }

    /// The models that it keeps open; one that is bound twice comes twice.
    pub(crate) fn models(&self) -> impl Iterator<Item = &Opened> {
        self.bound().map(|bound| &**bound.model)
    }

    pub(crate) fn find(&self, name: &str) -> Result<usize, RequestError> {
        self.variants.iter().position(|variant| variant.name.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = self.variants().map(Name::as_str).collect();
            RequestError::NotFound(format!(
                "endpoint {:?} has no variant {name:?}; it has {}",
                self.endpoint.as_str(),
                known.join(", ")
            ))
        })
    }

    /// Answers one request.
    pub async fn answer(self: &Arc<Self>, incoming: Incoming) -> Outcome<'_> {
        let start = Instant::now();
        let prediction = incoming.prediction;
        let Ok(_admitted) = self.admission.requests.try_acquire() else {
            berth_monitor::refused(self.endpoint.as_str());
            return Outcome { prediction, variant: None, result: Err(RequestError::Overloaded) };
        };
        let Incoming { variant: asked, attributes, wants_tensors, exposure, .. } = incoming;
        let drawn = match &asked {
            Some(name) => self.asked_for(name).map(Drawn::certain),
            None => Ok(self.choose(&attributes, prediction)),
        };
        let drawn = match drawn {
            Ok(drawn) => drawn,
            Err(error) => return Outcome { prediction, variant: None, result: Err(error) },
        };
        let request = Arc::new(Request {
            id: incoming.request_id,
            prediction: prediction.text(),
            body: incoming.body,
            outputs: incoming.outputs,
            attributes,
            trace_context: incoming.trace_context,
            reports: Reports::new(exposure.is_some() || self.routed().is_some()),
        });
        let deadline = start + self.timeout;
        let mut underway = Underway {
            revision: self,
            prediction,
            request: Arc::clone(&request),
            wants_tensors,
            direct: asked.is_some(),
            answered: drawn.arm,
            drawn,
            fallen: None,
            exposure,
            reports: None,
            start,
            ended: false,
        };
        let mut next = 0;
        let result = loop {
            let variant = &self.variants[underway.answered];
            let result = self.run(variant, &request, wants_tensors, deadline).await;
            let Err(error) = &result else { break result };
            if !error.lets_fall_back() || Instant::now() >= deadline {
                break result;
            }
            let Some(fallback) = underway.drawn.fallback(&mut next) else { break result };
            let latency = start.elapsed();
            variant.metrics.answered(Some(error.reason()), latency);
            variant.metrics.fell_back(self.variants[fallback].name.as_str(), error.reason());
            underway.fall_back(fallback, error, latency);
        };
        underway.end(&result);
        Outcome { prediction, variant: Some(&self.variants[underway.answered].name), result }
    }

    fn asked_for(&self, name: &str) -> Result<usize, RequestError> {
        let arm = self.find(name)?;
        if self.direct {
            return Ok(arm);
        }
        Err(RequestError::Forbidden(format!(
            "endpoint {:?} chooses the variant itself; direct = true in its file lets clients ask for one",
            self.endpoint.as_str()
        )))
    }

    /// The draw of an arm for a request.
    pub(crate) fn choose(&self, attributes: &[(String, String)], id: PredictionId) -> Drawn {
        match &self.routing {
            Routing::Only => Drawn::certain(0),
            Routing::Policy(routed) => {
                let unit = self.unit_at(attributes);
                routed.draw(attributes, unit, id)
            }
        }
    }

    /// The hash by which the unit of a request is counted, when it has one.
    pub(crate) fn unit_of(&self, attributes: &[(String, String)]) -> Option<u64> {
        self.unit_at(attributes).map(|at| counted_unit(&attributes[at].1))
    }

    /// Where the unit's value is among the attributes of a request.
    fn unit_at(&self, attributes: &[(String, String)]) -> Option<usize> {
        let unit = self.unit.as_ref()?;
        attributes.iter().position(|(name, _)| name == unit.as_str())
    }

    /// Has a variant answer.
    pub(crate) async fn run(
        &self,
        variant: &LiveVariant,
        request: &Arc<Request>,
        wants_tensors: bool,
        deadline: Instant,
    ) -> Result<Reply, RequestError> {
        let timeout_ms = self.timeout.as_millis() as u64;
        match &variant.way {
            Way::Model(model) => match &request.body {
                Body::Bytes { .. } => Err(RequestError::Invalid(format!(
                    "variant {:?} has no processor, so it takes tensors: POST them to …/infer",
                    variant.name.as_str()
                ))),
                Body::Tensors(inputs) => {
                    let run = model.run(inputs, &request.outputs, deadline).await;
                    let failed = |error| inference_failed(&error, timeout_ms, &request.prediction);
                    Ok(Reply { tensors: run.map_err(failed)?, ..Reply::default() })
                }
            },
            Way::Processor(processing) => {
                let result = self.call(processing, request, wants_tensors, deadline).await;
                result.map_err(|error| {
                    let Request { id, prediction, .. } = &**request;
                    processing.sink.call_failed(&error, &self.id, prediction, id);
                    RequestError::of_call(&error, timeout_ms, prediction)
                })
            }
        }
    }

    /// One call of a processor, if there is an instance for it; both ways held against its signature.
    pub(crate) async fn call(
        &self,
        processing: &Processing,
        request: &Arc<Request>,
        wants_tensors: bool,
        deadline: Instant,
    ) -> Result<Reply, CallError> {
        let Processing { processor, signature, bindings, .. } = processing;
        if let Body::Tensors(inputs) = &request.body {
            check_inputs(inputs, signature)?;
        }
        let (Some(_own), Ok(_instance)) = (
            Held::take(&self.share.instances, self.most_instances),
            self.admission.instances.try_acquire(),
        ) else {
            return Err(CallError::Overloaded);
        };
        let call = Call { request: Arc::clone(request), bindings: Arc::clone(bindings), deadline };
        // By itself: a request that needs no processor does not carry the room for one.
        let reply = Box::pin(processor.process(call)).await?;
        check_reply(reply, signature, wants_tensors)
    }
}

/// Refuses tensors that the processor's signature does not take, or that it could not be told of.
fn check_inputs(inputs: &[NamedTensor], signature: &Signature) -> Result<(), CallError> {
    for NamedTensor { name, tensor } in inputs {
        let taken = signature.inputs.iter().find(|input| input.name == *name);
        let problem = match taken {
            Some(taken) => taken.mismatch(tensor),
            None if !signature.inputs.is_empty() => {
                Some("the processor takes no such input".to_owned())
            }
            None if !has_name(tensor.datatype()) => {
                Some(format!("a processor takes no tensor of {}", tensor.datatype()))
            }
            None => None,
        };
        if let Some(problem) = problem {
            return Err(CallError::Caller(format!("input {name:?}: {problem}")));
        }
    }
    Ok(())
}

fn check_reply(
    reply: Reply,
    signature: &Signature,
    wants_tensors: bool,
) -> Result<Reply, CallError> {
    if wants_tensors && reply.tensors.is_empty() {
        return Err(CallError::Plugin("it answered a body where tensors were asked for".into()));
    }
    for NamedTensor { name, tensor } in &reply.tensors {
        if signature.outputs.is_empty() {
            break;
        }
        let Some(promised) = signature.outputs.iter().find(|output| output.name == *name) else {
            return Err(CallError::Plugin(format!(
                "it answered {name:?}, which its signature does not promise"
            )));
        };
        if let Some(problem) = promised.mismatch(tensor) {
            return Err(CallError::Plugin(format!(
                "it answered {name:?} against its signature: {problem}"
            )));
        }
    }
    Ok(reply)
}

fn inference_failed(error: &InferenceError, timeout_ms: u64, prediction: &str) -> RequestError {
    match error {
        InferenceError::InvalidInput { .. } | InferenceError::UnknownOutput(_) => {
            RequestError::Invalid(error.to_string())
        }
        InferenceError::Overloaded => RequestError::Overloaded,
        InferenceError::Timeout => RequestError::Timeout(timeout_ms),
        InferenceError::Runtime(message) => {
            tracing::error!(prediction, "the model failed: {message}");
            RequestError::Failed(format!("the model failed: {message}"))
        }
    }
}
