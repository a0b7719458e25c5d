//! Where a processor's lines and numbers go, bounded.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use berth_monitor::ProcessorMetrics;
use berth_plugin::{CallError, Level, Sink};

/// Lines that a plugin may log in a second, per variant; and as many again about its failures, so
/// that it cannot hide them behind words of its own.
const LINES: u32 = 100;

/// Places of traps that are remembered, per variant.
const TRAPS: usize = 64;

/// A variant's sink, or with an empty variant that of the endpoint's policy: the log through
/// tracing, the numbers through the monitor.
pub(crate) struct VariantSink {
    endpoint: String,
    variant: String,
    plugin: String,
    metrics: ProcessorMetrics,
    lines: Mutex<Lines>,
    failures: Mutex<Lines>,
    /// By the place of a trap, the prediction under which the log has it whole, and how often it
    /// came about since.
    traps: Mutex<HashMap<u64, (String, u64)>>,
}

struct Lines {
    since: Instant,
    count: u32,
}

impl VariantSink {
    pub(crate) fn new(endpoint: &str, variant: &str, plugin: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            variant: variant.to_owned(),
            plugin: plugin.to_owned(),
            metrics: ProcessorMetrics::new(endpoint, variant, plugin),
            lines: Mutex::new(Lines::new()),
            failures: Mutex::new(Lines::new()),
            traps: Mutex::default(),
        }
    }

    /// The plugin's name and version.
    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    /// A failed prediction's entry in the log. A trap has its stack and last words in the first
    /// entry; one at the same place then has a line that refers to it.
    pub(crate) fn told(&self, error: &CallError, prediction: &str) -> String {
        let CallError::Trap(trap) = error else { return error.to_string() };
        let mut traps = self.traps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((first, times)) = traps.get_mut(&trap.place()) {
            *times += 1;
            let (kind, cause) = (trap.kind, &trap.cause);
            return format!(
                "the plugin was stopped: {kind}: {cause}, {times} times where prediction={first} was"
            );
        }
        if traps.len() >= TRAPS {
            traps.clear();
        }
        traps.insert(trap.place(), (prediction.to_owned(), 1));
        error.to_string()
    }

    /// Whether the log takes another line about a failure of the plugin; one that is not taken is
    /// counted.
    pub(crate) fn takes_failure(&self) -> bool {
        self.takes(&self.failures)
    }

    fn takes(&self, lines: &Mutex<Lines>) -> bool {
        let taken = lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !taken {
            self.metrics.dropped();
        }
        taken
    }
}

impl Lines {
    fn new() -> Self {
        Self { since: Instant::now(), count: 0 }
    }

    fn take(&mut self) -> bool {
        if self.since.elapsed() > Duration::from_secs(1) {
            *self = Self::new();
        }
        self.count += 1;
        self.count <= LINES
    }
}

impl Sink for VariantSink {
    fn enabled(&self, level: Level) -> bool {
        match level {
            Level::Error => tracing::enabled!(target: "plugin", tracing::Level::ERROR),
            Level::Warn => tracing::enabled!(target: "plugin", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "plugin", tracing::Level::INFO),
            Level::Debug => tracing::enabled!(target: "plugin", tracing::Level::DEBUG),
        }
    }

    fn log(&self, level: Level, message: &str) {
        if !self.enabled(level) || !self.takes(&self.lines) {
            return;
        }
        let Self { endpoint, variant, plugin, .. } = self;
        match level {
            Level::Error => {
                tracing::error!(target: "plugin", endpoint, variant, plugin, "{message}")
            }
            Level::Warn => tracing::warn!(target: "plugin", endpoint, variant, plugin, "{message}"),
            Level::Info => tracing::info!(target: "plugin", endpoint, variant, plugin, "{message}"),
            Level::Debug => {
                tracing::debug!(target: "plugin", endpoint, variant, plugin, "{message}")
            }
        }
    }

    fn count(&self, name: &str, by: u64) {
        self.metrics.count(name, by);
    }

    fn observe(&self, name: &str, value: f64) {
        self.metrics.observe(name, value);
    }

    fn dropped(&self) {
        self.metrics.dropped();
    }
}
