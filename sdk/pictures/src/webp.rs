//! WebP.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use crate::decode::{check_size, drop_alpha};
use crate::orientation::Orientation;
use crate::{Channels, Picture, PictureError};

/// The most that the decoder takes for metadata, in bytes.
const ROOM: usize = 8 << 20;

pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Picture, PictureError> {
    let damaged =
        |error: DecodingError| PictureError::Damaged { format: "WebP", message: error.to_string() };
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    decoder.set_memory_limit(ROOM);
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    let size = decoder.output_buffer_size().unwrap_or(usize::MAX);
    let mut pixels = vec![0; size];
    decoder.read_image(&mut pixels).map_err(damaged)?;
    if decoder.has_alpha() {
        drop_alpha(&mut pixels, 4);
    }
    let exif = decoder.exif_metadata().ok().flatten();
    let orientation = exif.as_deref().map(Orientation::of_exif).unwrap_or_default();
    let (width, height) = (width as usize, height as usize);
    Ok(Picture { orientation, ..Picture::from_pixels(width, height, Channels::Rgb, pixels)? })
}
