//! Requests and their latency, for each endpoint and variant.

use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

const REQUESTS: &str = "berth_requests_total";
const ERRORS: &str = "berth_request_errors_total";
const LATENCY: &str = "berth_request_duration_seconds";
const POLICY_FAILURES: &str = "berth_policy_failures_total";
const FALLBACKS: &str = "berth_fallbacks_total";
const QUARANTINED: &str = "berth_policy_quarantined";
const ROUTING_SHARE: &str = "berth_routing_share";
const SHADOWS: &str = "berth_shadows_total";
const SHADOWS_DROPPED: &str = "berth_shadows_dropped_total";
const REFUSED: &str = "berth_requests_refused_total";
const BATCHES: &str = "berth_model_batches_total";
const BATCHED: &str = "berth_model_batched_requests_total";
const ROLLOUT_SHARE: &str = "berth_rollout_share";
const ROLLOUTS: &str = "berth_rollouts_total";
const RESIDENT: &str = "berth_model_resident_bytes";

pub(crate) fn describe() {
    describe_counter!(REQUESTS, "Requests answered, failures included.");
    describe_counter!(ERRORS, "Requests that failed, by reason.");
    describe_histogram!(LATENCY, Unit::Seconds, "From the decoded request to its answer.");
    describe_counter!(
        POLICY_FAILURES,
        "Decisions for which the shares of the last evaluation stood in, by reason."
    );
    describe_counter!(FALLBACKS, "Requests that another variant had after one failed, by reason.");
    describe_gauge!(QUARANTINED, "1 while a routing policy is not asked any more, else 0.");
    describe_gauge!(ROUTING_SHARE, "The share of a variant, 0 to 1, as its policy decided last.");
    describe_counter!(SHADOWS, "Copies that a shadow has had, by how its answer compares.");
    describe_counter!(SHADOWS_DROPPED, "Copies that were dropped for want of room.");
    describe_counter!(REFUSED, "Requests refused at once because too many were under way.");
    describe_counter!(BATCHES, "Runs of a model that answered several requests at once.");
    describe_counter!(BATCHED, "Requests that those runs answered.");
    describe_gauge!(ROLLOUT_SHARE, "The share of the next revision, 0 to 1, while there is one.");
    describe_counter!(ROLLOUTS, "Rollouts that came to their end, by outcome.");
    describe_gauge!(RESIDENT, Unit::Bytes, "Models that live revisions keep open.");
}

/// The metrics of one variant of an endpoint, ready to be counted on.
pub struct EndpointMetrics {
    endpoint: String,
    variant: String,
    requests: Counter,
    latency: Histogram,
}

impl EndpointMetrics {
    /// The metrics of `variant` of `endpoint`.
    pub fn new(endpoint: &str, variant: &str) -> Self {
        let labels = [("endpoint", endpoint.to_owned()), ("variant", variant.to_owned())];
        Self {
            endpoint: endpoint.to_owned(),
            variant: variant.to_owned(),
            requests: counter!(REQUESTS, &labels),
            latency: histogram!(LATENCY, &labels),
        }
    }

    /// A request came to its end after `latency`: with an answer, or failed for a `reason`.
    pub fn answered(&self, reason: Option<&'static str>, latency: Duration) {
        self.requests.increment(1);
        self.latency.record(latency);
        if let Some(reason) = reason {
            let labels = [
                ("endpoint", self.endpoint.clone()),
                ("variant", self.variant.clone()),
                ("reason", reason.to_owned()),
            ];
            counter!(ERRORS, &labels).increment(1);
        }
    }

    /// A request that failed for a `reason` goes on to the variant `to`.
    pub fn fell_back(&self, to: &str, reason: &'static str) {
        let labels = [
            ("endpoint", self.endpoint.clone()),
            ("variant", self.variant.clone()),
            ("to", to.to_owned()),
            ("reason", reason.to_owned()),
        ];
        counter!(FALLBACKS, &labels).increment(1);
    }
}

/// The variants of `endpoint` have these shares, 0 to 1, by its policy's last decision.
pub fn routing_shares<'a>(endpoint: &str, shares: impl Iterator<Item = (&'a str, f64)>) {
    for (variant, share) in shares {
        let labels = [("endpoint", endpoint.to_owned()), ("variant", variant.to_owned())];
        gauge!(ROUTING_SHARE, &labels).set(share);
    }
}

/// Whether a policy of `endpoint`, of its rollout or its routing, is not asked any more.
pub fn policy_quarantined(endpoint: &str, quarantined: bool) {
    let labels = [("endpoint", endpoint.to_owned())];
    gauge!(QUARANTINED, &labels).set(f64::from(u8::from(quarantined)));
}

/// A policy gave no usable decision on a request.
pub fn policy_failed(endpoint: &str, policy: &str, reason: &'static str) {
    let labels = [
        ("endpoint", endpoint.to_owned()),
        ("policy", policy.to_owned()),
        ("reason", reason.to_owned()),
    ];
    counter!(POLICY_FAILURES, &labels).increment(1);
}

/// A shadow of `endpoint` came to the end of a copy: it `agreed`, `differed` or `failed`.
pub fn shadowed(endpoint: &str, variant: &str, result: &'static str) {
    let labels = [
        ("endpoint", endpoint.to_owned()),
        ("variant", variant.to_owned()),
        ("result", result.to_owned()),
    ];
    counter!(SHADOWS, &labels).increment(1);
}

/// A copy for a shadow of `endpoint` was dropped, for want of room in the `queue` or by the `load`.
pub fn shadow_dropped(endpoint: &str, reason: &'static str) {
    let labels = [("endpoint", endpoint.to_owned()), ("reason", reason.to_owned())];
    counter!(SHADOWS_DROPPED, &labels).increment(1);
}

/// A request was refused before a variant was chosen, because too many were under way.
pub fn refused(endpoint: &str) {
    counter!(REFUSED, &[("endpoint", endpoint.to_owned())]).increment(1);
}

/// So many runs of `model`, such as `digits@2`, have answered so many requests together.
pub fn ran_together(model: &str, runs: u64, requests: u64) {
    let labels = [("model", model.to_owned())];
    counter!(BATCHES, &labels).increment(runs);
    counter!(BATCHED, &labels).increment(requests);
}

/// The next revision of `endpoint` has a `share`, 0 to 1, of its requests; 0 once there is none.
pub fn rollout_share(endpoint: &str, share: f64) {
    gauge!(ROLLOUT_SHARE, &[("endpoint", endpoint.to_owned())]).set(share);
}

/// A rollout of `endpoint` ended: `outcome` is `promoted` or `aborted`.
pub fn rollout_ended(endpoint: &str, outcome: &'static str) {
    let labels = [("endpoint", endpoint.to_owned()), ("outcome", outcome.to_owned())];
    counter!(ROLLOUTS, &labels).increment(1);
}

/// Live revisions keep `model`, such as `digits@2`, open: `bytes` is 0 once none does.
pub fn resident_model_bytes(model: &str, bytes: u64) {
    gauge!(RESIDENT, &[("model", model.to_owned())]).set(bytes as f64);
}
