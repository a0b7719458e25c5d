//! A recorded request again, through another revision or another build of its processor.

use std::sync::Arc;
use std::time::Instant;

use berth_monitor::predictions::{Content, Prediction, PredictionsSpec, show_id};
use berth_plugin::{Body, Reports, Request};
use berth_tensor::{Digest, Name, NamedTensor};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::documents::{Pinned, REVISION, Revision};
use crate::error::{ControlError, RequestError};
use crate::host::Host;
use crate::live::{LiveRevision, PredictionId};
use crate::prepare::{always, blocking};
use crate::recording::answered;
use crate::rolling::Endpoint;

/// The most differences that are told of one output.
const TOLD: usize = 8;

/// What a replay goes through; the live revision where nothing is set.
#[derive(Clone, Debug, Default)]
pub struct ReplayOptions {
    /// The first digits of a revision's id.
    pub revision: Option<String>,
    /// A component that takes the processor's place: a blob.
    pub plugin: Option<Digest>,
    /// The variant, where the one that answered is not there.
    pub variant: Option<String>,
}

/// What a request was answered before, and what now.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// The prediction.
    pub prediction: String,
    /// Its endpoint.
    pub endpoint: String,
    /// As it was recorded.
    pub recorded: Answered,
    /// As it is now.
    pub replayed: Answered,
    /// Whether nothing differs of what can be compared.
    pub same: bool,
    /// What differs, a line each.
    pub differences: Vec<String>,
    /// What cannot be compared, as it was not recorded.
    pub unknown: Vec<String>,
}

/// An answer, in short.
#[derive(Clone, Debug, Serialize)]
pub struct Answered {
    /// The id of the revision.
    pub revision: String,
    /// The variant.
    pub variant: String,
    /// Why there was no answer.
    pub error: Option<String>,
    /// What was predicted.
    pub predicted: Option<String>,
    /// How long it took, in milliseconds.
    pub latency_ms: f64,
}

impl Host {
    /// Runs a recorded request again and compares the answers.
    pub async fn replay(
        self: &Arc<Self>,
        id: u128,
        options: ReplayOptions,
    ) -> Result<Replay, ControlError> {
        let host = Arc::clone(self);
        let recorded = blocking(move || Ok(host.recorder().locate(id)?)).await?;
        let recorded = recorded.ok_or_else(|| {
            ControlError::NotFound(format!(
                "prediction {} is not recorded here: its endpoint records a share of them or none, or it is not kept any more",
                show_id(id)
            ))
        })?;
        let body = body(&recorded)?;
        let endpoint: Name = recorded.endpoint.parse()?;
        let (revision, ready) = self.made_for(&endpoint, &recorded, &options).await?;
        let asked = options.variant.as_deref().unwrap_or(&recorded.variant);
        let variant = ready.variants.iter().find(|variant| variant.name.as_str() == asked);
        let variant = variant.or(match &ready.variants[..] {
            [only] if options.variant.is_none() => Some(only),
            _ => None,
        });
        let variant = variant.ok_or_else(|| {
            let known: Vec<&str> = ready.variants().map(Name::as_str).collect();
            ControlError::NotFound(format!(
                "revision {} has no variant {asked:?}; say which with --variant: {}",
                ready.id,
                known.join(", ")
            ))
        })?;
        let wants_tensors = matches!(body, Body::Tensors(_));
        let request = Arc::new(Request {
            id: recorded.request.clone(),
            prediction: PredictionId::new().text(),
            body,
            outputs: Vec::new(),
            attributes: recorded.attributes.clone(),
            trace_context: None,
            reports: Reports::default(),
        });
        let start = Instant::now();
        let result = ready.run(variant, &request, wants_tensors, start + ready.timeout).await;
        let latency_ms = start.elapsed().as_secs_f64() * 1e3;
        let spec = revision.predictions.clone().unwrap_or_default();
        let outputs = result.as_ref().map(answered);
        let replayed = Answered {
            revision: ready.id.clone(),
            variant: variant.name.as_str().to_owned(),
            error: result.as_ref().err().map(RequestError::to_string),
            predicted: outputs.as_ref().ok().and_then(|outputs| spec.predicted(outputs)),
            latency_ms,
        };
        let declared = self.revision_of(&endpoint, &recorded.revision);
        let declared = declared.and_then(|digest| self.revision(digest)).ok();
        let declared = declared.and_then(|revision| revision.predictions).unwrap_or_default();
        let outputs = declared.answered(outputs.unwrap_or_default());
        Ok(compared(recorded, replayed, outputs, &spec))
    }

