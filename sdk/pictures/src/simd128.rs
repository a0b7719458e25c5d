//! Sums of weighted bytes with the vectors of WebAssembly, two weights at a time: what the
//! compiler makes of the portable ones takes several times as long.

use core::arch::wasm32::{
    i8x16_shuffle, i16x8_narrow_i32x4, i32x4_add, i32x4_dot_i16x8, i32x4_extract_lane, i32x4_shr,
    i32x4_splat, u8x16_narrow_i16x8, u16x8_extend_high_u8x16, u16x8_extend_low_u8x16, u64x2, v128,
};

use crate::portable;

/// Columns that are summed up at once.
const BLOCK: usize = 16;

/// As [`portable::blend`].
pub(crate) fn blend(rows: &[u8], stride: usize, weights: &[i16], shift: u32, line: &mut [u8]) {
    let half = i32x4_splat((1 << shift) >> 1);
    let mut blocks = line.chunks_exact_mut(BLOCK);
    let mut at = 0;
    for block in &mut blocks {
        let mut sums = [half; 4];
        for (pair, weights) in weights.chunks(2).enumerate() {
            let first = pair * 2 * stride + at;
            // The last one goes alone, beside itself without weight.
            let second = if weights.len() == 2 { first + stride } else { first };
            let (above, below) = (load(&rows[first..]), load(&rows[second..]));
            let weights = splat(weights);
            let low = i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(
                above, below,
            );
            let high = i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(
                above, below,
            );
            let pairs = [
                u16x8_extend_low_u8x16(low),
                u16x8_extend_high_u8x16(low),
                u16x8_extend_low_u8x16(high),
                u16x8_extend_high_u8x16(high),
            ];
            for (sum, pairs) in sums.iter_mut().zip(pairs) {
                *sum = i32x4_add(*sum, i32x4_dot_i16x8(pairs, weights));
            }
        }
        let [a, b, c, d] = sums.map(|sum| i32x4_shr(sum, shift));
        let bytes = u8x16_narrow_i16x8(i16x8_narrow_i32x4(a, b), i16x8_narrow_i32x4(c, d));
        // SAFETY: the block has 16 bytes; a store of a vector needs no alignment.
        unsafe { core::arch::wasm32::v128_store(block.as_mut_ptr().cast(), bytes) };
        at += BLOCK;
    }
    portable::blend(&rows[at..], stride, weights, shift, blocks.into_remainder());
}

/// As [`portable::weigh_rgb`].
#[inline(always)]
pub(crate) fn weigh_rgb(pixels: &[u8], weights: &[i16], shift: u32) -> [u8; 3] {
    let mut sums = i32x4_splat((1 << shift) >> 1);
    let mut rest = pixels;
    for weights in weights.chunks(2) {
        let Some(&bytes) = rest.first_chunk::<8>() else { break };
        let pixels = u64x2(u64::from_le_bytes(bytes), 0);
        // The reds of both pixels, the greens, the blues, as 16 bits each.
        let pairs = i8x16_shuffle::<0, 16, 3, 16, 1, 16, 4, 16, 2, 16, 5, 16, 16, 16, 16, 16>(
            pixels,
            u64x2(0, 0),
        );
        sums = i32x4_add(sums, i32x4_dot_i16x8(pairs, splat(weights)));
        rest = rest.get(6..).unwrap_or_default();
    }
    let sums = i32x4_shr(sums, shift);
    [
        i32x4_extract_lane::<0>(sums) as u8,
        i32x4_extract_lane::<1>(sums) as u8,
        i32x4_extract_lane::<2>(sums) as u8,
    ]
}

/// One or two weights in turn.
#[inline(always)]
fn splat(weights: &[i16]) -> v128 {
    let second = weights.get(1).map_or(0, |&weight| i32::from(weight));
    i32x4_splat(i32::from(weights[0]) & 0xffff | second << 16)
}

/// The first 16 bytes.
#[inline(always)]
fn load(bytes: &[u8]) -> v128 {
    let bytes = &bytes[..BLOCK];
    // SAFETY: there are 16 bytes; a load of a vector needs no alignment.
    unsafe { core::arch::wasm32::v128_load(bytes.as_ptr().cast()) }
}
