//! Pixels to the values of a tensor.

use std::borrow::Cow;

use image::DynamicImage;
use image::imageops::{self, FilterType};

use crate::config::{Channels, Layout};

/// How the model sees a picture.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) channels: Channels,
    pub(crate) layout: Layout,
    /// One a channel: each byte becomes `byte * factor + offset`.
    pub(crate) factors: Vec<f32>,
    pub(crate) offsets: Vec<f32>,
}

/// The picture in the view's colours and size, as `width * height * channels` values in its layout.
/// Transparency is dropped.
pub(crate) fn values(picture: &DynamicImage, view: &View) -> Vec<f32> {
    let bytes = match view.channels {
        Channels::Grey => {
            let grey =
                picture.as_luma8().map_or_else(|| Cow::Owned(picture.to_luma8()), Cow::Borrowed);
            if grey.dimensions() == (view.width, view.height) {
                grey.into_owned().into_raw()
            } else {
                imageops::resize(&*grey, view.width, view.height, FilterType::Triangle).into_raw()
            }
        }
        Channels::Rgb => {
            let rgb =
                picture.as_rgb8().map_or_else(|| Cow::Owned(picture.to_rgb8()), Cow::Borrowed);
            if rgb.dimensions() == (view.width, view.height) {
                rgb.into_owned().into_raw()
            } else {
                imageops::resize(&*rgb, view.width, view.height, FilterType::Triangle).into_raw()
            }
        }
    };
    scaled(&bytes, view)
}

fn scaled(bytes: &[u8], view: &View) -> Vec<f32> {
    let channels = view.channels.count();
    let value =
        |byte: u8, channel: usize| f32::from(byte) * view.factors[channel] + view.offsets[channel];
    match view.layout {
        Layout::Nchw => {
            let plane = |channel| {
                bytes.iter().skip(channel).step_by(channels).map(move |&byte| value(byte, channel))
            };
            (0..channels).flat_map(plane).collect()
        }
        Layout::Nhwc => bytes
            .chunks_exact(channels)
            .flat_map(|pixel| pixel.iter().enumerate().map(|(channel, &byte)| value(byte, channel)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, RgbImage};

    use super::*;

    fn view(width: u32, height: u32, channels: Channels, layout: Layout) -> View {
        let count = channels.count();
        View {
            width,
            height,
            channels,
            layout,
            factors: vec![1.0; count],
            offsets: vec![0.0; count],
        }
    }

    fn grey(width: u32, height: u32, bytes: &[u8]) -> DynamicImage {
        GrayImage::from_raw(width, height, bytes.to_vec()).unwrap().into()
    }

    fn rgb(width: u32, height: u32, bytes: &[u8]) -> DynamicImage {
        RgbImage::from_raw(width, height, bytes.to_vec()).unwrap().into()
    }

    fn check(picture: &DynamicImage, view: &View, expected: &[f32]) {
        assert_eq!(values(picture, view), expected, "{view:?}");
    }

    #[test]
    fn pictures_become_values() {
        use Channels::{Grey, Rgb};
        use Layout::{Nchw, Nhwc};
        let colours = rgb(2, 1, &[1, 2, 3, 4, 5, 6]);
        check(&colours, &view(2, 1, Rgb, Nhwc), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        check(&colours, &view(2, 1, Rgb, Nchw), &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        check(&grey(2, 2, &[0, 16, 128, 255]), &view(2, 2, Grey, Nchw), &[0.0, 16.0, 128.0, 255.0]);
        check(&grey(1, 1, &[7]), &view(1, 1, Rgb, Nchw), &[7.0, 7.0, 7.0]);
        check(&rgb(1, 1, &[9, 9, 9]), &view(1, 1, Grey, Nchw), &[9.0]);
        check(&grey(4, 4, &[50; 16]), &view(2, 1, Grey, Nchw), &[50.0, 50.0]);
        check(&grey(1, 1, &[50]), &view(2, 2, Grey, Nchw), &[50.0; 4]);
        check(&rgb(4, 4, &[50; 48]), &view(1, 1, Rgb, Nhwc), &[50.0; 3]);
    }

    #[test]
    fn values_are_scaled_by_channel() {
        let view = View {
            factors: vec![1.0, 0.5, 2.0],
            offsets: vec![0.0, -1.0, 1.0],
            ..view(1, 1, Channels::Rgb, Layout::Nchw)
        };
        check(&rgb(1, 1, &[10, 10, 10]), &view, &[10.0, 4.0, 21.0]);
    }
}