    /// The revision to replay through: the one that answers, or made ready for this.
    async fn made_for(
        self: &Arc<Self>,
        endpoint: &Name,
        recorded: &Prediction,
        options: &ReplayOptions,
    ) -> Result<(Revision, Arc<LiveRevision>), ControlError> {
        let live = self.snapshot.load().live.get(endpoint).map(Endpoint::revisions);
        let live = live.unwrap_or_default();
        let digest = match &options.revision {
            Some(id) => self.revision_of(endpoint, id)?,
            None => live.first().map(|live| live.digest).ok_or_else(|| {
                ControlError::Conflict(format!(
                    "endpoint {endpoint} has no live revision: say which with --revision"
                ))
            })?,
        };
        let mut revision = self.revision(digest)?;
        if let Some(plugin) = options.plugin {
            let asked = options.variant.as_deref().unwrap_or(&recorded.variant);
            let only = revision.variants.len() == 1;
            let variant =
                revision.variants.iter_mut().find(|variant| only || variant.name.as_str() == asked);
            if let Some(variant) = variant {
                let name = match &variant.processor {
                    Some(processor) => processor.name.clone(),
                    None => endpoint.clone(),
                };
                variant.processor = Some(Pinned { name, version: 0, digest: plugin });
            }
        } else if let Some(live) = live.into_iter().find(|live| live.digest == digest) {
            return Ok((revision, live));
        }
        let ready = self.workshop.prepare(&revision, None, &always()).await?;
        Ok((revision, Arc::new(ready)))
    }

    fn revision_of(&self, endpoint: &Name, id: &str) -> Result<Digest, ControlError> {
        let plain = id.len() >= 6 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        let known = match plain {
            true => self.store().list(REVISION, id)?,
            false => Vec::new(),
        };
        let digests = known.iter().filter_map(|(key, _)| key.parse::<Digest>().ok());
        let mut of = digests.filter(|digest| {
            self.revision(*digest).is_ok_and(|revision| revision.endpoint == *endpoint)
        });
        of.next().ok_or_else(|| {
            ControlError::NotFound(format!(
                "endpoint {endpoint} has no revision {id}: give the first six digits or more, as its history shows them"
            ))
        })
    }
}

fn body(recorded: &Prediction) -> Result<Body, ControlError> {
    let mut tensors = Vec::new();
    for part in &recorded.inputs {
        match part {
            Content::Body { content_type, bytes } => {
                let (content_type, bytes) = (content_type.clone(), bytes.clone());
                return Ok(Body::Bytes { content_type, bytes });
            }
            Content::Tensor(named) => tensors.push(named.clone()),
            Content::Field { .. } => {}
        }
    }
    match tensors.is_empty() {
        false => Ok(Body::Tensors(tensors)),
        true => Err(ControlError::Conflict(format!(
            "what was sent for prediction {} was not recorded: inputs = \"tensors\" or inputs = [\"body\"] under [predictions] in the file of {} records it from then on",
            show_id(recorded.id),
            recorded.endpoint
        ))),
    }
}

