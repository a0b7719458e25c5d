//! What a plugin for Berth imports.
//!
//! A plugin is a WebAssembly component for `wasm32-wasip2`: a crate of type `cdylib` that
//! implements one trait of this crate and exports it with one macro. The macro also writes the
//! plugin's manifest into the file, so that the host knows what it wants before it runs it.
//!
//! A **processor** prepares and finishes requests around a model:
//!
//! ```
//! use berth_sdk::{ConfigError, DataType, Error, Graph, Processor, Reply, Request, Signature, TensorType};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     threshold: f32,
//! }
//!
//! struct Alarm(Config);
//!
//! impl Processor for Alarm {
//!     type Config = Config;
//!
//!     fn create(config: Config) -> Result<Self, ConfigError> {
//!         if !(0.0..=1.0).contains(&config.threshold) {
//!             return Err(ConfigError::new("threshold", "use a number between 0 and 1"));
//!         }
//!         Ok(Self(config))
//!     }
//!
//!     fn signature(&self) -> Signature {
//!         Signature::default().takes(TensorType::new("readings", DataType::Fp32, &[1, 16])).answers("text/plain")
//!     }
//!
//!     fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
//!         let readings = request.tensor("readings")?;
//!         let outputs = Graph::load("default")?.run(&[("readings", &readings)])?;
//!         let risk = outputs.get("risk")?.to_f32()?;
//!         let alarm = risk.iter().any(|&risk| risk > self.0.threshold);
//!         reply.body("text/plain", if alarm { b"alarm" } else { b"quiet" })
//!     }
//! }
//!
//! berth_sdk::export_processor!(Alarm, roles: &["default"]);
//! ```
//!
//! A **policy** decides on shares of traffic among arms. It is pure: the same observation and
//! plan give the same evaluation, so that any decision can be run again.
//!
//! ```
//! use berth_sdk::{Evaluation, NoConfig, Observation, Plan, Policy, PolicyError};
//!
//! struct Even;
//!
//! impl Policy for Even {
//!     type Config = NoConfig;
//!
//!     fn evaluate(_: NoConfig, observation: &Observation, _: Option<Plan>) -> Result<Evaluation, PolicyError> {
//!         Ok(Evaluation::standing(&vec![1.0; observation.arms().len()]))
//!     }
//! }
//!
//! berth_sdk::export_policy!(Even);
//! ```
//!
//! A policy that must see each request exports a [`Router`] too: `export_policy!(Even, router: ByCountry)`.
//!
//! Build with `cargo build --release --target wasm32-wasip2`.
//!
//! # Map
//!
//! - [`Processor`], [`Request`], [`Reply`], [`Signature`], [`Error`]: processors
//! - [`Policy`], [`Router`], [`Observation`], [`Evaluation`], [`Decision`]: policies
//! - [`Observe`], [`Observed`]: what lets policies be tested natively
//! - [`Graph`] (`wasi:nn`) and [`Model`] (every datatype, several at once): inference on [`Tensor`]s
//! - [`Asset`]: files that the variant grants
//! - [`log!`], [`error!`], [`warn!`], [`info!`], [`debug!`], [`metrics`]: what the operator sees
//! - [`config`]: how configurations are read
//! - [`Manifest`]: what a plugin says of itself before it runs
//! - [`bindings`]: the ABI as generated, for what the rest leaves out

pub mod bindings;
pub mod config;
pub mod metrics;

mod asset;
mod error;
mod exchange;
mod graph;
mod log;
mod manifest;
mod model;
mod observe;
mod policy;
mod processor;
mod tensor;

pub use asset::Asset;
#[doc(inline)]
pub use bindings::policy::berth::plugin::observing::{Measure, Observation, Subject};
#[doc(inline)]
pub use bindings::policy::exports::berth::plugin::evaluating::{
    ArmEvaluation, ArmState, Evaluation, Phase, Plan, PolicyError,
};
#[doc(inline)]
pub use bindings::processor::berth::plugin::log::Level;
#[doc(inline)]
pub use bindings::processor::berth::plugin::model::Description;
#[doc(inline)]
pub use bindings::processor::berth::plugin::types::{
    ConfigError, Datatype as DataType, TensorType,
};
#[doc(inline)]
pub use bindings::processor::exports::berth::plugin::processing::{Fault, Signature};
#[doc(inline)]
pub use bindings::router::exports::berth::plugin::routing::{Decision, Share};
pub use config::NoConfig;
pub use error::Error;
pub use exchange::{Reply, Request};
pub use graph::Graph;
pub use log::write as write_log;
pub use manifest::{ABI_VERSION, Manifest};
pub use model::{Inference, Model};
pub use observe::{Observe, Observed};
pub use policy::{Policy, Router};
pub use processor::Processor;
pub use tensor::{Element, Tensor, Tensors};

/// What the export macros expand to; no part of the promise.
#[doc(hidden)]
pub mod export {
    pub use crate::policy::{ExportedPolicy, ExportedRouter};
    pub use crate::processor::ExportedProcessor;
}
