//! Pixels to fewer or more of them: columns first, row by row of the result, so that what is in
//! hand stays in the cache; then each row. Between the two, values are rounded to bytes.

use crate::axis::Axis;

/// Columns that are summed up at once: their sums stay in registers.
const BLOCK: usize = 32;

/// The pixels of a picture and what to make of them.
pub(crate) struct Resize<'a> {
    pub(crate) bytes: &'a [u8],
    /// Pixels a row of the picture.
    pub(crate) width: usize,
    pub(crate) across: &'a Axis,
    pub(crate) down: &'a Axis,
}

impl Resize<'_> {
    /// Calls `put` with the column, row and values of each pixel of the result, of `columns` by
    /// `rows`. Pixels have `CHANNELS` values; what `put` gets beyond them has no meaning.
    pub(crate) fn each<const CHANNELS: usize, const LANES: usize>(
        &self,
        (columns, rows): (usize, usize),
        mut put: impl FnMut(usize, usize, [u8; LANES]),
    ) {
        let needed = self.across.needed();
        let stride = self.width * CHANNELS;
        let skipped = needed.start * CHANNELS;
        // Each pixel is read with what follows it, up to the lanes.
        let mut line = vec![0; needed.len() * CHANNELS + LANES - CHANNELS];
        for row in 0..rows {
            let (first, weights) = self.down.span(row);
            let above = &self.bytes[first * stride + skipped..];
            let shift = self.down.shift();
            let length = needed.len() * CHANNELS;
            blend(above, stride, weights, shift, &mut line[..length]);
            for column in 0..columns {
                let (first, weights) = self.across.span(column);
                let pixels = &line[(first - needed.start) * CHANNELS..];
                let values = weigh::<CHANNELS, LANES>(pixels, weights, self.across.shift());
                put(column, row, values);
            }
        }
    }
}

/// One row out of as many as there are weights, `stride` bytes from one to the next.
fn blend(rows: &[u8], stride: usize, weights: &[i16], shift: u32, line: &mut [u8]) {
    let half = (1 << shift) >> 1;
    let mut blocks = line.chunks_exact_mut(BLOCK);
    let mut at = 0;
    for block in &mut blocks {
        let mut sums = [half; BLOCK];
        for (row, &weight) in weights.iter().enumerate() {
            let Some(bytes) = rows[row * stride + at..].first_chunk::<BLOCK>() else { break };
            for (sum, &byte) in sums.iter_mut().zip(bytes) {
                *sum += i32::from(byte) * i32::from(weight);
            }
        }
        for (byte, sum) in block.iter_mut().zip(sums) {
            *byte = (sum >> shift) as u8;
        }
        at += BLOCK;
    }
    for (column, byte) in blocks.into_remainder().iter_mut().enumerate() {
        let sum = weights.iter().enumerate().fold(half, |sum, (row, &weight)| {
            sum + i32::from(rows[row * stride + at + column]) * i32::from(weight)
        });
        *byte = (sum >> shift) as u8;
    }
}

/// One pixel out of as many as there are weights.
#[inline(always)]
fn weigh<const CHANNELS: usize, const LANES: usize>(
    pixels: &[u8],
    weights: &[i16],
    shift: u32,
) -> [u8; LANES] {
    let mut sums = [(1 << shift) >> 1; LANES];
    for (pixel, &weight) in weights.iter().enumerate() {
        let Some(values) = pixels[pixel * CHANNELS..].first_chunk::<LANES>() else { break };
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += i32::from(value) * i32::from(weight);
        }
    }
    sums.map(|sum| (sum >> shift) as u8)
}
