//! A rollout by a virtual clock: what the controller does in a host, with what it commits kept here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_plugin::{ArmState, Observation, Phase, Routers, Subject};
use berth_serving::ArmStatus;
use berth_serving::documents::{Order, Outcome, Rollout};
use berth_serving::draw::Shares;
use berth_serving::rolling::ARMS;
use berth_serving::rollout_router;

use super::arms::Arms;
use super::flow::Flow;
use super::story::{Ended, seconds};
use super::telling::Telling;
use super::{Asked, Clock, SimulationError};
use crate::decide;
use crate::pace::Pace;

/// A rollout.
pub(super) struct Moving {
    rollout: Rollout,
    salt: String,
    shares: Shares,
    /// What looks at each request, where the policy does.
    routers: Option<Routers>,
    quarantined: Arc<AtomicBool>,
    pace: Pace,
    seen: Option<Vec<ArmStatus>>,
    pub(super) ended: Option<Ended>,
}

impl Moving {
    pub(super) fn new(rollout: Rollout, endpoint: &str, pace: Pace) -> Self {
        let salt = format!("{endpoint}\n{}", rollout.arms[1]);
        let shares = shares_of(rollout.share);
        let (routers, quarantined, seen, ended) = (None, Arc::default(), None, None);
        Self { rollout, salt, shares, routers, quarantined, pace, seen, ended }
    }

    /// When the policy is asked next, in microseconds; not once the end was decided.
    pub(super) fn due(&self, clock: Clock) -> u64 {
        match self.rollout.order {
            None => clock.micros(self.pace.due),
            Some(_) => u64::MAX,
        }
    }

    /// For what part of the live revision's requests the next one gets a copy.
    pub(super) fn shadow(&self) -> f64 {
        let evaluation = self.rollout.evaluation.as_ref().filter(|_| self.rollout.order.is_none());
        evaluation.map_or(0.0, |evaluation| evaluation.shadow(1))
    }

    /// What requests are hashed with.
    pub(super) fn salt(&self) -> &str {
        &self.salt
    }

    /// The share of each arm.
    pub(super) fn shares(&self) -> Vec<f64> {
        vec![1.0 - self.rollout.share, self.rollout.share]
    }

    /// The arm of a request by its hash, and the probability with which it was drawn: where one is
    /// not ready the other.
    pub(super) fn draw(
        &self,
        hash: u64,
        subject: impl FnOnce() -> Subject,
        arms: &Arms,
        telling: &mut Telling,
    ) -> Option<(usize, f64)> {
        let [live, next] = [0, 1].map(|arm| arms.ready(arm));
        if !(live && next) {
            return if live { Some((0, 1.0)) } else { next.then_some((1, 1.0)) };
        }
        let (Some(routers), Some(evaluation)) = (&self.routers, &self.rollout.evaluation) else {
            return Some(self.shares.draw(hash));
        };
        match routers.route(&subject()) {
            Ok(decision) => {
                let in_force = self.shares.probabilities(ARMS.len())[1];
                let asked = rollout_router::asked(evaluation);
                Some(rollout_router::within(&decision, asked, in_force).draw(hash))
            }
            Err(_) => {
                telling.failures += 1;
                Some(self.shares.draw(hash))
            }
        }
    }

    /// Has the policy be asked of each request, as its evaluation says, while there is a choice.
    fn look_at_requests(&mut self, now: u64, asked: &mut Asked, statuses: &[ArmStatus]) {
        let choice = self.rollout.order.is_none() && self.rollout.share > 0.0;
        let evaluation = self.rollout.evaluation.as_ref();
        let Some(evaluation) = evaluation.filter(|it| choice && it.asks_router()) else {
            self.routers = None;
            return;
        };
        let observation = Arc::new(self.observation(now, asked, statuses));
        let built = asked.policy.routers(&observation, &evaluation.plan, &self.quarantined);
        self.routers = built.unwrap_or_else(|_| {
            asked.telling.failures += 1;
            None
        });
    }

    fn observation(&self, now: u64, asked: &Asked, statuses: &[ArmStatus]) -> Observation {
        let next = self.rollout.arms[1];
        let bare = Observation {
            now_ms: asked.now_ms(now),
            seed: u64::from_le_bytes(*next.as_bytes().first_chunk().unwrap_or(&[0; 8])),
            ..asked.bare.clone()
        };
        asked.watched.observation(statuses, bare)
    }

