//! PNG.

use std::io::Cursor;

use png::{ColorType, Decoder, DecodingError, Limits, Transformations};

use crate::decode::{check_size, drop_alpha};
use crate::orientation::Orientation;
use crate::{Channels, Picture, PictureError};

/// What the decoder may take beside the pixels, such as for palettes and text, in bytes.
const ROOM: usize = 8 << 20;

pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Picture, PictureError> {
    let damaged =
        |error: DecodingError| PictureError::Damaged { format: "PNG", message: error.to_string() };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: ROOM });
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let (width, height) = decoder.read_header_info().map_err(damaged)?.size();
    check_size(width, height, max_pixels)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    let size = reader.output_buffer_size().unwrap_or(usize::MAX);
    let mut pixels = vec![0; size];
    reader.next_frame(&mut pixels).map_err(damaged)?;
    let channels = match reader.output_color_type().0 {
        ColorType::Grayscale => Channels::Grey,
        ColorType::GrayscaleAlpha => {
            drop_alpha(&mut pixels, 2);
            Channels::Grey
        }
        ColorType::Rgba => {
            drop_alpha(&mut pixels, 4);
            Channels::Rgb
        }
        ColorType::Rgb | ColorType::Indexed => Channels::Rgb,
    };
    let orientation =
        reader.info().exif_metadata.as_deref().map(Orientation::of_exif).unwrap_or_default();
    let (width, height) = (width as usize, height as usize);
    Ok(Picture { orientation, ..Picture::from_pixels(width, height, channels, pixels)? })
}
