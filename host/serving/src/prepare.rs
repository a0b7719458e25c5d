//! From a revision's document to one that answers: compile, open, configure, check.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use berth_inference::{Batching, Lane, ModelOptions, OpenError, Opened, Runtime};
use berth_monitor::EndpointMetrics;
use berth_monitor::predictions::Recorder;
use berth_plugin::engine::Engines;
use berth_plugin::model::has_name;
use berth_plugin::{
    Asset, Bindings, BoundModel, CallError, Compiled, CreateError, Evaluation, Observation, Policy,
    Processor, Sink,
};
use berth_store::{Store, StoreError};
use berth_tensor::{Digest, Name};
use bytes::Bytes;
use serde_json::Value;

use crate::catalog::{self, read};
use crate::documents::{
    OBSERVED_VARIANTS, Pinned, PinnedPolicy, PinnedVariant, Revision, VariantsObserved,
};
use crate::error::ControlError;
use crate::examples::Examples;
use crate::live::{Admission, LiveRevision, LiveVariant, Processing, Share, Way};
use crate::model_files::ModelBlobs;
use crate::recording::Recording;
use crate::routing::{Asked, Routed, Routing};
use crate::shadow::Shadows;
use crate::sink::{Places, VariantSink};
use crate::slices::Slices;
use crate::spec::{Limits, SpecError};
use crate::turns::Turns;

/// How long a processor may take to be made when a revision is checked.
const CREATE_TIME: Duration = Duration::from_secs(30);

/// Says whether what takes long is wanted still.
pub(crate) type Wanted = Arc<dyn Fn() -> bool + Send + Sync>;

/// What nobody gives up.
pub(crate) fn always() -> Wanted {
    Arc::new(|| true)
}

/// What revisions are made with. Models, code and assets are shared by digest among them.
pub(crate) struct Workshop {
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    pub(crate) engines: Arc<Engines>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) recorder: Arc<Recorder>,
    shadows: Arc<Shadows>,
    /// Instances that one endpoint may hold at once.
    pub(crate) instances_each: usize,
    models: Shared<(Digest, ModelOptions), Opened>,
    components: Shared<Digest, Compiled>,
    assets: Shared<Digest, Asset>,
    /// Each endpoint's part of what all share.
    shares: Shared<Name, Share>,
    /// Where plugins have trapped.
    traps: Arc<Places>,
    /// Of each file of a model that was uploaded, held while the model is pushed.
    pub(crate) pushes: Turns<Digest>,
}

/// Values in use, by what they are known by. One that nobody uses any more is forgotten. A place is held
/// while its value is made: who comes meanwhile waits for it and finds it.
struct Shared<K, T>(Mutex<HashMap<K, Arc<Mutex<Weak<T>>>>>);

impl<K: Eq + Hash, T> Shared<K, T> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn get_or_make<E>(
        &self,
        key: K,
        make: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let held = |place: &Arc<Mutex<Weak<T>>>| {
            let value = || place.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0;
            Arc::strong_count(place) > 1 || value()
        };
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            places.retain(|_, place| held(place));
            Arc::clone(places.entry(key).or_default())
        };
        let mut known = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.upgrade() {
            return Ok(value);
        }
        let value = make()?;
        *known = Arc::downgrade(&value);
        Ok(value)
    }
}

impl Workshop {
    pub(crate) fn new(
        store: Store,
        runtime: Runtime,
        engines: Arc<Engines>,
        admission: Arc<Admission>,
        recorder: Arc<Recorder>,
    ) -> Self {
        let instances = admission.instances.available_permits();
        Self {
            instances_each: instances - instances / 4,
            store,
            runtime,
            engines,
            shadows: Arc::new(Shadows::new(Arc::clone(&admission))),
            admission,
            recorder,
            models: Shared::new(),
            components: Shared::new(),
            assets: Shared::new(),
            shares: Shared::new(),
            traps: Arc::default(),
            pushes: Turns::default(),
        }
    }

