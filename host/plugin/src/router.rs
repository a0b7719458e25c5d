//! Routers: policies that see each request, kept warm and called in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crossbeam_queue::ArrayQueue;
use wasmtime::Store;
use wasmtime::component::{Resource, ResourceAny};

use crate::bindings::policy::exports::berth::plugin::routing;
use crate::decision::{Decision, Plan, PolicyError, decided};
use crate::exchange::ONLY;
use crate::observing::{Observation, Subject};
use crate::policy::{EVALUATE_FUEL, Policy, PolicyState, fuel_up, refused, stopped, to_wit};

/// Fuel for one routing decision: some hundreds of microseconds.
const ROUTE_FUEL: u64 = 1_000_000;

/// One decision in this many, picked by chance, is run again on a fresh instance.
const RECHECK: u64 = 1024;

/// Requests in a row for which it traps or answers wrongly, lateness left out, after which it is not
/// asked any more.
const FAULTS: u32 = 16;

/// Routers kept warm for each plan: as many as threads can ask at once.
fn warm() -> usize {
    std::thread::available_parallelism().map_or(16, usize::from) + 4
}

impl Policy {
    /// Builds the first router under a plan; none when the policy does not look at requests. Once
    /// `quarantined` is set it is not asked; it sets that itself when it is found to be impure.
    pub fn routers(
        self: &Arc<Self>,
        observation: &Arc<Observation>,
        plan: &Plan,
        quarantined: &Arc<AtomicBool>,
    ) -> Result<Option<Routers>, PolicyError> {
        if self.routing.is_none() {
            return Ok(None);
        }
        let routers = Routers {
            policy: Arc::clone(self),
            observation: Arc::clone(observation),
            plan: plan.clone(),
            warm: ArrayQueue::new(warm()),
            quarantined: Arc::clone(quarantined),
            faults: AtomicU32::new(0),
        };
        let first = routers.build()?;
        // The queue is empty, so there is room.
        drop(routers.warm.push(first));
        Ok(Some(routers))
    }
}

/// The routers of one plan, each used by one request at a time. Taking one is free of locks.
pub struct Routers {
    policy: Arc<Policy>,
    observation: Arc<Observation>,
    plan: Plan,
    warm: ArrayQueue<Router>,
    quarantined: Arc<AtomicBool>,
    /// Faults in a row.
    faults: AtomicU32,
}

struct Router {
    store: Store<PolicyState>,
    guest: routing::Guest,
    handle: ResourceAny,
}

impl Routers {
    /// Whether it is not asked any more.
    pub fn quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// Decides on one request. After an error that says impure, and after 16 faults in a row, every
    /// call says quarantined.
    pub fn route(&self, subject: &Subject) -> Result<Decision, PolicyError> {
        if self.quarantined() {
            return Err(PolicyError::Quarantined);
        }
        let decision = self.decide(subject);
        match &decision {
            Ok(_) if self.faults.load(Ordering::Relaxed) == 0 => {}
            Ok(_) => self.faults.store(0, Ordering::Relaxed),
            Err(error) if error.is_late() => {}
            Err(_) => {
                if self.faults.fetch_add(1, Ordering::Relaxed) + 1 >= FAULTS {
                    self.quarantined.store(true, Ordering::Relaxed);
                }
            }
        }
        decision
    }

    fn decide(&self, subject: &Subject) -> Result<Decision, PolicyError> {
        let mut router = match self.warm.pop() {
            Some(router) => router,
            None => self.build()?,
        };
        let decision = self.ask(&mut router, subject)?;
        if subject.chance.is_multiple_of(RECHECK)
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
        fuel_up(store, ROUTE_FUEL)?;
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
