//! The snapshot of all endpoints, and what changes it: apply, rollback, delete.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use berth_inference::Runtime;
use berth_plugin::Evaluation;
use berth_plugin::engine::Engines;
use berth_store::{Change, Note, Store};
use berth_tensor::{Digest, Name};
use serde::Serialize;
use tokio::sync::{OwnedMutexGuard, Semaphore};

use crate::catalog::{self, document, pin, read};
use crate::documents::{
    ENDPOINT, EndpointRecord, EndpointState, ModelVersion, PinnedPolicy, PinnedVariant,
    PluginVersion, REVISION, Revision,
};
use crate::error::{ControlError, RequestError};
use crate::live::{Admission, LiveRevision};
use crate::prepare::{Workshop, blocking};
use crate::spec::{EndpointSpec, PolicySpec, SpecError, VariantSpec};

/// When a request is given up, unless the endpoint says otherwise.
const TIMEOUT_MS: u64 = 30_000;

/// Why an endpoint does not answer yet.
const PREPARING: &str = "it is being prepared";

/// The most revisions that stay warm only for rollbacks.
const BAKING: usize = 64;

/// Changes to an endpoint that its history shows.
const HISTORY: usize = 200;

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
}

/// The endpoints as requests see them. Immutable: every change makes a new one.
#[derive(Default)]
struct Snapshot {
    live: HashMap<Name, Arc<LiveRevision>>,
    /// Endpoints that have no revision that answers, and why.
    waiting: HashMap<Name, String>,
}

/// The endpoints of this host.
pub struct Host {
    workshop: Arc<Workshop>,
    snapshot: ArcSwap<Snapshot>,
    /// Held while an endpoint changes.
    control: Arc<tokio::sync::Mutex<()>>,
    baking: Mutex<VecDeque<(Instant, Arc<LiveRevision>)>>,
    restored: AtomicBool,
    options: HostOptions,
}

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

/// An endpoint as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointView {
    /// Its name.
    pub name: Name,
    /// The id of the revision that answers.
    pub live: Option<String>,
    /// The id of the revision applied last.
    pub applied: String,
    /// What became of that.
    pub state: EndpointState,
    /// Why it failed or does not answer.
    pub problem: Option<String>,
    /// The live revision, or the applied one when none is live.
    pub revision: Revision,
    /// The share of traffic of each variant, 0 to 1, by the standing shares.
    pub shares: Vec<f64>,
}

/// One step in an endpoint's history.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryEntry {
    /// The store's number of the commit.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// The id of the revision; none when the endpoint was deleted.
    pub revision: Option<String>,
    /// What became of it, or `deleted`.
    pub state: String,
    /// Why it failed.
    pub problem: Option<String>,
}

