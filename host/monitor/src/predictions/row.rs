//! A prediction as it is recorded.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_tensor::{DataType, NamedTensor, Tensor};
use bytes::Bytes;
use serde_json::Value;

use super::fields;
use super::spec::{Kept, PredictionsSpec};

/// What a field of a body is called: among what is recorded and what is redacted.
pub const BODY: &str = "body";

/// What a connection's buffer is not much larger than, in bytes.
const BUFFER: usize = 256 << 10;

/// A prediction that came to its end.
#[derive(Clone, Debug, Default)]
pub struct Prediction {
    /// Its id, a UUID version 7.
    pub id: u128,
    /// The client's id of the request.
    pub request: String,
    /// The endpoint.
    pub endpoint: String,
    /// The id of the revision that answered.
    pub revision: String,
    /// The variant that answered.
    pub variant: String,
    /// The variant that was drawn, and had a fallback answer where it could not; none when the client
    /// chose.
    pub drawn: Option<String>,
    /// The arm of the rollout that it was drawn for, when there was one.
    pub arm: Option<String>,
    /// The probability with which revision and variant were drawn; none when the client chose.
    pub propensity: Option<f64>,
    /// Why a router chose so; empty when it gave no reason.
    pub reason: String,
    /// The value of the endpoint's unit.
    pub unit: Option<String>,
    /// The hash by which its unit is counted.
    pub unit_hash: Option<u64>,
    /// The declared slices that it is in, a bit each.
    pub slices: u16,
    /// The values of declared attributes.
    pub attributes: Vec<(String, String)>,
    /// From the decoded request to its answer.
    pub latency: Duration,
    /// Of that on a core in the processor, and waiting for models; none without a processor.
    pub times: Option<[Duration; 2]>,
    /// `ok`, or why there was no answer.
    pub status: &'static str,
    /// What the client was told in place of an answer.
    pub error: Option<String>,
    /// What was sent.
    pub inputs: Vec<Content>,
    /// What was answered.
    pub outputs: Vec<Content>,
    /// What was predicted, for comparison with labels.
    pub predicted: Option<String>,
    /// How sure it was, for the ROC AUC; or for numbers, the number.
    pub score: Option<f64>,
}

/// What was sent, or what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Input,
    Output,
}

impl Side {
    /// What its columns begin with.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// A part of what was sent or answered.
#[derive(Clone, Debug)]
pub enum Content {
    /// A tensor.
    Tensor(NamedTensor),
    /// A body.
    Body {
        /// Its media type.
        content_type: Option<String>,
        /// The content.
        bytes: Bytes,
    },
    /// A field of a body of JSON: text as it is, anything else as JSON.
    Field {
        /// Where it is, such as `/a/0/b`.
        name: String,
        /// What it is.
        text: String,
    },
}

impl Content {
    /// The tensor's or field's name; of a body, `body`.
    pub fn name(&self) -> &str {
        match self {
            Self::Tensor(named) => &named.name,
            Self::Body { .. } => BODY,
            Self::Field { name, .. } => name,
        }
    }

    /// The tensor's data, the body, or the field.
    fn data(&self) -> &[u8] {
        match self {
            Self::Tensor(named) => named.tensor.data(),
            Self::Body { bytes, .. } => bytes,
            Self::Field { text, .. } => text.as_bytes(),
        }
    }

    /// Takes it out of what else it arrived with.
    fn apart(&mut self) {
        match self {
            Self::Tensor(NamedTensor { tensor, .. }) => {
                let data = Bytes::copy_from_slice(tensor.data());
                if let Ok(copy) = Tensor::new(tensor.datatype(), tensor.shape().to_vec(), data) {
                    *tensor = copy;
                }
            }
            Self::Body { bytes, .. } => *bytes = Bytes::copy_from_slice(bytes),
            Self::Field { .. } => {}
        }
    }
}

impl Prediction {
    /// What it takes in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + value.len() + 48);
        let contents = self
            .inputs
            .iter()
            .chain(&self.outputs)
            .map(|part| part.data().len() + part.name().len() + 96);
        512 + self.error.as_ref().map_or(0, String::len)
            + self.reason.len()
            + attributes.sum::<usize>()
            + contents.sum::<usize>()
    }

    /// Has it hold little more than its size, where `sent` bytes came with its request: what came in one
    /// piece holds the buffer of its connection, and an answer that is an input all inputs.
    pub(crate) fn take_apart(&mut self, sent: usize) {
        let inputs = self.inputs.iter_mut().map(|part| (part, BUFFER));
        let outputs = self.outputs.iter_mut().map(|part| (part, BUFFER.max(sent / 2)));
        for (part, below) in inputs.chain(outputs) {
            if part.data().len() < below {
                part.apart();
            }
        }
    }

