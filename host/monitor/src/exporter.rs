//! The recorder and its page of metrics.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of latency buckets, in seconds: 50 µs to 30 s.
const SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Upper bounds of the buckets of memory, in bytes: none, 64 KiB to 4 GiB.
const BYTES: [f64; 10] = [
    0.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

/// Upper bounds of the buckets of processors' own values.
const VALUES: [f64; 16] =
    [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5];

/// The process's metrics.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

/// The recorder could not be set up; a process has one.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct ExporterError(String);

impl Exporter {
    /// Sets the process's recorder up. Metrics made before are lost.
    pub fn install() -> Result<Self, ExporterError> {
        let wrong = |error: &dyn std::fmt::Display| ExporterError(error.to_string());
        let handle = builder()
            .map_err(|error| wrong(&error))?
            .install_recorder()
            .map_err(|error| wrong(&error))?;
        crate::endpoint::describe();
        crate::plugin::describe();
        crate::predictions::recorder::describe();
        Ok(Self(handle))
    }

    /// The page of metrics, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds what was recorded into the histograms. Called every second or so: what is recorded in
    /// between is held one by one.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

pub(crate) fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)?
        .set_buckets_for_metric(Matcher::Full("berth_processor_value".into()), &VALUES)
}
