//! Where a processor's lines and numbers go, bounded.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_monitor::{PluginMetrics, ProcessorMetrics};
use berth_plugin::{CallError, Level, PolicyError, Sink, Trap, Usage};
use berth_tensor::Digest;

use crate::documents::{Pinned, Revision};
use crate::error::ControlError;
use crate::prepare::dotted;
use crate::spec::SpecError;

/// Lines that a plugin may log in a second, per variant; and as many again about its failures, so
/// that it cannot hide them behind words of its own.
const LINES: u32 = 100;

/// Places of traps that are remembered, over all variants.
const PLACES: usize = 1024;

/// Where plugins have trapped: for each plugin, variant and place, the entry of the log that has it
/// whole, and how often it came about since. Revisions come and go, this stays.
#[derive(Default)]
pub(crate) struct Places(Mutex<HashMap<u64, (String, u64)>>);

impl Places {
    /// Notes a trap that the log has as `entry`. Not the first at its place, it answers the first
    /// one's entry and how many there were since.
    fn note(&self, place: u64, entry: &str) -> Option<(String, u64)> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((first, times)) = places.get_mut(&place) {
            *times += 1;
            return Some((first.clone(), *times));
        }
        if places.len() >= PLACES {
            places.clear();
        }
        places.insert(place, (entry.to_owned(), 0));
        None
    }
}

/// A variant's sink, or with an empty variant that of the endpoint's policy: the log through
/// tracing, the numbers through the monitor.
pub(crate) struct VariantSink {
    endpoint: String,
    variant: String,
    plugin: String,
    digest: Digest,
    metrics: ProcessorMetrics,
    /// A processor's.
    calls: Option<Box<PluginMetrics>>,
    lines: Mutex<Lines>,
    failures: Mutex<Lines>,
    places: Arc<Places>,
}

struct Lines {
    since: Instant,
    count: u32,
}

impl VariantSink {
    pub(crate) fn new(
        endpoint: &str,
        variant: &str,
        plugin: &Pinned,
        places: &Arc<Places>,
    ) -> Self {
        let name = plugin.to_string();
        Self {
            endpoint: endpoint.to_owned(),
            variant: variant.to_owned(),
            digest: plugin.digest,
            metrics: ProcessorMetrics::new(endpoint, variant, &name),
            calls: (!variant.is_empty()).then(|| Box::new(PluginMetrics::new(&name))),
            plugin: name,
            lines: Mutex::new(Lines::new()),
            failures: Mutex::new(Lines::new()),
            places: Arc::clone(places),
        }
    }

    /// The plugin's name and version.
    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    /// A call of the processor came to a bad end: counts it, and logs it under the prediction's id.
    pub(crate) fn call_failed(
        &self,
        error: &CallError,
        revision: &str,
        prediction: &str,
        request: &str,
    ) {
        let trap = match error {
            CallError::Trap(trap) => Some(&**trap),
            _ => None,
        };
        self.count_stop(error);
        if matches!(error, CallError::Caller(_) | CallError::Overloaded)
            || !self.takes(&self.failures)
        {
            return;
        }
        let told = self.told(error, trap, &format!("prediction={prediction}")).0;
        let Self { endpoint, variant, plugin, .. } = self;
        let digest = self.digest.short();
        tracing::error!(endpoint, variant, plugin, digest, revision, prediction, request, "{told}");
    }

    /// A router gave no decision, `failures` of them in this revision, so that the last shares
    /// serve. No request fails by it: what has been told is told again less and less often.
    pub(crate) fn router_failed(
        &self,
        error: &PolicyError,
        revision: &str,
        prediction: &str,
        failures: u64,
    ) {
        // That it is not pure was said when it was found out.
        if matches!(error, PolicyError::Quarantined) {
            return;
        }
        let trap = match error {
            PolicyError::Trap(trap) => Some(&**trap),
            _ => None,
        };
        let (told, first) = self.told(error, trap, &format!("prediction={prediction}"));
        let worth = first || failures.is_power_of_two() || matches!(error, PolicyError::Impure);
        if !worth || !self.takes(&self.failures) {
            return;
        }
        let Self { endpoint, plugin: policy, .. } = self;
        let digest = self.digest.short();
        tracing::warn!(
            endpoint,
            policy,
            digest,
            revision,
            prediction,
            "the last shares serve: {told}"
        );
    }

    /// The host stopped the plugin while a revision was made ready.
    pub(crate) fn stopped_at_apply(&self, error: &dyn Display, trap: &Trap, revision: &str) {
        let (told, _) = self.told(error, Some(trap), &format!("revision={revision}"));
        let Self { endpoint, variant, plugin, .. } = self;
        let digest = self.digest.short();
        tracing::warn!(endpoint, variant, plugin, digest, revision, "not ready: {told}");
    }

    /// A policy gave no evaluation during a rollout, so that its last one stands.
    pub(crate) fn evaluation_failed(&self, error: &PolicyError, revision: &str) {
        if !self.takes(&self.failures) {
            return;
        }
        let trap = match error {
            PolicyError::Trap(trap) => Some(&**trap),
            _ => None,
        };
        let (told, _) = self.told(error, trap, &format!("revision={revision}"));
        let Self { endpoint, plugin: policy, .. } = self;
        let digest = self.digest.short();
        tracing::warn!(endpoint, policy, digest, revision, "its last evaluation stands: {told}");
    }

    /// A policy gave no decision when a revision was applied: the apply's end. `table` is where the
    /// endpoint file names it.
    pub(crate) fn refused(
        &self,
        table: &'static str,
        revision: &Revision,
        source: PolicyError,
    ) -> ControlError {
        if let PolicyError::Trap(trap) = &source {
            self.stopped_at_apply(&source, trap, &revision.digest().short());
        }
        let plugin = self.plugin.clone();
        match source {
            PolicyError::Config { key, message } => SpecError::new(
                dotted(&format!("{table}.config"), &key),
                format!("refused by {plugin}: {message}"),
            )
            .into(),
            source => ControlError::Policy { table, plugin, source },
        }
    }

    /// Counts a call that the host had to stop.
    pub(crate) fn count_stop(&self, error: &CallError) {
        match (&self.calls, error) {
            (Some(calls), CallError::Trap(trap)) => calls.trapped(trap.kind),
            (Some(calls), CallError::Cpu(_)) => calls.trapped("cpu"),
            _ => {}
        }
    }

    /// A failure's entry in the log, and whether it is the first of its kind. A trap has its stack
    /// and last words in the first; one at the same place then has a line that refers to `entry`.
    fn told(&self, error: &dyn Display, trap: Option<&Trap>, entry: &str) -> (String, bool) {
        let Some(trap) = trap else { return (error.to_string(), false) };
        let mut place = DefaultHasher::new();
        (self.digest.as_bytes(), &self.endpoint, &self.variant, trap.place()).hash(&mut place);
        match self.places.note(place.finish(), entry) {
            None => (error.to_string(), true),
            Some((first, times)) => {
                let (kind, cause) = (trap.kind, &trap.cause);
                (
                    format!(
                        "the plugin was stopped: {kind}: {cause}, {times} times where {first} was"
                    ),
                    false,
                )
            }
        }
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

    fn used(&self, usage: &Usage) {
        let Some(calls) = &self.calls else { return };
        if usage.instantiate > Duration::ZERO {
            calls.instantiated(usage.instantiate);
        }
        calls.used(usage.cpu, usage.memory, usage.host_bytes, usage.host_calls);
    }
}
