//! What a rollout needs of the host: to begin, to be gone on with after a restart, to commit what was
//! decided, to make an arm ready or let go of it, to end.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard, PoisonError};

use berth_monitor::Observed;
use berth_plugin::{ArmState, Evaluation, Observation, Plan, Policy, PolicyError};
use berth_store::{Change, Note};
use berth_tensor::{Digest, Name};
use tokio::sync::OwnedMutexGuard;

use crate::catalog::{document, now_ms, read};
use crate::control::Applied;
use crate::documents::{
    ENDPOINT, EndpointRecord, EndpointState, OBSERVED, Order, Outcome, PinnedPolicy, REVISION,
    Revision, Rollout,
};
use crate::error::ControlError;
use crate::host::{Host, give_memory_back};
use crate::live::LiveRevision;
use crate::prepare::{always, blocking};
use crate::rolling::{Arm, ArmStatus, Endpoint, Rolling};
use crate::rollout_router::RolloutRouter;
use crate::sink::VariantSink;
use crate::spec::SpecError;
use crate::turns::Turn;
use crate::view::no_endpoint;

/// Starts of the host in a row, with nothing decided in between, that go on with a rollout.
const STARTS: u32 = 32;

/// A rollout as an endpoint file asks for it, its policy fixed by digest.
pub(crate) struct PinnedRollout {
    pub(crate) policy: PinnedPolicy,
    pub(crate) max_step: Option<f64>,
}

/// The policy of a rollout that is under way.
pub struct RolloutPolicy {
    policy: Arc<Policy>,
    sink: Arc<VariantSink>,
    /// The next revision's id, for the log.
    revision: String,
    /// Its router is not asked any more.
    quarantined: Arc<AtomicBool>,
}

impl RolloutPolicy {
    /// Decides anew, twice over. A failure is counted and logged. Blocks.
    pub fn evaluate(
        &self,
        endpoint: &Name,
        observation: Observation,
        plan: Option<&Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let evaluated = self.policy.evaluate(&Arc::new(observation), plan);
        if let Err(error) = &evaluated {
            let policy = self.sink.plugin();
            berth_monitor::policy_failed(endpoint.as_str(), policy, error.reason());
            self.sink.evaluation_failed(error, &self.revision);
        }
        evaluated
    }

    /// The router under an evaluation, where there is one that has a say. A failure is counted and
    /// logged, and leaves requests to the evaluation's shares. Blocks.
    pub fn router(
        &self,
        endpoint: &Name,
        observation: Observation,
        evaluation: &Evaluation,
    ) -> Option<RolloutRouter> {
        if !evaluation.asks_router() {
            return None;
        }
        let observation = Arc::new(observation);
        let (policy, revision) = (self.sink.plugin(), self.revision.clone());
        match self.policy.routers(&observation, &evaluation.plan, &self.quarantined) {
            Ok(routers) => routers.map(|routers| {
                RolloutRouter::new(routers, evaluation, Arc::clone(&self.sink), revision)
            }),
            Err(error) => {
                berth_monitor::policy_failed(endpoint.as_str(), policy, error.reason());
                self.sink.evaluation_failed(&error, &self.revision);
                None
            }
        }
    }
}

impl PinnedRollout {
    fn begun(self, arms: [Digest; 2]) -> Rollout {
        Rollout {
            arms,
            policy: self.policy,
            max_step: self.max_step,
            started_ms: now_ms(),
            paused: false,
            quarantined: false,
            share: 0.0,
            evaluation: None,
            order: None,
        }
    }
}

impl Host {
    /// The rollouts under way.
    pub fn rollouts(&self) -> Vec<Arc<Rolling>> {
        let snapshot = self.snapshot.load();
        let rolling = snapshot.live.values().filter_map(|endpoint| match endpoint {
            Endpoint::Rolling(rolling) => Some(Arc::clone(rolling)),
            Endpoint::Live(_) => None,
        });
        rolling.collect()
    }

    /// Waits until a rollout has begun or was restored.
    pub async fn rollout_begun(&self) {
        self.begun.notified().await;
    }

    /// The last rollout of an endpoint, and where the endpoint stands.
    pub fn last_rollout(&self, name: &Name) -> Result<(EndpointRecord, Rollout), ControlError> {
        let record = self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        let rollout = record.rollout.clone().ok_or_else(|| {
            ControlError::NotFound(format!(
                "the last revision of endpoint {name} took over without a rollout: [rollout] in its file asks for one"
            ))
        })?;
        Ok((record, rollout))
    }

