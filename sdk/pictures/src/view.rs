//! How a model sees a picture, and pixels to values.

use half::f16;

use crate::axis::{Axis, Side};
use crate::resize::Resize;
use crate::{Channels, Picture};

/// How a model sees a picture.
#[derive(Clone, Debug)]
pub struct View {
    /// Of the result, in pixels; at least 1.
    pub width: usize,
    /// Of the result, in pixels; at least 1.
    pub height: usize,
    /// Of the result.
    pub channels: Channels,
    /// Of the result.
    pub layout: Layout,
    /// What becomes of pictures of other proportions.
    pub fit: Fit,
    /// Whether every pixel counts when a picture shrinks, as with Pillow; otherwise the four
    /// nearest.
    pub antialias: bool,
    /// Of the result.
    pub element: Element,
    /// One a channel: each byte becomes `byte * factor + offset`.
    pub factors: Vec<f32>,
    /// One a channel.
    pub offsets: Vec<f32>,
}

/// The order of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All of one channel, then all of the next.
    Nchw,
    /// The channels of one pixel, then those of the next.
    Nhwc,
}

/// What becomes of pictures of other proportions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Both sides are resized to what is wanted.
    Stretch,
    /// The short side is resized to so many pixels, at least the longer side of the result, the
    /// long one in proportion; then what is wanted is cut out of the middle.
    Crop(u32),
}

/// The type of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Four bytes, little endian.
    Fp32,
    /// Two bytes, little endian.
    Fp16,
    /// A byte, rounded and clamped.
    Uint8,
}

impl Element {
    /// Bytes a value.
    pub fn size(self) -> usize {
        match self {
            Self::Fp32 => 4,
            Self::Fp16 => 2,
            Self::Uint8 => 1,
        }
    }
}

impl View {
    /// How many bytes a picture becomes.
    pub fn size(&self) -> usize {
        self.width * self.height * self.channels.count() * self.element.size()
    }

    /// The sides of the result of a picture of that size.
    fn sides(&self, width: usize, height: usize) -> (Side, Side) {
        let (across, down) = match self.fit {
            Fit::Stretch => (self.width as u64, self.height as u64),
            Fit::Crop(short) => {
                let proportional =
                    |long: usize, other: usize| u64::from(short) * long as u64 / other as u64;
                match width <= height {
                    true => (short.into(), proportional(height, width)),
                    false => (proportional(width, height), short.into()),
                }
            }
        };
        let side = |source, scaled: u64, length: usize| {
            let over = scaled.saturating_sub(length as u64);
            // Halves are rounded to even numbers, as Python's `round` does for torchvision.
            let offset = over / 2 + (over / 2) % 2 * (over % 2);
            Side { source, scaled, offset, length }
        };
        (side(width, across, self.width), side(height, down, self.height))
    }
}

impl Side {
    /// The same from the other end.
    fn turned(self) -> Self {
        Self { offset: self.scaled.saturating_sub(self.offset + self.length as u64), ..self }
    }
}

/// Where a pixel's first value lies: a place for the first pixel, and steps from there.
struct Steps {
    origin: usize,
    column: isize,
    row: isize,
    channel: usize,
}

impl Picture {
    /// Writes the picture as `view` has it, the right way up, into its `view.size()` bytes.
    ///
    /// # Panics
    ///
    /// When `values` is shorter, the view has not a factor and an offset for each channel, or it is
    /// grey and the picture is not.
    pub fn write(&self, view: &View, values: &mut [u8]) {
        assert!(self.channels.count() <= view.channels.count(), "a picture decoded for this view");
        match view.element {
            Element::Fp32 => self.write_each(view, values, f32::to_le_bytes),
            Element::Fp16 => {
                self.write_each(view, values, |number| f16::from_f32(number).to_le_bytes());
            }
            Element::Uint8 => self.write_each(view, values, |number| [(number + 0.5) as u8]),
        }
    }

    fn write_each<const SIZE: usize>(
        &self,
        view: &View,
        values: &mut [u8],
        encode: impl Fn(f32) -> [u8; SIZE],
    ) {
        let turned = self.orientation;
        let (width, height) = match turned.transposed {
            true => (self.height, self.width),
            false => (self.width, self.height),
        };
        let (mut across, mut down) = view.sides(width, height);
        if turned.mirrored {
            across = across.turned();
        }
        if turned.upside_down {
            down = down.turned();
        }
        let steps = Steps::new(view, turned);
        // From here on, rows and columns are those that are stored.
        if turned.transposed {
            (across, down) = (down, across);
        }
        let size = (across.length, down.length);
        let (across, down) = (Axis::new(across, view.antialias), Axis::new(down, view.antialias));
        let resize = Resize {
            bytes: &self.bytes,
            width: self.width,
            channels: self.channels,
            across: &across,
            down: &down,
        };
        resize.each(size, |row, channel, bytes| {
            // Grey goes into each channel of a view in colours.
            let channels = match self.channels {
                Channels::Grey => 0..view.channels.count(),
                Channels::Rgb => channel..channel + 1,
            };
            for channel in channels {
                let (factor, offset) = (view.factors[channel], view.offsets[channel]);
                let value = |byte: u8| encode(f32::from(byte) * factor + offset);
                let first = steps.origin.wrapping_add_signed(row as isize * steps.row)
                    + channel * steps.channel;
                if steps.column == 1 {
                    let values = values[first * SIZE..].as_chunks_mut::<SIZE>().0;
                    for (place, &byte) in values.iter_mut().zip(bytes) {
                        *place = value(byte);
                    }
                } else {
                    let mut at = first;
                    for &byte in bytes {
                        values[at * SIZE..][..SIZE].copy_from_slice(&value(byte));
                        at = at.wrapping_add_signed(steps.column);
                    }
                }
            }
        });
    }
}

