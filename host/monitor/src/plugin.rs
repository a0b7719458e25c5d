//! Instances, traps and compilations, and processors' own numbers.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};

const TRAPS: &str = "berth_plugin_traps_total";
const INSTANTIATE: &str = "berth_plugin_instantiate_seconds";
const COMPILE: &str = "berth_plugin_compile_seconds";
const CPU: &str = "berth_plugin_cpu_seconds";
const MEMORY: &str = "berth_plugin_memory_bytes";
const HOST_BYTES: &str = "berth_plugin_host_bytes";
const HOST_CALLS: &str = "berth_plugin_host_calls_total";
const COUNT: &str = "berth_processor_count_total";
const VALUE: &str = "berth_processor_value";
const DROPPED: &str = "berth_plugin_dropped_total";

/// The most names of metrics that a plugin may use in a variant.
const NAMES: usize = 64;

pub(crate) fn describe() {
    describe_counter!(TRAPS, "Calls that the host had to stop, by kind.");
    describe_histogram!(INSTANTIATE, Unit::Seconds, "Making an instance and its processor.");
    describe_histogram!(CPU, Unit::Seconds, "Time on a core of one call, inference left out.");
    describe_histogram!(MEMORY, Unit::Bytes, "The most linear memory of one call.");
    describe_histogram!(HOST_BYTES, Unit::Bytes, "The most that the host held for one call.");
    describe_counter!(HOST_CALLS, "Calls of the host's functions.");
    describe_histogram!(COMPILE, Unit::Seconds, "Compiling a component.");
    describe_counter!(COUNT, "What processors count, by the name that they give it.");
    describe_histogram!(VALUE, "What processors measure, by the name that they give it.");
    describe_counter!(
        DROPPED,
        "Log lines and metrics of plugins that were over their bounds or ill-formed."
    );
}

/// The metrics of one version of a plugin.
pub struct PluginMetrics {
    plugin: String,
    instantiate: Histogram,
    cpu: Histogram,
    memory: Histogram,
    host_bytes: Histogram,
    host_calls: Counter,
}

impl PluginMetrics {
    /// The metrics of a plugin by name and version, such as `image-classifier@1`.
    pub fn new(plugin: &str) -> Self {
        let labels = [("plugin", plugin.to_owned())];
        Self {
            plugin: plugin.to_owned(),
            instantiate: histogram!(INSTANTIATE, &labels),
            cpu: histogram!(CPU, &labels),
            memory: histogram!(MEMORY, &labels),
            host_bytes: histogram!(HOST_BYTES, &labels),
            host_calls: counter!(HOST_CALLS, &labels),
        }
    }

    /// An instance was made.
    pub fn instantiated(&self, took: Duration) {
        self.instantiate.record(took);
    }

    /// What a call used, whatever came of it: time on a core, the most bytes of linear memory, the
    /// most bytes that the host held for it, calls of the host's functions.
    pub fn used(&self, cpu: Duration, memory: u64, host_bytes: u64, host_calls: u64) {
        self.cpu.record(cpu);
        self.memory.record(memory as f64);
        self.host_bytes.record(host_bytes as f64);
        self.host_calls.increment(host_calls);
    }

    /// A call was stopped: `kind` is a word such as `memory`.
    pub fn trapped(&self, kind: &'static str) {
        let labels = [("plugin", self.plugin.clone()), ("kind", kind.to_owned())];
        counter!(TRAPS, &labels).increment(1);
    }
}

/// A component was compiled.
pub fn compiled(plugin: &str, took: Duration) {
    let labels = [("plugin", plugin.to_owned())];
    histogram!(COMPILE, &labels).record(took);
}

