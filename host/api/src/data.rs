//! The data port: the Open Inference Protocol v2 over HTTP, `invoke`, and feedback on predictions. It
//! changes nothing else.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;

use axum::extract::{Extension, Path, Query, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_plugin::{Body, Reply};
use berth_serving::{
    AttributeSource, Chosen, Endpoint, Exposure, Host, Incoming, LiveRevision, Outcome,
    PredictionId, RequestError,
};
use berth_tensor::Name;
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::body::Bodies;
use crate::oip::metadata::{ModelMetadata, ModelReady, ServerLive, ServerMetadata, ServerReady};
use crate::oip::{self, BinaryOutputs, Encoded, InferRequest, InferResponse, OipError};
use crate::predictions::decode_feedback;
use crate::respond::{RequestId, error, not_found, request_status, wrong_method};

/// JSON from this size on, in bytes, takes milliseconds to decode.
const LARGE: usize = 256 << 10;

/// How many bytes of a body are JSON, where the data of tensors follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The revision that took a request, the variant that had it, the host's id of the prediction.
const REVISION: HeaderName = HeaderName::from_static("berth-revision");
const VARIANT: HeaderName = HeaderName::from_static("berth-variant");
const PREDICTION: HeaderName = HeaderName::from_static("berth-prediction");

/// The longest value of an attribute, in bytes.
const ATTRIBUTE: usize = 1024;

/// What the data port needs to know.
#[derive(Clone)]
pub struct Data {
    /// The endpoints.
    pub host: Arc<Host>,
    /// What bodies may take.
    pub bodies: Bodies,
}

/// The routes of the data port.
pub fn router(data: Data) -> Router {
    let mut router = Router::new()
        .route("/v2", get(server))
        .route("/v2/", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready));
    for target in ["/v2/models/{endpoint}", "/v2/models/{endpoint}/versions/{variant}"] {
        router = router
            .route(target, get(metadata))
            .route(&format!("{target}/ready"), get(model_ready))
            .route(&format!("{target}/infer"), post(infer))
            .route(&format!("{target}/invoke"), post(invoke));
    }
    router = router.route("/v2/models/{endpoint}/feedback", post(feedback));
    router.fallback(not_found).method_not_allowed_fallback(wrong_method).with_state(data)
}

async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata {
        name: "berth",
        version: env!("CARGO_PKG_VERSION"),
        extensions: vec!["binary_tensor_data"],
    })
}

async fn live() -> Json<ServerLive> {
    Json(ServerLive { live: true })
}

async fn ready(State(data): State<Data>) -> Response {
    let ready = data.host.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ServerReady { ready, live: true })).into_response()
}

/// The endpoint that a path names, and the variant when it names one.
struct Found {
    answers: Endpoint,
    endpoint: String,
    variant: Option<String>,
}

/// The revision that answers, with what it knows of the request.
struct Taken {
    revision: Arc<LiveRevision>,
    prediction: PredictionId,
    endpoint: String,
    variant: Option<String>,
    exposure: Option<Exposure>,
    attributes: Vec<(String, String)>,
}

fn find(data: &Data, target: &RawPathParams) -> Result<Found, RequestError> {
    let part = |part| target.iter().find_map(|(name, value)| (name == part).then_some(value));
    let endpoint = part("endpoint").unwrap_or_default();
    let answers = data.host.endpoint(endpoint)?;
    let variant = part("variant").map(str::to_owned);
    Ok(Found { answers, endpoint: endpoint.to_owned(), variant })
}

