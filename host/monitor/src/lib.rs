//! Numbers about what the host does, in the form of Prometheus.
//!
//! - [`exporter`]: the recorder and its page of metrics
//! - [`endpoint`]: requests and their latency, for each endpoint and variant
//! - [`observations`]: what is observed of an arm while a policy decides about it
//! - [`units`]: the same of units, such as users
//! - [`plugin`]: instances, traps and compilations, and processors' own numbers

pub mod endpoint;
pub mod exporter;
pub mod observations;
pub mod plugin;
pub mod units;

pub use endpoint::{
    EndpointMetrics, policy_failed, ran_together, refused, resident_model_bytes, rollout_ended,
    rollout_share,
};
pub use exporter::{Exporter, ExporterError};
pub use observations::{End, Observations, Observed};
pub use plugin::{PluginMetrics, ProcessorMetrics, compiled};
pub use units::{UnitMoments, Units};
