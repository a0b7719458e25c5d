//! Writes ONNX models, so that tests and benchmarks need no binary files.
//!
//! - [`encode`]: the parts of a model as protocol buffers
//! - [`small`]: models of a few nodes
//! - [`networks`]: networks with seeded random weights, as large as real ones

pub mod encode;
pub mod networks;
pub mod small;