    /// Leaves what the endpoint declares, once what was predicted is known.
    pub(crate) fn keep(&mut self, spec: &PredictionsSpec) {
        if self.error.is_none() {
            self.predicted = spec.predicted(&self.outputs);
            let score = spec.score.as_deref().and_then(|place| find(Some(place), &self.outputs));
            self.score = score.and_then(|score| score.parse().ok());
        }
        let redacted = |name: &str| spec.redact.contains(name);
        let hidden = |place: &Option<String>| {
            place
                .as_ref()
                .is_some_and(|place| redacted(place) || fields::hides(&spec.redact, place))
        };
        if redacted("predicted") || hidden(&spec.prediction) {
            self.predicted = None;
        }
        if hidden(&spec.score) {
            self.score = None;
        }
        for (side, parts) in [(Side::Input, &mut self.inputs), (Side::Output, &mut self.outputs)] {
            *parts = spec.with_fields(side, std::mem::take(parts));
            let (kept, before) = (spec.kept(side), parts.len());
            parts.retain(|part| keeps(kept, part, &spec.redact));
            if parts.len() < before {
                parts.iter_mut().for_each(Content::apart);
            }
        }
        self.attributes.retain(|(name, _)| !redacted(name));
    }
}

fn keeps(kept: &Kept, part: &Content, redact: &BTreeSet<String>) -> bool {
    let kept = match kept {
        Kept::None => false,
        Kept::Tensors => matches!(part, Content::Tensor(_)),
        // Of fields there are only those that are named.
        Kept::Names(names) => names.iter().any(|name| name == part.name()),
    };
    kept && !redact.contains(part.name())
}

impl PredictionsSpec {
    /// What an answer predicts.
    pub fn predicted(&self, outputs: &[Content]) -> Option<String> {
        find(self.prediction.as_deref(), outputs)
    }

    /// What was answered, with the fields of a body that are named and without those that are redacted.
    pub fn answered(&self, outputs: Vec<Content>) -> Vec<Content> {
        self.with_fields(Side::Output, outputs)
    }

    fn with_fields(&self, side: Side, parts: Vec<Content>) -> Vec<Content> {
        let whole = self.redact.contains(BODY);
        let named = if whole { &[] } else { self.kept(side).names() };
        let mut told = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Content::Body { content_type, bytes } => {
                    let read = fields::read(named, &self.redact, content_type.as_deref(), bytes);
                    let fields = read.fields.into_iter();
                    told.extend(fields.map(|(name, text)| Content::Field { name, text }));
                    told.extend(read.body.map(|bytes| Content::Body { content_type, bytes }));
                }
                part => told.push(part),
            }
        }
        told
    }
}

/// The value at a place of an answer: `/a/0/b` in a body of JSON, else an output by its name, whose
/// only element it is or the place of the greatest. Without a place, of the only output.
fn find(place: Option<&str>, outputs: &[Content]) -> Option<String> {
    if let Some(pointer) = place.filter(|place| place.starts_with('/')) {
        return outputs.iter().find_map(|part| match part {
            Content::Body { bytes, .. } => {
                let body: Value = serde_json::from_slice(bytes).ok()?;
                text(body.pointer(pointer)?)
            }
            Content::Tensor(_) | Content::Field { .. } => None,
        });
    }
    let mut tensors = outputs.iter().filter_map(|part| match part {
        Content::Tensor(named) => Some(named),
        Content::Body { .. } | Content::Field { .. } => None,
    });
    let found = match place {
        Some(name) => tensors.find(|named| named.name == name)?,
        None => tensors.next().filter(|_| tensors.next().is_none())?,
    };
    element(&found.tensor)
}

/// A value of JSON as it is compared: text as it is, whole numbers without a fraction.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => (float as i64).to_string(),
            _ => number.to_string(),
        }),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The only element of a tensor, or the place of the greatest of several.
fn element(tensor: &Tensor) -> Option<String> {
    if tensor.datatype() == DataType::Bytes {
        let mut strings = tensor.byte_strings();
        let only = strings.next().filter(|_| strings.next().is_none())?;
        return Some(String::from_utf8_lossy(only).into_owned());
    }
    let values: Vec<f64> = tensor.numbers().collect();
    match values[..] {
        [] => None,
        [only] if tensor.datatype() == DataType::Bool => Some((only != 0.0).to_string()),
        [only] => text(&Value::from(only)),
        _ => {
            let best = (1..values.len()).fold(
                0,
                |best, at| {
                    if values[at] > values[best] { at } else { best }
                },
            );
            Some(best.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_holds_little_more_than_itself() {
        const MIB: usize = 1 << 20;
        let part = |whole: &Bytes, bytes: usize| {
            let data = whole.slice(..bytes);
            let tensor = Tensor::new(DataType::Uint8, vec![bytes as u64], data).unwrap();
            Content::Tensor(NamedTensor { name: "x".into(), tensor })
        };
        let body = Bytes::from(vec![0; 9 * MIB]);
        // What was sent, what is kept of it and of the answer, and whether that is a copy.
        for (sent, input, output, copied) in [
            (9 * MIB, 5 * MIB, 5 * MIB, [false, false]),
            (9 * MIB, 5 * MIB, 4 * MIB, [false, true]),
            (MIB / 8, MIB / 8, MIB / 16, [true, true]),
        ] {
            let (inputs, outputs) = (vec![part(&body, input)], vec![part(&body, output)]);
            let mut row = Prediction { inputs, outputs, ..Prediction::default() };
            row.take_apart(sent);
            let is_copy = |part: &Content| part.data().as_ptr() != body.as_ptr();
            assert_eq!([is_copy(&row.inputs[0]), is_copy(&row.outputs[0])], copied, "{input}");
            assert_eq!([row.inputs[0].data().len(), row.outputs[0].data().len()], [input, output]);
        }
    }
}