async fn metadata(State(data): State<Data>, target: RawPathParams) -> Response {
    let answer = || {
        let Found { answers, endpoint, variant } = find(&data, &target)?;
        let revision = answers.standing()?;
        let metadata = revision.metadata(variant.as_deref())?;
        let platform =
            if metadata.bodies.is_some() { "berth_processor" } else { "onnxruntime_onnx" };
        let mut properties: BTreeMap<String, String> = metadata.parts.into_iter().collect();
        properties.insert("revision".into(), revision.id().into());
        if let Some((takes, answers)) = metadata.bodies {
            properties.insert("invoke:takes".into(), takes.join(", "));
            properties.extend(answers.map(|answers| ("invoke:answers".into(), answers)));
        }
        Ok::<_, RequestError>(Json(ModelMetadata {
            name: endpoint,
            versions: revision.variants().map(ToString::to_string).collect(),
            platform: platform.into(),
            inputs: metadata.inputs,
            outputs: metadata.outputs,
            properties,
        }))
    };
    answer().map_or_else(|problem| refused(&problem), IntoResponse::into_response)
}

async fn model_ready(State(data): State<Data>, target: RawPathParams) -> Response {
    let found = find(&data, &target).and_then(|found| {
        found.answers.standing()?.metadata(found.variant.as_deref())?;
        Ok(found.endpoint)
    });
    match found {
        Ok(name) => Json(ModelReady { name, ready: true }).into_response(),
        Err(problem) => refused(&problem),
    }
}

async fn infer(
    State(data): State<Data>,
    target: RawPathParams,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let found = match find(&data, &target) {
        Ok(found) => found,
        Err(problem) => return refused(&problem),
    };
    let (head, body) = request.into_parts();
    let held = match data.bodies.read(body).await {
        Ok(held) => held,
        Err(problem) => return found.refuse(problem.into_response()),
    };
    let decoded = match decode(&head.headers, &held.bytes) {
        Ok(decoded) => decoded,
        Err(problem) => {
            return found.refuse(error(StatusCode::BAD_REQUEST, &problem.to_string()));
        }
    };
    let InferRequest { id: client_id, parameters, inputs, outputs, binary } = decoded;
    let mut found = match found.take(&head, &parameters) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let incoming = Incoming {
        prediction: found.prediction,
        request_id: id.text(),
        variant: found.variant.clone(),
        body: Body::Tensors(inputs),
        outputs,
        attributes: mem::take(&mut found.attributes),
        trace_context: text(&head.headers, "traceparent"),
        wants_tensors: true,
        exposure: found.exposure.take(),
    };
    let outcome = found.revision.answer(incoming).await;
    let form = Form { tensors: true, id: client_id.as_deref(), binary: &binary };
    found.reply(&data.bodies, outcome, form)
}

async fn invoke(
    State(data): State<Data>,
    target: RawPathParams,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let found = match find(&data, &target) {
        Ok(found) => found,
        Err(problem) => return refused(&problem),
    };
    let (head, body) = request.into_parts();
    let held = match data.bodies.read(body).await {
        Ok(held) => held,
        Err(problem) => return found.refuse(problem.into_response()),
    };
    let mut found = match found.take(&head, &Map::new()) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let incoming = Incoming {
        prediction: found.prediction,
        request_id: id.text(),
        variant: found.variant.clone(),
        body: Body::Bytes {
            content_type: text(&head.headers, "content-type"),
            bytes: held.bytes.clone(),
        },
        outputs: Vec::new(),
        attributes: mem::take(&mut found.attributes),
        trace_context: text(&head.headers, "traceparent"),
        wants_tensors: false,
        exposure: found.exposure.take(),
    };
    let outcome = found.revision.answer(incoming).await;
    let form = Form { tensors: false, id: None, binary: &BinaryOutputs::default() };
    found.reply(&data.bodies, outcome, form)
}

/// Keeps what is said of predictions.
async fn feedback(
    State(data): State<Data>,
    Path(endpoint): Path<String>,
    request: Request,
) -> Response {
    let held = match data.bodies.read(request.into_body()).await {
        Ok(held) => held,
        Err(problem) => return problem.into_response(),
    };
    let said = match decode_feedback(&held.bytes) {
        Ok(said) => said,
        Err((status, problem)) => return error(status, &problem),
    };
    match data.host.feedback(&endpoint, said).await {
        Ok(received) => Json(received).into_response(),
        Err(problem) => refused(&problem),
    }
}

