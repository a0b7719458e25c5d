//! Policies and routers: pure, metered by fuel, called in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use serde::{Deserialize, Serialize};
use wasmtime::component::{HasSelf, InstancePre, Linker, Resource, ResourceAny};
use wasmtime::{ResourceLimiter, Store};

use crate::bindings::policy::RoutingPolicy;
use crate::bindings::policy::exports::berth::plugin::{evaluating, routing};
use crate::compile::Compiled;
use crate::engine::Engines;
use crate::exchange::ONLY;
use crate::inspect::{Kind, LoadError};
use crate::observing::{Observation, Subject};
use crate::processor::{Trap, describe};
use crate::wasi::{Said, Start};
use crate::{Level, inspect};

/// Fuel for one evaluation: some tenths of a second.
const EVALUATE_FUEL: u64 = 500_000_000;

/// Fuel for one routing decision: some hundreds of microseconds.
const ROUTE_FUEL: u64 = 1_000_000;

/// The most linear memory of a policy, in bytes.
const MEMORY: usize = 64 << 20;

/// The largest plan, in bytes.
const PLAN: usize = 64 << 10;

/// One decision in this many is run again on a fresh instance.
const RECHECK: u64 = 1024;

/// Routers kept warm for each plan: as many as threads can ask at once.
fn warm() -> usize {
    std::thread::available_parallelism().map_or(16, usize::from) + 4
}

/// The most fallbacks or shadows that a decision names.
const NAMED: usize = 16;

/// The data of a policy's store.
pub(crate) struct PolicyState {
    pub(crate) observation: Arc<Observation>,
    pub(crate) subject: Subject,
    pub(crate) log: Log,
    said: Said,
    memory: MemoryLimit,
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
        self.refused |= desired > MEMORY;
        Ok(desired <= MEMORY)
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
}

impl crate::bindings::processor::berth::plugin::types::Host for PolicyState {}

impl crate::bindings::policy::berth::plugin::planning::Host for PolicyState {}

pub(crate) fn add_to_linker(linker: &mut Linker<PolicyState>) -> wasmtime::Result<()> {
    RoutingPolicy::add_to_linker::<_, HasSelf<PolicyState>>(linker, |state| state)
}

/// A compiled policy.
pub struct Policy {
    engines: Arc<Engines>,
    pre: InstancePre<PolicyState>,
    evaluating: evaluating::GuestIndices,
    routing: Option<routing::GuestIndices>,
    name: String,
    log: Log,
}

/// What a policy remembers between evaluations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the layout of `data`.
    pub schema: String,
    /// The policy's own bytes, at most 64 KiB.
    pub data: Vec<u8>,
}

/// What an arm should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArmState {
    /// Not loaded.
    Stopped,
    /// Loaded and warm, without traffic.
    Standby,
    /// Taking traffic.
    Ready,
}

/// What a policy wants of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmEvaluation {
    /// The arm's index.
    pub arm: usize,
    /// Its share of traffic relative to the others: finite, not negative.
    pub weight: f64,
    /// What it should be.
    pub state: ArmState,
    /// Its share of the model sessions, 0 to 1.
    pub sessions: f64,
    /// Whether it gets a copy of what it is not chosen for.
    pub shadow: bool,
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A routing policy's only phase.
    Steady,
    /// Traffic moves.
    Progressing,
    /// It waits for evidence.
    Holding,
    /// The last arm takes over.
    Succeeded,
    /// The first arm stays.
    Failed,
}

/// A policy's decision on shares, checked: arms exist, weights are finite, not negative and not all
/// zero, the plan is within its size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// What it wants of the arms that it names.
    pub arms: Vec<ArmEvaluation>,
    /// What it remembers.
    pub plan: Plan,
    /// Where the rollout stands.
    pub phase: Phase,
    /// Why, for people.
    pub message: String,
    /// When to evaluate next, in milliseconds from now.
    pub next_tick_ms: Option<u64>,
    /// Further named values.
    pub attributes: Vec<(String, String)>,
}

impl Evaluation {
    /// The weight of each of `arms` arms, in their order.
    pub fn weights(&self, arms: usize) -> Vec<f64> {
        let mut weights = vec![0.0; arms];
        for arm in &self.arms {
            weights[arm.arm] = arm.weight;
        }
        weights
    }
}

/// An arm's part of a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The arm's index.
    pub arm: usize,
    /// Its weight relative to the others.
    pub weight: f64,
}

/// A router's decision on one request, checked as an evaluation is.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to draw from.
    pub shares: Vec<Share>,
    /// Arms to try, in order, when the drawn one cannot answer.
    pub fallbacks: Vec<usize>,
    /// Arms that get a copy, with the probability of each.
    pub shadows: Vec<Share>,
    /// Why.
    pub reason: String,
}

