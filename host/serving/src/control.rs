//! What changes the endpoints: push, apply, rollback, delete.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_store::{Change, Note, SealedBlob};
use berth_tensor::{Digest, Name};
use serde::Serialize;
use tokio::sync::OwnedMutexGuard;

use crate::catalog::{self, document, read};
use crate::documents::{
    ENDPOINT, EndpointRecord, EndpointState, ModelFiles, ModelVersion, OBSERVED, OBSERVED_VARIANTS,
    PluginVersion, REVISION, Revision,
};
use crate::error::ControlError;
use crate::host::{Host, PREPARING};
use crate::live::LiveRevision;
use crate::model_files::ModelBlobs;
use crate::prepare::{Wanted, Workshop, blocking};
use crate::rolling::Endpoint;
use crate::rollouts::PinnedRollout;
use crate::spec::EndpointSpec;
use crate::turns::Turn;
use crate::view::{HISTORY, no_endpoint};

/// What became of an apply, a rollback or a dry run.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    /// The endpoint.
    pub endpoint: Name,
    /// The revision's id.
    pub revision: String,
    /// Whether it differs from the live one.
    pub changed: bool,
    /// Where the endpoint stands.
    pub state: EndpointState,
    /// What differs from the live revision, a line each.
    pub changes: Vec<String>,
    /// How long it took to make it ready, in milliseconds.
    pub ready_ms: f64,
}

impl Host {
    /// Opens a model of one file, and gives it the next version. Refused, it leaves nothing. Dropped, it
    /// ends the trial.
    pub async fn push_model(
        &self,
        name: Name,
        blob: SealedBlob,
        note: Note,
    ) -> Result<ModelVersion, ControlError> {
        let workshop = Arc::clone(&self.workshop);
        let asking = Arc::new(());
        let asked = Arc::downgrade(&asking);
        let wanted = move || asked.strong_count() > 0;
        blocking(move || commit_model(&workshop, name, blob.into(), &note, &wanted)).await
    }

    /// Opens a model whose files were uploaded, and gives it the next version. Until all of them are
    /// here, says which are not; refused, it leaves nothing of them. Dropped, it ends the trial.
    pub async fn push_files(
        &self,
        name: Name,
        files: ModelFiles,
        note: Note,
    ) -> Result<ModelVersion, ControlError> {
        let workshop = Arc::clone(&self.workshop);
        let asking = Arc::new(());
        let asked = Arc::downgrade(&asking);
        let wanted = move || asked.strong_count() > 0;
        blocking(move || {
            // Two that push the same do not take it from each other: the second finds it in its place.
            // In one order, so that no two wait for each other.
            let digests: BTreeSet<_> = files.data.values().chain([&files.model]).collect();
            let _turns: Vec<_> =
                digests.into_iter().map(|digest| workshop.pushes.wait_blocking(digest)).collect();
            let blobs = ModelBlobs::uploaded(&workshop.store, &files)?;
            commit_model(&workshop, name, blobs, &note, &wanted)
        })
        .await
    }

    /// Inspects and compiles a component, and gives it the next version. Refused, it leaves nothing.
    pub async fn push_plugin(
        &self,
        name: Name,
        blob: SealedBlob,
        note: Note,
    ) -> Result<PluginVersion, ControlError> {
        let workshop = Arc::clone(&self.workshop);
        blocking(move || {
            let (digest, bytes) = (blob.digest(), blob.size());
            let (component, took) = workshop.compile(name.as_str(), digest, || blob.read())?;
            blob.place()?;
            let version = PluginVersion {
                name,
                version: 0,
                digest,
                bytes,
                pushed_ms: catalog::now_ms(),
                inspection: component.inspection.clone(),
            };
            let pushed = catalog::push(&workshop.store, version, &note)?;
            if let Some(took) = took {
                berth_monitor::compiled(&catalog::pin(&pushed).to_string(), took);
            }
            Ok(pushed)
        })
        .await
    }

