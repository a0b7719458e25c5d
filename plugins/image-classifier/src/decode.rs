//! Bytes to pixels.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::{DynamicImage, ImageDecoder, Limits};

/// The longest side, in pixels: resizing holds one side at full length for every row of the result.
const SIDE: u32 = 16_384;

/// Decodes a PNG of at most `max_pixels`. The error says to the caller what is wrong with it.
pub(crate) fn png(bytes: &[u8], max_pixels: u64) -> Result<DynamicImage, String> {
    let mut limits = Limits::default();
    // Eight bytes are the most that a pixel takes; as much again is room for the decoder.
    limits.max_alloc = Some(max_pixels.saturating_mul(16).max(1 << 20));
    let no_png = |error| format!("the body is no PNG that can be read: {error}");
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(no_png)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(format!(
            "the picture has {width} x {height} pixels; at most {max_pixels} in all are taken"
        ));
    }
    if width.max(height) > SIDE {
        return Err(format!("the picture has {width} x {height} pixels; a side is at most {SIDE}"));
    }
    DynamicImage::from_decoder(decoder).map_err(no_png)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
        bytes
    }

    fn refuse(bytes: &[u8], max_pixels: u64, part: &str) {
        let error = png(bytes, max_pixels).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn pictures_are_decoded_or_refused() {
        let image = DynamicImage::new_rgba16(5, 3);
        let bytes = encoded(&image);
        assert_eq!(png(&bytes, 15).unwrap(), image);
        refuse(&bytes, 14, "5 x 3 pixels; at most 14");
        let thin = encoded(&DynamicImage::new_luma8(SIDE + 1, 1));
        refuse(&thin, 1 << 24, "16385 x 1 pixels; a side is at most 16384");
        refuse(&bytes[..bytes.len() / 2], 15, "no PNG");
        refuse(b"GIF89a", 15, "no PNG");
        refuse(b"", 15, "no PNG");
        // The header alone claims 60,000 x 60,000 pixels.
        let mut huge = bytes.clone();
        huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        refuse(&huge, 1 << 24, "PNG");
    }
}
