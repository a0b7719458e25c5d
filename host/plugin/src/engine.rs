//! The two engines and their limits.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, RegallocAlgorithm,
};

use crate::clock::Clock;
use crate::policy::PolicyState;
use crate::state::State;
use crate::trap::FRAMES;
use crate::turns::Turns;
use crate::wasi;
use crate::{assets, bindings, exchange, model, nn};
use berth_apart::Bounds;

/// What the operator sets for all plugins.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where compiled code is kept; made when missing, readable to this user alone.
    pub cache: PathBuf,
    /// Processors that may be under way at once, each with its instance and stack.
    pub max_instances: u32,
    /// The most that any processor may be granted.
    pub limits: ProcessorLimits,
    /// The program that compiles: `berth` itself.
    pub compiler: PathBuf,
    /// What compiling one component may take.
    pub compile_bounds: Bounds,
}

/// What one call of a processor may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorLimits {
    /// Bytes of linear memory.
    pub memory: u64,
    /// Time on a processor core, waiting and inference not counted.
    pub cpu: Duration,
    /// Bytes of tensors and bodies that it makes the host hold.
    pub host_bytes: u64,
}

impl Default for ProcessorLimits {
    fn default() -> Self {
        Self { memory: 256 << 20, cpu: Duration::from_secs(10), host_bytes: 256 << 20 }
    }
}

/// Why the engines could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The thread that interrupts guests could not be started.
    #[error("the clock that interrupts plugins could not be started: {0}")]
    Clock(std::io::Error),
    /// wasmtime refused the configuration.
    #[error("the WebAssembly engine could not be made: {0}")]
    Engine(String),
    /// The folder of compiled code could not be made.
    #[error("the folder for compiled code, {folder}: {source}")]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The engines, shared by all plugins of a process.
pub struct Engines {
    pub(crate) processors: Engine,
    pub(crate) processor_linker: Linker<State>,
    pub(crate) policies: Engine,
    pub(crate) policy_linker: Linker<PolicyState>,
    pub(crate) options: EngineOptions,
    pub(crate) turns: Arc<Turns>,
    pooled: bool,
}

impl Engines {
    /// Makes the engines and starts the clock.
    pub fn new(options: EngineOptions) -> Result<Arc<Self>, EngineError> {
        berth_apart::private_folder(&options.cache)
            .map_err(|source| EngineError::Cache { folder: options.cache.clone(), source })?;
        let wrong = |error: wasmtime::Error| EngineError::Engine(format!("{error:#}"));
        let pooled = |reset| Engine::new(&processor_config(Some((&options, reset))));
        let (processors, pooled) = match pooled(Reset::Scan).or_else(|_| pooled(Reset::Clear)) {
            Ok(engine) => (engine, true),
            Err(error) => {
                tracing::warn!(
                    "instances are made on demand, which is slower: the address space for {} of them is not to be had ({error:#})",
                    options.max_instances
                );
                (Engine::new(&processor_config(None)).map_err(wrong)?, false)
            }
        };
        let policies = Engine::new(&policy_config()).map_err(wrong)?;
        let mut processor_linker = Linker::new(&processors);
        link_processor(&mut processor_linker).map_err(wrong)?;
        let mut policy_linker = Linker::new(&policies);
        crate::policy::add_to_linker(&mut policy_linker).map_err(wrong)?;
        wasi::add_to_linker(&mut processor_linker).map_err(wrong)?;
        wasi::add_to_linker(&mut policy_linker).map_err(wrong)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let clock = Clock::start(processors.clone()).map_err(EngineError::Clock)?;
        let turns = Turns::new(cores, clock);
        Ok(Arc::new(Self {
            processors,
            processor_linker,
            policies,
            policy_linker,
            options,
            turns,
            pooled,
        }))
    }

    /// The most that any processor may be granted.
    pub fn limits(&self) -> ProcessorLimits {
        self.options.limits
    }

    /// Whether instances come from a pool made ahead.
    pub fn pooled(&self) -> bool {
        self.pooled
    }
}

fn link_processor(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    bindings::processor::Processor::add_to_linker::<_, HasSelf<State>>(linker, State::called)?;
    linker.allow_shadowing(true);
    nn::add_copies_to_linker(linker)?;
    model::add_copies_to_linker(linker)?;
    exchange::add_copies_to_linker(linker)?;
    assets::add_copies_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn base_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        .wasm_backtrace_max_frames(NonZeroUsize::new(FRAMES))
        .max_wasm_stack(512 << 10);
    config
}

/// How the memory of an instance is made clean for the next one.
#[derive(Clone, Copy)]
pub(crate) enum Reset {
    /// What was written to is cleared in place, as the system tells, and the rest left alone: the
    /// next instance finds its pages mapped. Needs Linux 6.7.
    Scan,
    /// The beginning is cleared whether it was written to or not, and the rest mapped anew, which
    /// costs a fault a page.
    Clear,
}

pub(crate) fn processor_config(pool: Option<(&EngineOptions, Reset)>) -> Config {
    let mut config = base_config();
    config.epoch_interruption(true).async_stack_size(1 << 20);
    if let Some((options, reset)) = pool {
        let instances = options.max_instances;
        let (scan, resident) = match reset {
            Reset::Scan => (Enabled::Yes, 4 << 20),
            Reset::Clear => (Enabled::No, 64 << 10),
        };
        let mut pooling = PoolingAllocationConfig::new();
        pooling
            .total_component_instances(instances)
            .total_core_instances(4 * instances)
            .total_memories(instances)
            .total_tables(2 * instances)
            .total_stacks(instances)
            .max_core_instances_per_component(16)
            .max_memories_per_component(1)
            .max_tables_per_component(4)
            .table_elements(20_000)
            .max_component_instance_size(1 << 20)
            .max_core_instance_size(1 << 20)
            .max_memory_size(usize::try_from(options.limits.memory).unwrap_or(usize::MAX))
            .pagemap_scan(scan)
            .linear_memory_keep_resident(resident)
            .table_keep_resident(64 << 10)
            .max_unused_warm_slots(32);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    }
    config
}

/// Pure: metered by fuel, which is the same on every run, and NaN has one form.
pub(crate) fn policy_config() -> Config {
    let mut config = base_config();
    config.consume_fuel(true).cranelift_nan_canonicalization(true);
    config
}
