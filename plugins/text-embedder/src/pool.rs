//! What the model answers to vectors.

use berth_sdk::{Error, Tensor};

use crate::batch::{Batch, VALUES};
use crate::config::Pooling;
use crate::plan::Plan;

/// One vector for each text of the batch.
pub(crate) fn vectors(output: &Tensor, batch: &Batch, plan: &Plan) -> Result<Vec<Vec<f32>>, Error> {
    let shape = output.shape();
    let (rows, length) = (batch.rows() as u64, batch.length as u64);
    let width = match (&*shape, plan.pooling) {
        (&[have, width], None) if have == rows => width as usize,
        (&[have, tokens, width], Some(_)) if have == rows && tokens == length => width as usize,
        _ => {
            return Err(Error::plugin(format!(
                "output `{}` has shape {shape:?} for {rows} texts of {length} tokens",
                plan.output
            )));
        }
    };
    let count = shape.iter().fold(1, |count: u64, &size| count.saturating_mul(size));
    if count > VALUES as u64 {
        return Err(Error::plugin(format!(
            "output `{}` has shape {shape:?}, more than the {VALUES} values of one inference; use a lower max_length, or a model that declares the width of its vectors, of which fewer go through it together",
            plan.output
        )));
    }
    let values = output.to_f32()?;
    let mut vectors: Vec<Vec<f32>> = match plan.pooling {
        None => values.chunks_exact(width.max(1)).map(<[f32]>::to_vec).collect(),
        Some(pooling) => (0..batch.rows())
            .map(|row| {
                let row_values = &values[row * batch.length * width..][..batch.length * width];
                let tokens = batch.place(row);
                let of = |token: usize| &row_values[token * width..][..width];
                match pooling {
                    Pooling::Cls => of(tokens.start).to_vec(),
                    Pooling::Mean => mean(tokens.map(of), width),
                }
            })
            .collect(),
    };
    if plan.normalize {
        vectors.iter_mut().for_each(|vector| normalize(vector));
    }
    Ok(vectors)
}

fn mean<'a>(tokens: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> Vec<f32> {
    let count = tokens.len() as f32;
    let mut mean = vec![0.0; width];
    for token in tokens {
        for (sum, value) in mean.iter_mut().zip(token) {
            *sum += value;
        }
    }
    for sum in &mut mean {
        *sum /= count;
    }
    mean
}

/// Scales a vector to length 1; one of zeros stays as it is.
fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        for value in vector {
            *value /= length;
        }
    }
}
