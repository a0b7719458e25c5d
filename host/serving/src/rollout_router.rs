//! A rollout's policy that looks at each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_plugin::{Decision, Evaluation, PolicyError, Routers, Subject};

use crate::draw::Shares;
use crate::live::PredictionId;
use crate::rolling::ARMS;
use crate::sink::VariantSink;

/// A router under one evaluation of a rollout's policy.
pub struct RolloutRouter {
    routers: Routers,
    /// The next revision's share as the evaluation asks for it.
    asked: f64,
    sink: Arc<VariantSink>,
    /// The next revision's id, for the log.
    revision: String,
    /// Requests for which it gave no decision.
    failures: AtomicU64,
}

impl RolloutRouter {
    pub(crate) fn new(
        routers: Routers,
        evaluation: &Evaluation,
        sink: Arc<VariantSink>,
        revision: String,
    ) -> Self {
        let failures = AtomicU64::new(0);
        Self { routers, asked: asked(evaluation), sink, revision, failures }
    }

    /// Whether it is not asked any more.
    pub(crate) fn quarantined(&self) -> bool {
        self.routers.quarantined()
    }

    /// What to draw from for a request, with this share of the next revision in force: where that is
    /// less than was asked for, the router's share is as much less. None where it gives no decision.
    pub(crate) fn shares(
        &self,
        endpoint: &str,
        subject: &Subject,
        in_force: f64,
        id: PredictionId,
    ) -> Option<Shares> {
        match self.routers.route(subject) {
            Ok(decision) => Some(within(&decision, self.asked, in_force)),
            Err(error) => {
                berth_monitor::policy_failed(endpoint, self.sink.plugin(), error.reason());
                let failed = self.failures.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
                self.sink.router_failed(&error, &self.revision, &id.text(), failed);
                if self.quarantined() && !matches!(error, PolicyError::Quarantined) {
                    berth_monitor::policy_quarantined(endpoint, true);
                }
                None
            }
        }
    }
}

/// The next revision's share as an evaluation asks for it.
pub fn asked(evaluation: &Evaluation) -> f64 {
    let weights = evaluation.weights(ARMS.len());
    weights[1] / weights.iter().sum::<f64>()
}

/// What a request is drawn from by a router's decision, where a share of the next revision was
/// `asked` for and another is `in_force`: where that is less, the router's share is as much less.
pub fn within(decision: &Decision, asked: f64, in_force: f64) -> Shares {
    let mut weights = [0.0; ARMS.len()];
    for share in &decision.shares {
        weights[share.arm] = share.weight;
    }
    let next = weights[1] / weights.iter().sum::<f64>();
    let part = if in_force < asked { in_force / asked } else { 1.0 };
    Shares::from_weights(&[1.0 - next * part, next * part])
}
