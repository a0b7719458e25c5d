//! ONNX Runtime.
//!
//! - [`library`]: finds, checks and loads the shared library
//! - [`session`]: a model opened in it
//! - `value`: tensors in its terms
//! - `words`: its messages, for people
//!
//! Sessions are built and described through the `ort` crate. Runs and values go through the C API
//! that it hands out, because `ort` allows one run at a time in a session.

pub mod library;
pub mod session;
mod value;
mod words;

pub use library::RuntimeError;
pub use session::OpenError;

use ort::sys;

use self::words::one_line;

/// The message of a failed call, on one line.
fn check(status: sys::OrtStatusPtr) -> Result<(), String> {
    // SAFETY: every caller passes a status that the C API has just returned, once.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| one_line(error.message()))
}
