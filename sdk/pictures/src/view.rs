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