fn compared(
    recorded: Prediction,
    replayed: Answered,
    outputs: Vec<Content>,
    spec: &PredictionsSpec,
) -> Replay {
    let (mut differences, mut unknown) = (Vec::new(), Vec::new());
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
    if recorded.error != replayed.error {
        let (before, now) = (shown(&recorded.error), shown(&replayed.error));
        differences.push(format!("error: {before} -> {now}"));
    }
    if recorded.error.is_none() && replayed.error.is_none() {
        if spec.prediction.is_some() && recorded.predicted != replayed.predicted {
            let (before, now) = (shown(&recorded.predicted), shown(&replayed.predicted));
            differences.push(format!("predicted: {before} -> {now}"));
        }
        for now in &outputs {
            let before = recorded.outputs.iter().find(|before| before.name() == now.name());
            match before {
                None => unknown.push(now.name().to_owned()),
                Some(before) => differences.extend(difference(before, now)),
            }
        }
        let gone = recorded
            .outputs
            .iter()
            .filter(|before| !outputs.iter().any(|now| now.name() == before.name()));
        differences.extend(gone.map(|before| format!("{}: not answered now", before.name())));
    }
    Replay {
        prediction: show_id(recorded.id),
        endpoint: recorded.endpoint,
        recorded: Answered {
            revision: recorded.revision,
            variant: recorded.variant,
            error: recorded.error,
            predicted: recorded.predicted,
            latency_ms: recorded.latency.as_secs_f64() * 1e3,
        },
        replayed,
        same: differences.is_empty(),
        differences,
        unknown,
    }
}

fn difference(before: &Content, now: &Content) -> Vec<String> {
    let name = now.name();
    match (before, now) {
        (Content::Tensor(before), Content::Tensor(now)) => of_tensors(name, before, now),
        (Content::Body { bytes: before, .. }, Content::Body { bytes: now, .. }) => {
            of_bodies(name, before, now)
        }
        (Content::Field { text: before, .. }, Content::Field { text: now, .. }) => {
            if before == now { Vec::new() } else { vec![format!("{name}: {before} -> {now}")] }
        }
        _ => vec![format!("{name}: of another kind")],
    }
}

fn of_tensors(name: &str, before: &NamedTensor, now: &NamedTensor) -> Vec<String> {
    let (before, now) = (&before.tensor, &now.tensor);
    if before == now {
        return Vec::new();
    }
    if (before.datatype(), before.shape()) != (now.datatype(), now.shape()) {
        return vec![format!(
            "{name}: {} {:?} -> {} {:?}",
            before.datatype(),
            before.shape(),
            now.datatype(),
            now.shape()
        )];
    }
    let [old, new] = [before, now].map(|tensor| tensor.numbers().collect::<Vec<_>>());
    let pairs = old.iter().zip(&new).enumerate().filter(|(_, (old, new))| old != new);
    let (mut count, mut most) = (0, (0, 0.0));
    for (at, (old, new)) in pairs {
        count += 1;
        let apart = (old - new).abs();
        if apart > most.1 || apart.is_nan() {
            most = (at, apart);
        }
    }
    match (old.get(most.0), new.get(most.0)) {
        (Some(before), Some(now)) if count > 0 => vec![format!(
            "{name}: {count} of {} elements, most at {}: {before} -> {now}",
            old.len(),
            most.0
        )],
        _ => vec![format!("{name}: other bytes")],
    }
}

fn of_bodies(name: &str, before: &Bytes, now: &Bytes) -> Vec<String> {
    if before == now {
        return Vec::new();
    }
    let json = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).ok();
    let (Some(old), Some(new)) = (json(before), json(now)) else {
        return vec![format!("{name}: {} bytes -> {} other bytes", before.len(), now.len())];
    };
    let mut lines = Vec::new();
    of_json(name, &old, &new, &mut lines);
    if lines.len() > TOLD {
        let more = lines.len() - TOLD;
        lines.truncate(TOLD);
        lines.push(format!("{name}: and {more} more"));
    }
    lines
}

fn of_json(at: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                let now = new.get(key).unwrap_or(&Value::Null);
                of_json(&format!("{at}/{key}"), value, now, lines);
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                of_json(&format!("{at}/{key}"), &Value::Null, value, lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (place, (old, new)) in old.iter().zip(new).enumerate() {
                of_json(&format!("{at}/{place}"), old, new, lines);
            }
        }
        (old, new) if old == new => {}
        (old, new) => lines.push(format!("{at}: {old} -> {new}")),
    }
}