    /// What was observed of the arms of an endpoint's last rollout, as far as it was committed.
    pub fn last_observed(&self, name: &Name) -> Result<Vec<Observed>, ControlError> {
        let found = self.store().get(OBSERVED, name.as_str())?;
        let found = found.map(|found| read(OBSERVED, name.as_str(), found.document));
        Ok(found.transpose()?.unwrap_or_else(nothing))
    }

    /// The policy of a rollout. Blocks while it is compiled, when it has not been yet.
    pub fn rollout_policy(
        &self,
        rolling: &Rolling,
        rollout: &Rollout,
    ) -> Result<RolloutPolicy, ControlError> {
        let next = self.revision(rolling.revision(1))?;
        let (policy, sink) = self.workshop.policy(&next, &rollout.policy.policy)?;
        let revision = rolling.revision(1).short();
        let quarantined = Arc::new(AtomicBool::new(rollout.quarantined));
        Ok(RolloutPolicy { policy, sink, revision, quarantined })
    }

    /// Changes and commits what is kept of a rollout, with what was observed until then; only when
    /// something changes. None when the rollout is over.
    pub fn commit_rollout(
        &self,
        rolling: &Rolling,
        note: &Note,
        change: impl FnOnce(&mut Rollout),
    ) -> Result<Option<Rollout>, ControlError> {
        let _alone = self.record_lock();
        let Some((mut record, before)) = self.rolling_record(rolling)? else { return Ok(None) };
        let mut rollout = before.clone();
        change(&mut rollout);
        if rollout != before {
            record.starts = 0;
            record.rollout = Some(rollout.clone());
            let plan = |rollout: &Rollout| rollout.evaluation.as_ref().map(|it| it.plan.clone());
            if plan(&rollout) != plan(&before) {
                rolling.observations().begin_anew();
            }
            self.commit_with_observed(rolling, &record, note)?;
        }
        Ok(Some(rollout))
    }

    /// Commits what was observed of a rollout until now.
    pub fn commit_observed(&self, rolling: &Rolling) -> Result<(), ControlError> {
        let _alone = self.record_lock();
        if let Some((mut record, _)) = self.rolling_record(rolling)? {
            let note = Note { who: "berth".into(), why: "observed".into() };
            let preparing = rolling.statuses().contains(&ArmStatus::Preparing);
            if record.starts > 0 && !preparing {
                // The host has stood for long enough.
                record.starts = 0;
                return self.commit_with_observed(rolling, &record, &note);
            }
            self.store().commit(None, &[observed(rolling)?], &note)?;
        }
        Ok(())
    }

    /// Makes an arm ready, unless it is or is on its way. Its rollout is woken when that is done.
    pub fn prepare_arm(self: &Arc<Self>, rolling: &Arc<Rolling>, arm: usize) {
        if rolling.begin(arm) {
            let (host, rolling) = (Arc::clone(self), Arc::clone(rolling));
            tokio::spawn(async move { host.put_arm(&rolling, arm).await });
        }
    }

    /// Takes an arm out of the way of requests. What it holds is free once they are done.
    pub fn stop_arm(&self, rolling: &Rolling, arm: usize) {
        if rolling.take(arm).is_some() {
            self.forget_baking(rolling.endpoint());
            self.note_resident();
        }
    }

    /// Ends a rollout: the revision of the outcome serves alone. False when it is not ready to.
    pub fn end_rollout(
        &self,
        rolling: &Rolling,
        outcome: Outcome,
        note: &Note,
    ) -> Result<bool, ControlError> {
        let winner = match outcome {
            Outcome::Promoted => 1,
            Outcome::Aborted => 0,
        };
        let _alone = self.record_lock();
        let Some((mut record, mut rollout)) = self.rolling_record(rolling)? else {
            return Ok(true);
        };
        let Some(revision) = rolling.ready(winner) else { return Ok(false) };
        rollout.share = winner as f64;
        record.rollout = Some(rollout);
        match outcome {
            Outcome::Promoted => {
                record.take_over(revision.digest);
                record.state = EndpointState::Live;
                record.evaluation = revision.evaluation();
            }
            Outcome::Aborted => {
                record.state = EndpointState::Failed;
                record.problem = Some(note.why.clone());
            }
        }
        let put = Change::put(ENDPOINT, rolling.endpoint().as_str(), document(&record)?);
        let mut changes = vec![put, observed(rolling)?];
        if outcome == Outcome::Promoted {
            changes.extend(self.begin_variants(&revision)?);
        }
        self.store().commit(None, &changes, note)?;
        self.change(|snapshot| {
            snapshot.live.insert(rolling.endpoint().clone(), Endpoint::Live(revision));
        });
        self.begun.notify_one();
        if let Some(loser) = rolling.take(1 - winner) {
            self.retire(loser);
        }
        self.note_resident();
        berth_monitor::rollout_share(rolling.endpoint().as_str(), 0.0);
        berth_monitor::rollout_ended(rolling.endpoint().as_str(), outcome.word());
        Ok(true)
    }

