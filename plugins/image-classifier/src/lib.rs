//! Processor: a picture in, the most likely labels out.
//!
//! ```toml
//! [[variants]]
//! name = "digits"
//! processor = "image-classifier@1"
//! models = { default = "digits@2" }
//! config = { width = 8, height = 8, channels = "grey", scale = 0.0627451, softmax = true, top = 3 }
//! ```
//!
//! The model of role `default` takes the pixels as FP32 and answers one FP32 score a class. The
//! answer is `{"predictions": [{"label": "3", "score": 0.98, "class": 3}]}`, best first.
//!
//! - `config`: the configuration as it is written
//! - `plan`: the configuration checked against the model
//! - `decode`: bytes to pixels
//! - `pixels`: pixels to the values of a tensor
//! - `answer`: scores to predictions

mod answer;
mod config;
mod decode;
mod pixels;
mod plan;

use berth_sdk::{
    Asset, ConfigError, Error, Graph, Model, Processor, Reply, Request, Signature, Tensor,
};

use crate::config::Config;
use crate::plan::Plan;

/// The asset that holds the labels, one a line, where the configuration does not list them.
const LABELS: &str = "labels";

struct ImageClassifier {
    plan: Plan,
    labels: Option<Vec<String>>,
}

impl Processor for ImageClassifier {
    type Config = Config;

    fn create(mut config: Config) -> Result<Self, ConfigError> {
        let labels = match config.labels.take() {
            Some(labels) => Some(labels),
            None if Asset::names().iter().any(|name| name == LABELS) => {
                Some(answer::lines(&Asset::read_to_string(LABELS)?))
            }
            None => None,
        };
        let plan = Plan::new(config, &Model::open("default")?.describe())?;
        plan.check_labels(labels.as_deref())?;
        Ok(Self { plan, labels })
    }

    fn signature(&self) -> Signature {
        Signature::default().takes_body("image/png").answers("application/json")
    }

    fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
        let plan = &self.plan;
        if request.body_size() == 0 {
            return Err(Error::caller("send the picture as the body: a PNG"));
        }
        let picture = decode::png(&request.body(), plan.max_pixels).map_err(Error::caller)?;
        let values = pixels::values(&picture, &plan.view);
        let input = Tensor::from_f32(&plan.shape, &values)?;
        let outputs = Graph::load("default")?.run(&[(&plan.input, &input)])?;
        let mut scores = outputs.get(&plan.output)?.to_f32()?;
        if plan.softmax {
            answer::softmax(&mut scores);
        }
        reply.json(
            &answer::answer(&scores, plan.top, self.labels.as_deref()).map_err(Error::plugin)?,
        )
    }
}

berth_sdk::export_processor!(ImageClassifier, roles: &["default"], assets: &[LABELS], memory: 256 << 20);