    /// Applies an endpoint file: commits its revision, makes it ready beside the live one and lets
    /// it take over, all of that after what was applied to the endpoint before. Returns when it is live
    /// or has failed; with `wait` unset, once it is committed; with a rollout, once that has begun.
    pub async fn apply(
        self: &Arc<Self>,
        spec: EndpointSpec,
        note: Note,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        spec.check()?;
        let name = &spec.name;
        self.restored(name).await;
        let turn = self.applying.wait(name).await;
        let revision = self.resolve(&spec)?;
        let rollout = self.resolve_rollout(&spec)?;
        // Held until it is in use: nobody is to wait while it is compiled.
        let _compiled = match &rollout {
            None => None,
            Some(asked) => {
                let (workshop, policy) = (Arc::clone(&self.workshop), asked.policy.policy.clone());
                Some(blocking(move || workshop.component(&policy)).await?)
            }
        };
        let control = Arc::clone(&self.control).lock_owned().await;
        if !self.applying.stands(name, &turn) {
            return Err(given_up(name, revision.digest()));
        }
        self.apply_revision(revision, rollout, note, wait, (control, turn)).await
    }

    /// Does all of an apply but the change: resolves, compiles, opens, configures. Dropped, it ends the
    /// trial of a model.
    pub async fn dry_run(self: &Arc<Self>, spec: EndpointSpec) -> Result<Applied, ControlError> {
        spec.check()?;
        let revision = self.resolve(&spec)?;
        let rollout = self.resolve_rollout(&spec)?;
        let start = Instant::now();
        let asking = Arc::new(());
        let asked = Arc::downgrade(&asking);
        let wanted: Wanted = Arc::new(move || asked.strong_count() > 0);
        let ready = self.try_out(&revision, &wanted).await?;
        if let Some(asked) = rollout {
            let (host, next) = (Arc::clone(self), revision.clone());
            blocking(move || host.try_rollout(asked, &next)).await?;
        }
        let record = self.record(&revision.endpoint)?;
        let live = record.as_ref().and_then(|record| record.live);
        let no_longer = self.takes_no_longer(&ready);
        self.free_aside(ready);
        Ok(Applied {
            changed: live != Some(revision.digest()),
            state: record.map_or(EndpointState::Preparing, |record| record.state),
            changes: self.changes(live, &revision).into_iter().chain(no_longer).collect(),
            ready_ms: start.elapsed().as_secs_f64() * 1e3,
            revision: revision.digest().short(),
            endpoint: revision.endpoint,
        })
    }

    /// Goes back to the revision that was live before, or to the one whose id begins with `to`. What is
    /// being prepared, and applies that wait for it, are given up.
    pub async fn rollback(
        self: &Arc<Self>,
        name: &Name,
        to: Option<&str>,
        note: Note,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        self.restored(name).await;
        let control = Arc::clone(&self.control).lock_owned().await;
        let record = self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        refuse_while_rolling(name, &record)?;
        let entries = self.store().history(ENDPOINT, name.as_str(), HISTORY)?;
        let was_live = entries.into_iter().filter_map(|entry| match entry.change {
            Change::Put { document, .. } => {
                let record: EndpointRecord = read(ENDPOINT, name.as_str(), document).ok()?;
                (record.state == EndpointState::Live).then_some(record.applied)
            }
            Change::Delete { .. } => None,
        });
        // From what is being prepared, that is to what is live.
        let preparing = record.state == EndpointState::Preparing
            && record.live.is_some_and(|live| live != record.applied);
        let live = record.live.filter(|_| preparing);
        let earlier = record.earlier.iter().copied().filter(|digest| record.live != Some(*digest));
        let was_live = was_live.filter(|digest| record.live != Some(*digest));
        let mut candidates = live.into_iter().chain(earlier).chain(was_live);
        let digest = match to {
            None => candidates.next(),
            Some(id) => {
                candidates.find(|digest| id.len() >= 6 && digest.to_string().starts_with(id))
            }
        };
        let digest = digest.ok_or_else(|| {
            ControlError::NotFound(match to {
                None => format!("endpoint {name} has no earlier revision"),
                Some(id) => format!(
                    "endpoint {name} has no other revision {id} that was live; see its history"
                ),
            })
        })?;
        let revision = self.revision(digest)?;
        let why = match record.live {
            Some(_) if note.why.is_empty() && preparing => {
                format!("rollback from {}", record.applied.short())
            }
            Some(live) if note.why.is_empty() => format!("rollback from {}", live.short()),
            _ => note.why,
        };
        let turn = self.applying.take(name).await;
        self.apply_revision(revision, None, Note { why, ..note }, wait, (control, turn)).await
    }