    /// Begins a rollout from the live revision to `next`. A policy that refuses its configuration or
    /// gives no evaluation is refused, and nothing is changed.
    pub(crate) async fn begin_rollout(
        self: &Arc<Self>,
        live: Arc<LiveRevision>,
        next: Revision,
        asked: PinnedRollout,
        note: Note,
        mut applied: Applied,
        held: (OwnedMutexGuard<()>, Turn),
    ) -> Result<Applied, ControlError> {
        let host = Arc::clone(self);
        blocking(move || {
            // Also where whoever has asked is gone before this has committed.
            let _held = held;
            let digest = next.digest();
            let rollout = asked.begun([live.digest, digest]);
            let rolling = Rolling::new(&rollout, &next, nothing());
            host.try_policy(&rolling, &rollout, &next)?;
            let name = next.endpoint.clone();
            let _alone = host.record_lock();
            let before = host.record(&name)?;
            let record = EndpointRecord {
                live: Some(live.digest),
                applied: digest,
                state: EndpointState::Rolling,
                problem: None,
                starts: 0,
                earlier: before.map_or_else(Vec::new, |before| before.earlier),
                evaluation: live.evaluation(),
                rollout: Some(rollout),
            };
            let changes = [
                Change::put(REVISION, digest.to_string(), document(&next)?),
                Change::put(ENDPOINT, name.as_str(), document(&record)?),
                observed(&rolling)?,
            ];
            host.store().commit(None, &changes, &note)?;
            rolling.put(0, Arm::Ready(live));
            host.change(|snapshot| {
                snapshot.live.insert(name, Endpoint::Rolling(Arc::new(rolling)));
            });
            host.begun.notify_one();
            applied.state = EndpointState::Rolling;
            Ok(applied)
        })
        .await
    }