impl Host {
    /// A host over a store. Nothing answers before [`Host::restore`].
    pub fn new(
        store: Store,
        runtime: Runtime,
        engines: Arc<Engines>,
        options: HostOptions,
    ) -> Arc<Self> {
        let admission = Arc::new(Admission {
            requests: Semaphore::new(options.max_requests),
            instances: Semaphore::new(options.max_instances),
        });
        Arc::new(Self {
            workshop: Arc::new(Workshop::new(store, runtime, engines, admission)),
            snapshot: ArcSwap::default(),
            control: Arc::default(),
            baking: Mutex::default(),
            restored: AtomicBool::new(false),
            options,
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.workshop.store
    }

    /// Whether every endpoint that was live when the host stopped answers again, or cannot.
    pub fn is_ready(&self) -> bool {
        self.restored.load(Ordering::Acquire)
    }

    /// The live revision of an endpoint: taken once by each request.
    pub fn endpoint(&self, name: &str) -> Result<Arc<LiveRevision>, RequestError> {
        let snapshot = self.snapshot.load();
        match snapshot.live.get(name) {
            Some(live) => Ok(Arc::clone(live)),
            None => Err(match snapshot.waiting.get(name) {
                Some(problem) => {
                    RequestError::Unavailable(format!("endpoint {name:?} is not ready: {problem}"))
                }
                None => RequestError::NotFound(format!("there is no endpoint {name:?}")),
            }),
        }
    }

    /// Makes the endpoints ready that the store knows, and goes on with what was being applied.
    pub async fn restore(self: &Arc<Self>) -> Result<(), ControlError> {
        let control = Arc::clone(&self.control).lock_owned().await;
        let mut unfinished = Vec::new();
        let records = self.records()?;
        self.change(|snapshot| {
            let waiting = records.iter().map(|(name, _)| (name.clone(), PREPARING.to_owned()));
            snapshot.waiting.extend(waiting);
        });
        for (name, record) in records {
            if let Some(digest) = record.live {
                let prepared = match self.revision(digest) {
                    Ok(revision) => {
                        self.workshop.prepare(&revision, record.evaluation.clone()).await
                    }
                    Err(error) => Err(error),
                };
                match prepared {
                    Ok((live, _)) => self.go_live(live),
                    Err(error) => {
                        tracing::error!(endpoint = name.as_str(), "does not answer: {error}");
                        self.change(|snapshot| {
                            snapshot.waiting.insert(name.clone(), error.to_string());
                        });
                    }
                }
            }
            match record.state {
                EndpointState::Preparing => unfinished.push((name, record)),
                EndpointState::Failed if record.live.is_none() => {
                    let problem = record.problem.clone().unwrap_or_default();
                    self.change(|snapshot| {
                        snapshot.waiting.insert(name.clone(), problem);
                    });
                }
                EndpointState::Live | EndpointState::Failed => {}
            }
        }
        for (name, record) in unfinished {
            let note = Note { who: "berth".into(), why: "went on after a restart".into() };
            let revision = self.revision(record.applied)?;
            if let Err(error) = self.make_live(&revision, record.live, note).await {
                tracing::error!(endpoint = name.as_str(), "{error}");
            }
        }
        drop(control);
        self.restored.store(true, Ordering::Release);
        Ok(())
    }

    /// Opens a model whose file is in the store, and gives it the next version.
    pub async fn push_model(
        &self,
        name: Name,
        (digest, bytes): (Digest, u64),
        note: Note,
    ) -> Result<ModelVersion, ControlError> {
        let workshop = Arc::clone(&self.workshop);
        blocking(move || {
            let model = workshop.model(name.as_str(), digest)?;
            let version = ModelVersion {
                name,
                version: 0,
                digest,
                bytes,
                pushed_ms: catalog::now_ms(),
                inputs: model.inputs().to_vec(),
                outputs: model.outputs().to_vec(),
                properties: model.properties().to_vec(),
            };
            catalog::push(&workshop.store, version, &note)
        })
        .await
    }

    /// Inspects and compiles a component whose file is in the store, and gives it the next version.
    pub async fn push_plugin(
        &self,
        name: Name,
        (digest, bytes): (Digest, u64),
        note: Note,
    ) -> Result<PluginVersion, ControlError> {
        let workshop = Arc::clone(&self.workshop);
        blocking(move || {
            let component = workshop.component(name.as_str(), digest)?;
            let version = PluginVersion {
                name,
                version: 0,
                digest,
                bytes,
                pushed_ms: catalog::now_ms(),
                inspection: component.inspection.clone(),
            };
            catalog::push(&workshop.store, version, &note)
        })
        .await
    }

    /// Applies an endpoint file: commits its revision, makes it ready beside the live one and lets
    /// it take over. Returns when it is live or has failed; with `wait` unset, once it is committed.
    pub async fn apply(
        self: &Arc<Self>,
        spec: EndpointSpec,
        note: Note,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        spec.check()?;
        let control = Arc::clone(&self.control).lock_owned().await;
        let revision = self.resolve(&spec)?;
        self.apply_revision(revision, note, wait, control).await
    }

    /// Does all of an apply but the change: resolves, compiles, opens, configures.
    pub async fn dry_run(self: &Arc<Self>, spec: EndpointSpec) -> Result<Applied, ControlError> {
        spec.check()?;
        let revision = self.resolve(&spec)?;
        let start = Instant::now();
        self.workshop.prepare(&revision, None).await?;
        let record = self.record(&revision.endpoint)?;
        let live = record.as_ref().and_then(|record| record.live);
        Ok(Applied {
            changed: live != Some(revision.digest()),
            state: record.map_or(EndpointState::Preparing, |record| record.state),
            changes: self.changes(live, &revision),
            ready_ms: start.elapsed().as_secs_f64() * 1e3,
            revision: revision.digest().short(),
            endpoint: revision.endpoint,
        })
    }

    /// Goes back to the revision that was live before, or to the one whose id begins with `to`.
    pub async fn rollback(
        self: &Arc<Self>,
        name: &Name,
        to: Option<&str>,
        note: Note,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        let control = Arc::clone(&self.control).lock_owned().await;
        let record = self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        let entries = self.store().history(ENDPOINT, name.as_str(), HISTORY)?;
        let was_live = entries.into_iter().filter_map(|entry| match entry.change {
            Change::Put { document, .. } => {
                let record: EndpointRecord = read(ENDPOINT, name.as_str(), document).ok()?;
                (record.state == EndpointState::Live).then_some(record.applied)
            }
            Change::Delete { .. } => None,
        });
        let mut candidates = was_live.filter(|digest| record.live != Some(*digest));
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
            Some(live) if note.why.is_empty() => format!("rollback from {}", live.short()),
            _ => note.why,
        };
        self.apply_revision(revision, Note { why, ..note }, wait, control).await
    }

    /// Takes an endpoint away. Requests under way finish.
    pub async fn delete(&self, name: &Name, note: Note) -> Result<(), ControlError> {
        let _control = self.control.lock().await;
        self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        self.store().commit(None, &[Change::delete(ENDPOINT, name.as_str())], &note)?;
        let mut old = None;
        self.change(|snapshot| {
            old = snapshot.live.remove(name);
            snapshot.waiting.remove(name);
        });
        if let Some(old) = old {
            self.retire(old);
        }
        Ok(())
    }

    /// All endpoints, by name.
    pub fn endpoints(&self) -> Result<Vec<EndpointView>, ControlError> {
        self.records()?.into_iter().map(|(name, record)| self.view(name, record)).collect()
    }

    /// One endpoint.
    pub fn show(&self, name: &Name) -> Result<EndpointView, ControlError> {
        let record = self.record(name)?.ok_or_else(|| no_endpoint(name))?;
        self.view(name.clone(), record)
    }

    /// What was done to an endpoint, latest first.
    pub fn history(&self, name: &Name) -> Result<Vec<HistoryEntry>, ControlError> {
        let entries = self.store().history(ENDPOINT, name.as_str(), HISTORY)?;
        if entries.is_empty() {
            return Err(no_endpoint(name));
        }
        let view = |entry: berth_store::Entry| {
            let (revision, state, problem) = match entry.change {
                Change::Put { document, .. } => {
                    let record: EndpointRecord = read(ENDPOINT, name.as_str(), document)?;
                    let state = document_word(&record.state);
                    (Some(record.applied.short()), state, record.problem)
                }
                Change::Delete { .. } => (None, "deleted".to_owned(), None),
            };
            Ok(HistoryEntry {
                sequence: entry.sequence,
                time_ms: entry.time,
                who: entry.note.who,
                why: entry.note.why,
                revision,
                state,
                problem,
            })
        };
        entries.into_iter().map(view).collect()
    }

    /// Frees revisions that were replaced and are no longer kept warm. Called every second or so.
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
        if !expired.is_empty() {
            drop(expired);
            give_memory_back();
        }
    }

