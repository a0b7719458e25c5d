//! The configuration checked against the model.

use berth_pictures::{Channels, Element, Fit, View};
use berth_sdk::{ConfigError, DataType, Description, TensorType};

use crate::config::{Config, Layout, Resize};

/// What to do with each picture. Everything in it fits the model.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) view: View,
    /// Of the input for one picture.
    pub(crate) shape: Vec<u64>,
    /// Whether the first dimension counts pictures, and the model takes any number of them.
    pub(crate) batches: bool,
    pub(crate) input: TensorType,
    pub(crate) output: TensorType,
    pub(crate) softmax: bool,
    pub(crate) top: usize,
    pub(crate) max_pixels: u64,
}

impl Plan {
    pub(crate) fn new(config: Config, model: &Description) -> Result<Self, ConfigError> {
        let input = pick(&model.inputs, config.input.as_deref(), "input", &model.name)?;
        if let Some(other) = model.inputs.iter().find(|other| other.name != input.name) {
            let message = format!(
                "{} also takes `{}`, which no picture fills; export it with `{}` alone",
                model.name, other.name, input.name
            );
            return Err(ConfigError::new("input", message));
        }
        let output = pick(&model.outputs, config.output.as_deref(), "output", &model.name)?;
        let element = element(input, "input", &model.name)?;
        if element_of(output).is_none_or(|element| element == Element::Uint8) {
            return Err(wrong_type(output, "output", &model.name, "FP32 or FP16"));
        }
        let (width, height) = size(&config, input, &model.name)?;
        let channels = Channels::from(config.channels);
        let shape = shape(&config, input, &model.name, (width, height))?;
        let fit = fit(&config, width, height)?;
        if config.top == 0 {
            return Err(ConfigError::new("top", "use 1 or more"));
        }
        if config.max_pixels == 0 {
            return Err(ConfigError::new("max_pixels", "use 1 or more"));
        }
        let (factors, offsets) = scaling(&config, element, input)?;
        let view = View {
            width: width as usize,
            height: height as usize,
            channels,
            layout: config.layout.into(),
            fit,
            antialias: config.antialias,
            element,
            factors,
            offsets,
        };
        Ok(Self {
            view,
            batches: shape.len() > 1 && shape[0] == 1 && input.shape[0] < 0,
            shape,
            input: input.clone(),
            output: output.clone(),
            softmax: config.softmax,
            top: config.top,
            max_pixels: config.max_pixels,
        })
    }

    /// There must be a label for each class that the model declares.
    pub(crate) fn check_labels(
        &self,
        labels: Option<&[String]>,
        model: &str,
    ) -> Result<(), ConfigError> {
        let classes = self.output.shape.last().and_then(|&classes| u64::try_from(classes).ok());
        match (labels, classes) {
            (Some(labels), Some(classes)) if labels.len() as u64 != classes => {
                let TensorType { name, shape, .. } = &self.output;
                let message = format!(
                    "{} labels for the {classes} classes of {model}, whose output `{name}` has shape {shape:?}; give one for each",
                    labels.len()
                );
                Err(ConfigError::new("labels", message))
            }
            _ => Ok(()),
        }
    }
}

fn pick<'a>(
    tensors: &'a [TensorType],
    name: Option<&str>,
    key: &str,
    model: &str,
) -> Result<&'a TensorType, ConfigError> {
    let names = || tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ");
    let tensor = match (name, tensors) {
        (Some(name), _) => tensors.iter().find(|tensor| tensor.name == name).ok_or_else(|| {
            ConfigError::new(key, format!("{model} has no {key} `{name}`; it has {}", names()))
        })?,
        (None, [only]) => only,
        (None, []) => return Err(ConfigError::new(key, format!("{model} has no {key} at all"))),
        (None, _) => {
            return Err(ConfigError::new(
                key,
                format!("{model} has several; name one of {}", names()),
            ));
        }
    };
    Ok(tensor)
}

fn element_of(tensor: &TensorType) -> Option<Element> {
    match tensor.datatype {
        DataType::Fp32 => Some(Element::Fp32),
        DataType::Fp16 => Some(Element::Fp16),
        DataType::Uint8 => Some(Element::Uint8),
        _ => None,
    }
}

