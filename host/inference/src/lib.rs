//! Opens models and runs them.
//!
//! - [`runtime`]: the loaded runtime, its threads, and how a model is opened
//! - [`model`]: what a model takes and answers, and one inference on it
//! - `executor`: the threads that run what must not hold up its caller, their bounded queues, and a
//!   fair share for each lane
//! - `batch`: inferences of several requests as one run
//! - [`probe`]: whether that is safe for a model
//! - [`trial`]: the process in which a model is tried before it is opened
//! - `graphs`: what trials leave on the disk: what they found, and optimised graphs
//! - [`data_files`]: the files beside a model that hold its weights
//! - `deadline`: stops runs whose time is up
//! - `pace`: how long a model takes, and so whether a run stays on its caller's thread
//! - [`onnxruntime`]: everything that touches ONNX Runtime, and the only code that does
//!
//! A model is one session, whatever the number of callers: ONNX Runtime runs one session on many
//! threads at once, so weights are in memory once and no caller waits for another.

mod batch;
pub mod data_files;
mod deadline;
mod executor;
mod graphs;
pub mod model;
pub mod onnxruntime;
mod pace;
pub mod probe;
pub mod runtime;
pub mod trial;

pub use data_files::DataFileError;
pub use executor::Lane;
pub use model::{
    BatchOptions, InferenceError, Model, ModelOptions, Opened, keep_runs_here, runs_are_kept_here,
};
pub use onnxruntime::{OpenError, Providers, RuntimeError};
pub use probe::Batching;
pub use runtime::{Runtime, RuntimeOptions};