/// The form of an answer.
#[derive(Clone, Copy)]
struct Form<'a> {
    /// Whether it must be tensors.
    tensors: bool,
    /// The client's id of the request.
    id: Option<&'a str>,
    /// Which tensors are answered as they are.
    binary: &'a BinaryOutputs,
}

impl Found {
    /// Finds the revision that answers, which it does from here on, and reads what it declares.
    fn take(self, head: &Parts, parameters: &Map<String, Value>) -> Result<Taken, Box<Response>> {
        let mut read = Reading { head, parameters, query: None };
        let prediction = PredictionId::new();
        let chosen = self.answers.choose(prediction, |source| read.value(source));
        let Chosen { revision, exposure } =
            chosen.map_err(|problem| Box::new(refused(&problem)))?;
        let attributes = read.declared(&revision);
        let Self { endpoint, variant, .. } = self;
        let none = Vec::new();
        let mut taken =
            Taken { revision, prediction, endpoint, variant, exposure, attributes: none };
        match attributes {
            Ok(attributes) => taken.attributes = attributes,
            Err(problem) => {
                return Err(Box::new(taken.sign(refused(&problem), prediction)));
            }
        }
        Ok(taken)
    }

    /// Refuses a request before its revision was chosen.
    fn refuse(self, response: Response) -> Response {
        match self.answers.standing() {
            Ok(revision) => sign(&revision, self.variant.as_deref(), response, PredictionId::new()),
            Err(_) => response,
        }
    }
}

impl Taken {
    /// Turns an outcome into an answer.
    fn reply(&self, bodies: &Bodies, outcome: Outcome<'_>, form: Form<'_>) -> Response {
        let variant = outcome.variant.map_or("", Name::as_str);
        let mut response = match outcome.result {
            Err(problem) => refused(&problem),
            Ok(reply) if form.tensors || !reply.tensors.is_empty() => {
                self.tensors(bodies, &reply, variant, form)
            }
            Ok(reply) => body(bodies, reply),
        };
        if !variant.is_empty() {
            insert(response.headers_mut(), VARIANT, variant);
        }
        self.sign(response, outcome.prediction)
    }