    async fn apply_revision(
        self: &Arc<Self>,
        revision: Revision,
        note: Note,
        wait: bool,
        control: OwnedMutexGuard<()>,
    ) -> Result<Applied, ControlError> {
        let digest = revision.digest();
        let name = revision.endpoint.clone();
        let record = self.record(&name)?;
        let live = record.as_ref().and_then(|record| record.live);
        let mut applied = Applied {
            endpoint: name.clone(),
            revision: digest.short(),
            changed: true,
            state: EndpointState::Preparing,
            changes: self.changes(live, &revision),
            ready_ms: 0.0,
        };
        if live == Some(digest)
            && self.snapshot.load().live.get(&name).is_some_and(|live| live.digest == digest)
        {
            applied.changed = false;
            applied.state = EndpointState::Live;
            if let Some(record) = record.filter(|record| record.state != EndpointState::Live) {
                // What was applied in between has failed; this settles it.
                self.note_outcome(&name, live, digest, None, record.evaluation, note)?;
            }
            return Ok(applied);
        }
        let record = EndpointRecord {
            live,
            applied: digest,
            state: EndpointState::Preparing,
            problem: None,
            evaluation: record.and_then(|record| record.evaluation),
        };
        let changes = [
            Change::put(REVISION, digest.to_string(), document(&revision)?),
            Change::put(ENDPOINT, name.as_str(), document(&record)?),
        ];
        self.store().commit(None, &changes, &note)?;
        if live.is_none() {
            self.change(|snapshot| {
                snapshot.waiting.insert(name.clone(), PREPARING.into());
            });
        }
        // The work goes on when the operator's connection breaks.
        let host = Arc::clone(self);
        let work = tokio::spawn(async move {
            let _control = control;
            host.make_live(&revision, live, note).await
        });
        if wait {
            let done = work.await.map_err(|error| ControlError::Host(error.to_string()))?;
            applied.ready_ms = done?.as_secs_f64() * 1e3;
            applied.state = EndpointState::Live;
        }
        Ok(applied)
    }

