//! Tokens to the tensors of one inference after another.

use std::ops::Range;

use berth_sdk::{Error, Tensor};

use crate::config::Padding;
use crate::plan::{Input, Plan};
use crate::tokenizer::{Pad, Tokens};

/// The most tokens of one inference, padding included.
pub(crate) const TOKENS: usize = 16_384;

/// The most values that one inference answers: they are held whole, 4 bytes each.
pub(crate) const VALUES: usize = 16 << 20;

/// Texts that go through the model together, filled up to the same length.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    texts: &'a [Tokens],
    pub(crate) length: usize,
    pad: Pad,
}

/// The texts in order, as many together as the model and the bound permit.
pub(crate) fn batches<'a>(
    texts: &'a [Tokens],
    plan: &Plan,
    max_length: usize,
    pad: Pad,
) -> Vec<Batch<'a>> {
    let fixed = (plan.padding == Padding::MaxLength).then_some(max_length);
    let most = if plan.one_by_one { 1 } else { plan.most_tokens };
    let mut batches = Vec::new();
    let mut rest = texts;
    while !rest.is_empty() {
        let (mut rows, mut length) = (0, fixed.unwrap_or(1));
        while rows < most.min(rest.len()) {
            let longer = length.max(rest[rows].ids.len());
            if rows > 0 && (rows + 1) * longer > plan.most_tokens {
                break;
            }
            (rows, length) = (rows + 1, longer);
        }
        let (texts, after) = rest.split_at(rows);
        batches.push(Batch { texts, length, pad });
        rest = after;
    }
    batches
}

impl Batch<'_> {
    /// How many texts there are.
    pub(crate) fn rows(&self) -> usize {
        self.texts.len()
    }

    /// Where the tokens of a text lie in its row.
    pub(crate) fn place(&self, row: usize) -> Range<usize> {
        let count = self.texts[row].ids.len();
        let start = if self.pad.left { self.length - count } else { 0 };
        start..start + count
    }

    /// The inputs of the model, by name.
    pub(crate) fn inputs<'a>(&self, plan: &'a Plan) -> Result<Vec<(&'a str, Tensor)>, Error> {
        let mut inputs = vec![
            self.input(&plan.ids, self.pad.id, |tokens, at| tokens.ids[at])?,
            self.input(&plan.mask, 0, |_, _| 1)?,
        ];
        if let Some(types) = &plan.types {
            inputs.push(self.input(types, self.pad.type_id, |tokens, at| tokens.types[at])?);
        }
        Ok(inputs)
    }

    fn input<'a>(
        &self,
        input: &'a Input,
        pad: u32,
        value: impl Fn(&Tokens, usize) -> u32,
    ) -> Result<(&'a str, Tensor), Error> {
        let mut values = vec![pad; self.rows() * self.length];
        for (row, (tokens, values)) in
            self.texts.iter().zip(values.chunks_exact_mut(self.length)).enumerate()
        {
            for (at, place) in values[self.place(row)].iter_mut().enumerate() {
                *place = value(tokens, at);
            }
        }
        let shape = [self.rows() as u64, self.length as u64];
        let tensor = if input.wide {
            let values: Vec<i64> = values.into_iter().map(i64::from).collect();
            Tensor::new(&shape, &values)?
        } else {
            // No vocabulary comes near the 31 bits.
            let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
            Tensor::new(&shape, &values)?
        };
        Ok((&input.name, tensor))
    }
}
