//! Routing among variants by a virtual clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_plugin::{Evaluation, Observation, Routers, Share, Subject};
use berth_serving::ArmStatus;
use berth_serving::draw::Shares;
use berth_tensor::Digest;

use super::{Asked, Clock, SimulationError};
use crate::decide;
use crate::pace::Pace;

/// A routing policy's shares, and its routers where it looks at requests.
pub(super) struct Choosing {
    salt: String,
    variants: usize,
    revision: Digest,
    evaluation: Option<Evaluation>,
    shares: Shares,
    routers: Option<Routers>,
    /// The policy is not asked any more.
    quarantined: Arc<AtomicBool>,
    pace: Pace,
}

impl Choosing {
    pub(super) fn new(endpoint: &str, variants: usize, revision: Digest, pace: Pace) -> Self {
        let shares = Shares::from_weights(&vec![1.0; variants]);
        let salt = endpoint.to_owned();
        let (evaluation, routers, quarantined) = (None, None, Arc::default());
        Self { salt, variants, revision, evaluation, shares, routers, quarantined, pace }
    }

    /// When the policy is asked next, in microseconds.
    pub(super) fn due(&self, clock: Clock) -> u64 {
        match self.quarantined.load(Ordering::Relaxed) {
            true => u64::MAX,
            false => clock.micros(self.pace.due),
        }
    }

    /// What requests are hashed with.
    pub(super) fn salt(&self) -> &str {
        &self.salt
    }

    /// The share of each variant where the policy does not look at the request.
    pub(super) fn shares(&self) -> Vec<f64> {
        self.shares.probabilities(self.variants)
    }

    /// Whether the shares are a matter of each request.
    pub(super) fn by_request(&self) -> bool {
        self.routers.is_some()
    }

    /// What a request's variant is drawn from, and those that get a copy, each with the probability.
    /// Where a router fails, the last evaluation decides.
    pub(super) fn shares_for(
        &self,
        subject: impl FnOnce() -> Subject,
        asked: &mut Asked,
    ) -> (Shares, Vec<Share>) {
        if let Some(routers) = &self.routers {
            match routers.route(&subject()) {
                Ok(decision) => {
                    let shares = Shares::from_decision(&decision.shares, self.variants);
                    return (shares, decision.shadows);
                }
                Err(_) => asked.telling.failures += 1,
            }
        }
        let shadows = self.evaluation.iter().flat_map(|evaluation| {
            (0..self.variants).map(|arm| Share { arm, weight: evaluation.shadow(arm) })
        });
        (self.shares.clone(), shadows.filter(|shadow| shadow.weight > 0.0).collect())
    }

    /// Asks the policy, and has what it decides be in force.
    pub(super) fn round(&mut self, now: u64, asked: &mut Asked) -> Result<(), SimulationError> {
        let seed = *self.revision.as_bytes().first_chunk().unwrap_or(&[0; 8]);
        let bare = Observation {
            now_ms: asked.now_ms(now),
            seed: u64::from_le_bytes(seed),
            ..asked.bare.clone()
        };
        let statuses = vec![ArmStatus::Ready; self.variants];
        let observation = Arc::new(asked.watched.observation(&statuses, bare));
        let before = self.evaluation.as_ref();
        let plan = before.map(|evaluation| &evaluation.plan);
        let evaluated = asked.policy.evaluate(&observation, plan).and_then(|evaluation| {
            let routers = match evaluation.asks_router() {
                true => asked.policy.routers(&observation, &evaluation.plan, &self.quarantined)?,
                false => None,
            };
            Ok((evaluation, routers))
        });
        match evaluated {
            Ok((evaluation, routers)) => {
                let decided = before.is_none_or(|before| decide::differs(before, &evaluation));
                if plan != Some(&evaluation.plan) {
                    asked.watched.begin_anew();
                }
                if decided {
                    self.shares = Shares::from_weights(&evaluation.weights(self.variants));
                    self.routers = routers;
                    let message = decide::message(&evaluation);
                    asked.telling.decided(now, evaluation.phase, self.shares(), message);
                }
                // The first one is no decision of a host's, but what it begins with.
                let committed = decided && before.is_some();
                self.pace.evaluated(asked.clock.at(now), evaluation.next_tick_ms, committed);
                self.evaluation = Some(evaluation);
            }
            // What a host refuses when the file is applied.
            Err(error) if before.is_none() => return Err(asked.refused(error)),
            Err(error) => {
                asked.telling.failures += 1;
                let wish = before.and_then(|before| before.next_tick_ms);
                if self.pace.failed(asked.clock.at(now), &error, wish) {
                    self.quarantined.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}
