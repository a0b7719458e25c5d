//! Sums of weighted bytes on any processor.

/// Columns that are summed up at once: their sums stay in registers.
const BLOCK: usize = 32;

/// One row out of as many as there are weights, `stride` bytes from one to the next. The weights
/// sum up to `1 << shift`.
pub(crate) fn blend(rows: &[u8], stride: usize, weights: &[i16], shift: u32, line: &mut [u8]) {
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

/// One pixel of RGB out of as many as there are weights; bytes follow the last.
#[cfg_attr(
    all(target_arch = "wasm32", target_feature = "simd128"),
    expect(dead_code, reason = "there it is done with vectors")
)]
#[inline(always)]
pub(crate) fn weigh_rgb(pixels: &[u8], weights: &[i16], shift: u32) -> [u8; 3] {
    let mut sums = [(1 << shift) >> 1; 4];
    for (pixel, &weight) in weights.iter().enumerate() {
        let Some(values) = pixels[pixel * 3..].first_chunk::<4>() else { break };
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += i32::from(value) * i32::from(weight);
        }
    }
    [0, 1, 2].map(|channel| (sums[channel] >> shift) as u8)
}
