//! Processors: a fresh instance for each request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_inference::{InferenceError, Model};
use berth_tensor::tensor::DIMENSIONS;
use berth_tensor::{Digest, TensorType};
use bytes::Bytes;
use tokio::time::timeout_at;
use wasmtime::Store;
use wasmtime::component::{Resource, ResourceAny, ResourceTable};

use crate::assets::Assets;
use crate::bindings::processor::ProcessorPre;
use crate::bindings::processor::exports::berth::plugin::processing;
use crate::compile::Compiled;
use crate::engine::{Engines, ProcessorLimits};
use crate::exchange::{NAME, ONLY};
use crate::guest_log::one_line;
use crate::inspect::{Kind, LoadError};
use crate::model::type_from_wit;
use crate::state::{Account, State, Stop, on_tick};
use crate::trap::{Trap, describe};
use crate::turns::Rank;
use crate::wasi::Said;
use crate::{Body, Level, Reply, Reports, Request};

/// The most handles that one request may hold.
const HANDLES: usize = 4096;

/// The most media types and tensors of a signature together.
const NAMED: usize = 1024;

/// A compiled processor under one configuration.
pub struct Processor {
    pub(crate) engines: Arc<Engines>,
    compiled: Arc<Compiled>,
    pre: ProcessorPre<State>,
    name: String,
    config: String,
    limits: ProcessorLimits,
}

/// What a variant binds for its processor.
pub struct Bindings {
    /// Models by role.
    pub models: Vec<BoundModel>,
    /// Assets by name.
    pub assets: Assets,
    /// Where the plugin's lines and numbers go.
    pub sink: Arc<dyn Sink>,
}

/// A model bound to a role of a variant.
#[derive(Clone)]
pub struct BoundModel {
    /// The role.
    pub role: String,
    /// The model's name and version, such as `digits@2`.
    pub name: String,
    /// The model. Versions with the same content share it.
    pub model: Arc<Model>,
}

/// Takes what a processor logs and measures, and what its calls used; by default nothing of it is
/// kept. Called on the serving thread: must not block.
pub trait Sink: Send + Sync {
    /// Whether a line of this level would be kept.
    fn enabled(&self, _level: Level) -> bool {
        false
    }
    /// A line for the log.
    fn log(&self, _level: Level, _message: &str) {}
    /// Adds to a counter.
    fn count(&self, _name: &str, _by: u64) {}
    /// Records a value.
    fn observe(&self, _name: &str, _value: f64) {}
    /// A name or value that does not fit was dropped.
    fn dropped(&self) {}
    /// A call came to its end, whichever: also that its caller went away.
    fn used(&self, _usage: &Usage) {}
}

/// One call of a processor.
pub struct Call {
    /// What the client sent.
    pub request: Arc<Request>,
    /// What the variant binds.
    pub bindings: Arc<Bindings>,
    /// When the host gives the request up.
    pub deadline: Instant,
}

/// What a call used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Making the instance; zero when it was not made.
    pub instantiate: Duration,
    /// Time on a core, inference not counted.
    pub cpu: Duration,
    /// The most linear memory, in bytes.
    pub memory: u64,
    /// The most that the host held for it, in bytes.
    pub host_bytes: u64,
    /// Calls of the host's functions, those of WASI left out.
    pub host_calls: u64,
}

/// What a processor takes and answers.
#[derive(Clone, Debug, Default)]
pub struct Signature {
    /// Media types of bodies that it takes.
    pub content_types: Vec<String>,
    /// Tensors that it takes.
    pub inputs: Vec<TensorType>,
    /// The media type of bodies that it answers.
    pub answers: Option<String>,
    /// Tensors that it answers.
    pub outputs: Vec<TensorType>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The request cannot be answered as it is; the message is for the caller.
    #[error("{0}")]
    Caller(String),
    /// The plugin reported a failure of its own; the message is for the log.
    #[error("the plugin failed: {0}")]
    Plugin(String),
    /// The guest trapped or left; the instance is gone.
    #[error("the plugin was stopped: {0}")]
    Trap(Box<Trap>),
    /// The guest used up its CPU time.
    #[error("the plugin used more than {0:?} of CPU time")]
    Cpu(Duration),
    /// The request's deadline passed.
    #[error("the request took too long")]
    Timeout,
    /// Neither instances nor a model's queue has room.
    #[error("the host is overloaded")]
    Overloaded,
    /// The plugin returned without an answer.
    #[error("the plugin gave no answer")]
    NoReply,
}

