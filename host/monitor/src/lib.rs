//! Numbers about what the host does, in the form of Prometheus.
//!
//! - [`exporter`]: the recorder and its page of metrics
//! - [`endpoint`]: requests and their latency, for each endpoint and variant
//! - [`plugin`]: instances, traps and compilations, and processors' own numbers

pub mod endpoint;
pub mod exporter;
pub mod plugin;

pub use endpoint::{EndpointMetrics, policy_failed, ran_together, refused, resident_model_bytes};
pub use exporter::{Exporter, ExporterError};
pub use plugin::{PluginMetrics, ProcessorMetrics, compiled};