fn element(tensor: &TensorType, key: &str, model: &str) -> Result<Element, ConfigError> {
    element_of(tensor).ok_or_else(|| wrong_type(tensor, key, model, "FP32, FP16 or UINT8"))
}

fn wrong_type(tensor: &TensorType, key: &str, model: &str, wanted: &str) -> ConfigError {
    let TensorType { name, datatype, .. } = tensor;
    ConfigError::new(key, format!("{key} `{name}` of {model} is {datatype}; only {wanted} will do"))
}

fn fit(config: &Config, width: u32, height: u32) -> Result<Fit, ConfigError> {
    let longer = width.max(height);
    match (config.resize, config.resize_short) {
        (Resize::Stretch, None) => Ok(Fit::Stretch),
        (Resize::Stretch, Some(_)) => {
            Err(ConfigError::new("resize_short", "it goes with resize = \"crop\""))
        }
        (Resize::Crop, short) => match short.unwrap_or(longer) {
            short if short < longer => Err(ConfigError::new(
                "resize_short",
                format!("use {longer} or more: {width} x {height} pixels are cut out"),
            )),
            short => Ok(Fit::Crop(short)),
        },
    }
}

/// `(byte * scale - mean) / std` as one multiplication and one addition for each channel.
fn scaling(
    config: &Config,
    element: Element,
    input: &TensorType,
) -> Result<(Vec<f32>, Vec<f32>), ConfigError> {
    let count = Channels::from(config.channels).count();
    if element == Element::Uint8 {
        let given = [
            ("scale", config.scale.is_some()),
            ("mean", !config.mean.is_empty()),
            ("std", !config.std.is_empty()),
        ];
        if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
            let message = format!(
                "leave it out: input `{}` is UINT8 and takes bytes as they are",
                input.name
            );
            return Err(ConfigError::new(*key, message));
        }
        return Ok((vec![1.0; count], vec![0.0; count]));
    }
    let scale = config.scale.unwrap_or(1.0 / 255.0);
    if !scale.is_finite() {
        return Err(ConfigError::new("scale", "use a finite number"));
    }
    let mean = per_channel(&config.mean, 0.0, count, "mean")?;
    let std = per_channel(&config.std, 1.0, count, "std")?;
    if std.contains(&0.0) {
        return Err(ConfigError::new("std", "values are divided by it: use no 0"));
    }
    let factors: Vec<f32> = std.iter().map(|std| scale / std).collect();
    let offsets: Vec<f32> = mean.iter().zip(&std).map(|(mean, std)| -mean / std).collect();
    let mut ends = factors.iter().zip(&offsets).flat_map(|(f, o)| [*o, 255.0 * f + o]);
    if !ends.all(f32::is_finite) {
        let message = "with this scale and mean, bytes come to no finite numbers: use larger ones";
        return Err(ConfigError::new("std", message));
    }
    Ok((factors, offsets))
}

fn size(config: &Config, input: &TensorType, model: &str) -> Result<(u32, u32), ConfigError> {
    let (height_at, width_at) = match config.layout {
        Layout::Nchw => (2, 3),
        Layout::Nhwc => (1, 2),
    };
    let side = |given: Option<u32>, at: usize, key: &str| match given {
        Some(1..) => Ok(given.unwrap_or(1)),
        Some(0) => Err(ConfigError::new(key, "use 1 or more")),
        None => {
            let declared = if input.shape.len() == 4 { input.shape[at] } else { -1 };
            u32::try_from(declared).ok().filter(|&side| side > 0).ok_or_else(|| {
                let message = format!(
                    "give it: input `{}` of {model}, of shape {:?}, does not tell",
                    input.name, input.shape
                );
                ConfigError::new(key, message)
            })
        }
    };
    Ok((side(config.width, width_at, "width")?, side(config.height, height_at, "height")?))
}

