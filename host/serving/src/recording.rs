//! What of a request is recorded.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use berth_monitor::predictions::{
    BODY, Content, Declared, Filter, Prediction, PredictionsSpec, Recorder,
};
use berth_plugin::{Body, Reply, Request, Times, unit_hash};
use berth_store::Said;
use berth_tensor::{Name, TensorType};
use bytes::BytesMut;
use serde_json::{Map, Value};

use crate::ended::Ended;
use crate::error::{ControlError, RequestError};
use crate::host::Host;
use crate::live::{LiveRevision, LiveVariant, Way};
use crate::rolling::ARMS;
use crate::spec::SpecError;
use crate::view::no_endpoint;

/// Where a revision's predictions are recorded, and what of them.
pub(crate) struct Recording {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) declared: Arc<Declared>,
}

impl Recording {
    /// Records what these variants answer, as `spec` says.
    pub(crate) fn new(
        recorder: &Arc<Recorder>,
        spec: &PredictionsSpec,
        variants: &[LiveVariant],
    ) -> Self {
        let [inputs, outputs] = [Way::inputs, Way::outputs].map(|types| {
            let all = || variants.iter().flat_map(|variant| types(&variant.way));
            // One that some have with another datatype has a column once a row has it.
            let one = |ty: &&TensorType| {
                all().all(|other| other.name != ty.name || other.datatype == ty.datatype)
            };
            all().filter(one).map(|ty| (ty.name.clone(), ty.datatype)).collect::<Vec<_>>()
        });
        let declared = Declared::new(spec.clone(), &inputs, &outputs);
        Self { recorder: Arc::clone(recorder), declared: Arc::new(declared) }
    }

    /// Whether a prediction is in the share that is recorded, by what chance it had.
    fn takes(&self, chance: u64) -> bool {
        self.declared.spec.share.is_none_or(|share| {
            // Apart from the hash that draws its arm.
            let hash = unit_hash("predictions", None, chance);
            ((hash >> 11) as f64) < share * (1_u64 << 53) as f64
        })
    }
}

impl Host {
    /// What of an endpoint's predictions is recorded, or was before, and its declared slices.
    pub(crate) fn recorded(
        &self,
        name: &Name,
    ) -> Result<(PredictionsSpec, Vec<String>), ControlError> {
        let record = self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        let live = record.live.unwrap_or(record.applied);
        let slices = self.revision(live)?.slices;
        for known in [live, record.applied].iter().chain(&record.earlier) {
            if let Some(spec) = self.revision(*known)?.predictions {
                return Ok((spec, slices));
            }
        }
        match self.recorder().oldest_ms(name.as_str()) {
            Some(_) => Ok((PredictionsSpec::default(), slices)),
            None => Err(ControlError::Conflict(format!(
                "endpoint {name} records no predictions, so none can be told from another: put [predictions] in its file and apply it"
            ))),
        }
    }

