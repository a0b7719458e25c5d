//! The jobs that all rivals do, and what a right answer is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::Request;
use crate::pictures;
use crate::workspace::root;

/// One job.
pub(crate) struct Job {
    /// For tables.
    pub(crate) name: &'static str,
    /// What is done, for people.
    pub(crate) title: &'static str,
    /// The ONNX file.
    pub(crate) model: PathBuf,
    /// The configuration of the image classifier, where pictures are the job.
    pub(crate) config: Option<Value>,
    /// What is sent.
    pub(crate) request: Request,
    /// How long one round takes, in seconds.
    pub(crate) seconds: f64,
}

/// What every rival's answers are held against: labels and scores, best first where the job sorts
/// them.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer(Vec<(String, f64)>);

/// The three jobs. Models that the benchmark makes are written into `folder`.
pub(crate) fn all(folder: &Path) -> Result<[Job; 3]> {
    let pixels: Vec<f32> = (0..64).map(|at| ((at * 7) % 17) as f32).collect();
    let tensor = json!({"name": "input", "shape": [1, 64], "datatype": "FP32", "data": pixels});
    let digits = json!({"inputs": [tensor]}).to_string();
    let file = picture();
    let picture = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let invoke = || Request::post("/v2/models/pictures/invoke", "image/jpeg", &picture);
    // What torchvision's networks are given.
    let config = json!({
        "width": 224, "height": 224, "resize": "crop", "resize_short": 256,
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "top": 5,
    });
    Ok([
        Job {
            name: "digits",
            title: "64 numbers as JSON into a perceptron",
            model: pictures::example().join("digits-2.onnx"),
            config: None,
            request: Request::post(
                "/v2/models/digits/infer",
                "application/json",
                digits.as_bytes(),
            ),
            seconds: 1.0,
        },
        Job {
            name: "resnet18",
            title: "a JPEG of 640 × 480 pixels into ResNet-18",
            model: write(folder, "resnet18", berth_onnx::networks::resnet18)?,
            config: Some(config.clone()),
            request: invoke(),
            seconds: 2.0,
        },
        Job {
            name: "mean-colour",
            title: "the same JPEG into a network of 40 weights",
            model: write(folder, "mean-colour", berth_onnx::networks::mean_colour)?,
            config: Some(config),
            request: invoke(),
            seconds: 1.0,
        },
    ])
}

/// The picture that is sent.
pub(crate) fn picture() -> PathBuf {
    root().join("tests/bench/picture.jpg")
}

fn write(folder: &Path, name: &str, network: impl FnOnce() -> Vec<u8>) -> Result<PathBuf> {
    let file = folder.join(format!("{name}.onnx"));
    fs::write(&file, network()).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

impl Job {
    /// The endpoint file that has Berth do the job, with version 1 of everything.
    pub(crate) fn endpoint(&self, name: &str) -> String {
        match &self.config {
            // A policy is in the path of every request, as a split of traffic has it.
            None => format!(
                "name = \"{name}\"\n[routing]\npolicy = \"weighted@1\"\n\
                 config = {{ weights = {{ old = 90, new = 10 }} }}\n\
                 [[variants]]\nname = \"old\"\nmodels = {{ default = \"{name}@1\" }}\n\
                 [[variants]]\nname = \"new\"\nmodels = {{ default = \"{name}@1\" }}\n"
            ),
            Some(_) => format!("name = \"{name}\"\n{}", self.variant("only")),
        }
    }

    /// A variant of an endpoint file that does the job.
    pub(crate) fn variant(&self, name: &str) -> String {
        let model = self.endpoint_name();
        let processor = self.config.as_ref().map_or_else(String::new, |config| {
            format!("processor = \"image-classifier@1\"\nconfig = {}\n", inline_table(config))
        });
        format!(
            "[[variants]]\nname = \"{name}\"\nmodels = {{ default = \"{model}@1\" }}\n{processor}"
        )
    }

    /// The request to an endpoint of that name.
    pub(crate) fn request_to(&self, endpoint: &str) -> Request {
        let (verb, content_type) = match self.config {
            Some(_) => ("invoke", "image/jpeg"),
            None => ("infer", "application/json"),
        };
        let path = format!("/v2/models/{endpoint}/{verb}");
        Request::post(&path, content_type, self.request.body())
    }

    /// The name that requests ask for.
    pub(crate) fn endpoint_name(&self) -> &'static str {
        if self.config.is_some() { "pictures" } else { "digits" }
    }

    /// The plugin that Berth needs for it.
    pub(crate) fn plugin(&self) -> &'static str {
        if self.config.is_some() { "image-classifier" } else { "weighted" }
    }
}

