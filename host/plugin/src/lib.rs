//! Compiles, limits and calls components. The only crate that knows wasmtime.
//!
//! - [`inspect`]: what a component is, asks for and says of itself, read before anything runs
//! - [`engine`]: the two engines and their limits
//! - [`compile`]: compilation off the request path and the cache of compiled code
//! - [`compiler`]: the process that compiles one component
//! - [`processor`]: processors, a fresh instance for each request
//! - `clock`: what interrupts guests
//! - `turns`: as many guests at once as there are cores
//! - `repeat`: one instance called over and over, for a benchmark
//! - [`policy`], [`router`]: policies, pure and metered, and those that see each request
//! - [`decision`]: what policies decide, checked
//! - [`reports`]: the numbers that a processor reports of one request
//! - [`trap`]: how guests come to their end, in words for the log
//! - one file for each WIT interface that the host implements: [`exchange`], [`model`], [`nn`],
//!   [`assets`], [`guest_log`], [`guest_metrics`], [`observing`], [`wasi`]

pub mod assets;
mod bindings;
mod clock;
pub mod compile;
pub mod compiler;
pub mod decision;
pub mod engine;
pub mod exchange;
pub mod guest_log;
pub mod guest_metrics;
pub mod inspect;
pub mod model;
pub mod nn;
pub mod observing;
pub mod policy;
pub mod processor;
mod repeat;
pub mod reports;
pub mod router;
mod state;
pub mod trap;
mod turns;
pub mod wasi;

pub use assets::{Asset, Assets};
pub use berth_apart::Bounds;
pub use compile::{CompileTimes, Compiled};
pub use compiler::COMPILE_BOUNDS;
pub use decision::{
    ArmEvaluation, ArmState, Decision, Evaluation, Phase, Plan, PolicyError, Share,
};
pub use engine::{EngineError, EngineOptions, Engines, ProcessorLimits};
pub use exchange::{Body, Reply, Request};
pub use guest_log::Level;
pub use inspect::{Inspection, Kind, LoadError, Manifest};
pub use observing::{Measure, Observation, Subject, unit_hash};
pub use policy::Policy;
pub use processor::{Bindings, BoundModel, Call, CallError, CreateError, Processor, Sink, Usage};
pub use reports::{Report, Reports, Times};
pub use router::Routers;
pub use trap::Trap;