fn shape(
    config: &Config,
    input: &TensorType,
    model: &str,
    (width, height): (u32, u32),
) -> Result<Vec<u64>, ConfigError> {
    let (width, height, channels) =
        (u64::from(width), u64::from(height), Channels::from(config.channels).count() as u64);
    let shape = match (&config.shape, input.shape.len(), config.layout) {
        (Some(shape), ..) => shape.clone(),
        (None, 4, Layout::Nchw) => vec![1, channels, height, width],
        (None, 4, Layout::Nhwc) => vec![1, height, width, channels],
        (None, ..) => {
            input.shape.iter().map(|&dimension| u64::try_from(dimension).unwrap_or(1)).collect()
        }
    };
    let key = if config.shape.is_some() { "shape" } else { "width" };
    // A tensor must fit into the 4 GiB that a component can address.
    let values = width.checked_mul(height * channels).filter(|&values| values < 1 << 28);
    let values = values
        .ok_or_else(|| ConfigError::new("width", "that many pixels are no tensor's input"))?;
    let takes = shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
    if takes != Some(values) {
        let kind = match Channels::from(config.channels) {
            Channels::Grey => "grey",
            Channels::Rgb => "RGB",
        };
        let message = format!(
            "{width} x {height} pixels in {kind} are {values} values, which shape {shape:?} does not hold; input `{}` of {model} has shape {:?}: give the width, height, channels, layout and shape that fit it",
            input.name, input.shape
        );
        return Err(ConfigError::new(key, message));
    }
    let fits = shape.len() == input.shape.len()
        && shape
            .iter()
            .zip(&input.shape)
            .all(|(&have, &want)| u64::try_from(want).map_or(true, |want| want == have));
    if !fits {
        let message = format!(
            "input `{}` of {model}, of shape {:?}, does not take shape {shape:?}; give the width, height, channels, layout and shape that fit it",
            input.name, input.shape
        );
        return Err(ConfigError::new(key, message));
    }
    Ok(shape)
}

