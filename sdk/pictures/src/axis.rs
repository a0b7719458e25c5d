//! Which pixels make up a pixel of the result, and with what weights: triangles, as Pillow's and
//! PyTorch's bilinear resizing have them.

/// One side of a picture and of its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    /// Pixels of the picture.
    pub(crate) source: usize,
    /// Pixels that they are resized to.
    pub(crate) scaled: u64,
    /// The first of these that is wanted.
    pub(crate) offset: u64,
    /// How many are wanted.
    pub(crate) length: usize,
}

/// For each pixel of a side of the result, neighbouring pixels of the source and their weights.
#[derive(Debug)]
pub(crate) struct Axis {
    /// The first pixel, and where its weights lie.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i16>,
    shift: u32,
}

impl Axis {
    /// With `antialias`, every pixel of the source counts when it shrinks; without, the two that
    /// are nearest.
    pub(crate) fn new(side: Side, antialias: bool) -> Self {
        let scale = side.source as f64 / side.scaled as f64;
        let reach = if antialias { scale.max(1.0) } else { 1.0 };
        let mut spans = Vec::with_capacity(side.length);
        let mut exact: Vec<f64> = Vec::new();
        for at in 0..side.length as u64 {
            let centre = ((side.offset + at) as f64 + 0.5) * scale;
            let weight =
                |pixel: usize| (1.0 - ((pixel as f64 + 0.5 - centre) / reach).abs()).max(0.0);
            let mut first = (centre - reach).max(0.0) as usize;
            let mut end = ((centre + reach).ceil() as usize).min(side.source);
            while end - first > 1 && weight(first) == 0.0 {
                first += 1;
            }
            while end - first > 1 && weight(end - 1) == 0.0 {
                end -= 1;
            }
            let start = exact.len();
            exact.extend((first..end).map(weight));
            let total: f64 = exact[start..].iter().sum();
            for weight in &mut exact[start..] {
                *weight /= total;
            }
            spans.push((first, start..exact.len()));
        }
        // As many bits as the largest weight leaves of 16, and the sums of bytes of 32.
        let largest = exact.iter().copied().fold(0.0, f64::max);
        let shift = (0..=22).rev().find(|&shift| largest * f64::from(1 << shift) < 32_767.0);
        let shift = shift.unwrap_or(0);
        let one = f64::from(1 << shift);
        let mut weights: Vec<i16> =
            exact.iter().map(|weight| (weight * one).round() as i16).collect();
        for (_, span) in &spans {
            // What rounding left over goes to the largest, so that white stays white.
            let weights = &mut weights[span.clone()];
            let total: i32 = weights.iter().copied().map(i32::from).sum();
            if let Some(largest) = weights.iter_mut().max() {
                *largest += ((1 << shift) - total) as i16;
            }
        }
        Self { spans, weights, shift }
    }

    /// The first pixel of the source that the result's pixel `at` is made of, and the weights of
    /// it and those that follow. They sum up to `1 << shift`.
    pub(crate) fn span(&self, at: usize) -> (usize, &[i16]) {
        let (first, weights) = &self.spans[at];
        (*first, &self.weights[weights.clone()])
    }

    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }

    /// The pixels of the source that are needed at all.
    pub(crate) fn needed(&self) -> std::ops::Range<usize> {
        let first = self.spans.first().map_or(0, |(first, _)| *first);
        first..self.spans.last().map_or(0, |(last, weights)| last + weights.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spans as the first pixel and weights of 100 in all.
    fn check(sides: (usize, u64, u64, usize), antialias: bool, expected: &[(usize, &[i32])]) {
        let (source, scaled, offset, length) = sides;
        let axis = Axis::new(Side { source, scaled, offset, length }, antialias);
        let found: Vec<(usize, Vec<i32>)> = (0..length)
            .map(|at| {
                let (first, weights) = axis.span(at);
                let total: i32 = weights.iter().copied().map(i32::from).sum();
                assert_eq!(total, 1 << axis.shift());
                let percent =
                    |&weight: &i16| (f64::from(weight) * 100.0 / f64::from(total)).round() as i32;
                (first, weights.iter().map(percent).collect())
            })
            .collect();
        let found: Vec<(usize, &[i32])> =
            found.iter().map(|(first, weights)| (*first, &weights[..])).collect();
        assert_eq!(found, expected, "{sides:?}");
    }

    #[test]
    fn weights_follow_from_the_sides() {
        check((3, 3, 0, 3), true, &[(0, &[100]), (1, &[100]), (2, &[100])]);
        check((3, 3, 1, 1), true, &[(1, &[100])]);
        check((2, 4, 0, 4), true, &[(0, &[100]), (0, &[75, 25]), (0, &[25, 75]), (1, &[100])]);
        check((4, 2, 0, 2), true, &[(0, &[43, 43, 14]), (1, &[14, 43, 43])]);
        check((4, 2, 0, 2), false, &[(0, &[50, 50]), (2, &[50, 50])]);
        check((6, 2, 0, 2), false, &[(1, &[100]), (4, &[100])]);
        check((1, 3, 0, 3), true, &[(0, &[100]), (0, &[100]), (0, &[100])]);
        check((5, 1, 0, 1), true, &[(0, &[16, 21, 26, 21, 16])]);
    }

    #[test]
    fn long_sides_keep_their_weight() {
        let axis = Axis::new(Side { source: 65_535, scaled: 3, offset: 0, length: 3 }, true);
        assert_eq!(axis.needed(), 0..65_535);
        for at in 0..3 {
            let (_, weights) = axis.span(at);
            let total: i32 = weights.iter().copied().map(i32::from).sum();
            assert_eq!(total, 1 << axis.shift());
        }
    }
}
