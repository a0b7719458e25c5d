//! Values that every stage of Berth exchanges.
//!
//! - [`datatype`]: the element types of the Open Inference Protocol, and ONNX's floats of 8 bits
//! - [`numbers`]: elements as doubles, and back
//! - [`tensor`]: tensors and the types of tensors
//! - [`reference`]: names and references to versions, `digits@3`
//! - [`digest`]: sha256 digests

pub mod datatype;
pub mod digest;
mod float8;
pub mod numbers;
pub mod reference;
pub mod tensor;

pub use datatype::DataType;
pub use digest::Digest;
pub use reference::{Name, Reference, ReferenceError, Selector};
pub use tensor::{NamedTensor, Tensor, TensorError, TensorType};
