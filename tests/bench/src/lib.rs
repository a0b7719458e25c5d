//! The benchmark's jobs done natively, with axum and ort alone: what Berth is measured against.
//!
//! A request is answered on the thread that has read it, by a session of that thread with one
//! thread of its own: nothing is handed over, and nothing waited for but the cores.
//!
//! - [`session`]: the thread's session
//! - [`tensors`]: JSON in, JSON out
//! - [`pictures`]: a picture in, classes out, by the crate that the plugin `image-classifier` uses
//!
//! `bench-native` serves them; `bench-stages` times the parts of a picture's way, here and in Berth.

pub mod pictures;
pub mod session;
pub mod tensors;

/// Why a request has no answer.
pub enum Failure {
    /// The request is at fault.
    Request(String),
    /// The server is.
    Server(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Server(error.to_string())
    }
}
