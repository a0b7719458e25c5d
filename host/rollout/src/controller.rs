//! Asks policies again and again, commits what they decide and brings it about.
//!
//! Level-triggered: each round looks at what was committed and at what is there, and does what leads
//! from one to the other. So it does not matter what happened in between, a crash included.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use berth_plugin::{ArmState, Evaluation};
use berth_serving::documents::{EndpointState, Order, Outcome, Rollout};
use berth_serving::rolling::ARMS;
use berth_serving::{
    ArmStatus, ControlError, Host, LiveRevision, Rolling, RolloutPolicy, RolloutRouter,
};
use berth_store::Note;
use berth_tensor::Name;
use tokio::task::JoinHandle;

use crate::pace::Pace;
use crate::{decide, ticks};

/// How soon to look again for what changes without saying so: requests that still hold a revision.
const SOON: Duration = Duration::from_millis(20);

/// How soon to try again what failed by no fault of the policy's.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// How often what was observed is committed where nothing is decided.
pub(crate) const OBSERVED: Duration = Duration::from_secs(30);

/// Follows every rollout of the host and every routing policy that asks to be evaluated again, for as
/// long as it runs.
pub async fn run(host: Arc<Host>) {
    let mut followed: HashMap<Name, (Weak<Rolling>, JoinHandle<()>)> = HashMap::new();
    let mut ticking: HashMap<Name, (Weak<LiveRevision>, JoinHandle<()>)> = HashMap::new();
    loop {
        followed.retain(|_, (_, task)| !task.is_finished());
        ticking.retain(|_, (_, task)| !task.is_finished());
        for live in host.ticking() {
            let known = ticking.get(live.endpoint());
            if known.is_some_and(|(known, _)| known.as_ptr() == Arc::as_ptr(&live)) {
                continue;
            }
            let (name, weak) = (live.endpoint().clone(), Arc::downgrade(&live));
            let task = tokio::spawn(ticks::follow(Arc::clone(&host), live));
            ticking.insert(name, (weak, task));
        }
        for rolling in host.rollouts() {
            let known = followed.get(rolling.endpoint());
            if known.is_some_and(|(known, _)| known.as_ptr() == Arc::as_ptr(&rolling)) {
                continue;
            }
            let name = rolling.endpoint().clone();
            let weak = Arc::downgrade(&rolling);
            let task = tokio::spawn(follow(Arc::clone(&host), rolling));
            followed.insert(name, (weak, task));
        }
        tell_quarantines(&host);
        host.rollout_begun().await;
    }
}

fn tell_quarantines(host: &Host) {
    for (endpoint, quarantined) in host.quarantines() {
        berth_monitor::policy_quarantined(&endpoint, quarantined);
    }
}

