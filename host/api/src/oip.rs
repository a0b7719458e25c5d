//! The Open Inference Protocol, version 2, over HTTP: plain values in and out, no transport.
//!
//! - [`request`]: the body of an inference request, into tensors
//! - [`response`]: tensors, into the body of an answer
//! - [`metadata`]: the other bodies
//! - `elements`: the data of a tensor, flat or nested
//! - `scan`: JSON, read in one pass without building a tree
//!
//! Strict JSON with one exception, in both directions: floating-point elements may be `NaN`,
//! `Infinity` and `-Infinity`, as Python's `json` module writes and reads them.

mod elements;
pub mod metadata;
pub mod request;
pub mod response;
mod scan;

pub use request::{BinaryOutputs, InferRequest, decode_infer};
pub use response::{Encoded, InferResponse, encode_infer};

/// Why a body was not understood, or an answer cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OipError {
    /// The body is no JSON. The caller's fault.
    #[error("malformed JSON at byte {at}: {problem}")]
    Malformed {
        /// Where, in bytes from the body's start.
        at: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The body is JSON but no inference request. The caller's fault.
    #[error("{0}")]
    Request(String),
    /// One input is wrong. The caller's fault.
    #[error("input {name:?}: {problem}")]
    Input {
        /// The input's name, or its place such as `#0` when it has none.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An output has no JSON form. The model's or processor's fault.
    #[error("output {name:?}: {problem}")]
    Output {
        /// The output's name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}
