//! A picture in, classes out, by the crate that the plugin `image-classifier` uses.

use berth_pictures::{Channels, Element, Fit, Layout, Picture, View};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::session::Model;

/// The most pixels of a picture.
const PIXELS: u64 = 16 << 20;

/// Answers pictures with their classes.
pub struct Classifier {
    model: Model,
    view: View,
    top: usize,
}

/// Of the plugin's configuration what the jobs need.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    width: usize,
    height: usize,
    resize: Resize,
    resize_short: u32,
    mean: [f32; 3],
    std: [f32; 3],
    top: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Resize {
    Crop,
}

#[derive(Serialize)]
struct Answer {
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    label: String,
    score: f32,
    class: usize,
}

impl Classifier {
    /// Answers by `model` under the plugin's configuration, a JSON object.
    pub fn new(model: Model, config: &str) -> anyhow::Result<Self> {
        let Config { width, height, resize: Resize::Crop, resize_short, mean, std, top } =
            serde_json::from_str(config)?;
        // (byte / 255 - mean) / std as one multiplication and one addition.
        let factors = std.map(|std| 1.0 / 255.0 / std).to_vec();
        let offsets = mean.iter().zip(std).map(|(mean, std)| -mean / std).collect();
        let view = View {
            width,
            height,
            channels: Channels::Rgb,
            layout: Layout::Nchw,
            fit: Fit::Crop(resize_short),
            antialias: true,
            element: Element::Fp32,
            factors,
            offsets,
        };
        Ok(Self { model, view, top })
    }

    /// The JSON of the classes of one picture. `passed` is told when a
    /// stage is over, in the words that the plugin has in its log.
    pub fn classify(&self, body: &[u8], mut passed: impl FnMut(&str)) -> Result<Vec<u8>, Failure> {
        let picture = Picture::decode(body, Channels::Rgb, PIXELS)
            .map_err(|error| Failure::Request(error.to_string()))?;
        passed("decoded");
        let mut values = vec![0f32; self.view.size() / size_of::<f32>()];
        picture.write(&self.view, bytemuck::cast_slice_mut(&mut values));
        passed("prepared");
        let shape = [1, 3, self.view.height as i64, self.view.width as i64];
        let scores = self.model.run(&shape, &values, |_, scores| scores.to_vec())?;
        passed("inferred");
        let mut classes: Vec<usize> = (0..scores.len()).collect();
        classes.sort_by(|&one, &other| scores[other].total_cmp(&scores[one]));
        let prediction =
            |class: usize| Prediction { label: class.to_string(), score: scores[class], class };
        let predictions = classes.into_iter().take(self.top).map(prediction).collect();
        Ok(serde_json::to_vec(&Answer { predictions })?)
    }
}
