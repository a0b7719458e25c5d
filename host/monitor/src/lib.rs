//! Numbers about what the host does, in the form of Prometheus.
//!
//! - [`exporter`]: the recorder and its page of metrics
//! - [`endpoint`]: requests and their latency, for each endpoint and variant
//! - [`observations`]: what is observed of arms while a policy decides about them
//! - [`tally`]: how many requests came to which end, and how long they took
//! - [`values`]: what else requests bring: processors' metrics, rewards
//! - [`units`]: the same of units, such as users
//! - [`lately`], `failing`: what units did since the plan changed, and which fail most
//! - [`predictions`]: recorded predictions
//! - [`plugin`]: instances, traps and compilations, and processors' own numbers

pub mod endpoint;
pub mod exporter;
mod failing;
pub mod lately;
pub mod observations;
pub mod plugin;
pub mod predictions;
pub mod tally;
pub mod units;
pub mod values;

pub use endpoint::{
    EndpointMetrics, policy_failed, policy_quarantined, ran_together, refused,
    resident_model_bytes, rollout_ended, rollout_share, routing_shares, shadow_dropped, shadowed,
};
pub use exporter::{Exporter, ExporterError};
pub use lately::Lately;
pub use observations::{Exposed, Observations, Observed, SLICES};
pub use plugin::{PluginMetrics, ProcessorMetrics, compiled};
pub use predictions::recorder::feedback;
pub use tally::{End, Tally};
pub use units::{UnitMoments, ValueMoments};
pub use values::{Sum, Value};