fn per_channel(
    values: &[f32],
    default: f32,
    count: usize,
    key: &str,
) -> Result<Vec<f32>, ConfigError> {
    if !values.iter().all(|value| value.is_finite()) {
        return Err(ConfigError::new(key, "use finite numbers"));
    }
    match values {
        [] => Ok(vec![default; count]),
        [one] => Ok(vec![*one; count]),
        _ if values.len() == count => Ok(values.to_vec()),
        _ => Err(ConfigError::new(
            key,
            format!("give one value, or one for each of {count} channels"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str, input: &[i64], output: &[i64]) -> Result<Plan, ConfigError> {
        let input = TensorType::new("x", DataType::Fp32, input);
        planned(json, vec![input], output)
    }

    fn planned(json: &str, inputs: Vec<TensorType>, output: &[i64]) -> Result<Plan, ConfigError> {
        let model = Description {
            name: "m@1".to_owned(),
            inputs,
            outputs: vec![TensorType::new("y", DataType::Fp32, output)],
            properties: Vec::new(),
        };
        Plan::new(berth_sdk::config::parse(json)?, &model)
    }

    fn check(json: &str, input: &[i64], shape: &[u64]) {
        assert_eq!(
            plan(json, input, &[-1, 10]).map(|plan| plan.shape).map_err(|error| error.message),
            Ok(shape.to_vec())
        );
    }

    fn refuse(json: &str, input: &[i64], key: &str, part: &str) {
        let error = plan(json, input, &[-1, 10]).unwrap_err();
        assert!(
            error.key == key && error.message.contains(part),
            "{error:?}, expected {key}: {part}"
        );
    }

    #[test]
    fn the_shape_follows_from_configuration_and_model() {
        let grey = r#"{"width": 8, "height": 8, "channels": "grey"}"#;
        check(grey, &[-1, 64], &[1, 64]);
        check(grey, &[-1, 1, 8, 8], &[1, 1, 8, 8]);
        check("{}", &[-1, 3, 224, 160], &[1, 3, 224, 160]);
        check(r#"{"layout": "nhwc"}"#, &[1, 224, 160, 3], &[1, 224, 160, 3]);
        check(r#"{"width": 4, "height": 2}"#, &[-1, 3, -1, -1], &[1, 3, 2, 4]);
        check(
            r#"{"width": 8, "height": 8, "channels": "grey", "shape": [1, 8, 8]}"#,
            &[-1, -1, 8],
            &[1, 8, 8],
        );
        check(r#"{"width": 1, "height": 1, "mean": [0.5], "std": [1, 2, 3]}"#, &[3], &[3]);
    }

    #[test]
    fn a_configuration_that_does_not_fit_the_model_is_refused_by_key() {
        refuse("{}", &[-1, 64], "width", "does not tell");
        refuse("{}", &[-1, 3, 8, -1], "width", "does not tell");
        refuse(r#"{"width": 8}"#, &[-1, 64], "height", "does not tell");
        refuse(r#"{"width": 0}"#, &[-1, 3, 8, 8], "width", "1 or more");
        refuse(r#"{"width": 8, "height": 8}"#, &[-1, 64], "width", "RGB are 192 values");
        refuse(r#"{"width": 9}"#, &[-1, 3, 8, 8], "width", "does not take shape [1, 3, 8, 9]");
        refuse(r#"{"shape": [192]}"#, &[-1, 3, 8, 8], "shape", "does not take");
        refuse(r#"{"shape": [1, 3, 9, 9]}"#, &[-1, 3, 8, 8], "shape", "does not hold");
        refuse(
            r#"{"width": 4000000000, "height": 4000000000}"#,
            &[-1, 3, -1, -1],
            "width",
            "that many",
        );
        refuse("{}", &[-1, 8, 8, 3], "width", "`x` of m@1, of shape [-1, 8, 8, 3], does not take");
        refuse(
            r#"{"channels": "grey"}"#,
            &[-1, 3, 8, 8],
            "width",
            "`x` of m@1, of shape [-1, 3, 8, 8], does not take shape [1, 1, 8, 8]; give the width",
        );
        refuse(r#"{"input": "z"}"#, &[-1, 3, 8, 8], "input", "it has x");
        refuse(r#"{"output": "z"}"#, &[-1, 3, 8, 8], "output", "it has y");
        refuse(r#"{"mean": [1, 2]}"#, &[-1, 3, 8, 8], "mean", "3 channels");
        refuse(r#"{"std": [0]}"#, &[-1, 3, 8, 8], "std", "no 0");
        refuse(r#"{"std": [1e-40]}"#, &[-1, 3, 8, 8], "std", "no finite");
        refuse(r#"{"mean": [1e38], "std": [1e-10]}"#, &[-1, 3, 8, 8], "std", "no finite");
        refuse(r#"{"top": 0}"#, &[-1, 3, 8, 8], "top", "1 or more");
        refuse(r#"{"channels": "cmyk"}"#, &[-1, 3, 8, 8], "channels", "`grey` or `rgb`");
        refuse(r#"{"widht": 8}"#, &[-1, 3, 8, 8], "widht", "unknown field");
    }

    #[test]
    fn every_input_of_the_model_is_filled() {
        let inputs = ["x", "z"].map(|name| TensorType::new(name, DataType::Fp32, &[-1, 3, 8, 8]));
        for (json, part) in
            [("{}", "m@1 has several"), (r#"{"input": "x"}"#, "m@1 also takes `z`, which no")]
        {
            let error = planned(json, inputs.to_vec(), &[-1, 10]).unwrap_err();
            assert!(error.key == "input" && error.message.contains(part), "{json}: {error:?}");
        }
        let error = planned("{}", Vec::new(), &[-1, 10]).unwrap_err();
        assert_eq!((&*error.key, &*error.message), ("input", "m@1 has no input at all"));
    }

    #[test]
    fn there_is_a_label_for_each_class() {
        let check = |labels: usize, output: &[i64]| {
            let labels = vec![String::new(); labels];
            plan("{}", &[1, 3, 8, 8], output)
                .unwrap()
                .check_labels(Some(&labels), "m@1")
                .map_err(|error| (error.key, error.message))
        };
        assert_eq!(check(10, &[-1, 10]), Ok(()));
        let told = "9 labels for the 10 classes of m@1, whose output `y` has shape [-1, 10]; give one for each";
        assert_eq!(check(9, &[-1, 10]), Err(("labels".to_owned(), told.to_owned())));
        assert_eq!(check(9, &[-1, -1]), Ok(()));
    }
}