/// Why a policy gave no decision that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PolicyError {
    /// Its configuration does not fit.
    #[error("config{}: {message}", if key.is_empty() { String::new() } else { format!(" key {key:?}") })]
    Config {
        /// The key that is wrong; empty for the whole.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// It reported a failure of its own.
    #[error("the policy failed: {0}")]
    Failed(String),
    /// It trapped or ran out of fuel.
    #[error("the policy was stopped: {0}")]
    Trap(Trap),
    /// Its decision cannot be followed.
    #[error("the policy decided what cannot be: {0}")]
    Wrong(String),
    /// It decided differently on the same input, and is not asked again.
    #[error("the policy is not pure: it decided differently on the same input")]
    Impure,
}

impl PolicyError {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Config { .. } => "config",
            Self::Failed(_) => "failed",
            Self::Trap(trap) => trap.kind,
            Self::Wrong(_) => "wrong",
            Self::Impure => "impure",
        }
    }
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

    /// Builds the first router under a plan; none when the policy does not look at requests.
    pub fn routers(
        self: &Arc<Self>,
        observation: &Arc<Observation>,
        plan: &Plan,
    ) -> Result<Option<Routers>, PolicyError> {
        if self.routing.is_none() {
            return Ok(None);
        }
        let routers = Routers {
            policy: Arc::clone(self),
            observation: Arc::clone(observation),
            plan: plan.clone(),
            warm: ArrayQueue::new(warm()),
            decisions: AtomicU64::new(0),
            quarantined: AtomicBool::new(false),
        };
        let first = routers.build()?;
        // The queue is empty, so there is room.
        drop(routers.warm.push(first));
        Ok(Some(routers))
    }

    fn store(
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
            },
        );
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(1 << 20);
        store.set_max_component_handles(64);
        store.set_fuel(fuel).map_err(|error| PolicyError::Failed(error.to_string()))?;
        Ok(store)
    }
}

/// The routers of one plan, each used by one request at a time. Taking one is free of locks.
pub struct Routers {
    policy: Arc<Policy>,
    observation: Arc<Observation>,
    plan: Plan,
    warm: ArrayQueue<Router>,
    decisions: AtomicU64,
    quarantined: AtomicBool,
}

struct Router {
    store: Store<PolicyState>,
    guest: routing::Guest,
    handle: ResourceAny,
}

impl Routers {
    /// Decides on one request. After an error that says impure, every call answers the same.
    pub fn route(&self, subject: &Subject) -> Result<Decision, PolicyError> {
        if self.quarantined.load(Ordering::Relaxed) {
            return Err(PolicyError::Impure);
        }
        let mut router = match self.warm.pop() {
            Some(router) => router,
            None => self.build()?,
        };
        let decision = self.ask(&mut router, subject)?;
        if self.decisions.fetch_add(1, Ordering::Relaxed).is_multiple_of(RECHECK)
            && self.ask(&mut self.build()?, subject)? != decision
        {
            self.quarantined.store(true, Ordering::Relaxed);
            return Err(PolicyError::Impure);
        }
        // One too many is dropped: the queue is as long as it ever needs to be.
        drop(self.warm.push(router));
        Ok(decision)
    }

    fn ask(&self, router: &mut Router, subject: &Subject) -> Result<Decision, PolicyError> {
        let Router { store, guest, handle } = router;
        store.data_mut().subject = subject.clone();
        store.set_fuel(ROUTE_FUEL).map_err(|error| PolicyError::Failed(error.to_string()))?;
        match guest.router().call_route(&mut *store, *handle, Resource::new_borrow(ONLY)) {
            Ok(decision) => decided(decision, self.observation.arms.len()),
            Err(error) => Err(stopped(store, &error)),
        }
    }

    fn build(&self) -> Result<Router, PolicyError> {
        let policy = &self.policy;
        let Some(routing) = &policy.routing else {
            return Err(PolicyError::Failed("it has no router".into()));
        };
        let mut store = policy.store(&self.observation, EVALUATE_FUEL)?;
        let built = (|| {
            let instance = policy.pre.instantiate(&mut store)?;
            let guest = routing.load(&mut store, &instance)?;
            let plan = to_wit(&self.plan);
            let made = guest.router().call_create(&mut store, Resource::new_borrow(ONLY), &plan)?;
            Ok((guest, made))
        })();
        match built {
            Ok((guest, Ok(handle))) => Ok(Router { store, guest, handle }),
            Ok((_, Err(error))) => Err(refused(error)),
            Err(error) => Err(stopped(&mut store, &error)),
        }
    }
}

fn stopped(store: &mut Store<PolicyState>, error: &wasmtime::Error) -> PolicyError {
    let state = store.data_mut();
    let memory = state.memory.refused.then_some(MEMORY as u64);
    PolicyError::Trap(describe(error, memory, &state.said.take()))
}

fn refused(error: evaluating::PolicyError) -> PolicyError {
    match error {
        evaluating::PolicyError::Config(error) => {
            PolicyError::Config { key: error.key, message: error.message }
        }
        evaluating::PolicyError::Failed(message) => PolicyError::Failed(message),
    }
}

