//! What a simulation tells: what happened to each arm over time, and what was decided.

use berth_plugin::Phase;
pub use berth_serving::Lies;
use berth_serving::documents::Outcome;
use serde::Serialize;

/// What happened.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Story {
    /// The endpoint.
    pub endpoint: String,
    /// The policy, as the endpoint file names it.
    pub policy: String,
    /// Its configuration.
    pub config: serde_json::Value,
    /// `rollout` or `routing`.
    pub kind: &'static str,
    /// The seed of all chance.
    pub seed: u64,
    /// The arms, in whose order everything is.
    pub arms: Vec<String>,
    /// Whether the shares are a matter of each request, so that those told only stand in for them.
    pub by_request: bool,
    /// How long it went, in seconds.
    pub seconds: f64,
    /// Requests that came.
    pub requests: u64,
    /// Of these, those that found no arm ready.
    pub unanswered: u64,
    /// How often the policy gave nothing that could be followed, or its router did not.
    pub failures: u64,
    /// How it ended; none for a routing policy, and for a rollout that was still under way.
    pub outcome: Option<Ended>,
    /// What was changed on the way.
    pub changes: Vec<Changed>,
    /// What was decided.
    pub decisions: Vec<Decision>,
    /// Decisions beyond those: that moved no share by a hundredth of all requests since the last one
    /// told, nor came to another phase.
    pub left_out: u64,
    /// What came to each arm over all of the time.
    pub totals: Vec<Told>,
    /// The same piece by piece.
    pub points: Vec<Point>,
    /// Of recorded predictions: mean rewards that are estimated, each of every point.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub estimates: Vec<(String, Vec<Option<Lies>>)>,
}

/// How a rollout ended.
#[derive(Clone, Debug, Serialize)]
pub struct Ended {
    /// When, in seconds.
    pub at: f64,
    /// Which revision serves.
    pub outcome: Outcome,
    /// Why.
    pub why: String,
}

/// What was changed on the way.
#[derive(Clone, Debug, Serialize)]
pub struct Changed {
    /// When, in seconds.
    pub at: f64,
    /// What.
    pub what: String,
}

/// A decision.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// When, in seconds.
    pub at: f64,
    /// Where it stands.
    pub phase: Phase,
    /// The share of each arm from then on.
    pub shares: Vec<f64>,
    /// Why, in the policy's words.
    pub message: String,
    /// What had come to each arm until then.
    pub arms: Vec<Told>,
}

/// A piece of time.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Its beginning, in seconds.
    pub from: f64,
    /// Its end, in seconds.
    pub to: f64,
    /// The share of each arm at its end.
    pub shares: Vec<f64>,
    /// Requests that found no arm ready.
    pub unanswered: u64,
    /// What came to each arm.
    pub arms: Vec<Told>,
}

/// What came to an arm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Requests that came to their end.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that were refused as the caller's fault.
    pub refused: u64,
    /// The part that failed.
    pub error_rate: Option<Lies>,
    /// The latency within which half came to their end, in milliseconds.
    pub median_ms: Option<f64>,
    /// The same of 99 %.
    pub p99_ms: Option<Lies>,
    /// The mean of the rewards that came.
    pub reward: Option<Lies>,
    /// How many came.
    pub rewards: u64,
    /// Copies that it got as a shadow.
    pub copies: u64,
    /// Those that failed.
    pub copy_errors: u64,
    /// The part of its answers to them that agreed, where they could be compared.
    pub agreement: Option<Lies>,
}

pub(super) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
