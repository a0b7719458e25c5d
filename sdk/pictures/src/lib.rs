//! Encoded pictures to the values of a model's input, as Pillow and numpy make them.
//!
//! It knows nothing of plugins: the same code runs in a component and in a native program.
//!
//! ```
//! use berth_pictures::{Channels, Element, Fit, Layout, Picture, View};
//!
//! let view = View {
//!     width: 2,
//!     height: 1,
//!     channels: Channels::Rgb,
//!     layout: Layout::Nchw,
//!     fit: Fit::Stretch,
//!     antialias: true,
//!     element: Element::Uint8,
//!     factors: vec![1.0; 3],
//!     offsets: vec![0.0; 3],
//! };
//! // `Picture::decode` makes one of a JPEG, PNG or WebP.
//! let picture = Picture::from_pixels(2, 1, Channels::Grey, vec![0, 255])?;
//! let mut values = vec![0; view.size()];
//! picture.write(&view, &mut values);
//! assert_eq!(values, [0, 255, 0, 255, 0, 255]);
//! # Ok::<(), berth_pictures::PictureError>(())
//! ```
//!
//! - `decode`: bytes to pixels; `jpeg`, `png`, `webp`: each format
//! - `orientation`: which way up the camera was held
//! - `view`: how a model sees a picture, and pixels to values
//! - `axis`: which pixels make up a pixel of the result, and with what weights
//! - `resize`: pixels to fewer or more of them; `portable`, `simd128`: its inner loops

mod axis;
mod decode;
mod jpeg;
mod orientation;
mod png;
mod portable;
mod resize;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;
mod view;
mod webp;

pub use decode::{Channels, Picture, PictureError};
pub use view::{Element, Fit, Layout, View};
