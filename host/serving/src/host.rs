//! The snapshot of all endpoints: what requests see, how it is swapped, and what becomes of the
//! revisions that it held before.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use berth_inference::Runtime;
use berth_monitor::predictions::{FileError, Recorder};
use berth_plugin::engine::Engines;
use berth_store::{Change, Note, Store};
use berth_tensor::{Digest, Name};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::catalog::{document, read};
use crate::documents::{ENDPOINT, EndpointRecord, EndpointState, REVISION, Revision};
use crate::error::{ControlError, RequestError};
use crate::live::{Admission, LiveRevision};
use crate::prepare::{Workshop, always, blocking};
use crate::rolling::Endpoint;
use crate::turns::{Turn, Turns};
use crate::warm_up::ReadInfer;

/// Why an endpoint does not answer yet.
pub(crate) const PREPARING: &str = "it is being prepared";

/// Starts of the host that go on with what was being prepared when it ended. It may have ended for any
/// reason, and so more than once.
const STARTS: u32 = 4;

/// Endpoints that are made ready at once when the host starts.
const RESTORED: usize = 16;

/// On an idle host, one sweep in this many hands freed memory back to the system.
const TRIM: u64 = 10;

/// One sweep in this many looks for uploads that nobody goes on with.
const EXPIRE: u64 = 600;

/// Requests with feedback that are worked on at once.
pub(crate) const FEEDBACKS: usize = 2;

/// The most revisions that stay warm only for rollbacks.
const BAKING: usize = 64;

/// What the operator sets for serving.
#[derive(Clone, Copy, Debug)]
pub struct HostOptions {
    /// Requests under way at once, over all endpoints; the next is refused.
    pub max_requests: usize,
    /// Processor instances under way at once; the next is refused.
    pub max_instances: usize,
    /// How long a revision that was replaced stays warm for a rollback.
    pub bake: Duration,
    /// The most bytes of models that stay open only for rollbacks.
    pub bake_bytes: u64,
    /// The most bytes of predictions that wait to be recorded; what finds no room is dropped.
    pub predictions_bytes: usize,
    /// How the rim reads an inference request.
    pub read_infer: ReadInfer,
}

/// The endpoints as requests see them. Immutable: every change makes a new one.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) live: HashMap<Name, Endpoint>,
    /// Endpoints that have no revision that answers, and why.
    pub(crate) waiting: HashMap<Name, String>,
}

/// The endpoints of this host.
pub struct Host {
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// Held while an endpoint changes.
    pub(crate) control: Arc<tokio::sync::Mutex<()>>,
    /// Of each endpoint, held from an apply until what it applied is live or is not: the next waits.
    pub(crate) applying: Turns<Name>,
    /// Held while an endpoint's record and the snapshot change together, which a rollout does beside
    /// whoever holds `control`.
    pub(crate) recording: Mutex<()>,
    changing: Mutex<()>,
    /// Feedback that is looked up and written at once.
    pub(crate) feedbacks: Semaphore,
    /// Held from when feedback is committed until it is counted.
    pub(crate) rewards: Mutex<()>,
    /// There is a rollout or a live revision that was not there before.
    pub(crate) begun: Notify,
    /// The models of what is in the snapshot, by name, with their size as it was told last.
    resident: Mutex<HashMap<String, u64>>,
    baking: Mutex<VecDeque<(Instant, Arc<LiveRevision>)>>,
    /// The endpoints that are yet to answer again since the host was started; none before they are known.
    restoring: watch::Sender<Option<BTreeSet<Name>>>,
    restored: AtomicBool,
    sweeps: AtomicU64,
    options: HostOptions,
}

impl Host {
    /// A host over a store. Nothing answers before [`Host::restore`]. Fails where predictions could not
    /// be recorded.
    pub fn new(
        store: Store,
        runtime: Runtime,
        engines: Arc<Engines>,
        options: HostOptions,
    ) -> Result<Arc<Self>, FileError> {
        let recorder = Arc::new(Recorder::start(store.folder(), options.predictions_bytes)?);
        let admission = Arc::new(Admission {
            requests: Semaphore::new(options.max_requests),
            instances: Semaphore::new(options.max_instances),
            most_requests: options.max_requests,
            most_instances: options.max_instances,
        });
        let workshop = Workshop::new(store, runtime, engines, admission, recorder);
        Ok(Arc::new(Self {
            workshop: Arc::new(workshop),
            snapshot: ArcSwap::default(),
            control: Arc::default(),
            applying: Turns::default(),
            recording: Mutex::default(),
            changing: Mutex::default(),
            feedbacks: Semaphore::new(FEEDBACKS),
            rewards: Mutex::default(),
            begun: Notify::new(),
            resident: Mutex::default(),
            baking: Mutex::default(),
            restoring: watch::Sender::default(),
            restored: AtomicBool::new(false),
            sweeps: AtomicU64::new(0),
            options,
        }))
    }