fn to_wit(plan: &Plan) -> evaluating::Plan {
    evaluating::Plan { schema: plan.schema.clone(), data: plan.data.clone() }
}

fn checked(evaluation: evaluating::Evaluation, arms: usize) -> Result<Evaluation, PolicyError> {
    let wanted: Vec<ArmEvaluation> = evaluation
        .arms
        .into_iter()
        .map(|arm| ArmEvaluation {
            arm: arm.arm as usize,
            weight: arm.weight,
            state: match arm.state {
                evaluating::ArmState::Stopped => ArmState::Stopped,
                evaluating::ArmState::Standby => ArmState::Standby,
                evaluating::ArmState::Ready => ArmState::Ready,
            },
            sessions: arm.sessions,
            shadow: arm.shadow,
        })
        .collect();
    check_shares(wanted.iter().map(|arm| (arm.arm, arm.weight)), arms)?;
    if let Some(arm) = wanted.iter().find(|arm| !(0.0..=1.0).contains(&arm.sessions)) {
        return Err(PolicyError::Wrong(format!(
            "arm {} gets {} of the sessions",
            arm.arm, arm.sessions
        )));
    }
    let plan = Plan { schema: evaluation.plan.schema, data: evaluation.plan.data };
    if plan.data.len() + plan.schema.len() > PLAN {
        return Err(PolicyError::Wrong(format!(
            "its plan has {} bytes, the most is {PLAN}",
            plan.data.len() + plan.schema.len()
        )));
    }
    Ok(Evaluation {
        arms: wanted,
        plan,
        phase: match evaluation.phase {
            evaluating::Phase::Steady => Phase::Steady,
            evaluating::Phase::Progressing => Phase::Progressing,
            evaluating::Phase::Holding => Phase::Holding,
            evaluating::Phase::Succeeded => Phase::Succeeded,
            evaluating::Phase::Failed => Phase::Failed,
        },
        message: evaluation.message,
        next_tick_ms: evaluation.next_tick_ms,
        attributes: evaluation.attributes,
    })
}

fn decided(decision: routing::Decision, arms: usize) -> Result<Decision, PolicyError> {
    let from_wit = |share: &routing::Share| Share { arm: share.arm as usize, weight: share.weight };
    let shares: Vec<Share> = decision.shares.iter().map(from_wit).collect();
    check_shares(shares.iter().map(|share| (share.arm, share.weight)), arms)?;
    if decision.shadows.len() > NAMED || decision.fallbacks.len() > NAMED {
        return Err(PolicyError::Wrong(format!("more than {NAMED} fallbacks or shadows")));
    }
    let shadows: Vec<Share> = decision.shadows.iter().map(from_wit).collect();
    if let Some(shadow) =
        shadows.iter().find(|shadow| shadow.arm >= arms || !(0.0..=1.0).contains(&shadow.weight))
    {
        return Err(PolicyError::Wrong(format!(
            "shadow {} with probability {}",
            shadow.arm, shadow.weight
        )));
    }
    let fallbacks: Vec<usize> = decision.fallbacks.iter().map(|&arm| arm as usize).collect();
    if let Some(arm) = fallbacks.iter().find(|&&arm| arm >= arms) {
        return Err(PolicyError::Wrong(format!("fallback {arm} of {arms} arms")));
    }
    Ok(Decision { shares, fallbacks, shadows, reason: decision.reason })
}

fn check_shares(
    shares: impl Iterator<Item = (usize, f64)>,
    arms: usize,
) -> Result<(), PolicyError> {
    let mut seen = vec![false; arms];
    let mut sum = 0.0;
    for (arm, weight) in shares {
        match seen.get_mut(arm) {
            None => return Err(PolicyError::Wrong(format!("arm {arm} of {arms}"))),
            Some(true) => return Err(PolicyError::Wrong(format!("arm {arm} is named twice"))),
            Some(seen) => *seen = true,
        }
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(PolicyError::Wrong(format!("arm {arm} gets weight {weight}")));
        }
        sum += weight;
    }
    if !(sum.is_finite() && sum > 0.0) {
        return Err(PolicyError::Wrong(format!("the weights come to {sum}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shares: &[(usize, f64)], fits: bool) {
        assert_eq!(check_shares(shares.iter().copied(), 2).is_ok(), fits, "{shares:?}");
    }

    #[test]
    fn shares_must_be_usable() {
        check(&[(0, 1.0)], true);
        check(&[(0, 0.0), (1, 3.0)], true);
        check(&[], false);
        check(&[(0, 0.0)], false);
        check(&[(2, 1.0)], false);
        check(&[(0, 1.0), (0, 1.0)], false);
        check(&[(0, f64::NAN), (1, 1.0)], false);
        check(&[(0, -1.0), (1, 2.0)], false);
        check(&[(0, f64::INFINITY)], false);
        check(&[(0, f64::MAX), (1, f64::MAX)], false);
    }
}
