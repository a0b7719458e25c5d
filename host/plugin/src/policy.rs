//! Policies: pure, metered by fuel, called in place.

use std::sync::Arc;

use wasmtime::component::{HasSelf, InstancePre, Linker, Resource};
use wasmtime::{ResourceLimiter, Store};

use crate::bindings::policy::RoutingPolicy;
use crate::bindings::policy::exports::berth::plugin::{evaluating, routing};
use crate::compile::Compiled;
use crate::decision::{Evaluation, Plan, PolicyError, checked};
use crate::engine::Engines;
use crate::exchange::ONLY;
use crate::guest_log::one_line;
use crate::inspect::{Kind, LoadError};
use crate::observing::{Observation, Subject};
use crate::trap::describe;
use crate::wasi::{Said, Start};
use crate::{Level, inspect};

/// Fuel for one evaluation: some tenths of a second.
pub(crate) const EVALUATE_FUEL: u64 = 500_000_000;

/// Fuel for what the host does in one call of its functions, beside one for each byte that it takes,
/// gives or compares.
const HOST_CALL: u64 = 100;

/// The most linear memory of a policy, in bytes.
const MEMORY: usize = 64 << 20;

/// The data of a policy's store.
pub(crate) struct PolicyState {
    pub(crate) observation: Arc<Observation>,
    pub(crate) subject: Subject,
    pub(crate) log: Log,
    said: Said,
    memory: MemoryLimit,
    /// Fuel left for the host's work. It is counted apart from the guest's own, of which there is
    /// as much.
    host_fuel: u64,
}

impl PolicyState {
    /// Charges a call of one of the host's functions that works on so many bytes.
    pub(crate) fn charge(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let left = self.host_fuel.checked_sub(HOST_CALL + bytes as u64);
        self.host_fuel = left.ok_or(wasmtime::Trap::OutOfFuel)?;
        Ok(())
    }
}

type Log = Arc<dyn Fn(Level, &str) + Send + Sync>;

#[derive(Default)]
struct MemoryLimit {
    refused: bool,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.refused = desired > MEMORY;
        Ok(!self.refused)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= 20_000)
    }
}

impl Start for PolicyState {
    fn said(&mut self) -> &mut Said {
        &mut self.said
    }

    fn charge(&mut self, bytes: usize) -> wasmtime::Result<()> {
        Self::charge(self, bytes)
    }
}

impl crate::bindings::processor::berth::plugin::types::Host for PolicyState {}

impl crate::bindings::policy::berth::plugin::planning::Host for PolicyState {}

pub(crate) fn add_to_linker(linker: &mut Linker<PolicyState>) -> wasmtime::Result<()> {
    RoutingPolicy::add_to_linker::<_, HasSelf<PolicyState>>(linker, |state| state)
}

/// A compiled policy.
pub struct Policy {
    engines: Arc<Engines>,
    pub(crate) pre: InstancePre<PolicyState>,
    evaluating: evaluating::GuestIndices,
    pub(crate) routing: Option<routing::GuestIndices>,
    name: String,
    log: Log,
}

impl Policy {
    /// Binds a compiled component. `name`, such as `weighted@1`, is for messages; `log` takes its
    /// lines.
    pub fn new(
        engines: &Arc<Engines>,
        compiled: &Compiled,
        name: String,
        log: Log,
    ) -> Result<Self, LoadError> {
        let wrong = |error: wasmtime::Error| LoadError::Compile(format!("{error:#}"));
        if compiled.inspection.kind != inspect::Kind::Policy {
            return Err(LoadError::UnknownWorld {
                found: format!("a {}", compiled.inspection.kind),
                expected: format!("a {}", Kind::Policy),
            });
        }
        let pre = engines.policy_linker.instantiate_pre(&compiled.component).map_err(wrong)?;
        let evaluating = evaluating::GuestIndices::new(&pre).map_err(wrong)?;
        let routing = match compiled.inspection.routes {
            true => Some(routing::GuestIndices::new(&pre).map_err(wrong)?),
            false => None,
        };
        Ok(Self { engines: Arc::clone(engines), pre, evaluating, routing, name, log })
    }

    /// The plugin's name and version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Decides on shares. Runs twice, each time in a fresh instance, to see that it is pure.
    pub fn evaluate(
        &self,
        observation: &Arc<Observation>,
        plan: Option<&Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let first = self.evaluate_once(observation, plan)?;
        if self.evaluate_once(observation, plan)? != first {
            return Err(PolicyError::Impure);
        }
        Ok(first)
    }

    fn evaluate_once(
        &self,
        observation: &Arc<Observation>,
        plan: Option<&Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let mut store = self.store(observation, EVALUATE_FUEL)?;
        let plan = plan.map(to_wit);
        let evaluated = (|| {
            let instance = self.pre.instantiate(&mut store)?;
            let policy = self.evaluating.load(&mut store, &instance)?;
            policy.call_evaluate(&mut store, Resource::new_borrow(ONLY), plan.as_ref())
        })();
        match evaluated {
            Ok(Ok(evaluation)) => checked(evaluation, observation.arms.len()),
            Ok(Err(error)) => Err(refused(error)),
            Err(error) => Err(stopped(&mut store, &error)),
        }
    }

    pub(crate) fn store(
        &self,
        observation: &Arc<Observation>,
        fuel: u64,
    ) -> Result<Store<PolicyState>, PolicyError> {
        let mut store = Store::new(
            &self.engines.policies,
            PolicyState {
                observation: Arc::clone(observation),
                subject: Subject::default(),
                log: Arc::clone(&self.log),
                said: Said::default(),
                memory: MemoryLimit::default(),
                host_fuel: 0,
            },
        );
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(1 << 20);
        store.set_max_component_handles(64);
        fuel_up(&mut store, fuel)?;
        Ok(store)
    }
}

/// Gives a policy so much fuel for its own work, and as much for the host's.
pub(crate) fn fuel_up(store: &mut Store<PolicyState>, fuel: u64) -> Result<(), PolicyError> {
    store.data_mut().host_fuel = fuel;
    store.set_fuel(fuel).map_err(|error| PolicyError::Failed(error.to_string()))
}

pub(crate) fn stopped(store: &mut Store<PolicyState>, error: &wasmtime::Error) -> PolicyError {
    let state = store.data_mut();
    let memory = state.memory.refused.then_some(MEMORY as u64);
    PolicyError::Trap(Box::new(describe(error, memory, state.said.take())))
}

pub(crate) fn refused(error: evaluating::PolicyError) -> PolicyError {
    match error {
        evaluating::PolicyError::Config(error) => {
            PolicyError::Config { key: one_line(&error.key), message: one_line(&error.message) }
        }
        evaluating::PolicyError::Failed(message) => PolicyError::Failed(one_line(&message)),
    }
}

pub(crate) fn to_wit(plan: &Plan) -> evaluating::Plan {
    evaluating::Plan { schema: plan.schema.clone(), data: plan.data.clone() }
}