/// The numbers that a processor reports in one variant. Names beyond the first 64 are dropped.
pub struct ProcessorMetrics {
    labels: [(&'static str, String); 3],
    dropped: Counter,
    named: RwLock<Named>,
}

#[derive(Default)]
struct Named {
    counters: HashMap<String, Counter>,
    histograms: HashMap<String, Histogram>,
}

impl Named {
    fn has_room(&self) -> bool {
        self.counters.len() + self.histograms.len() < NAMES
    }
}

impl ProcessorMetrics {
    /// The numbers of `plugin` in `variant` of `endpoint`.
    pub fn new(endpoint: &str, variant: &str, plugin: &str) -> Self {
        let labels = [
            ("endpoint", endpoint.to_owned()),
            ("variant", variant.to_owned()),
            ("plugin", plugin.to_owned()),
        ];
        Self { dropped: counter!(DROPPED, &labels), labels, named: RwLock::default() }
    }

    /// Adds to the counter `name`.
    pub fn count(&self, name: &str, by: u64) {
        if let Some(known) =
            self.named.read().unwrap_or_else(PoisonError::into_inner).counters.get(name)
        {
            return known.increment(by);
        }
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if !named.has_room() {
            return self.dropped.increment(1);
        }
        let counter = named.counters.entry(name.to_owned());
        counter.or_insert_with(|| counter!(COUNT, &self.labelled(name))).increment(by);
    }

    /// Records a value of the distribution `name`.
    pub fn observe(&self, name: &str, value: f64) {
        if let Some(known) =
            self.named.read().unwrap_or_else(PoisonError::into_inner).histograms.get(name)
        {
            return known.record(value);
        }
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if !named.has_room() {
            return self.dropped.increment(1);
        }
        let histogram = named.histograms.entry(name.to_owned());
        histogram.or_insert_with(|| histogram!(VALUE, &self.labelled(name))).record(value);
    }

    /// Something of the plugin's was dropped.
    pub fn dropped(&self) {
        self.dropped.increment(1);
    }

    fn labelled(&self, name: &str) -> Vec<(&'static str, String)> {
        let mut labels = self.labels.to_vec();
        labels.push(("name", name.to_owned()));
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EndpointMetrics;

    #[test]
    fn the_page_shows_what_was_counted_within_bounds() {
        let recorder = crate::exporter::builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let endpoint = EndpointMetrics::new("digits", "main");
            endpoint.answered(None, Duration::from_millis(2));
            endpoint.answered(Some("timeout"), Duration::from_secs(2));
            let plugin = PluginMetrics::new("p@1");
            plugin.trapped("memory");
            plugin.used(Duration::from_millis(3), 2 << 20, 0, 7);
            let processor = ProcessorMetrics::new("digits", "main", "p@1");
            for name in 0..100 {
                processor.count(&format!("n{name}"), 2);
            }
        });
        handle.run_upkeep();
        let page = handle.render();
        for line in [
            "berth_requests_total{endpoint=\"digits\",variant=\"main\"} 2",
            "berth_request_errors_total{endpoint=\"digits\",variant=\"main\",reason=\"timeout\"} 1",
            "berth_request_duration_seconds_bucket{endpoint=\"digits\",variant=\"main\",le=\"0.0025\"} 1",
            "berth_plugin_cpu_seconds_bucket{plugin=\"p@1\",le=\"0.005\"} 1",
            "berth_plugin_memory_bytes_bucket{plugin=\"p@1\",le=\"1048576\"} 0",
            "berth_plugin_memory_bytes_bucket{plugin=\"p@1\",le=\"4194304\"} 1",
            "berth_plugin_host_bytes_bucket{plugin=\"p@1\",le=\"0\"} 1",
            "berth_plugin_host_calls_total{plugin=\"p@1\"} 7",
            "berth_plugin_traps_total{plugin=\"p@1\",kind=\"memory\"} 1",
            "berth_processor_count_total{endpoint=\"digits\",variant=\"main\",plugin=\"p@1\",name=\"n0\"} 2",
            "berth_plugin_dropped_total{endpoint=\"digits\",variant=\"main\",plugin=\"p@1\"} 36",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
