//! Processor: pictures in, the most likely labels out.
//!
//! ```toml
//! [[variants]]
//! name = "main"
//! processor = "image-classifier@1"
//! models = { default = "resnet@1" }
//! config = { resize = "crop", resize_short = 256, mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225], softmax = true }
//! ```
//!
//! The model of role `default` takes the pixels as FP32, FP16 or UINT8 and answers one score a
//! class as FP32 or FP16.
//!
//! - A body that is a JPEG, PNG or WebP is answered as
//!   `{"predictions": [{"label": "3", "score": 0.98, "class": 3}]}`, best first.
//! - A body of `multipart/form-data` holds a picture in each part, and is answered as
//!   `{"pictures": [{"predictions": […]}, …]}` in their order.
//! - Tensors are answered with the scores as a tensor, FP32, named as the model's output. Either
//!   the tensor is the model's input, made ready and named as the model names it, or it is
//!   `pixels`, UINT8 of shape [pictures, height, width, 1 or 3], which goes the way of a picture.
//!
//! At level debug a line tells when each stage is over: `decoded`, `prepared` (resized and scaled),
//! `copied` to the host, `inferred`.
//!
//! The files:
//!
//! - `config`: the configuration as it is written
//! - `plan`: the configuration checked against the model
//! - `parts`: the pictures of a body of several
//! - `input`: requests to the tensors that the model takes, and its scores
//! - `answer`: scores to predictions

mod answer;
mod config;
mod input;
mod parts;
mod plan;

use berth_pictures::{Picture, PictureError};
use berth_sdk::{
    Asset, ConfigError, DataType, Error, Model, Processor, Reply, Request, Signature, TensorType,
};

use crate::answer::{Answer, Answers};
use crate::config::Config;
use crate::parts::Part;
use crate::plan::Plan;

/// The asset that holds the labels, one a line, where the configuration does not list them.
const LABELS: &str = "labels";

/// The tensor of pixels that are decoded already.
const PIXELS: &str = "pixels";

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
        let model = Model::open("default")?.describe();
        let plan = Plan::new(config, &model)?;
        plan.check_labels(labels.as_deref(), &model.name)?;
        Ok(Self { plan, labels })
    }

    fn signature(&self) -> Signature {
        let Plan { input, output, .. } = &self.plan;
        let mut signature = Signature::default()
            .takes_body("image/jpeg")
            .takes_body("image/png")
            .takes_body("image/webp")
            .takes_body(parts::FORM)
            .answers("application/json")
            .takes(input.clone())
            .answers_tensor(TensorType::new(&output.name, DataType::Fp32, &[-1, -1]));
        if input.name != PIXELS {
            signature = signature.takes(TensorType::new(PIXELS, DataType::Uint8, &[-1; 4]));
        }
        signature
    }

    fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
        let plan = &self.plan;
        let names = request.tensor_names();
        if !names.is_empty() {
            let scores = input::of_tensors(plan, PIXELS, &names, request)?;
            return reply.tensor(&plan.output.name, &scores.tensor()?);
        }
        if request.body_size() == 0 {
            return Err(Error::caller(
                "send the picture as the body: a JPEG, PNG or WebP, or several as multipart/form-data",
            ));
        }
        let body = request.body();
        let content_type = request.content_type().unwrap_or_default();
        let Some(boundary) = parts::boundary(&content_type).map_err(Error::caller)? else {
            let scores = input::of_pictures(plan, 1, |_| {
                self.decode(&body).map_err(|error| {
                    Error::caller(format!("the body is no picture to use: {error}"))
                })
            })?;
            return reply.json(&self.answer(scores.of(0))?);
        };
        let parts = parts::parts(&body, &boundary).map_err(Error::caller)?;
        let scores = input::of_pictures(plan, parts.len(), |at| {
            let Part { name, content } = &parts[at];
            let number = at + 1;
            self.decode(content).map_err(|error| {
                Error::caller(format!("picture {number} ({name:?}) is none to use: {error}"))
            })
        })?;
        let pictures = (0..parts.len()).map(|at| self.answer(scores.of(at)));
        reply.json(&Answers { pictures: pictures.collect::<Result<_, _>>()? })
    }
}

impl ImageClassifier {
    fn decode(&self, bytes: &[u8]) -> Result<Picture, PictureError> {
        Picture::decode(bytes, self.plan.view.channels, self.plan.max_pixels)
    }

    fn answer(&self, scores: &[f32]) -> Result<Answer, Error> {
        answer::answer(scores, self.plan.top, self.labels.as_deref()).map_err(Error::plugin)
    }
}

berth_sdk::export_processor!(ImageClassifier, roles: &["default"], assets: &[LABELS], memory: 256 << 20);