/// Why a processor cannot be made under a configuration.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The configuration does not fit.
    #[error("config{}: {message}", if key.is_empty() { String::new() } else { format!(" key {key:?}") })]
    Config {
        /// The key that is wrong; empty for the whole.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// It failed otherwise.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Processor {
    /// Binds a compiled component. `name`, such as `image-classifier@1`, is for messages, `config`
    /// is a JSON object, `limits` are cut to the operator's.
    pub fn new(
        engines: &Arc<Engines>,
        compiled: &Arc<Compiled>,
        name: String,
        config: String,
        limits: ProcessorLimits,
    ) -> Result<Self, LoadError> {
        let wrong = |error: wasmtime::Error| LoadError::Compile(format!("{error:#}"));
        if compiled.inspection.kind != Kind::Processor {
            return Err(LoadError::UnknownWorld {
                found: format!("a {}", compiled.inspection.kind),
                expected: "a processor".into(),
            });
        }
        let pre = engines.processor_linker.instantiate_pre(&compiled.component).map_err(wrong)?;
        let pre = ProcessorPre::new(pre).map_err(wrong)?;
        let most = engines.limits();
        let limits = ProcessorLimits {
            memory: limits.memory.min(most.memory),
            cpu: limits.cpu.min(most.cpu),
            host_bytes: limits.host_bytes.min(most.host_bytes),
        };
        Ok(Self {
            engines: Arc::clone(engines),
            compiled: Arc::clone(compiled),
            pre,
            name,
            config,
            limits,
        })
    }

    /// The plugin's name and version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sha256 of the component.
    pub fn digest(&self) -> Digest {
        self.compiled.digest
    }

    /// Makes the processor once, to see whether its configuration fits and what it takes. Uses the
    /// slots that requests leave free.
    pub async fn signature(
        &self,
        bindings: Arc<Bindings>,
        deadline: Instant,
    ) -> Result<Signature, CreateError> {
        let request = Arc::new(Request {
            id: String::new(),
            prediction: String::new(),
            body: Body::Bytes { content_type: None, bytes: Bytes::new() },
            outputs: Vec::new(),
            attributes: Vec::new(),
            trace_context: None,
            reports: Reports::default(),
        });
        let mut store = self.store(Call { request, bindings, deadline });
        let clock = Arc::clone(&store.data().account.cpu);
        let made = timeout_at(
            deadline.into(),
            clock.charge(Rank::Long, async {
                let (instance, processor) = match self.create(&mut store).await? {
                    Ok(made) => made,
                    Err(error) => return Ok(Err(error)),
                };
                let signature = instance
                    .berth_plugin_processing()
                    .processor()
                    .call_signature(&mut store, processor)
                    .await?;
                Ok(Ok(signature))
            }),
        )
        .await;
        match made {
            Err(_) => Err(CallError::Timeout.into()),
            Ok(Err(error)) => Err(self.stopped(&mut store, &error).into()),
            Ok(Ok(Err(error))) => Err(CreateError::Config {
                key: one_line(&error.key),
                message: one_line(&error.message),
            }),
            Ok(Ok(Ok(signature))) => Signature::checked(signature).map_err(CreateError::Call),
        }
    }

    /// Answers one request in a fresh instance. The caller holds one of the host's permits.
    pub async fn process(&self, call: Call) -> Result<Reply, CallError> {
        let deadline = call.deadline;
        let mut store = self.store(call);
        let clock = Arc::clone(&store.data().account.cpu);
        let done = timeout_at(
            deadline.into(),
            clock.charge(Rank::Fresh, async {
                let start = Instant::now();
                let (instance, processor) = match self.create(&mut store).await? {
                    Ok(made) => made,
                    Err(error) => {
                        let message =
                            format!("its config was refused: {}: {}", error.key, error.message);
                        return Ok(Err(processing::Error {
                            fault: processing::Fault::Plugin,
                            message,
                        }));
                    }
                };
                store.data_mut().account.instantiate = start.elapsed();
                let (request, reply) = (Resource::new_borrow(ONLY), Resource::new_borrow(ONLY));
                let plugin = instance.berth_plugin_processing();
                plugin.processor().call_process(&mut store, processor, request, reply).await
            }),
        )
        .await;
        match done {
            Err(_) => Err(CallError::Timeout),
            Ok(Err(error)) => Err(self.stopped(&mut store, &error)),
            Ok(Ok(Err(error))) => Err(failed(store.data_mut(), error)),
            Ok(Ok(Ok(()))) => {
                let reply = std::mem::take(&mut store.data_mut().reply);
                if reply.is_empty() { Err(CallError::NoReply) } else { Ok(reply) }
            }
        }
    }

    pub(crate) fn store(&self, call: Call) -> Store<State> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let mut store = Store::new(
            &self.engines.processors,
            State {
                table,
                request: call.request,
                reply: Reply::default(),
                bindings: call.bindings,
                deadline: call.deadline,
                account: Account::new(self.limits, &self.engines.turns),
                said: Said::default(),
                failed_inference: None,
            },
        );
        store.limiter(|state| &mut state.account);
        store.set_hostcall_fuel(usize::try_from(self.limits.host_bytes).unwrap_or(usize::MAX));
        store.set_max_component_handles(HANDLES);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(on_tick);
        store
    }

    pub(crate) async fn create(
        &self,
        store: &mut Store<State>,
    ) -> wasmtime::Result<
        Result<(crate::bindings::processor::Processor, ResourceAny), processing::ConfigError>,
    > {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let made =
            instance.berth_plugin_processing().processor().call_create(store, &self.config).await?;
        Ok(made.map(|processor| (instance, processor)))
    }

    pub(crate) fn stopped(&self, store: &mut Store<State>, error: &wasmtime::Error) -> CallError {
        let state = store.data_mut();
        match state.account.stopped {
            Some(Stop::Deadline) => return CallError::Timeout,
            Some(Stop::Cpu) => return CallError::Cpu(self.limits.cpu),
            None => {}
        }
        if is_pool_exhausted(error) {
            return CallError::Overloaded;
        }
        let memory = state.account.memory_refused.then_some(self.limits.memory);
        CallError::Trap(Box::new(describe(error, memory, state.said.take())))
    }
}

