//! Inference over Berth's own `model` interface.

use crate::bindings::processor::berth::plugin::model;
use crate::{Description, Error, Tensor, Tensors};

/// A model bound to a role of the variant: what it takes and answers, inference on every datatype
/// and several inferences at once.
#[derive(Debug)]
pub struct Model(model::Model);

/// An inference under way.
#[derive(Debug)]
pub struct Inference(model::Inference);

impl Model {
    /// The roles that the variant binds.
    pub fn roles() -> Vec<String> {
        model::roles()
    }

    /// The model that the variant binds to `role`. Fails when it binds none.
    pub fn open(role: &str) -> Result<Self, Error> {
        Ok(Self(model::Model::open(role)?))
    }

    /// What the model takes and answers.
    pub fn describe(&self) -> Description {
        self.0.describe()
    }

    /// Runs the model on named inputs and waits for all of its outputs.
    pub fn run(&self, inputs: &[(&str, &Tensor)]) -> Result<Tensors, Error> {
        self.start(inputs, &[])?.wait()
    }

    /// Starts an inference and returns at once; an empty list of outputs asks for all. Start
    /// several, then wait for each.
    pub fn start(&self, inputs: &[(&str, &Tensor)], outputs: &[&str]) -> Result<Inference, Error> {
        let tensors =
            inputs.iter().map(|(_, tensor)| tensor.to_host()).collect::<Result<Vec<_>, _>>()?;
        let named: Vec<_> = inputs
            .iter()
            .zip(&tensors)
            .map(|((name, _), tensor)| ((*name).to_owned(), &**tensor))
            .collect();
        let outputs: Vec<_> = outputs.iter().map(|&name| name.to_owned()).collect();
        Ok(Inference(self.0.start(&named, &outputs)?))
    }
}

impl Inference {
    /// Waits for the end and gives the outputs in the order asked for.
    pub fn wait(self) -> Result<Tensors, Error> {
        let outputs = self.0.wait()?;
        Ok(Tensors::new(
            outputs.into_iter().map(|(name, tensor)| (name, Tensor::from(tensor))).collect(),
        ))
    }
}
