//! ONNX Runtime.
//!
//! - [`library`]: finds, checks and loads the shared library
//! - [`session`]: a model opened in it
//! - [`providers`]: what runs its operators
//! - `arena`: memory that it keeps
//! - `value`: tensors in its terms
//! - `words`: its messages, for people
//!
//! Sessions are built and described through the `ort` crate. Runs and values go through the C API
//! that it hands out, because `ort` allows one run at a time in a session.

mod arena;
pub mod library;
pub mod providers;
pub mod session;
mod value;
mod words;

pub use library::RuntimeError;
pub(crate) use providers::Device;
pub use providers::Providers;
pub use session::OpenError;

use std::error::Error as _;

use ort::sys;

use self::words::one_line;

/// The message of a failed call, on one line.
fn check(status: sys::OrtStatusPtr) -> Result<(), String> {
    // SAFETY: every caller passes a status that the C API has just returned, once.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| one_line(error.message()))
}

/// Why a library does not load, in the system's words.
fn why(error: &libloading::Error) -> String {
    one_line(&error.source().map_or_else(|| error.to_string(), ToString::to_string))
}