    /// Goes on with a rollout after a restart: with the arms and the share that were committed last.
    /// The live revision answers as soon as it is ready; a next one that had a share is waited for.
    /// Where the host has ended again and again before anything was decided, the next revision is
    /// given up. `control` has been held since the record was read.
    pub(crate) async fn restore_rollout(
        self: &Arc<Self>,
        name: &Name,
        mut record: EndpointRecord,
        mut rollout: Rollout,
        control: tokio::sync::MutexGuard<'_, ()>,
    ) -> Result<(), ControlError> {
        let mut note = Note { who: "berth".into(), why: "went on after a restart".into() };
        let aborted = |order: &Order| order.outcome == Outcome::Aborted;
        if record.starts >= STARTS && !rollout.order.as_ref().is_some_and(aborted) {
            note.why = "the host has ended again and again during the rollout; to try it once more, apply it again".into();
            tracing::error!(endpoint = name.as_str(), "aborted: {}", note.why);
            rollout.share = 0.0;
            rollout.order = Some(Order {
                outcome: Outcome::Aborted,
                who: note.who.clone(),
                why: note.why.clone(),
            });
        }
        record.starts += 1;
        record.rollout = Some(rollout.clone());
        let put = Change::put(ENDPOINT, name.as_str(), document(&record)?);
        self.store().commit(None, &[put], &note)?;
        drop(control);
        let rollout = &rollout;
        let next = self.revision(rollout.arms[1])?;
        let rolling = Arc::new(Rolling::new(rollout, &next, self.last_observed(name)?));
        let [live, next] = rollout.wanted().map(|wanted| wanted != ArmState::Stopped);
        // Before the policy is asked, which is told of both again.
        let next = next && rolling.begin(1);
        if live && rolling.begin(0) {
            self.put_arm(&rolling, 0).await;
        }
        let control = self.control.lock().await;
        {
            let _alone = self.record_lock();
            if self.rolling_record(&rolling)?.is_none() {
                // The endpoint was deleted meanwhile.
                return Ok(());
            }
        }
        let answer = || {
            self.change(|snapshot| {
                snapshot.waiting.remove(name);
                snapshot.live.insert(name.clone(), Endpoint::Rolling(Arc::clone(&rolling)));
            });
        };
        self.go_on_counting(name, answer).await;
        self.begun.notify_one();
        // Whoever applies from here on is told that it is rolling out, and does not wait for its arms.
        self.applying.give_up(name);
        self.is_restored(name);
        drop(control);
        if next {
            let (host, rolling) = (Arc::clone(self), Arc::clone(&rolling));
            let prepared = tokio::spawn(async move { host.put_arm(&rolling, 1).await });
            if rollout.share > 0.0 {
                prepared.await.map_err(|error| ControlError::Host(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Evaluates the policy of a rollout that begins at the same time as its endpoint, and so never.
    pub(crate) fn try_rollout(
        &self,
        asked: PinnedRollout,
        next: &Revision,
    ) -> Result<(), ControlError> {
        let rollout = asked.begun([next.digest(); 2]);
        self.try_policy(&Rolling::new(&rollout, next, nothing()), &rollout, next)
    }

    /// Evaluates a policy once, as it would be when its rollout begins.
    fn try_policy(
        &self,
        rolling: &Rolling,
        rollout: &Rollout,
        next: &Revision,
    ) -> Result<(), ControlError> {
        let (policy, sink) = self.workshop.policy(next, &rollout.policy.policy)?;
        let observation = Arc::new(rolling.observation(rollout, &rolling.observed()));
        let evaluated = policy.evaluate(&observation, None);
        evaluated.map(drop).map_err(|source| sink.refused("rollout", next, source))
    }

    /// Held while an endpoint's record is read, changed and committed, and the snapshot follows.
    pub(crate) fn record_lock(&self) -> MutexGuard<'_, ()> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put_arm(&self, rolling: &Rolling, arm: usize) {
        // What was stopped before it has just been freed.
        give_memory_back();
        let prepared = async {
            let revision = self.revision(rolling.revision(arm))?;
            if arm == 1 {
                let tried = self.try_out(&revision, &always()).await?;
                let live = rolling.ready(0);
                if let Some(problem) = live.and_then(|live| tried.takes_no_longer(&live)) {
                    let problem = format!(
                        "{problem}, so that it would be chance which requests are answered: have it take the same, or apply it without [rollout]"
                    );
                    return Err(SpecError::new("rollout", problem).into());
                }
                return Ok(tried);
            }
            let evaluation = self.record(rolling.endpoint())?.and_then(|record| record.evaluation);
            self.workshop.prepare(&revision, evaluation, &always()).await
        };
        let state = match prepared.await {
            Ok(revision) => Arm::Ready(Arc::new(revision)),
            Err(error) => {
                let (endpoint, revision) = (rolling.endpoint().as_str(), rolling.revision(arm));
                let problem = error.first_line();
                tracing::warn!(endpoint, revision = revision.short(), "not ready: {problem}");
                Arm::Broken(error.to_string())
            }
        };
        rolling.put(arm, state);
        self.note_resident();
    }

    /// The record of a rollout that is under way.
    fn rolling_record(
        &self,
        rolling: &Rolling,
    ) -> Result<Option<(EndpointRecord, Rollout)>, ControlError> {
        let Some(record) = self.record(rolling.endpoint())? else { return Ok(None) };
        let rollout = record
            .rollout
            .clone()
            .filter(|rollout| record.state == EndpointState::Rolling && rolling.is(rollout));
        Ok(rollout.map(|rollout| (record, rollout)))
    }

    fn commit_with_observed(
        &self,
        rolling: &Rolling,
        record: &EndpointRecord,
        note: &Note,
    ) -> Result<(), ControlError> {
        let put = Change::put(ENDPOINT, rolling.endpoint().as_str(), document(record)?);
        self.store().commit(None, &[put, observed(rolling)?], note)?;
        Ok(())
    }
}

/// What is observed of two arms when they begin: of feedback, what comes from now on.
fn nothing() -> Vec<Observed> {
    let feedback = now_ms() * 1000;
    vec![Observed { feedback, ..Observed::default() }; 2]
}

fn observed(rolling: &Rolling) -> Result<Change, ControlError> {
    Ok(Change::put(OBSERVED, rolling.endpoint().as_str(), document(&rolling.observed())?))
}