    /// Where predictions are recorded.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.workshop.recorder
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.workshop.store
    }

    /// Whether every endpoint that was live when the host stopped answers again, or cannot.
    pub fn is_ready(&self) -> bool {
        self.restored.load(Ordering::Acquire)
    }

    /// What answers at an endpoint: taken once by each request.
    pub fn endpoint(&self, name: &str) -> Result<Endpoint, RequestError> {
        let snapshot = self.snapshot.load();
        match snapshot.live.get(name) {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Err(match snapshot.waiting.get(name) {
                Some(_) => RequestError::Unavailable(format!(
                    "endpoint {name:?} has no revision that answers; its operator sees why"
                )),
                None => RequestError::NotFound(format!("there is no endpoint {name:?}")),
            }),
        }
    }

    /// Makes the endpoints ready that the store knows, and goes on with what was being applied. An
    /// endpoint that takes long is waited for by few others. Until one answers again, or cannot, whatever
    /// is done to it waits, but for its end.
    pub async fn restore(self: &Arc<Self>) -> Result<(), ControlError> {
        let mut endpoints = VecDeque::new();
        {
            let _control = self.control.lock().await;
            let records = self.records();
            let names = records.iter().flatten().map(|(name, _)| name.clone());
            let names: BTreeSet<Name> = names.collect();
            for name in &names {
                // Nobody has had one yet.
                endpoints.push_back((name.clone(), self.applying.wait(name).await));
            }
            self.change(|snapshot| {
                let waiting = names.iter().map(|name| (name.clone(), PREPARING.to_owned()));
                snapshot.waiting.extend(waiting);
            });
            self.restoring.send_replace(Some(names));
            records?;
        }
        let mut unfinished = Vec::new();
        let mut restoring = JoinSet::new();
        loop {
            while restoring.len() < RESTORED
                && let Some((name, turn)) = endpoints.pop_front()
            {
                let host = Arc::clone(self);
                restoring.spawn(async move {
                    let is_unfinished = host.restore_endpoint(&name).await;
                    host.is_restored(&name);
                    is_unfinished.then_some((name, turn))
                });
            }
            match restoring.join_next().await {
                Some(Ok(restored)) => unfinished.extend(restored),
                Some(Err(error)) => tracing::error!("an endpoint is not restored: {error}"),
                None => break,
            }
        }
        self.restoring.send_replace(Some(BTreeSet::new()));
        self.restored.store(true, Ordering::Release);
        for (name, turn) in unfinished {
            let host = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = host.finish(&name, turn).await {
                    tracing::error!(endpoint = name.as_str(), "{}", error.first_line());
                }
            });
        }
        Ok(())
    }

    /// Waits until an endpoint that was live when the host stopped answers again, or cannot.
    pub async fn restored(&self, name: &Name) {
        let mut restoring = self.restoring.subscribe();
        let known = |names: &Option<BTreeSet<Name>>| {
            names.as_ref().is_some_and(|names| !names.contains(name))
        };
        // What sends is held by this host.
        let _ = restoring.wait_for(known).await;
    }

    /// Whoever waits for an endpoint to be restored goes on.
    pub(crate) fn is_restored(&self, name: &Name) {
        self.restoring
            .send_if_modified(|names| names.as_mut().is_some_and(|names| names.remove(name)));
    }

    /// Has an endpoint answer again; says whether another revision was being prepared.
    async fn restore_endpoint(self: &Arc<Self>, name: &Name) -> bool {
        match self.restore_live(name).await {
            Ok(is_unfinished) => is_unfinished,
            Err(error) => {
                self.does_not_answer(name, &error);
                false
            }
        }
    }

    /// Has the revision of an endpoint that was live answer again; says whether another was being
    /// prepared. Nothing where something was done to the endpoint meanwhile.
    async fn restore_live(self: &Arc<Self>, name: &Name) -> Result<bool, ControlError> {
        let control = self.control.lock().await;
        let Some(record) = self.record(name)? else { return Ok(false) };
        if let (EndpointState::Rolling, Some(rollout)) = (record.state, record.rollout.clone()) {
            self.restore_rollout(name, record, rollout, control).await?;
            return Ok(false);
        }
        drop(control);
        if let Some(digest) = record.live {
            let prepared = match self.revision(digest) {
                Ok(revision) => {
                    let evaluation = record.evaluation.clone();
                    self.workshop.prepare(&revision, evaluation, &always()).await
                }
                Err(error) => Err(error),
            };
            match prepared {
                Ok(live) => {
                    // It has answered before: whatever keeps it from that now is its clients' to see.
                    if let Err(error) = self.warm_up(&live).await {
                        let problem = error.first_line();
                        tracing::warn!(endpoint = name.as_str(), "not warm: {problem}");
                    }
                    let _control = self.control.lock().await;
                    let now = self.record(name)?;
                    let is_live = self.snapshot.load().live.contains_key(name);
                    if !is_live && now.is_some_and(|now| now.live == Some(digest)) {
                        self.go_on_counting(name, || self.go_live(live)).await;
                    }
                }
                Err(error) => self.does_not_answer(name, &error),
            }
        }
        if record.state == EndpointState::Failed && record.live.is_none() {
            self.says_why(name, record.problem.unwrap_or_default());
        }
        Ok(record.state == EndpointState::Preparing)
    }

    fn does_not_answer(&self, name: &Name, error: &ControlError) {
        tracing::error!(endpoint = name.as_str(), "does not answer: {}", error.first_line());
        self.says_why(name, error.to_string());
    }

    /// Says why an endpoint does not answer, unless it does by now or is gone.
    fn says_why(&self, name: &Name, problem: String) {
        self.change(|snapshot| {
            if let Some(waiting) = snapshot.waiting.get_mut(name) {
                *waiting = problem;
            }
        });
    }

    /// Goes on with what was being prepared when the host ended, unless that was given up since.
    async fn finish(self: &Arc<Self>, name: &Name, turn: Turn) -> Result<(), ControlError> {
        let note = Note { who: "berth".into(), why: "went on after a restart".into() };
        let applied = {
            let _control = self.control.lock().await;
            let record = self.record(name)?;
            let Some(record) = record.filter(|_| self.applying.stands(name, &turn)) else {
                return Ok(());
            };
            if record.starts >= STARTS {
                // What ends the host is not tried at each of its starts.
                let problem = "the host has ended again and again while it was being prepared; to try it once more, apply it again";
                tracing::error!(endpoint = name.as_str(), "not live: {problem}");
                return self.note_failed(name, record.applied, problem.to_owned(), note);
            }
            self.change_record(name, &note, |record| record.starts += 1)?;
            record.applied
        };
        // It has said itself what became of it.
        let _ = self.make_live(&self.revision(applied)?, note, turn).await;
        Ok(())
    }

    /// Has a revision that is ready answer the request that its endpoint file names, if it does.
    pub(crate) async fn warm_up(&self, ready: &LiveRevision) -> Result<(), ControlError> {
        let Some(warm_up) = ready.warm_up.clone() else { return Ok(()) };
        let (store, read_infer) = (self.store().clone(), self.options.read_infer);
        let sample = blocking(move || warm_up.sample(&store, read_infer)).await?;
        ready.answer_all(&sample).await
    }

    /// Frees revisions that were replaced and are no longer kept warm, and what large runs have left.
    /// Called every second or so.
    pub fn sweep(&self) {
        let expired = {
            let mut baking = self.baking.lock().unwrap_or_else(PoisonError::into_inner);
            let mut expired = Vec::new();
            while let Some((since, _)) = baking.front() {
                let fresh = since.elapsed() < self.options.bake;
                if fresh && baking.len() <= BAKING && kept_bytes(&baking) <= self.options.bake_bytes
                {
                    break;
                }
                expired.extend(baking.pop_front());
            }
            expired
        };
        for revision in self.snapshot.load().live.values().flat_map(Endpoint::revisions) {
            for bound in revision.bound() {
                bound.model.give_memory_back();
                match bound.model.take_counts() {
                    (0, _) => {}
                    (runs, requests) => berth_monitor::ran_together(&bound.name, runs, requests),
                }
            }
        }
        let revisions: Vec<_> =
            self.snapshot.load().live.values().flat_map(Endpoint::revisions).collect();
        self.recorder().keep(revisions.iter().filter_map(|revision| {
            Some((revision.endpoint.as_str(), &revision.recording.as_ref()?.declared.spec))
        }));
        let sweeps = self.sweeps.fetch_add(1, Ordering::Relaxed);
        if sweeps.is_multiple_of(EXPIRE) {
            self.store().expire_uploads();
            for revision in revisions.iter().filter(|revision| revision.recording.is_some()) {
                self.forget_feedback(revision.endpoint.as_str());
            }
        }
        let admission = &self.workshop.admission;
        let idle = admission.requests.available_permits() == self.options.max_requests;
        if !expired.is_empty() || (idle && sweeps.is_multiple_of(TRIM)) {
            self.free(expired);
        }
    }

    /// Lets go of what may hold models, and hands its memory back to the system. Takes milliseconds of a
    /// core. Blocks.
    fn free(&self, held: impl Send) {
        let freed = self.workshop.runtime.aside(|| {
            drop(held);
            give_memory_back();
        });
        if let Err(error) = freed {
            tracing::warn!("freed memory is not given back now: {error}");
        }
    }

    /// The same without being waited for.
    pub(crate) fn free_aside(self: &Arc<Self>, held: impl Send + 'static) {
        let host = Arc::clone(self);
        tokio::task::spawn_blocking(move || host.free(held));
    }

    pub(crate) fn go_live(&self, ready: LiveRevision) {
        let (name, ready) = (ready.endpoint.clone(), Endpoint::Live(Arc::new(ready)));
        let mut old = None;
        self.change(|snapshot| {
            snapshot.waiting.remove(&name);
            old = snapshot.live.insert(name, ready);
        });
        for old in old.iter().flat_map(Endpoint::revisions) {
            self.retire(old);
        }
        self.begun.notify_one();
    }

    /// Swaps the snapshot for one that differs.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.snapshot.load();
        let mut next = Snapshot { live: now.live.clone(), waiting: now.waiting.clone() };
        change(&mut next);
        self.snapshot.store(Arc::new(next));
        drop(alone);
        self.note_resident();
    }

    /// Tells which models are kept open by what answers.
    pub(crate) fn note_resident(&self) {
        let mut told = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = HashMap::new();
        for revision in self.snapshot.load().live.values().flat_map(Endpoint::revisions) {
            let models = revision.bound();
            open.extend(models.map(|bound| (bound.name.clone(), bound.model.resident_bytes())));
        }
        for name in told.keys().filter(|name| !open.contains_key(*name)) {
            berth_monitor::resident_model_bytes(name, 0);
        }
        for (name, &bytes) in &open {
            berth_monitor::resident_model_bytes(name, bytes);
        }
        *told = open;
    }

    pub(crate) fn retire(&self, old: Arc<LiveRevision>) {
        self.baking.lock().unwrap_or_else(PoisonError::into_inner).push_back((Instant::now(), old));
    }

    /// Lets go of what is kept of an endpoint for rollbacks.
    pub(crate) fn forget_baking(&self, name: &Name) {
        let mut baking = self.baking.lock().unwrap_or_else(PoisonError::into_inner);
        baking.retain(|(_, old)| old.endpoint != *name);
    }

    pub(crate) fn record(&self, name: &Name) -> Result<Option<EndpointRecord>, ControlError> {
        let found = self.store().get(ENDPOINT, name.as_str())?;
        found.map(|found| read(ENDPOINT, name.as_str(), found.document)).transpose()
    }

    /// Changes what is kept of an endpoint; nothing where it is gone.
    pub(crate) fn change_record(
        &self,
        name: &Name,
        note: &Note,
        change: impl FnOnce(&mut EndpointRecord),
    ) -> Result<(), ControlError> {
        let _alone = self.record_lock();
        let Some(mut record) = self.record(name)? else { return Ok(()) };
        change(&mut record);
        let put = Change::put(ENDPOINT, name.as_str(), document(&record)?);
        self.store().commit(None, &[put], note)?;
        Ok(())
    }

    pub(crate) fn records(&self) -> Result<Vec<(Name, EndpointRecord)>, ControlError> {
        let documents = self.store().list(ENDPOINT, "")?.into_iter();
        documents
            .map(|(key, found)| Ok((key.parse()?, read(ENDPOINT, &key, found.document)?)))
            .collect()
    }

    pub(crate) fn revision(&self, digest: Digest) -> Result<Revision, ControlError> {
        let key = digest.to_string();
        match self.store().get(REVISION, &key)? {
            Some(found) => read(REVISION, &key, found.document),
            None => Err(ControlError::NotFound(format!("there is no revision {}", digest.short()))),
        }
    }
}

/// Bytes of the models that replaced revisions keep open, those that they share once.
fn kept_bytes(baking: &VecDeque<(Instant, Arc<LiveRevision>)>) -> u64 {
    let models = baking.iter().flat_map(|(_, old)| old.models());
    let distinct: HashMap<_, _> =
        models.map(|model| (std::ptr::from_ref(model), model.resident_bytes())).collect();
    distinct.values().sum()
}

/// Hands freed memory back to the system: glibc keeps what a closed model leaves.
pub(crate) fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes a plain number and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