    /// One round, as in `controller`: decide, then bring about.
    pub(super) fn round(
        &mut self,
        now: u64,
        asked: &mut Asked,
        arms: &mut Arms,
        flow: &Flow,
    ) -> Result<(), SimulationError> {
        if self.ended.is_some() {
            return Ok(());
        }
        let statuses = arms.statuses();
        let aborted = |rollout: &Rollout| {
            rollout.order.as_ref().is_some_and(|order| order.outcome == Outcome::Aborted)
        };
        if let ArmStatus::Broken(problem) = &statuses[1]
            && !aborted(&self.rollout)
        {
            self.abort(now, format!("the next revision cannot be prepared: {problem}"), asked);
        }
        let changed = self.seen.as_ref() != Some(&statuses);
        if self.rollout.order.is_none() && (changed || now >= self.due(asked.clock)) {
            self.evaluate(now, asked, &statuses)?;
            self.seen = Some(statuses);
        }
        self.bring_about(now, arms, flow);
        Ok(())
    }

    fn evaluate(
        &mut self,
        now: u64,
        asked: &mut Asked,
        statuses: &[ArmStatus],
    ) -> Result<(), SimulationError> {
        let observation = Arc::new(self.observation(now, asked, statuses));
        let plan = self.rollout.evaluation.as_ref().map(|evaluation| &evaluation.plan);
        match asked.policy.evaluate(&observation, plan) {
            Ok(evaluation) => {
                let quarantined = self.quarantined.load(Ordering::Relaxed);
                let after = decide::after(&self.rollout, &evaluation, quarantined);
                let decided = after.is_some();
                if let Some(after) = after {
                    let of =
                        |rollout: &Rollout| rollout.evaluation.as_ref().map(|it| it.plan.clone());
                    if of(&after) != of(&self.rollout) {
                        asked.watched.begin_anew();
                    }
                    self.rollout = after;
                    self.look_at_requests(now, asked, statuses);
                    let message = decide::message(&evaluation);
                    asked.telling.decided(now, evaluation.phase, self.shares(), message);
                }
                let wish = decide::wish(&evaluation, self.rollout.share);
                self.pace.evaluated(asked.clock.at(now), wish, decided);
            }
            // What a host refuses when the file is applied.
            Err(error) if self.seen.is_none() => return Err(asked.refused(error)),
            Err(error) => {
                asked.telling.failures += 1;
                let last = self.rollout.evaluation.as_ref();
                let wish = last.and_then(|last| decide::wish(last, self.rollout.share));
                if self.pace.failed(asked.clock.at(now), &error, wish) {
                    let why = decide::not_asked_any_more(&self.rollout.policy.policy, &error);
                    self.abort(now, why, asked);
                }
            }
        }
        self.shares = shares_of(self.rollout.share);
        Ok(())
    }

    fn abort(&mut self, now: u64, why: String, asked: &mut Asked) {
        self.rollout.share = 0.0;
        self.shares = shares_of(0.0);
        self.routers = None;
        asked.telling.decided(now, Phase::Failed, self.shares(), &why);
        let who = "berth".to_owned();
        self.rollout.order = Some(Order { outcome: Outcome::Aborted, who, why });
    }

    /// Has the arms be what was decided. What is stopped is free before anything is prepared.
    fn bring_about(&mut self, now: u64, arms: &mut Arms, flow: &Flow) {
        if let Some(Order { outcome, why, .. }) = self.rollout.order.clone() {
            let winner = usize::from(outcome == Outcome::Promoted);
            if arms.ready(winner) {
                self.rollout.share = winner as f64;
                self.shares = shares_of(self.rollout.share);
                arms.stop(1 - winner);
                self.ended = Some(Ended { at: seconds(now), outcome, why });
                return;
            }
        }
        let wanted = self.rollout.wanted();
        for (arm, wanted) in wanted.into_iter().enumerate() {
            if wanted == ArmState::Stopped {
                arms.stop(arm);
            }
        }
        let leaving = arms.statuses().contains(&ArmStatus::Leaving);
        for (arm, wanted) in wanted.into_iter().enumerate() {
            if wanted != ArmState::Stopped && !leaving {
                arms.prepare(arm, now, flow.prepare(arm));
            }
        }
    }
}

fn shares_of(next: f64) -> Shares {
    Shares::from_weights(&[1.0 - next, next])
}