    /// Takes an endpoint away, with its rollout when there is one. Requests under way finish; what is
    /// being prepared, and applies that wait for it, are given up.
    pub async fn delete(&self, name: &Name, note: Note) -> Result<(), ControlError> {
        let _control = self.control.lock().await;
        let _alone = self.record_lock();
        self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        let gone =
            [ENDPOINT, OBSERVED, OBSERVED_VARIANTS].map(|kind| Change::delete(kind, name.as_str()));
        self.store().commit(None, &gone, &note)?;
        self.applying.give_up(name);
        self.is_restored(name);
        let mut old = None;
        self.change(|snapshot| {
            old = snapshot.live.remove(name);
            snapshot.waiting.remove(name);
        });
        berth_monitor::policy_quarantined(name.as_str(), false);
        for revision in old.iter().flat_map(Endpoint::revisions) {
            self.retire(revision);
        }
        if let Some(Endpoint::Rolling(rolling)) = old {
            rolling.wake();
        }
        Ok(())
    }

    async fn apply_revision(
        self: &Arc<Self>,
        revision: Revision,
        rollout: Option<PinnedRollout>,
        note: Note,
        wait: bool,
        (control, turn): (OwnedMutexGuard<()>, Turn),
    ) -> Result<Applied, ControlError> {
        let digest = revision.digest();
        let name = revision.endpoint.clone();
        let record = {
            // A rollout that comes to its end has committed and swapped before this is read.
            let _alone = self.record_lock();
            self.record(&name)?
        };
        if let Some(record) = &record {
            refuse_while_rolling(&name, record)?;
        }
        let live = record.as_ref().and_then(|record| record.live);
        let mut applied = Applied {
            endpoint: name.clone(),
            revision: digest.short(),
            changed: true,
            state: EndpointState::Preparing,
            changes: self.changes(live, &revision),
            ready_ms: 0.0,
        };
        let serving = match self.snapshot.load().live.get(&name) {
            Some(Endpoint::Live(serving)) => Some(Arc::clone(serving)),
            Some(Endpoint::Rolling(_)) | None => None,
        };
        if live == Some(digest) && serving.as_ref().is_some_and(|live| live.digest == digest) {
            applied.changed = false;
            applied.state = EndpointState::Live;
            if record.is_some_and(|record| record.state != EndpointState::Live) {
                // What was applied in between has failed; this settles it.
                self.change_record(&name, &note, |record| {
                    record.applied = digest;
                    record.state = EndpointState::Live;
                    record.problem = None;
                    record.starts = 0;
                    record.rollout = None;
                })?;
            }
            return Ok(applied);
        }
        match (rollout, serving) {
            (Some(asked), Some(serving)) => {
                let held = (control, turn);
                return self.begin_rollout(serving, revision, asked, note, applied, held).await;
            }
            // The first revision takes over as soon as it is ready, but a file that could never be
            // rolled out is refused at once.
            (Some(asked), None) => {
                let (host, next) = (Arc::clone(self), revision.clone());
                blocking(move || host.try_rollout(asked, &next)).await?;
            }
            (None, _) => {}
        }
        {
            // The policy of the live revision may have decided something since.
            let _alone = self.record_lock();
            let before = self.record(&name)?;
            let (earlier, evaluation) =
                before.map(|before| (before.earlier, before.evaluation)).unwrap_or_default();
            let record = EndpointRecord {
                live,
                applied: digest,
                state: EndpointState::Preparing,
                problem: None,
                starts: 0,
                evaluation,
                earlier,
                rollout: None,
            };
            let changes = [
                Change::put(REVISION, digest.to_string(), document(&revision)?),
                Change::put(ENDPOINT, name.as_str(), document(&record)?),
            ];
            self.store().commit(None, &changes, &note)?;
        }
        if live.is_none() {
            self.change(|snapshot| {
                snapshot.waiting.insert(name.clone(), PREPARING.into());
            });
        }
        // The others do not wait for what takes long. The work goes on when the operator's connection
        // breaks.
        drop(control);
        let host = Arc::clone(self);
        let work = tokio::spawn(async move { host.make_live(&revision, note, turn).await });
        if wait {
            let done = work.await.map_err(|error| ControlError::Host(error.to_string()))?;
            let (took, no_longer) = done?;
            applied.ready_ms = took.as_secs_f64() * 1e3;
            applied.changes.extend(no_longer);
            applied.state = EndpointState::Live;
        }
        Ok(applied)
    }

