//! JSON in, JSON out.

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::session::Model;

/// Answers inference requests of the Open Inference Protocol.
pub struct Tensors {
    model: Model,
}

#[derive(Deserialize)]
struct Request {
    id: Option<String>,
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    data: Vec<f32>,
}

#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: [Output<'a>; 1],
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    shape: &'a [i64],
    datatype: &'a str,
    data: &'a [f32],
}

impl Tensors {
    /// Answers by `model`.
    pub fn new(model: Model) -> anyhow::Result<Self> {
        Ok(Self { model })
    }

    /// The JSON of what the model makes of the one tensor in `body`.
    pub fn infer(&self, model_name: &str, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let wrong = |problem: &str| Failure::Request(problem.to_owned());
        let Request { id, inputs } =
            serde_json::from_slice(body).map_err(|error| Failure::Request(error.to_string()))?;
        let [input] = inputs.as_slice() else { return Err(wrong("one input is taken")) };
        if input.name != self.model.input.0 || input.datatype != "FP32" {
            return Err(wrong("the model has no such input"));
        }
        let fits = |(&have, &want): (&i64, &i64)| want < 0 || have == want;
        let dimensions = &self.model.input.1;
        if input.shape.len() != dimensions.len()
            || !input.shape.iter().zip(dimensions).all(fits)
            || input.shape.iter().product::<i64>() != input.data.len() as i64
        {
            return Err(wrong("the shape does not fit"));
        }
        self.model.run(&input.shape, &input.data, |shape, data| {
            let output = Output { name: &self.model.output.0, shape, datatype: "FP32", data };
            Ok(serde_json::to_vec(&Answer { model_name, id, outputs: [output] })?)
        })?
    }
}