    fn tensors(&self, bodies: &Bodies, reply: &Reply, variant: &str, form: Form<'_>) -> Response {
        let parameters: Map<String, Value> = reply
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        let response = InferResponse {
            model_name: &self.endpoint,
            model_version: Some(variant),
            id: form.id,
            parameters: &parameters,
            outputs: &reply.tensors,
            binary: form.binary,
        };
        // Before it is written: what a small request asks for may be more than there is memory.
        if let Err(problem) = bodies.fits(response.size()) {
            return problem.into_response();
        }
        let Encoded { body, json } = match oip::encode_infer(&response) {
            Ok(encoded) => encoded,
            Err(problem) => return error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
        };
        let body = match bodies.hold(body) {
            Ok(body) => body,
            Err(problem) => return problem.into_response(),
        };
        let kind = |kind| [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
        match json {
            None => (kind("application/json"), body).into_response(),
            Some(json) => {
                let length = [(JSON_LENGTH, HeaderValue::from(json))];
                (kind("application/octet-stream"), length, body).into_response()
            }
        }
    }

    fn sign(&self, response: Response, prediction: PredictionId) -> Response {
        sign(&self.revision, self.variant.as_deref(), response, prediction)
    }
}

/// Says which revision answered, and as which prediction. `asked` is the variant that the client named.
fn sign(
    revision: &LiveRevision,
    asked: Option<&str>,
    mut response: Response,
    prediction: PredictionId,
) -> Response {
    insert(response.headers_mut(), REVISION, revision.id());
    if !response.headers().contains_key(VARIANT) {
        // None was chosen; the one asked for, or the only one, is the one that refuses.
        let mut variants = revision.variants().map(|name| name.as_str());
        let variant = match asked {
            Some(asked) => variants.find(|variant| *variant == asked),
            None => variants.next().filter(|_| variants.next().is_none()),
        };
        if let Some(variant) = variant {
            insert(response.headers_mut(), VARIANT, variant);
        }
    }
    // Hexadecimal digits are a header value.
    if let Ok(prediction) = HeaderValue::try_from(prediction.text()) {
        response.headers_mut().insert(PREDICTION, prediction);
    }
    response
}

fn body(bodies: &Bodies, reply: Reply) -> Response {
    let bytes = match <[Bytes; 1]>::try_from(reply.parts) {
        Ok([bytes]) => bytes,
        Err(parts) => {
            let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            for part in parts {
                whole.extend_from_slice(&part);
            }
            whole.freeze()
        }
    };
    let content_type = reply.content_type.as_deref().unwrap_or("application/octet-stream");
    let mut response = match bodies.hold(bytes) {
        Ok(bytes) => bytes.into_response(),
        Err(problem) => return problem.into_response(),
    };
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    for (name, value) in &reply.parameters {
        // The host has checked what a plugin gave.
        if let Ok(name) = HeaderName::try_from(format!("berth-{name}")) {
            insert(response.headers_mut(), name, value);
        }
    }
    response
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Names and ids are plain ASCII, and the host has checked what a plugin gave.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn refused(problem: &RequestError) -> Response {
    error(request_status(problem), &problem.to_string())
}

/// Decodes a body. One that takes longer than other requests should wait leaves the thread to
/// somebody else first.
fn decode(headers: &HeaderMap, body: &Bytes) -> Result<InferRequest, OipError> {
    let json = match headers.get(JSON_LENGTH) {
        None => body.len(),
        Some(length) => {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            length.filter(|&length| length > 0).ok_or_else(|| {
                let problem = "Inference-Header-Content-Length must be how many bytes of the body are \
                               JSON, at least 1";
                OipError::Request(problem.into())
            })?
        }
    };
    if json < LARGE {
        return oip::decode_infer(body, json);
    }
    tokio::task::block_in_place(|| oip::decode_infer(body, json))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Where the values of attributes are.
struct Reading<'a> {
    head: &'a Parts,
    parameters: &'a Map<String, Value>,
    query: Option<HashMap<String, String>>,
}

impl Reading<'_> {
    /// The value from one source, if the request has it.
    fn value(&mut self, source: &AttributeSource) -> Result<Option<String>, RequestError> {
        Ok(match source {
            AttributeSource::Header(header) => text(&self.head.headers, header),
            AttributeSource::Query(key) => {
                if self.query.is_none() {
                    self.query = Some(read_query(self.head)?);
                }
                self.query.as_ref().and_then(|query| query.get(key).cloned())
            }
            AttributeSource::Parameter(key) => self.parameters.get(key).map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            }),
        })
    }

    /// The values of the declared attributes that the request has.
    fn declared(&mut self, revision: &LiveRevision) -> Result<Vec<(String, String)>, RequestError> {
        let mut found = Vec::with_capacity(revision.attributes().len());
        for (name, source) in revision.attributes() {
            let Some(value) = self.value(source)? else { continue };
            if value.len() > ATTRIBUTE {
                return Err(RequestError::Invalid(format!(
                    "attribute {:?} has {} bytes, the most is {ATTRIBUTE}",
                    name.as_str(),
                    value.len()
                )));
            }
            found.push((name.as_str().to_owned(), value));
        }
        Ok(found)
    }
}

fn read_query(head: &Parts) -> Result<HashMap<String, String>, RequestError> {
    match Query::try_from_uri(&head.uri) {
        Ok(Query(query)) => Ok(query),
        Err(problem) => Err(RequestError::Invalid(format!("the query: {problem}"))),
    }
}