    /// Shows predictions of an endpoint, latest first, with what was said of them, until `visit` has had
    /// enough. Blocks.
    pub fn predictions(
        &self,
        name: &Name,
        filter: &Filter,
        mut visit: impl FnMut(&Map<String, Value>) -> ControlFlow<()>,
    ) -> Result<(), ControlError> {
        let mut failed = None;
        self.recorder().query(name.as_str(), filter, |id, mut row| {
            match self.store().feedback().between(name.as_str(), id, id) {
                Ok(known) => row.extend(known.into_iter().map(|known| match known.said {
                    Said::Reward(reward) => ("reward".to_owned(), reward.into()),
                    Said::Label(label) => ("label".to_owned(), label.into()),
                })),
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            visit(&row)
        })?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl LiveRevision {
    /// Refuses names among what is recorded that name nothing.
    pub(crate) fn check_recorded(&self) -> Result<(), SpecError> {
        let Some(Recording { declared, .. }) = &self.recording else { return Ok(()) };
        let PredictionsSpec { inputs, outputs, redact, prediction, score, .. } = &declared.spec;
        let ways = || self.variants.iter().map(|variant| &variant.way);
        let [takes, answers] = [Way::inputs, Way::outputs].map(|types| {
            ways().flat_map(types).map(|ty| ty.name.as_str()).collect::<BTreeSet<&str>>()
        });
        // Who says nothing of what it takes or answers may take or answer any.
        let input = |name: &str| takes.contains(name) || !ways().all(Way::says_inputs);
        let output = |name: &str| answers.contains(name) || !ways().all(Way::says_outputs);
        let field = |name: &str| name.starts_with('/');
        let part = |name: &str| field(name) || name == BODY;
        let attribute =
            |name: &str| self.attributes.iter().any(|(known, _)| known.as_str() == name);
        let some = |body: &str, names: &BTreeSet<&str>| {
            let names = names.iter().map(|name| format!(", {name:?}")).collect::<String>();
            format!("give {body}{names}")
        };
        let whole = "\"body\", a field of it such as \"/user/id\"";
        check_names(
            "inputs",
            inputs.names(),
            |name| part(name) || input(name),
            || some(whole, &takes),
        )?;
        check_names(
            "outputs",
            outputs.names(),
            |name| part(name) || output(name),
            || some(whole, &answers),
        )?;
        for (key, place) in [("prediction", prediction), ("score", score)] {
            let given = || some("a field of the body such as \"/label\"", &answers);
            check_names(key, place.as_slice(), |name| field(name) || output(name), given)?;
        }
        let known = |name: &str| {
            name == "predicted" || part(name) || attribute(name) || input(name) || output(name)
        };
        let given = || {
            format!(
                "give \"predicted\", {whole}, or the name of an attribute, an input or an output"
            )
        };
        check_names("redact", redact, known, given)
    }

    /// Hands a request over that came to its end, if it is to be recorded.
    pub(crate) fn record(&self, ended: &Ended<'_>) {
        let Some(Recording { recorder, declared }) =
            self.recording.as_ref().filter(|recording| recording.takes(ended.prediction.chance()))
        else {
            return;
        };
        let (request, spec) = (&**ended.request, &declared.spec);
        let unit = self.unit.as_ref().filter(|unit| !spec.redact.contains(unit.as_str()));
        // What was predicted is looked for in all of the answer.
        let answer = ended.result.as_ref().ok();
        let (inputs, outputs) =
            (if spec.inputs.is_none() { Vec::new() } else { sent(request) }, answer.map(answered));
        let prediction = Prediction {
            id: ended.prediction.number(),
            request: request.id.clone(),
            endpoint: self.endpoint.as_str().to_owned(),
            revision: self.id.clone(),
            variant: self.variants[ended.answered].name.as_str().to_owned(),
            drawn: (!ended.direct).then(|| self.variants[ended.drawn.arm].name.as_str().to_owned()),
            arm: ended.exposure.map(|exposure| ARMS[exposure.at.arm].to_owned()),
            propensity: (!ended.direct).then(|| ended.propensity()),
            reason: if ended.direct { "direct".into() } else { ended.drawn.reason.clone() },
            unit: unit.and_then(|unit| request.attribute(unit.as_str())).map(str::to_owned),
            unit_hash: ended.unit,
            slices: ended.slices,
            attributes: request.attributes.clone(),
            latency: ended.latency,
            times: self.variants[ended.answered].way.has_processor().then(|| {
                let Times { cpu, models } = request.reports.times();
                [cpu, models]
            }),
            status: ended.result.as_ref().err().map_or("ok", RequestError::reason),
            error: ended.result.as_ref().err().map(ToString::to_string),
            inputs,
            outputs: outputs.unwrap_or_default(),
            predicted: None,
            score: None,
        };
        recorder.record(prediction, request.body.bytes(), declared);
    }
}

fn check_names<'a>(
    key: &str,
    names: impl IntoIterator<Item = &'a String>,
    known: impl Fn(&str) -> bool,
    give: impl Fn() -> String,
) -> Result<(), SpecError> {
    match names.into_iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => {
            let problem = format!("there is no {name:?}: {}", give());
            Err(SpecError::new(format!("predictions.{key}"), problem))
        }
    }
}

fn sent(request: &Request) -> Vec<Content> {
    match &request.body {
        Body::Bytes { content_type, bytes } => {
            vec![Content::Body { content_type: content_type.clone(), bytes: bytes.clone() }]
        }
        Body::Tensors(tensors) => tensors.iter().cloned().map(Content::Tensor).collect(),
    }
}

/// What was answered, as it is recorded.
pub(crate) fn answered(reply: &Reply) -> Vec<Content> {
    let mut contents: Vec<Content> = reply.tensors.iter().cloned().map(Content::Tensor).collect();
    if !reply.parts.is_empty() {
        let bytes = match &reply.parts[..] {
            [only] => only.clone(),
            parts => parts
                .iter()
                .fold(BytesMut::new(), |mut whole, part| {
                    whole.extend_from_slice(part);
                    whole
                })
                .freeze(),
        };
        contents.push(Content::Body { content_type: reply.content_type.clone(), bytes });
    }
    contents
}