    /// Makes a committed revision ready and lets it take over, or notes why it cannot.
    async fn make_live(
        &self,
        revision: &Revision,
        live: Option<Digest>,
        note: Note,
    ) -> Result<Duration, ControlError> {
        let (name, digest) = (&revision.endpoint, revision.digest());
        let start = Instant::now();
        match self.workshop.prepare(revision, None).await {
            Ok((ready, evaluation)) => {
                self.note_outcome(name, Some(digest), digest, None, evaluation, note)?;
                self.go_live(ready);
                tracing::info!(endpoint = name.as_str(), revision = digest.short(), "live");
                Ok(start.elapsed())
            }
            Err(error) => {
                tracing::warn!(
                    endpoint = name.as_str(),
                    revision = digest.short(),
                    "not live: {error}"
                );
                let problem = error.to_string();
                let before = self.record(name)?.and_then(|record| record.evaluation);
                self.note_outcome(name, live, digest, Some(problem.clone()), before, note)?;
                if live.is_none() {
                    self.change(|snapshot| {
                        snapshot.waiting.insert(name.clone(), problem.clone());
                    });
                }
                Err(error)
            }
        }
    }

    fn note_outcome(
        &self,
        name: &Name,
        live: Option<Digest>,
        applied: Digest,
        problem: Option<String>,
        evaluation: Option<Evaluation>,
        note: Note,
    ) -> Result<(), ControlError> {
        let state = if problem.is_none() { EndpointState::Live } else { EndpointState::Failed };
        let record = EndpointRecord { live, applied, state, problem, evaluation };
        self.store().commit(
            None,
            &[Change::put(ENDPOINT, name.as_str(), document(&record)?)],
            &note,
        )?;
        Ok(())
    }

    fn go_live(&self, ready: LiveRevision) {
        let (name, ready) = (ready.endpoint.clone(), Arc::new(ready));
        let mut old = None;
        self.change(|snapshot| {
            snapshot.waiting.remove(&name);
            old = snapshot.live.insert(name, ready);
        });
        if let Some(old) = old {
            self.retire(old);
        }
    }