    /// Opens a model, or finds it open, for as long as that is `wanted`. Blocks.
    fn model(
        &self,
        pinned: &Pinned,
        options: &ModelOptions,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Arc<Opened>, ControlError> {
        let name = pinned.to_string();
        self.models.get_or_make((pinned.digest, options.clone()), || {
            let files = catalog::files(&self.store, pinned)?;
            // Which reads and hashes all of them.
            let stored = || ModelBlobs::stored(&self.store, &name, &files);
            let blobs = self.runtime.aside(stored).map_err(|error| {
                Box::new(OpenError::Threads { name: name.clone(), problem: error.to_string() })
            })??;
            blobs.open(self, &name, options, wanted)
        })
    }

    /// Opens a model that is being pushed, or finds it open, for as long as that is `wanted`. Blocks.
    pub(crate) fn pushed_model(
        &self,
        name: &str,
        blobs: &ModelBlobs,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Arc<Opened>, ControlError> {
        let options = ModelOptions::default();
        let key = (blobs.files().digest(), options.clone());
        self.models.get_or_make(key, || blobs.open(self, name, &options, wanted))
    }

    /// What an endpoint has of what all share.
    fn share(&self, endpoint: &Name) -> Result<Arc<Share>, ControlError> {
        self.shares.get_or_make(endpoint.clone(), || {
            Ok(Arc::new(Share {
                instances: AtomicUsize::new(0),
                lane: self.runtime.lane(),
                shadows: Examples::default(),
            }))
        })
    }

    /// Compiles the component that `read` gives, or finds it compiled; also answers how long compiling
    /// took, when it was done now. Blocks.
    pub(crate) fn compile(
        &self,
        name: &str,
        digest: Digest,
        read: impl FnOnce() -> Result<Vec<u8>, StoreError>,
    ) -> Result<(Arc<Compiled>, Option<Duration>), ControlError> {
        let mut took = None;
        let component = self.components.get_or_make(digest, || {
            let bytes = read()?;
            let compiled = self.engines.compile(&digest, &bytes);
            let compiled = compiled
                .map_err(|source| ControlError::Plugin { plugin: name.to_owned(), source })?;
            took = compiled.times.compile;
            if let Some(took) = took {
                tracing::info!(plugin = name, "compiled in {took:.1?}");
            }
            Ok::<_, ControlError>(Arc::new(compiled))
        })?;
        Ok((component, took))
    }

    /// The component of a plugin's version. Blocks.
    pub(crate) fn component(&self, plugin: &Pinned) -> Result<Arc<Compiled>, ControlError> {
        let name = plugin.to_string();
        let read = || self.store.blob_read(&plugin.digest);
        let (component, took) = self.compile(&name, plugin.digest, read)?;
        if let Some(took) = took {
            berth_monitor::compiled(&name, took);
        }
        Ok(component)
    }

    fn asset(&self, digest: Digest) -> Result<Arc<Asset>, ControlError> {
        self.assets.get_or_make(digest, || {
            let bytes = Bytes::from(self.store.blob_read(&digest)?);
            Ok(Arc::new(Asset { digest, bytes }))
        })
    }

    /// Makes a revision ready, for as long as that is `wanted`. With the `evaluation` that its routing
    /// policy gave before, goes on from there and from what was observed.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        revision: &Revision,
        evaluation: Option<Evaluation>,
        wanted: &Wanted,
    ) -> Result<LiveRevision, ControlError> {
        let digest = revision.digest();
        let share = self.share(&revision.endpoint)?;
        let mut variants = Vec::with_capacity(revision.variants.len());
        for variant in &revision.variants {
            variants.push(self.variant(revision, variant, &share.lane, wanted).await?);
        }
        let routing = match &revision.routing {
            None => Routing::Only,
            Some(routing) => {
                let (workshop, revision, routing) =
                    (Arc::clone(self), revision.clone(), routing.clone());
                let routed = move || workshop.routed(&revision, &routing, evaluation);
                Routing::Policy(Box::new(blocking(routed).await?))
            }
        };
        Ok(LiveRevision {
            endpoint: revision.endpoint.clone(),
            digest,
            id: digest.short(),
            attributes: revision.attributes.clone().into_iter().collect(),
            unit: revision.unit.clone(),
            slices: Slices::new(&revision.slices),
            timeout: Duration::from_millis(revision.timeout_ms),
            direct: revision.direct,
            routing,
            warm_up: revision.warm_up.clone(),
            recording: revision
                .predictions
                .as_ref()
                .map(|spec| Recording::new(&self.recorder, spec, &variants)),
            variants,
            share,
            most_instances: self.instances_of(&revision.limits),
            admission: Arc::clone(&self.admission),
            shadows: Arc::clone(&self.shadows),
            compare: revision.shadow.unwrap_or_default().compare,
        })
    }

    async fn variant(
        self: &Arc<Self>,
        revision: &Revision,
        variant: &PinnedVariant,
        lane: &Arc<Lane>,
        wanted: &Wanted,
    ) -> Result<LiveVariant, ControlError> {
        let (workshop, pinned) = (Arc::clone(self), variant.clone());
        let (lane, specs) = (Arc::clone(lane), revision.models.clone());
        let wanted = Arc::clone(wanted);
        let (models, assets, component) = blocking(move || {
            let models = pinned.models.iter().map(|(role, model)| {
                let (role, name) = (role.clone(), model.to_string());
                let spec = specs.get(&model.name).cloned().unwrap_or_default();
                let opened = workshop.model(model, &spec.options(&model.name)?, &*wanted)?;
                if let (Some(2..), Batching::Alone { why }) = (spec.max_batch, opened.batching()) {
                    let problem = format!("requests for {name} cannot run together: {why}");
                    let key = format!("models.{}.max_batch", model.name);
                    return Err(SpecError::new(key, problem).into());
                }
                Ok(BoundModel { role, name, model: opened.in_lane(&lane) })
            });
            let models = models.collect::<Result<Vec<_>, ControlError>>()?;
            let assets = pinned
                .assets
                .iter()
                .map(|(name, digest)| Ok((name.clone(), workshop.asset(*digest)?)));
            let assets = assets.collect::<Result<Vec<_>, ControlError>>()?;
            let component =
                pinned.processor.as_ref().map(|plugin| workshop.component(plugin)).transpose()?;
            Ok((models, assets, component))
        })
        .await?;
        let endpoint = revision.endpoint.as_str();
        let way = match (&variant.processor, component) {
            (Some(plugin), Some(component)) => {
                check_wants(revision, variant, &component)?;
                check_names(variant, &models)?;
                let name = variant.name.as_str();
                let sink = Arc::new(VariantSink::new(endpoint, name, plugin, &self.traps));
                let bindings = Arc::new(Bindings {
                    models: models.clone(),
                    assets,
                    sink: Arc::clone(&sink) as Arc<dyn Sink>,
                });
                self.processor(revision, variant, &component, bindings, sink).await?
            }
            _ => match models.first() {
                Some(bound) => Way::Model(Arc::clone(&bound.model)),
                None => {
                    let key = format!("variants.{}.models", variant.name);
                    return Err(SpecError::new(key, "there is neither processor nor model").into());
                }
            },
        };
        let metrics = EndpointMetrics::new(endpoint, variant.name.as_str());
        Ok(LiveVariant { name: variant.name.clone(), way, models, metrics })
    }

    /// Instances that one endpoint may hold at once.
    fn instances_of(&self, limits: &Limits) -> usize {
        let wanted = limits.instances.and_then(|wanted| usize::try_from(wanted).ok());
        wanted.map_or(self.instances_each, |wanted| wanted.min(self.instances_each))
    }

    async fn processor(
        &self,
        revision: &Revision,
        variant: &PinnedVariant,
        component: &Arc<Compiled>,
        bindings: Arc<Bindings>,
        sink: Arc<VariantSink>,
    ) -> Result<Way, ControlError> {
        let name = sink.plugin().to_owned();
        let wanted = component.inspection.manifest.limits;
        let limits = revision.limits.grant(wanted, self.engines.limits());
        let config = Value::Object(variant.config.clone()).to_string();
        let processor = Processor::new(&self.engines, component, name.clone(), config, limits)
            .map_err(|source| ControlError::Plugin { plugin: name.clone(), source })?;
        let signature =
            processor.signature(Arc::clone(&bindings), Instant::now() + CREATE_TIME).await;
        if let Err(CreateError::Call(error)) = &signature {
            sink.count_stop(error);
            if let CallError::Trap(trap) = error {
                sink.stopped_at_apply(error, trap, &revision.digest().short());
            }
        }
        let signature = signature.map_err(|source| match source {
            CreateError::Config { key, message } => SpecError::new(
                dotted(&format!("variants.{}.config", variant.name), &key),
                format!("refused by {name}: {message}"),
            )
            .into(),
            CreateError::Call(error @ CallError::Overloaded) => {
                ControlError::Conflict(error.to_string())
            }
            source => ControlError::Processor {
                variant: variant.name.to_string(),
                plugin: name.clone(),
                source,
            },
        })?;
        Ok(Way::Processor(Box::new(Processing { processor, signature, bindings, sink })))
    }

    /// A policy for a revision, and where its words go. Blocks.
    pub(crate) fn policy(
        &self,
        revision: &Revision,
        pinned: &Pinned,
    ) -> Result<(Arc<Policy>, Arc<VariantSink>), ControlError> {
        let name = pinned.to_string();
        let component = self.component(pinned)?;
        check_attributes(revision, &component)?;
        let sink = VariantSink::new(revision.endpoint.as_str(), "", pinned, &self.traps);
        let sink = Arc::new(sink);
        let lines = Arc::clone(&sink);
        let log = Arc::new(move |level, message: &str| lines.log(level, message));
        let policy = Policy::new(&self.engines, &component, name.clone(), log);
        let policy = policy.map_err(|source| ControlError::Plugin { plugin: name, source })?;
        Ok((Arc::new(policy), sink))
    }

    fn routed(
        &self,
        revision: &Revision,
        pinned: &PinnedPolicy,
        evaluation: Option<Evaluation>,
    ) -> Result<Routed, ControlError> {
        let (policy, sink) = self.policy(revision, &pinned.policy)?;
        let digest = revision.digest();
        let before = match evaluation {
            None => None,
            Some(evaluation) => {
                let key = revision.endpoint.as_str();
                let found = self.store.get(OBSERVED_VARIANTS, key)?;
                let found = found.map(|found| read(OBSERVED_VARIANTS, key, found.document));
                let found: Option<VariantsObserved> = found.transpose()?;
                let found = found.filter(|found| found.revision == digest);
                Some((evaluation, found.map_or_else(Vec::new, |found| found.arms)))
            }
        };
        let sees = Observation {
            seed: u64::from_le_bytes(*digest.as_bytes().first_chunk().unwrap_or(&[0; 8])),
            config: Value::Object(pinned.config.clone()).to_string(),
            attributes: revision.attributes.keys().map(ToString::to_string).collect(),
            unit: revision.unit.as_ref().map(ToString::to_string),
            ..Observation::default()
        };
        let asked = Asked {
            revision: digest.short(),
            policy,
            sink: Arc::clone(&sink),
            sees,
            variants: revision.variants.iter().map(|variant| variant.name.to_string()).collect(),
            slices: revision.slices.clone(),
        };
        Routed::new(revision.endpoint.as_str(), asked, before)
            .map_err(|source| sink.refused("routing", revision, source))
    }
}

/// Compares what a variant binds with what the plugin's manifest says that it uses.
fn check_wants(
    revision: &Revision,
    variant: &PinnedVariant,
    component: &Compiled,
) -> Result<(), ControlError> {
    let manifest = &component.inspection.manifest;
    check_attributes(revision, component)?;
    let key = |part: &str| format!("variants.{}.{part}", variant.name);
    if let Some(role) = manifest.roles.iter().find(|role| !variant.models.contains_key(*role)) {
        let problem = format!("the processor uses the role {role:?}: bind it to a model");
        return Err(SpecError::new(key("models"), problem).into());
    }
    let unknown = |given: Vec<&String>, known: &[String]| {
        let strange = given.into_iter().find(|name| !known.contains(name) && !known.is_empty());
        strange.map(|name| format!("the processor knows no {name:?}, only {}", known.join(", ")))
    };
    if let Some(problem) = unknown(variant.models.keys().collect(), &manifest.roles) {
        return Err(SpecError::new(key("models"), problem).into());
    }
    if let Some(problem) = unknown(variant.assets.keys().collect(), &manifest.assets) {
        return Err(SpecError::new(key("assets"), problem).into());
    }
    Ok(())
}

/// Refuses models for a processor that it could not be told of.
fn check_names(variant: &PinnedVariant, models: &[BoundModel]) -> Result<(), ControlError> {
    for BoundModel { role, name, model } in models {
        let inputs = model.inputs().iter().map(|input| ("input", input));
        let mut ports = inputs.chain(model.outputs().iter().map(|output| ("output", output)));
        if let Some((side, port)) = ports.find(|(_, port)| !has_name(port.datatype)) {
            let key = format!("variants.{}.models.{role}", variant.name);
            let problem = format!(
                "{side} {:?} of {name} is {}, which plugins have no name for: serve the model without a processor, or have it cast to another datatype",
                port.name, port.datatype
            );
            return Err(SpecError::new(key, problem).into());
        }
    }
    Ok(())
}

/// Refuses an endpoint that does not declare what the plugin's manifest says that it looks at.
fn check_attributes(revision: &Revision, component: &Compiled) -> Result<(), ControlError> {
    let manifest = &component.inspection.manifest;
    let missing =
        manifest.attributes.iter().find(|name| !revision.attributes.contains_key(name.as_str()));
    match missing {
        None => Ok(()),
        Some(name) => {
            let problem = format!("{} looks at {name:?}: declare it", manifest.name);
            Err(SpecError::new("attributes", problem).into())
        }
    }
}

pub(crate) fn dotted(path: &str, key: &str) -> String {
    if key.is_empty() { path.to_owned() } else { format!("{path}.{key}") }
}

/// Runs work that blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(ControlError::Host(format!("a task of the control plane failed: {error}")))
    })
}