    /// Makes a committed revision ready and lets it take over, or notes why it cannot; neither where it
    /// was given up meanwhile. Answers how long it took, and what clients can send no longer.
    pub(crate) async fn make_live(
        self: &Arc<Self>,
        revision: &Revision,
        note: Note,
        turn: Turn,
    ) -> Result<(Duration, Option<String>), ControlError> {
        let (name, digest) = (&revision.endpoint, revision.digest());
        let start = Instant::now();
        let wanted: Wanted = Arc::new({
            let (host, name) = (Arc::clone(self), name.clone());
            move || host.applying.stands(&name, &turn)
        });
        let tried = self.try_out(revision, &wanted).await;
        let control = self.control.lock().await;
        if !wanted() {
            drop(control);
            self.free_aside(tried);
            let revision = digest.short();
            tracing::info!(endpoint = name.as_str(), revision, "given up");
            return Err(given_up(name, digest));
        }
        match tried {
            Ok(ready) => {
                self.note_live(&ready, &note)?;
                let no_longer = self.takes_no_longer(&ready);
                self.go_live(ready);
                let revision = digest.short();
                tracing::info!(endpoint = name.as_str(), revision, "live");
                if let Some(no_longer) = &no_longer {
                    tracing::warn!(endpoint = name.as_str(), revision, "{no_longer}");
                }
                Ok((start.elapsed(), no_longer))
            }
            Err(error) => {
                tracing::warn!(
                    endpoint = name.as_str(),
                    revision = digest.short(),
                    "not live: {}",
                    error.first_line()
                );
                self.note_failed(name, digest, error.to_string(), note)?;
                Err(error)
            }
        }
    }

    /// What clients of the endpoint can send no longer once this revision is live, for operators.
    fn takes_no_longer(&self, ready: &LiveRevision) -> Option<String> {
        let snapshot = self.snapshot.load();
        let live = snapshot.live.get(&ready.endpoint)?.standing().ok()?;
        let problem = ready.takes_no_longer(&live)?;
        Some(format!("clients: {problem}: their requests will be refused"))
    }

    /// Makes a revision ready and sees that it answers as it should.
    pub(crate) async fn try_out(
        &self,
        revision: &Revision,
        wanted: &Wanted,
    ) -> Result<LiveRevision, ControlError> {
        let ready = self.workshop.prepare(revision, None, wanted).await?;
        ready.check_alike()?;
        ready.check_recorded()?;
        self.warm_up(&ready).await?;
        Ok(ready)
    }

