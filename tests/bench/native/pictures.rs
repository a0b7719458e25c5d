//! A picture in, classes out, by the plugin's own modules.

use berth_sdk::{DataType, Description, TensorType};

use crate::answer::{answer, softmax};
use crate::config::Config;
use crate::plan::Plan;
use crate::session::Model;
use crate::{Failure, decode, pixels};

/// Answers pictures with their classes.
pub(crate) struct Classifier {
    model: Model,
    plan: Plan,
    shape: Vec<i64>,
}

impl Classifier {
    /// Answers by `model` under the plugin's configuration, a JSON object.
    pub(crate) fn new(model: Model, config: &str) -> anyhow::Result<Self> {
        let config: Config = serde_json::from_str(config)?;
        let ty = |(name, shape): &(String, Vec<i64>)| TensorType::new(name, DataType::Fp32, shape);
        let description = Description {
            name: "the model".to_owned(),
            inputs: vec![ty(&model.input)],
            outputs: vec![ty(&model.output)],
            properties: Vec::new(),
        };
        let plan = Plan::new(config, &description)
            .map_err(|error| anyhow::anyhow!("config key {}: {}", error.key, error.message))?;
        let shape = plan.shape.iter().map(|&dimension| dimension as i64).collect();
        Ok(Self { model, plan, shape })
    }

    /// The JSON of the classes of one picture.
    pub(crate) fn classify(&self, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let picture = decode::png(body, self.plan.max_pixels).map_err(Failure::Request)?;
        let values = pixels::values(&picture, &self.plan.view);
        let mut scores = self.model.run(&self.shape, &values, |_, scores| scores.to_vec())?;
        if self.plan.softmax {
            softmax(&mut scores);
        }
        let answer = answer(&scores, self.plan.top, None).map_err(Failure::Server)?;
        Ok(serde_json::to_vec(&answer)?)
    }
}
