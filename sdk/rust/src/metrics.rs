//! A processor's own numbers. They appear in the host's metrics with the endpoint, variant and
//! plugin as labels, and rollout policies can judge by them.

use crate::bindings::processor::berth::plugin::metrics;

/// Adds to a counter. `name` is `[a-z][a-z0-9_]*`, at most 64 bytes; the host bounds how many names
/// a plugin may use.
pub fn count(name: &str, by: u64) {
    metrics::count(name, by);
}

/// Records one value of a distribution, named as in [`count`].
pub fn observe(name: &str, value: f64) {
    metrics::observe(name, value);
}