impl Signature {
    /// A signature of a size that every endpoint can keep and show.
    fn checked(signature: processing::Signature) -> Result<Self, CallError> {
        let signature = Self {
            content_types: signature.content_types,
            inputs: signature.inputs.into_iter().map(type_from_wit).collect(),
            answers: signature.answers,
            outputs: signature.outputs.into_iter().map(type_from_wit).collect(),
        };
        let tensors = || signature.inputs.iter().chain(&signature.outputs);
        let texts = signature.content_types.iter().chain(&signature.answers);
        let longest = texts.chain(tensors().map(|ty| &ty.name)).map(String::len).max();
        let fits = signature.content_types.len() + tensors().count() <= NAMED
            && longest <= Some(NAME)
            && tensors().all(|ty| ty.shape.len() <= DIMENSIONS);
        if fits {
            return Ok(signature);
        }
        Err(CallError::Plugin(format!(
            "its signature has more than {NAMED} entries, {NAME} bytes in a name or {DIMENSIONS} dimensions"
        )))
    }
}

fn is_pool_exhausted(error: &wasmtime::Error) -> bool {
    error.is::<wasmtime::PoolConcurrencyLimitError>()
}

/// Who is to blame for an error that the guest returned.
fn failed(state: &mut State, error: processing::Error) -> CallError {
    let message = one_line(&error.message);
    match (error.fault, state.failed_inference.take()) {
        (processing::Fault::Caller, _) => CallError::Caller(message),
        (processing::Fault::Plugin, Some(InferenceError::Overloaded)) => CallError::Overloaded,
        (processing::Fault::Plugin, Some(InferenceError::Timeout)) => CallError::Timeout,
        (processing::Fault::Plugin, _) => CallError::Plugin(message),
    }
}
