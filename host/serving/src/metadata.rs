//! What variants take and answer, for clients.

use berth_plugin::BoundModel;
use berth_tensor::TensorType;

use crate::error::RequestError;
use crate::live::{LiveRevision, Processing, Way};

/// What a variant takes and answers.
pub struct Metadata {
    /// What it takes.
    pub inputs: Vec<TensorType>,
    /// What it answers.
    pub outputs: Vec<TensorType>,
    /// Media types of bodies that it takes and answers, when it has a processor.
    pub bodies: Option<(Vec<String>, Option<String>)>,
    /// Its models and processor by name, and what the models' files say of themselves.
    pub parts: Vec<(String, String)>,
}

impl LiveRevision {
    /// What a variant takes and answers; without a name, the first one.
    pub fn metadata(&self, variant: Option<&str>) -> Result<Metadata, RequestError> {
        let variant = match variant {
            None => &self.variants[0],
            Some(name) => &self.variants[self.find(name)?],
        };
        let mut parts: Vec<(String, String)> = variant.models.iter().flat_map(told).collect();
        Ok(match &variant.way {
            Way::Model(model) => Metadata {
                inputs: model.inputs().to_vec(),
                outputs: model.outputs().to_vec(),
                bodies: None,
                parts,
            },
            Way::Processor(processing) => {
                let Processing { processor, signature, .. } = &**processing;
                parts.push(("processor".into(), processor.name().to_owned()));
                Metadata {
                    inputs: signature.inputs.clone(),
                    outputs: signature.outputs.clone(),
                    bodies: Some((signature.content_types.clone(), signature.answers.clone())),
                    parts,
                }
            }
        })
    }
}

/// What metadata tells of a model: its name, what its file says of itself, and the shapes in which
/// dimensions have names.
fn told(bound: &BoundModel) -> Vec<(String, String)> {
    let BoundModel { role, name, model } = bound;
    let mut told = vec![(format!("model:{role}"), name.clone())];
    let properties = model.properties().iter();
    told.extend(properties.map(|(key, value)| (format!("model:{role}.{key}"), value.clone())));
    for ty in model.inputs().iter().chain(model.outputs()) {
        let Some(names) = model.symbols().get(&ty.name) else { continue };
        let dimension = |(name, size): (&String, &i64)| {
            if name.is_empty() { size.to_string() } else { name.clone() }
        };
        let shape: Vec<_> = names.iter().zip(&ty.shape).map(dimension).collect();
        told.push((format!("model:{role}.shape:{}", ty.name), format!("[{}]", shape.join(", "))));
    }
    told
}
