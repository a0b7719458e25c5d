//! Bytes to pixels.

use crate::orientation::Orientation;
use crate::{jpeg, png, webp};

/// The longest side, in pixels: that of a JPEG.
const SIDE: u32 = 65_535;

/// Pixels of eight bits a channel, row by row from the top, as they were stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) channels: Channels,
    pub(crate) orientation: Orientation,
    /// `width * height * channels` of them.
    pub(crate) bytes: Vec<u8>,
}

/// What a pixel consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// Brightness: one value.
    Grey,
    /// Red, green and blue: three values.
    Rgb,
}

/// Why there is no picture. All of it is the sender's to mend.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The bytes begin as none of the formats does.
    #[error("it is no JPEG, PNG or WebP")]
    Unknown,
    /// It ends early or is damaged.
    #[error("the {format} cannot be read, it is damaged or incomplete: {message}")]
    Damaged {
        /// The format that it begins as.
        format: &'static str,
        /// What the decoder says.
        message: String,
    },
    /// A kind of the format that is not taken.
    #[error("{0} is not taken: send it in RGB or grey")]
    Kind(&'static str),
    /// More pixels than the receiver allows, or none.
    #[error(
        "it has {width} x {height} pixels; at most {max_pixels} in all are taken, and {SIDE} a side"
    )]
    Size {
        /// As the header says, in pixels.
        width: u32,
        /// As the header says, in pixels.
        height: u32,
        /// What is allowed.
        max_pixels: u64,
    },
    /// Raw pixels whose number does not follow from the size.
    #[error("{width} x {height} pixels of {channels} values are not {bytes} bytes")]
    Length {
        /// In pixels.
        width: usize,
        /// In pixels.
        height: usize,
        /// Values a pixel.
        channels: usize,
        /// How many there are.
        bytes: usize,
    },
}

impl Channels {
    /// Values a pixel: 1 or 3.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
        }
    }
}

impl Picture {
    /// Decodes a JPEG, PNG or WebP of at most `max_pixels`, found out by its first bytes, for a
    /// view in `channels`. Transparency is dropped and not blended, of 16 bits the upper eight are
    /// taken, of an animation the first picture. Fails on anything else, before the pixels are
    /// decoded where the header tells.
    pub fn decode(bytes: &[u8], channels: Channels, max_pixels: u64) -> Result<Self, PictureError> {
        let mut picture = match bytes {
            [0xff, 0xd8, 0xff, ..] => jpeg::decode(bytes, max_pixels)?,
            [0x89, b'P', b'N', b'G', ..] => png::decode(bytes, max_pixels)?,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
                webp::decode(bytes, max_pixels)?
            }
            _ => return Err(PictureError::Unknown),
        };
        if channels == Channels::Grey && picture.channels == Channels::Rgb {
            picture.to_grey();
        }
        Ok(picture)
    }

    /// A picture of pixels that are decoded already: `width * height` times `channels` bytes, row
    /// by row from the top. Fails when there are more or fewer, or none.
    pub fn from_pixels(
        width: usize,
        height: usize,
        channels: Channels,
        bytes: Vec<u8>,
    ) -> Result<Self, PictureError> {
        let count = channels.count();
        let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(count));
        if bytes.is_empty() || expected != Some(bytes.len()) {
            let bytes = bytes.len();
            return Err(PictureError::Length { width, height, channels: count, bytes });
        }
        Ok(Self { width, height, channels, orientation: Orientation::default(), bytes })
    }

    /// Makes it grey: brightness as ITU-R 601 weighs the colours.
    pub fn to_grey(&mut self) {
        if self.channels == Channels::Grey {
            return;
        }
        let pixels = self.width * self.height;
        for at in 0..pixels {
            let [red, green, blue] =
                [0, 1, 2].map(|channel| u32::from(self.bytes[at * 3 + channel]));
            self.bytes[at] = ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8;
        }
        self.bytes.truncate(pixels);
        self.channels = Channels::Grey;
    }
}

/// Refuses what is too large before memory is taken for it.
pub(crate) fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), PictureError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > max_pixels || width.max(height) > SIDE {
        return Err(PictureError::Size { width, height, max_pixels });
    }
    Ok(())
}

/// Drops the last of every `stride` bytes, such as that of RGBA.
pub(crate) fn drop_alpha(bytes: &mut Vec<u8>, stride: usize) {
    let kept = stride - 1;
    let pixels = bytes.len() / stride;
    for at in 1..pixels {
        bytes.copy_within(at * stride..at * stride + kept, at * kept);
    }
    bytes.truncate(pixels * kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG of 5 by 3 pixels, RGBA of 16 bits.
    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = ::png::Encoder::new(&mut bytes, 5, 3);
        encoder.set_color(::png::ColorType::Rgba);
        encoder.set_depth(::png::BitDepth::Sixteen);
        let pixels = [10, 99, 20, 99, 30, 99, 40, 99].repeat(15);
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        bytes
    }

    fn refuse(bytes: &[u8], max_pixels: u64, part: &str) {
        let error = Picture::decode(bytes, Channels::Rgb, max_pixels).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn pictures_are_decoded_or_refused() {
        let bytes = encoded();
        let picture = Picture::decode(&bytes, Channels::Rgb, 15).unwrap();
        let expected = Picture::from_pixels(5, 3, Channels::Rgb, [10, 20, 30].repeat(15));
        assert_eq!(picture, expected.unwrap());
        let grey = Picture::decode(&bytes, Channels::Grey, 15).unwrap();
        assert_eq!(grey, Picture::from_pixels(5, 3, Channels::Grey, vec![18; 15]).unwrap());
        refuse(&bytes, 14, "5 x 3 pixels; at most 14");
        refuse(&bytes[..bytes.len() / 2], 15, "the PNG cannot be read");
        refuse(&bytes[..10], 15, "the PNG cannot be read");
        refuse(&[0xff, 0xd8, 0xff], 15, "the JPEG cannot be read");
        refuse(b"RIFF\x10\0\0\0WEBPVP8 ", 15, "the WebP cannot be read");
        refuse(b"GIF89a", 15, "no JPEG, PNG or WebP");
        refuse(b"", 15, "no JPEG, PNG or WebP");
    }

    #[test]
    fn the_header_tells_what_is_too_large() {
        for (width, height) in [(60_000u32, 60_000u32), (70_000, 1)] {
            let mut bytes = encoded();
            bytes[16..20].copy_from_slice(&width.to_be_bytes());
            bytes[20..24].copy_from_slice(&height.to_be_bytes());
            let sum = crc(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&sum.to_be_bytes());
            refuse(&bytes, 1 << 24, &format!("{width} x {height} pixels; at most 16777216"));
        }
    }

    /// The checksum of a part of a PNG.
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte), |sum, _| {
                if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
            })
        })
    }
}