    /// Swaps the snapshot for one that differs. Only called while `control` is held.
    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let now = self.snapshot.load();
        let mut next = Snapshot { live: now.live.clone(), waiting: now.waiting.clone() };
        change(&mut next);
        let next = Arc::new(next);
        self.snapshot.store(Arc::clone(&next));
        let resident = |snapshot: &Snapshot| -> HashMap<String, u64> {
            let models = snapshot.live.values().flat_map(|live| live.bound());
            models.map(|bound| (bound.name.clone(), bound.model.resident_bytes())).collect()
        };
        let open = resident(&next);
        for name in resident(&now).keys().filter(|name| !open.contains_key(*name)) {
            berth_monitor::resident_model_bytes(name, 0);
        }
        for (name, bytes) in open {
            berth_monitor::resident_model_bytes(&name, bytes);
        }
    }

    fn retire(&self, old: Arc<LiveRevision>) {
        self.baking.lock().unwrap_or_else(PoisonError::into_inner).push_back((Instant::now(), old));
    }

    fn record(&self, name: &Name) -> Result<Option<EndpointRecord>, ControlError> {
        let found = self.store().get(ENDPOINT, name.as_str())?;
        found.map(|found| read(ENDPOINT, name.as_str(), found.document)).transpose()
    }

    fn records(&self) -> Result<Vec<(Name, EndpointRecord)>, ControlError> {
        let documents = self.store().list(ENDPOINT)?.into_iter();
        documents
            .map(|(key, found)| Ok((key.parse()?, read(ENDPOINT, &key, found.document)?)))
            .collect()
    }

    fn revision(&self, digest: Digest) -> Result<Revision, ControlError> {
        let key = digest.to_string();
        match self.store().get(REVISION, &key)? {
            Some(found) => read(REVISION, &key, found.document),
            None => Err(ControlError::NotFound(format!("there is no revision {}", digest.short()))),
        }
    }

    fn view(&self, name: Name, record: EndpointRecord) -> Result<EndpointView, ControlError> {
        let snapshot = self.snapshot.load();
        let revision = self.revision(record.live.unwrap_or(record.applied))?;
        Ok(EndpointView {
            live: record.live.map(|digest| digest.short()),
            applied: record.applied.short(),
            state: record.state,
            problem: record.problem.or_else(|| snapshot.waiting.get(&name).cloned()),
            shares: snapshot.live.get(&name).map_or_else(Vec::new, |live| live.shares()),
            revision,
            name,
        })
    }

    /// Fixes every reference of a file by version and digest.
    fn resolve(&self, spec: &EndpointSpec) -> Result<Revision, ControlError> {
        let variants: Result<Vec<_>, _> =
            spec.variants.iter().map(|variant| self.resolve_variant(variant)).collect();
        Ok(Revision {
            endpoint: spec.name.clone(),
            attributes: spec.attributes.clone(),
            unit: spec.unit.clone(),
            timeout_ms: spec.timeout_ms.unwrap_or(TIMEOUT_MS),
            direct: spec.direct,
            routing: spec
                .routing
                .as_ref()
                .map(|routing| self.resolve_policy(routing))
                .transpose()?,
            variants: variants?,
        })
    }

    fn resolve_policy(&self, spec: &PolicySpec) -> Result<PinnedPolicy, ControlError> {
        let found = catalog::resolve::<PluginVersion>(self.store(), &spec.policy);
        let version = found.map_err(|error| at("routing.policy", error))?;
        Ok(PinnedPolicy { policy: pin(&version), config: spec.config.clone() })
    }

    fn resolve_variant(&self, spec: &VariantSpec) -> Result<PinnedVariant, ControlError> {
        let key = |part: &str| format!("variants.{}.{part}", spec.name);
        let processor = match &spec.processor {
            None => None,
            Some(reference) => {
                let found = catalog::resolve::<PluginVersion>(self.store(), reference);
                Some(pin(&found.map_err(|error| at(&key("processor"), error))?))
            }
        };
        let models = spec.models.iter().map(|(role, reference)| {
            let found = catalog::resolve::<ModelVersion>(self.store(), reference);
            let version = found.map_err(|error| at(&key(&format!("models.{role}")), error))?;
            Ok((role.clone(), pin(&version)))
        });
        let models = models.collect::<Result<_, ControlError>>()?;
        let assets = spec.asset_digests()?;
        for (name, digest) in &assets {
            if !self.store().blob_exists(digest)? {
                let problem = format!("there is no blob sha256:{digest}: upload the file first");
                return Err(SpecError::new(key(&format!("assets.{name}")), problem).into());
            }
        }
        Ok(PinnedVariant {
            name: spec.name.clone(),
            processor,
            models,
            config: spec.config.clone(),
            assets,
        })
    }

    /// What differs from the live revision, a line each, newly granted imports included.
    fn changes(&self, live: Option<Digest>, next: &Revision) -> Vec<String> {
        let Some(Ok(live)) = live.map(|digest| self.revision(digest)) else {
            return vec![format!("endpoint {} is new", next.endpoint)];
        };
        let mut lines = Vec::new();
        for variant in &next.variants {
            let Some(before) = live.variants.iter().find(|before| before.name == variant.name)
            else {
                lines.push(format!("variant {} is new", variant.name));
                continue;
            };
            let part = |value: &Option<crate::documents::Pinned>| {
                value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
            };
            if before.processor != variant.processor {
                let (old, new) = (part(&before.processor), part(&variant.processor));
                lines.push(format!("variant {}: processor {old} -> {new}", variant.name));
                lines.extend(self.new_imports(before, variant));
            }
            for (role, model) in &variant.models {
                match before.models.get(role) {
                    Some(old) if old == model => {}
                    Some(old) => lines
                        .push(format!("variant {}: model {role} {old} -> {model}", variant.name)),
                    None => lines.push(format!(
                        "variant {}: model {role} {model} is newly granted",
                        variant.name
                    )),
                }
            }
            if before.config != variant.config {
                lines.push(format!("variant {}: config", variant.name));
            }
            if before.assets != variant.assets {
                lines.push(format!("variant {}: assets", variant.name));
            }
        }
        for before in &live.variants {
            if !next.variants.iter().any(|variant| variant.name == before.name) {
                lines.push(format!("variant {} goes", before.name));
            }
        }
        if live.routing != next.routing {
            lines.push("routing".into());
        }
        if (&live.attributes, &live.unit, live.timeout_ms, live.direct)
            != (&next.attributes, &next.unit, next.timeout_ms, next.direct)
        {
            lines.push("attributes, unit, timeout or direct access".into());
        }
        lines
    }

    fn new_imports(&self, before: &PinnedVariant, after: &PinnedVariant) -> Vec<String> {
        let imports = |variant: &PinnedVariant| {
            let plugin = variant.processor.as_ref()?;
            let known = catalog::versions::<PluginVersion>(self.store(), &plugin.name).ok()?;
            known
                .into_iter()
                .find(|known| known.version == plugin.version)
                .map(|known| known.inspection.imports)
        };
        let (old, new) = (imports(before).unwrap_or_default(), imports(after).unwrap_or_default());
        let fresh = new.into_iter().filter(|import| !old.contains(import));
        fresh.map(|import| format!("variant {}: newly imports {import}", after.name)).collect()
    }
}

/// Bytes of the models that replaced revisions keep open, those that they share once.
fn kept_bytes(baking: &VecDeque<(Instant, Arc<LiveRevision>)>) -> u64 {
    let models = baking.iter().flat_map(|(_, old)| old.models());
    let distinct: HashMap<_, _> =
        models.map(|model| (Arc::as_ptr(model), model.resident_bytes())).collect();
    distinct.values().sum()
}

fn no_endpoint(name: &Name) -> ControlError {
    ControlError::NotFound(format!("there is no endpoint {name}"))
}

/// Puts the key of the endpoint file before what could not be found.
fn at(key: &str, error: ControlError) -> ControlError {
    match error {
        ControlError::NotFound(message) => ControlError::NotFound(format!("{key}: {message}")),
        error => error,
    }
}

fn document_word(state: &EndpointState) -> String {
    match state {
        EndpointState::Preparing => "preparing",
        EndpointState::Live => "live",
        EndpointState::Failed => "failed",
    }
    .to_owned()
}

/// Hands freed memory back to the system: glibc keeps what a closed model leaves.
fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes a plain number and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
