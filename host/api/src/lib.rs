//! The rim: what clients and operators speak. The only crate that knows JSON on the wire and status
//! codes.
//!
//! - [`data`]: the data port, the Open Inference Protocol and `invoke`
//! - [`body`]: bodies of requests, within bounds
//! - [`admin`]: the admin port, the command line's verbs as JSON, and metrics
//! - [`oip`]: the protocol's JSON, to tensors and back, without a transport
//! - `predictions`: recorded predictions, and feedback on them
//! - `respond`: errors, their status codes, and request ids

pub mod admin;
pub mod body;
pub mod data;
pub mod oip;
mod predictions;
mod respond;

pub use respond::answer;