    /// Commits why what was applied is not live; what was live goes on.
    pub(crate) fn note_failed(
        &self,
        name: &Name,
        applied: Digest,
        problem: String,
        note: Note,
    ) -> Result<(), ControlError> {
        let mut live = None;
        self.change_record(name, &note, |record| {
            live = record.live;
            record.applied = applied;
            record.state = EndpointState::Failed;
            record.problem = Some(problem.clone());
            record.starts = 0;
            record.rollout = None;
        })?;
        if live.is_none() {
            self.change(|snapshot| {
                snapshot.waiting.insert(name.clone(), problem);
            });
        }
        Ok(())
    }

    /// Commits that a revision is the live one. Its policy begins with nothing observed.
    fn note_live(&self, ready: &LiveRevision, note: &Note) -> Result<(), ControlError> {
        let (name, digest) = (&ready.endpoint, ready.digest);
        let _alone = self.record_lock();
        let before = self.record(name)?;
        let mut record = EndpointRecord {
            live: before.as_ref().and_then(|before| before.live),
            applied: digest,
            state: EndpointState::Live,
            problem: None,
            starts: 0,
            evaluation: ready.evaluation(),
            earlier: before.map_or_else(Vec::new, |before| before.earlier),
            rollout: None,
        };
        record.take_over(digest);
        let mut changes = vec![Change::put(ENDPOINT, name.as_str(), document(&record)?)];
        changes.extend(self.begin_variants(ready)?);
        self.store().commit(None, &changes, note)?;
        Ok(())
    }
}

fn given_up(name: &Name, digest: Digest) -> ControlError {
    ControlError::Conflict(format!(
        "revision {} of endpoint {name} was given up before it was live, for what was done to the endpoint meanwhile; see its history",
        digest.short()
    ))
}

/// A rollout has the endpoint until it ends: the operator says how.
fn refuse_while_rolling(name: &Name, record: &EndpointRecord) -> Result<(), ControlError> {
    if record.state != EndpointState::Rolling {
        return Ok(());
    }
    Err(ControlError::Conflict(format!(
        "endpoint {name} is rolling out revision {}: end that first, by `berth rollout promote {name}` or `berth rollout abort {name}`",
        record.applied.short()
    )))
}

fn commit_model(
    workshop: &Workshop,
    name: Name,
    blobs: ModelBlobs,
    note: &Note,
    wanted: &(dyn Fn() -> bool + Sync),
) -> Result<ModelVersion, ControlError> {
    let digest = blobs.files().digest();
    // A content that was found good is not opened again, under whatever name.
    let known = catalog::list::<ModelVersion>(&workshop.store)?;
    let found = match known.into_iter().find(|known| known.digest == digest) {
        Some(known) => known,
        None => opened(workshop, &name, &blobs, wanted)?,
    };
    blobs.place()?;
    let version = ModelVersion { name, version: 0, pushed_ms: catalog::now_ms(), ..found };
    catalog::push(&workshop.store, version, note)
}

/// Opens a model that is being pushed, to see what it is; refused, it leaves nothing.
fn opened(
    workshop: &Workshop,
    name: &Name,
    blobs: &ModelBlobs,
    wanted: &(dyn Fn() -> bool + Sync),
) -> Result<ModelVersion, ControlError> {
    let model = workshop.pushed_model(name.as_str(), blobs, wanted).inspect_err(|error| {
        // Where something else failed, what was uploaded is good for another try.
        if matches!(error, ControlError::Model(_)) {
            blobs.discard();
        }
    })?;
    let files = blobs.files();
    Ok(ModelVersion {
        name: name.clone(),
        version: 0,
        digest: files.digest(),
        bytes: blobs.bytes(),
        files: Some(files).filter(|files| !files.data.is_empty()),
        pushed_ms: 0,
        inputs: model.inputs().to_vec(),
        outputs: model.outputs().to_vec(),
        symbols: model.symbols().clone(),
        properties: model.properties().to_vec(),
        batching: model.batching().to_string(),
        warning: model.warning(),
    })
}
