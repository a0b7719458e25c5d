//! Inference over `wasi:nn`.

use crate::bindings::processor::wasi::nn;
use crate::{Error, Tensor, Tensors};

/// A model bound to a role of the variant, reached over the standard interface `wasi:nn`.
#[derive(Debug)]
pub struct Graph(nn::graph::Graph);

impl Graph {
    /// The model that the variant binds to `role`. Fails when it binds none.
    pub fn load(role: &str) -> Result<Self, Error> {
        Ok(Self(nn::graph::load_by_name(role)?))
    }

    /// Runs the model on named inputs and waits for its outputs.
    ///
    /// `wasi:nn` knows FP16, FP32, FP64, BF16, UINT8, INT32 and INT64; for the others use
    /// [`Model`](crate::Model). Fails when an input does not fit the model, and when the model
    /// fails.
    pub fn run(&self, inputs: &[(&str, &Tensor)]) -> Result<Tensors, Error> {
        let mut named = Vec::with_capacity(inputs.len());
        for &(name, tensor) in inputs {
            let tensor = tensor
                .to_nn()
                .map_err(|error| Error::plugin(format!("input `{name}`: {error}")))?;
            named.push((name.to_owned(), tensor));
        }
        let outputs = self.0.init_execution_context()?.compute(named)?;
        Ok(Tensors::new(
            outputs.into_iter().map(|(name, tensor)| (name, Tensor::from(tensor))).collect(),
        ))
    }
}