/// A JSON object as TOML has it on one line.
fn inline_table(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{key} = {}", inline_table(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        // Numbers, strings and lists of them are written alike.
        other => other.to_string(),
    }
}

impl Answer {
    /// Reads the body of an answer to any of the jobs.
    pub(crate) fn read(body: &[u8]) -> Result<Self> {
        let answer: Value = serde_json::from_slice(body)?;
        let scores: Option<Vec<_>> = match answer["predictions"].as_array() {
            Some(predictions) => predictions
                .iter()
                .map(|one| Some((one["label"].as_str()?.to_owned(), one["score"].as_f64()?)))
                .collect(),
            None => answer["outputs"][0]["data"].as_array().and_then(|data| {
                data.iter()
                    .enumerate()
                    .map(|(at, one)| Some((at.to_string(), one.as_f64()?)))
                    .collect()
            }),
        };
        let scores = scores.filter(|scores| !scores.is_empty());
        scores.map(Self).with_context(|| format!("neither scores nor predictions: {answer}"))
    }

    /// Fails unless `other` has the same best label, as many labels, and the same scores for the
    /// labels that both have, within a fiftieth of the largest: decoders and resizers round in
    /// their own ways.
    pub(crate) fn ensure_same(&self, other: &Self) -> Result<()> {
        let best = |answer: &Self| {
            answer.0.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(label, _)| label.clone())
        };
        let largest = self.0.iter().map(|(_, score)| score.abs()).fold(0.0, f64::max);
        let score = |label: &str| other.0.iter().find(|(name, _)| name == label).map(|one| one.1);
        let alike = self.0.iter().all(|(label, mine)| {
            score(label).is_none_or(|theirs| (mine - theirs).abs() <= largest / 50.0)
        });
        ensure!(
            best(self) == best(other) && self.0.len() == other.0.len() && alike,
            "the answers differ: {:?} and {:?}",
            self.0,
            other.0
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_written_as_toml() {
        let config = json!({"a": 1, "b": [0.5, 2], "c": "x", "d": {"e": true}});
        assert_eq!(inline_table(&config), r#"{ a = 1, b = [0.5,2], c = "x", d = { e = true } }"#);
    }

    #[test]
    fn answers_are_compared_by_label_and_score() {
        let predictions = |list: &[(&str, f64)]| {
            let list: Vec<_> =
                list.iter().map(|(label, score)| json!({"label": label, "score": score})).collect();
            Answer::read(json!({"predictions": list}).to_string().as_bytes()).unwrap()
        };
        let check = |one: &Answer, other: &Answer, same: bool| {
            assert_eq!(one.ensure_same(other).is_ok(), same, "{one:?} {other:?}");
        };
        let first = predictions(&[("7", 10.0), ("3", 9.0)]);
        check(&first, &first, true);
        check(&first, &predictions(&[("7", 10.1), ("3", 8.9)]), true);
        check(&first, &predictions(&[("7", 10.0), ("5", 9.0)]), true);
        check(&first, &predictions(&[("7", 10.3), ("3", 9.0)]), false);
        check(&first, &predictions(&[("3", 10.0), ("7", 9.9)]), false);
        check(&first, &predictions(&[("7", 10.0)]), false);
        let tensor = Answer::read(br#"{"outputs":[{"data":[0.5,0.25]}]}"#).unwrap();
        check(&tensor, &predictions(&[("0", 0.5), ("1", 0.25)]), true);
        assert!(Answer::read(br#"{"error":"none"}"#).is_err());
    }
}
