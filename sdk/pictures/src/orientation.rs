//! Which way up the camera was held.

/// How the stored pixels become the picture: first rows and columns are exchanged, then each axis
/// of the result is turned round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orientation {
    pub(crate) transposed: bool,
    pub(crate) mirrored: bool,
    pub(crate) upside_down: bool,
}

impl Orientation {
    /// What the Exif data of a picture say; as stored where they say nothing that can be read.
    pub(crate) fn of_exif(exif: &[u8]) -> Self {
        // WebP files carry JPEG's prefix now and then.
        let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
        let number = orientation(tiff).unwrap_or(1);
        Self {
            transposed: matches!(number, 5..=8),
            mirrored: matches!(number, 2 | 3 | 6 | 7),
            upside_down: matches!(number, 3 | 4 | 7 | 8),
        }
    }
}

/// The entry 0x0112 of the first directory: a short of 1 to 8, or a long as some cameras write.
fn orientation(tiff: &[u8]) -> Option<u32> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = tiff.get(at..)?.first_chunk().copied()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = tiff.get(at..)?.first_chunk().copied()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let directory = usize::try_from(long(4)?).ok().filter(|&at| at < tiff.len())?;
    let entries = usize::from(short(directory)?);
    let entry = (0..entries)
        .map(|entry| directory + 2 + entry * 12)
        .find(|&at| short(at) == Some(0x0112))?;
    // One value of either type stands in the entry itself.
    match (short(entry + 2)?, long(entry + 4)?) {
        (3, 1) => short(entry + 8).map(u32::from),
        (4, 1) => long(entry + 8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(exif: &[u8], expected: Option<u32>) {
        assert_eq!(orientation(exif), expected, "{exif:?}");
    }

    #[test]
    fn the_orientation_is_found() {
        let little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        check(little, Some(6));
        check(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0", Some(8));
        check(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x03", Some(3));
        check(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x01\0\0\0\x03", None);
        check(b"MM\0*\0\0\0\x08\0\x01\x01\x0f\0\x03\0\0\0\x01\0\x08\0\0", None);
        check(b"II*\0\xff\xff\xff\xff", None);
        check(&little[..14], None);
        check(b"", None);
        assert_eq!(Orientation::of_exif(b"nothing"), Orientation::default());
        let prefixed = [&b"Exif\0\0"[..], little].concat();
        assert!(Orientation::of_exif(&prefixed).transposed);
    }
}
