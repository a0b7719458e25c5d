//! Pixels to fewer or more of them: columns first, row by row of the result, so that what is in
//! hand stays in the cache; then each row. Between the two, values are rounded to bytes.

use crate::Channels;
use crate::axis::Axis;
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
use crate::portable::{blend, weigh_rgb};
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use crate::simd128::{blend, weigh_rgb};

/// Pixels are read together with bytes that follow, up to so many after the last.
const SPARE: usize = 8;

/// The pixels of a picture and what to make of them.
pub(crate) struct Resize<'a> {
    pub(crate) bytes: &'a [u8],
    /// Pixels a row of the picture.
    pub(crate) width: usize,
    pub(crate) channels: Channels,
    pub(crate) across: &'a Axis,
    pub(crate) down: &'a Axis,
}

impl Resize<'_> {
    /// Calls `put` with each row of the result, of `columns` by `rows` pixels: its number, the
    /// channel, and the bytes of that channel.
    pub(crate) fn each(
        &self,
        (columns, rows): (usize, usize),
        mut put: impl FnMut(usize, usize, &[u8]),
    ) {
        let needed = self.across.needed();
        let count = self.channels.count();
        let stride = self.width * count;
        let length = needed.len() * count;
        let mut line = vec![0; length + SPARE];
        let mut planes = vec![0; columns * count];
        for row in 0..rows {
            let (first, weights) = self.down.span(row);
            let above = &self.bytes[first * stride + needed.start * count..];
            blend(above, stride, weights, self.down.shift(), &mut line[..length]);
            let span = |column| {
                let (first, weights) = self.across.span(column);
                (&line[(first - needed.start) * count..], weights)
            };
            let shift = self.across.shift();
            match self.channels {
                Channels::Grey => {
                    for (column, byte) in planes.iter_mut().enumerate() {
                        let (pixels, weights) = span(column);
                        let half = (1 << shift) >> 1;
                        let sum = pixels.iter().zip(weights).fold(half, |sum, (&byte, &weight)| {
                            sum + i32::from(byte) * i32::from(weight)
                        });
                        *byte = (sum >> shift) as u8;
                    }
                }
                Channels::Rgb => {
                    let (red, others) = planes.split_at_mut(columns);
                    let (green, blue) = others.split_at_mut(columns);
                    let places = red.iter_mut().zip(green).zip(blue).enumerate();
                    for (column, ((red, green), blue)) in places {
                        let (pixels, weights) = span(column);
                        [*red, *green, *blue] = weigh_rgb(pixels, weights, shift);
                    }
                }
            }
            for (channel, plane) in planes.chunks_exact(columns).enumerate() {
                put(row, channel, plane);
            }
        }
    }
}
