//! Requests to the tensors that the model takes, and its scores.

use berth_pictures::{Channels, Picture};
use berth_sdk::{DataType, Error, Model, Request, Tensor};
use half::f16;

use crate::answer::softmax;
use crate::parts::PICTURES;
use crate::plan::Plan;

/// The scores of every picture of a request.
pub(crate) struct Scores {
    pub(crate) pictures: usize,
    /// As many for each picture, one after another.
    pub(crate) values: Vec<f32>,
}

impl Scores {
    /// Those of one picture.
    pub(crate) fn of(&self, picture: usize) -> &[f32] {
        let classes = self.values.len() / self.pictures;
        &self.values[picture * classes..][..classes]
    }

    /// All of them, of shape [pictures, classes].
    pub(crate) fn tensor(&self) -> Result<Tensor, Error> {
        let classes = self.values.len() / self.pictures;
        Tensor::from_f32(&[self.pictures as u64, classes as u64], &self.values)
    }
}

/// Runs the model on as many pictures: at once if it takes any number of them, else one after
/// another.
pub(crate) fn of_pictures(
    plan: &Plan,
    pictures: usize,
    mut picture: impl FnMut(usize) -> Result<Picture, Error>,
) -> Result<Scores, Error> {
    let model = Model::open("default")?;
    let batch = if plan.batches { pictures } else { 1 };
    let size = plan.view.size();
    let mut values = Vec::new();
    for first in (0..pictures).step_by(batch) {
        let mut data = vec![0; batch * size];
        for (at, data) in data.chunks_exact_mut(size).enumerate() {
            let picture = picture(first + at)?;
            berth_sdk::debug!("decoded");
            picture.write(&plan.view, data);
            berth_sdk::debug!("prepared");
        }
        let mut shape = plan.shape.clone();
        if plan.batches {
            shape[0] = batch as u64;
        }
        let input = Tensor::from_bytes(plan.input.datatype, &shape, data)?;
        values.extend(run(plan, &model, &input, batch)?);
    }
    Ok(Scores { pictures, values })
}

/// Runs the model on a tensor that is its input as it is.
pub(crate) fn of_input(plan: &Plan, input: &Tensor) -> Result<Scores, Error> {
    let pictures = if plan.batches { input.shape()[0] as usize } else { 1 };
    if pictures == 0 {
        return Err(Error::caller(format!("input `{}` holds no picture", plan.input.name)));
    }
    Ok(Scores { pictures, values: run(plan, &Model::open("default")?, input, pictures)? })
}

/// Runs the model on pixels, UINT8 of shape [pictures, height, width, channels].
pub(crate) fn of_pixels(plan: &Plan, name: &str, tensor: &Tensor) -> Result<Scores, Error> {
    let shape = tensor.shape();
    let refused = |message: String| Error::caller(format!("input `{name}`: {message}"));
    let &[pictures, height, width, channels] = &shape[..] else {
        return Err(refused(format!("shape {shape:?} is not [pictures, height, width, channels]")));
    };
    let channels = match channels {
        1 => Channels::Grey,
        3 => Channels::Rgb,
        _ => return Err(refused(format!("a pixel has 1 or 3 channels, not {channels}"))),
    };
    if pictures == 0 || pictures > PICTURES as u64 {
        return Err(refused(format!("it holds {pictures} pictures; send 1 to {PICTURES}")));
    }
    let data = tensor.data();
    let (pictures, height, width) = (pictures as usize, height as usize, width as usize);
    if width.saturating_mul(height) as u64 > plan.max_pixels {
        let most = plan.max_pixels;
        return Err(refused(format!("{width} x {height} pixels; at most {most} in all are taken")));
    }
    let size = data.len() / pictures;
    of_pictures(plan, pictures, |at| {
        let bytes = data[at * size..][..size].to_vec();
        let mut picture = Picture::from_pixels(width, height, channels, bytes)
            .map_err(|error| refused(error.to_string()))?;
        if plan.view.channels == Channels::Grey {
            picture.to_grey();
        }
        Ok(picture)
    })
}

/// The one tensor of a request that carries tensors.
pub(crate) fn of_tensors(
    plan: &Plan,
    pixels: &str,
    names: &[String],
    request: &Request,
) -> Result<Scores, Error> {
    let [name] = names else {
        return Err(Error::caller(format!(
            "send one input, `{}` or `{pixels}`, not {}",
            plan.input.name,
            names.len()
        )));
    };
    let tensor = request.tensor(name)?;
    if *name == plan.input.name { of_input(plan, &tensor) } else { of_pixels(plan, name, &tensor) }
}

fn run(plan: &Plan, model: &Model, input: &Tensor, pictures: usize) -> Result<Vec<f32>, Error> {
    let output = plan.output.name.as_str();
    let inference = model.start(&[(&plan.input.name, input)], &[output])?;
    berth_sdk::debug!("copied");
    let outputs = inference.wait()?;
    berth_sdk::debug!("inferred");
    let scores = outputs.get(output)?;
    let mut values = match scores.datatype() {
        DataType::Fp16 => {
            let halves = scores.data();
            let halves = halves.chunks_exact(2);
            halves.map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32()).collect()
        }
        _ => scores.to_f32()?,
    };
    let shape = scores.shape();
    let shared = pictures == 1 || shape.first() == Some(&(pictures as u64));
    if values.is_empty() || !shared {
        return Err(Error::plugin(format!(
            "the model answered `{output}` of shape {shape:?} for {pictures} pictures"
        )));
    }
    if plan.softmax {
        let classes = values.len() / pictures;
        values.chunks_exact_mut(classes).for_each(softmax);
    }
    Ok(values)
}