async fn follow(host: Arc<Host>, rolling: Arc<Rolling>) {
    let mut following = Following::new(Arc::clone(&host), Arc::clone(&rolling));
    loop {
        let round = tokio::task::spawn_blocking(move || {
            let next = following.round();
            (following, next)
        });
        let next = match round.await {
            Ok((same, next)) => {
                following = same;
                next
            }
            Err(error) => {
                following = Following::new(Arc::clone(&host), Arc::clone(&rolling));
                Err(ControlError::Host(format!("a round of a rollout failed: {error}")))
            }
        };
        let wait = match next {
            Ok(None) => return,
            Ok(Some(wait)) => wait,
            Err(error) => {
                tracing::error!(endpoint = rolling.endpoint().as_str(), "rollout: {error}");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = rolling.woken() => {}
        }
    }
}

/// What one rollout's rounds remember. All of it can be made again from what was committed.
struct Following {
    host: Arc<Host>,
    rolling: Arc<Rolling>,
    policy: Option<RolloutPolicy>,
    /// The evaluation under which requests are looked at, and the router, where it has one.
    router: Option<(Evaluation, Option<Arc<RolloutRouter>>)>,
    pace: Pace,
    /// The arms as they were when it was asked last.
    seen: Option<[ArmStatus; 2]>,
    observed: Instant,
    /// When an arm that could not be prepared is tried again.
    retry: Instant,
}

impl Following {
    fn new(host: Arc<Host>, rolling: Arc<Rolling>) -> Self {
        let now = Instant::now();
        Self {
            host,
            rolling,
            policy: None,
            router: None,
            pace: Pace::new(now),
            seen: None,
            observed: now,
            retry: now,
        }
    }

    /// One round: decide, then bring about. Answers when the next is due at the latest; none when the
    /// rollout is over.
    fn round(&mut self) -> Result<Option<Duration>, ControlError> {
        let Some(mut rollout) = self.committed()? else { return Ok(None) };
        let statuses = self.rolling.statuses();
        if let ArmStatus::Broken(problem) = &statuses[1]
            && !aborted(&rollout)
        {
            let why = format!("the next revision cannot be prepared: {problem}");
            match self.abort("berth", why)? {
                Some(changed) => rollout = changed,
                None => return Ok(None),
            }
        }
        let changed = self.seen.as_ref() != Some(&statuses);
        if self.asks(&rollout) && (changed || Instant::now() >= self.pace.due) {
            self.seen = Some(statuses);
            match self.evaluate(rollout)? {
                Some(changed) => rollout = changed,
                None => return Ok(None),
            }
        }
        if self.observed.elapsed() >= OBSERVED {
            self.observed = Instant::now();
            self.host.commit_observed(&self.rolling)?;
        }
        self.bring_about(&rollout)
    }

    /// Whether the policy has a say now: after a start of the host, once what it had wanted is there again.
    fn asks(&self, rollout: &Rollout) -> bool {
        let returning = self.seen.is_none()
            && rollout.evaluation.is_some()
            && self.rolling.statuses().contains(&ArmStatus::Preparing);
        rollout.order.is_none() && !rollout.paused && !returning
    }

    /// The rollout as it was committed; none when it is over.
    fn committed(&self) -> Result<Option<Rollout>, ControlError> {
        match self.host.last_rollout(self.rolling.endpoint()) {
            Ok((record, rollout)) => {
                let under_way = record.state == EndpointState::Rolling && self.rolling.is(&rollout);
                Ok(under_way.then_some(rollout))
            }
            Err(ControlError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the policy and commits what it decides. Where it gives nothing, its last evaluation stands.
    fn evaluate(&mut self, rollout: Rollout) -> Result<Option<Rollout>, ControlError> {
        let policy = self.policy(&rollout)?;
        let observed = self.rolling.observed();
        let observation = self.rolling.observation(&rollout, &observed);
        let plan = rollout.evaluation.as_ref().map(|evaluation| &evaluation.plan);
        let evaluated = policy.evaluate(self.rolling.endpoint(), observation, plan);
        self.policy = Some(policy);
        match evaluated {
            Ok(evaluation) => {
                let quarantined = rollout.quarantined || self.rolling.quarantined();
                let after = decide::after(&rollout, &evaluation, quarantined);
                let decided = after.is_some();
                let after = match after {
                    None => Some(rollout),
                    Some(after) => {
                        self.observed = Instant::now();
                        let words = decide::message(&evaluation);
                        let shares = [1.0 - after.share, after.share];
                        let arms = ARMS.into_iter().zip(shares).zip(&observed);
                        let arms = arms.map(|((name, share), arm)| (name, share, arm));
                        let note = Note {
                            who: rollout.policy.policy.to_string(),
                            why: decide::reason(words, arms),
                        };
                        // What an operator has committed since counts for more.
                        self.host.commit_rollout(&self.rolling, &note, |now| {
                            if *now == rollout {
                                *now = after;
                            }
                        })?
                    }
                };
                let share = after.as_ref().map_or(0.0, |after| after.share);
                self.pace.evaluated(Instant::now(), decide::wish(&evaluation, share), decided);
                self.rolling.says(evaluation);
                Ok(after)
            }
            Err(error) => {
                let last = rollout.evaluation.as_ref();
                let wish = last.and_then(|last| decide::wish(last, rollout.share));
                self.rolling.fails(decide::gives_nothing(&rollout.policy.policy, &error));
                if !self.pace.failed(Instant::now(), &error, wish) {
                    return Ok(Some(rollout));
                }
                let why = decide::not_asked_any_more(&rollout.policy.policy, &error);
                self.abort("berth", why)
            }
        }
    }

    fn abort(&self, who: &str, why: String) -> Result<Option<Rollout>, ControlError> {
        let note = Note { who: who.to_owned(), why };
        let order =
            Order { outcome: Outcome::Aborted, who: note.who.clone(), why: note.why.clone() };
        self.host.commit_rollout(&self.rolling, &note, |rollout| {
            rollout.share = 0.0;
            rollout.order = Some(order);
        })
    }

    /// The policy, to be put back.
    fn policy(&mut self, rollout: &Rollout) -> Result<RolloutPolicy, ControlError> {
        match self.policy.take() {
            Some(policy) => Ok(policy),
            None => self.host.rollout_policy(&self.rolling, rollout),
        }
    }

    /// Has the policy be asked of each request, as its evaluation says, while there is a choice.
    fn look_at_requests(&mut self, rollout: &Rollout) -> Result<(), ControlError> {
        // A router in quarantine stays known as such, and one begins with both arms there.
        let preparing = self.rolling.statuses().contains(&ArmStatus::Preparing);
        let choice = rollout.order.is_none()
            && (self.rolling.quarantined() || (rollout.share > 0.0 && !preparing));
        let evaluation = rollout.evaluation.as_ref().filter(|_| choice);
        if evaluation == self.router.as_ref().map(|(evaluation, _)| evaluation) {
            return Ok(());
        }
        self.router = match evaluation {
            None => None,
            Some(evaluation) => {
                let policy = self.policy(rollout)?;
                let observation = self.rolling.observation(rollout, &self.rolling.observed());
                let router = policy.router(self.rolling.endpoint(), observation, evaluation);
                self.policy = Some(policy);
                Some((evaluation.clone(), router.map(Arc::new)))
            }
        };
        self.rolling.ask(self.router.as_ref().and_then(|(_, router)| router.clone()));
        Ok(())
    }

    /// Has the arms be what was committed. What is stopped is free before anything is prepared.
    fn bring_about(&mut self, rollout: &Rollout) -> Result<Option<Duration>, ControlError> {
        self.look_at_requests(rollout)?;
        tell_quarantines(&self.host);
        let (host, rolling) = (&self.host, &self.rolling);
        rolling.follow(rollout);
        berth_monitor::rollout_share(rolling.endpoint().as_str(), rollout.share);
        if let Some(order) = &rollout.order {
            let note = Note { who: order.who.clone(), why: order.why.clone() };
            if host.end_rollout(rolling, order.outcome, &note)? {
                return Ok(None);
            }
        }
        let wanted = rollout.wanted();
        for (arm, wanted) in wanted.into_iter().enumerate() {
            if wanted == ArmState::Stopped {
                host.stop_arm(rolling, arm);
            }
        }
        let statuses = rolling.statuses();
        let leaving = statuses.contains(&ArmStatus::Leaving);
        let mut wait = self.pace.due.saturating_duration_since(Instant::now()).min(OBSERVED);
        if !self.asks(rollout) {
            wait = OBSERVED;
        }
        for (arm, wanted) in wanted.into_iter().enumerate() {
            let tried_again = Instant::now() >= self.retry;
            match &statuses[arm] {
                _ if wanted == ArmState::Stopped => {}
                ArmStatus::Stopped | ArmStatus::Leaving if leaving => wait = wait.min(SOON),
                ArmStatus::Stopped => host.prepare_arm(rolling, arm),
                // Of the two only the live one gets here: without it the endpoint has nothing.
                ArmStatus::Broken(_) if tried_again => {
                    self.retry = Instant::now() + RETRY;
                    host.prepare_arm(rolling, arm);
                }
                ArmStatus::Broken(_) => wait = wait.min(RETRY),
                ArmStatus::Leaving | ArmStatus::Preparing | ArmStatus::Ready => {}
            }
        }
        Ok(Some(wait))
    }
}

fn aborted(rollout: &Rollout) -> bool {
    rollout.order.as_ref().is_some_and(|order| order.outcome == Outcome::Aborted)
}
