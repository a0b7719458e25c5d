//! JPEG.

use jpeg_decoder::{Decoder, PixelFormat};

use crate::decode::check_size;
use crate::orientation::Orientation;
use crate::{Channels, Picture, PictureError};

pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Picture, PictureError> {
    let damaged = |error: jpeg_decoder::Error| PictureError::Damaged {
        format: "JPEG",
        message: error.to_string(),
    };
    let mut decoder = Decoder::new(bytes);
    decoder.read_info().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| PictureError::Damaged {
        format: "JPEG",
        message: "it has no frame".to_owned(),
    })?;
    check_size(info.width.into(), info.height.into(), max_pixels)?;
    let channels = match info.pixel_format {
        PixelFormat::L8 => Channels::Grey,
        PixelFormat::RGB24 => Channels::Rgb,
        PixelFormat::CMYK32 => return Err(PictureError::Kind("a JPEG in CMYK")),
        PixelFormat::L16 => return Err(PictureError::Kind("a JPEG of more than 8 bits")),
    };
    let pixels = decoder.decode().map_err(damaged)?;
    let orientation = decoder.exif_data().map(Orientation::of_exif).unwrap_or_default();
    let (width, height) = (info.width.into(), info.height.into());
    Ok(Picture { orientation, ..Picture::from_pixels(width, height, channels, pixels)? })
}
