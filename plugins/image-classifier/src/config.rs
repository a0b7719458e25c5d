//! The configuration as it is written.

use serde::Deserialize;

/// Every key may be left out where the model's input tells enough.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The picture's size before the model; by default that of the model's input.
    pub(crate) width: Option<u32>,
    pub(crate) height: Option<u32>,
    /// Whether a picture of other proportions is stretched, or cut to the middle.
    pub(crate) resize: Resize,
    /// With `crop`: the pixels that the short side has before it is cut; by default the longer of
    /// `width` and `height`.
    pub(crate) resize_short: Option<u32>,
    /// Whether every pixel counts when a picture shrinks, as with Pillow.
    pub(crate) antialias: bool,
    pub(crate) channels: Channels,
    pub(crate) layout: Layout,
    /// Each byte becomes `(byte * scale - mean) / std`; 1/255 by default. None of the three goes
    /// with a model that takes UINT8.
    pub(crate) scale: Option<f32>,
    /// One value for all channels, or one for each.
    pub(crate) mean: Vec<f32>,
    pub(crate) std: Vec<f32>,
    /// The tensor's shape, where it is neither the layout's nor the model's.
    pub(crate) shape: Option<Vec<u64>>,
    /// The model's input and output, where it has several.
    pub(crate) input: Option<String>,
    pub(crate) output: Option<String>,
    /// Turns the model's scores into probabilities.
    pub(crate) softmax: bool,
    /// How many predictions to answer.
    pub(crate) top: usize,
    /// One a class; by default the lines of the asset `labels`, or else the classes' numbers.
    pub(crate) labels: Option<Vec<String>>,
    /// Pictures of more pixels are refused.
    pub(crate) max_pixels: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resize {
    Stretch,
    Crop,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Channels {
    Grey,
    Rgb,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    Nchw,
    Nhwc,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            width: None,
            height: None,
            resize: Resize::Stretch,
            resize_short: None,
            antialias: true,
            channels: Channels::Rgb,
            layout: Layout::Nchw,
            scale: None,
            mean: Vec::new(),
            std: Vec::new(),
            shape: None,
            input: None,
            output: None,
            softmax: false,
            top: 5,
            labels: None,
            max_pixels: 16 << 20,
        }
    }
}

impl From<Channels> for berth_pictures::Channels {
    fn from(channels: Channels) -> Self {
        match channels {
            Channels::Grey => Self::Grey,
            Channels::Rgb => Self::Rgb,
        }
    }
}

impl From<Layout> for berth_pictures::Layout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Nchw => Self::Nchw,
            Layout::Nhwc => Self::Nhwc,
        }
    }
}