impl Steps {
    fn new(view: &View, turned: crate::orientation::Orientation) -> Self {
        let (pixel, channel) = match view.layout {
            Layout::Nchw => (1, view.width * view.height),
            Layout::Nhwc => (view.channels.count(), 1),
        };
        let line = pixel * view.width;
        let (mut origin, mut right, mut below) = (0, pixel as isize, line as isize);
        if turned.mirrored {
            origin += pixel * (view.width - 1);
            right = -right;
        }
        if turned.upside_down {
            origin += line * (view.height - 1);
            below = -below;
        }
        match turned.transposed {
            true => Self { origin, column: below, row: right, channel },
            false => Self { origin, column: right, row: below, channel },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orientation::Orientation;

    fn view(width: usize, height: usize, channels: Channels, layout: Layout) -> View {
        let count = channels.count();
        View {
            width,
            height,
            channels,
            layout,
            fit: Fit::Stretch,
            antialias: true,
            element: Element::Uint8,
            factors: vec![1.0; count],
            offsets: vec![0.0; count],
        }
    }

    fn grey(width: usize, height: usize, bytes: &[u8]) -> Picture {
        Picture::from_pixels(width, height, Channels::Grey, bytes.to_vec()).unwrap()
    }

    fn rgb(width: usize, height: usize, bytes: &[u8]) -> Picture {
        Picture::from_pixels(width, height, Channels::Rgb, bytes.to_vec()).unwrap()
    }

    fn check(picture: &Picture, view: &View, expected: &[u8]) {
        let mut values = vec![0; view.size()];
        picture.write(view, &mut values);
        assert_eq!(values, expected, "{view:?}");
    }

    #[test]
    fn pictures_become_values() {
        use Channels::{Grey, Rgb};
        use Layout::{Nchw, Nhwc};
        let colours = rgb(2, 1, &[1, 2, 3, 4, 5, 6]);
        check(&colours, &view(2, 1, Rgb, Nhwc), &[1, 2, 3, 4, 5, 6]);
        check(&colours, &view(2, 1, Rgb, Nchw), &[1, 4, 2, 5, 3, 6]);
        check(&grey(2, 2, &[0, 16, 128, 255]), &view(2, 2, Grey, Nchw), &[0, 16, 128, 255]);
        check(&grey(1, 1, &[7]), &view(1, 1, Rgb, Nchw), &[7; 3]);
        check(&grey(40, 40, &[255; 1600]), &view(7, 3, Grey, Nchw), &[255; 21]);
        check(&grey(1, 1, &[50]), &view(2, 2, Grey, Nchw), &[50; 4]);
        check(&rgb(40, 40, &[255; 4800]), &view(3, 7, Rgb, Nhwc), &[255; 63]);
        let middle = View { fit: Fit::Crop(2), ..view(2, 2, Grey, Nchw) };
        check(&grey(4, 2, &[1, 2, 3, 4, 5, 6, 7, 8]), &middle, &[2, 3, 6, 7]);
        check(&grey(2, 4, &[1, 2, 3, 4, 5, 6, 7, 8]), &middle, &[3, 4, 5, 6]);
    }

    #[test]
    fn the_picture_is_turned_the_right_way_up() {
        let check = |transposed, mirrored, upside_down, expected: &[u8]| {
            let orientation = Orientation { transposed, mirrored, upside_down };
            let picture = Picture { orientation, ..grey(3, 2, &[1, 2, 3, 4, 5, 6]) };
            let (width, height) = if transposed { (2, 3) } else { (3, 2) };
            check(&picture, &view(width, height, Channels::Grey, Layout::Nchw), expected);
        };
        check(false, true, false, &[3, 2, 1, 6, 5, 4]);
        check(false, false, true, &[4, 5, 6, 1, 2, 3]);
        check(true, false, false, &[1, 4, 2, 5, 3, 6]);
        check(true, true, false, &[4, 1, 5, 2, 6, 3]);
        check(true, true, true, &[6, 3, 5, 2, 4, 1]);
    }

    #[test]
    fn values_are_scaled_by_channel_and_encoded() {
        let scaled = |element| View {
            element,
            factors: vec![1.0, 0.5, 2.0],
            offsets: vec![0.0, -1.0, 1.0],
            ..view(1, 1, Channels::Rgb, Layout::Nchw)
        };
        let picture = rgb(1, 1, &[10, 10, 10]);
        check(&picture, &scaled(Element::Uint8), &[10, 4, 21]);
        check(&picture, &scaled(Element::Fp32), &[10f32, 4.0, 21.0].map(f32::to_le_bytes).concat());
        let halves = [10.0, 4.0, 21.0].map(|value| f16::from_f32(value).to_le_bytes()).concat();
        check(&picture, &scaled(Element::Fp16), &halves);
    }
}
