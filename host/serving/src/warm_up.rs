//! The request that every variant answers before a revision takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_inference::InferenceError;
use berth_plugin::{Body, CallError, Reports, Request};
use berth_store::Store;
use berth_tensor::{Digest, NamedTensor};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::ControlError;
use crate::live::{LiveRevision, LiveVariant, PredictionId, Processing, Way};
use crate::spec::{SpecError, asset_digest};

/// The key of the endpoint file.
const KEY: &str = "warm_up";

/// How long an answer may take, where the endpoint grants no more: a first run allocates, and a device
/// compiles, what later ones find.
const TIME: Duration = Duration::from_secs(30);

/// Reads the body of an inference request: its inputs, and the outputs that it asks for.
pub type ReadInfer = fn(&Bytes) -> Result<(Vec<NamedTensor>, Vec<String>), String>;

/// A request that every variant answers before a revision takes over: the body of one of the data port's
/// two routes, in a file that is an asset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// The file with the body of an inference request. In an endpoint file this is a path beside it; the
    /// command line uploads it and puts its digest here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    infer: Option<String>,
    /// The same, with any body for the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invoke: Option<String>,
    /// The media type of what is invoked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
}

impl WarmUp {
    /// The file, and the key that names it.
    pub fn file(&mut self) -> Option<(&'static str, &mut String)> {
        let infer = self.infer.as_mut().map(|file| ("warm_up.infer", file));
        infer.or(self.invoke.as_mut().map(|file| ("warm_up.invoke", file)))
    }

    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let problem = match (&self.infer, &self.invoke, &self.content_type) {
            (Some(_), None, None) | (None, Some(_), _) => return Ok(()),
            (Some(_), None, Some(_)) => "content_type goes with invoke",
            (Some(_), Some(_), _) => "give infer or invoke, not both",
            (None, None, _) => {
                "give the file of a request: { infer = \"request.json\" } or { invoke = \"picture.jpg\", content_type = \"image/jpeg\" }"
            }
        };
        Err(SpecError::new(KEY, problem))
    }

    /// The digest of the file.
    pub(crate) fn digest(&self) -> Result<Digest, SpecError> {
        let file = self.infer.as_ref().or(self.invoke.as_ref());
        asset_digest(KEY, file.map_or("", String::as_str))
    }

    /// Reads the request from the store. Blocks.
    pub(crate) fn sample(
        &self,
        store: &Store,
        read_infer: ReadInfer,
    ) -> Result<Sample, ControlError> {
        let bytes = Bytes::from(store.blob_read(&self.digest()?)?);
        if self.infer.is_none() {
            let body = Body::Bytes { content_type: self.content_type.clone(), bytes };
            return Ok(Sample { body, outputs: Vec::new() });
        }
        let (inputs, outputs) =
            read_infer(&bytes).map_err(|problem| SpecError::new("warm_up.infer", problem))?;
        Ok(Sample { body: Body::Tensors(inputs), outputs })
    }
}

/// The request, as the rim would hand it on.
pub(crate) struct Sample {
    body: Body,
    outputs: Vec<String>,
}

impl LiveRevision {
    /// Has every variant answer the request as it would a client's; the endpoint's metrics do not count it.
    pub(crate) async fn answer_all(&self, sample: &Sample) -> Result<(), ControlError> {
        for variant in &self.variants {
            match self.answers(variant, sample).await {
                Ok(()) => {}
                Err(CallError::Overloaded) => {
                    return Err(ControlError::Conflict(CallError::Overloaded.to_string()));
                }
                Err(error) => {
                    let problem = format!("variant {} does not answer it: {error}", variant.name);
                    return Err(SpecError::new(KEY, problem).into());
                }
            }
        }
        Ok(())
    }

    async fn answers(&self, variant: &LiveVariant, sample: &Sample) -> Result<(), CallError> {
        let deadline = Instant::now() + self.timeout.max(TIME);
        match (&variant.way, &sample.body) {
            (Way::Model(model), Body::Tensors(inputs)) => {
                let ran = model.run(inputs, &sample.outputs, deadline).await;
                ran.map(drop).map_err(|error| match error {
                    InferenceError::Overloaded => CallError::Overloaded,
                    InferenceError::Timeout => CallError::Timeout,
                    error => CallError::Caller(error.to_string()),
                })
            }
            (Way::Model(_), Body::Bytes { .. }) => Err(CallError::Caller(
                "it has no processor, so it takes tensors: give them as warm_up.infer".to_owned(),
            )),
            (Way::Processor(processing), body) => {
                let request = Arc::new(Request {
                    id: KEY.to_owned(),
                    prediction: PredictionId::new().text(),
                    body: body.clone(),
                    outputs: sample.outputs.clone(),
                    attributes: Vec::new(),
                    trace_context: None,
                    reports: Reports::default(),
                });
                let wants_tensors = matches!(body, Body::Tensors(_));
                let called = self.call(processing, &request, wants_tensors, deadline).await;
                called.map(drop).inspect_err(|error| self.stopped(processing, error))
            }
        }
    }

    fn stopped(&self, Processing { sink, .. }: &Processing, error: &CallError) {
        sink.count_stop(error);
        if let CallError::Trap(trap) = error {
            sink.stopped_at_apply(error, trap, &self.id);
        }
    }
}
