//! A policy at work on traffic that is made up, by a virtual clock: days in seconds, and the same
//! seed gives the same story to the byte.
//!
//! The policy is the component itself, asked as a host asks it; what it decides is followed by
//! [`decide`](crate::decide), drawn by [`Shares`](berth_serving::draw::Shares), and observed by what
//! observes in a host. What is made up are the requests, and how the arms answer them.
//!
//! - [`traffic`], [`behaviour`], [`span`]: the file that says what traffic is like, how arms answer it
//! - [`story`], `telling`: what happened, and taking it down
//! - [`picture`], `svg`: drawing it
//! - `flow`, `chance`: requests at random, and how each arm answers them
//! - `watched`: what the policy sees
//! - `arms`: arms that are made ready and let go of
//! - `moving`, `choosing`: a rollout, and routing among variants
//! - `drive`: the clock
//! - [`logged`], [`estimates`]: the same policy over predictions that were recorded, and what it would
//!   have earned

mod arms;
pub mod behaviour;
mod chance;
mod choosing;
mod drive;
pub mod estimates;
mod flow;
pub mod logged;
mod moving;
pub mod picture;
pub mod span;
pub mod story;
mod svg;
mod telling;
pub mod traffic;
mod watched;

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_plugin::{Observation, Policy, PolicyError};
use berth_serving::EndpointSpec;
use berth_serving::documents::{Pinned, PinnedPolicy, Rollout};
use berth_serving::rolling::ARMS;
use berth_tensor::{Digest, Reference};
use serde_json::{Map, Value};

use self::arms::Arms;
use self::choosing::Choosing;
use self::drive::{Course, Drive};
use self::flow::Flow;
use self::moving::Moving;
use self::story::Story;
use self::telling::Telling;
use self::traffic::{Declared, Traffic, TrafficError};
use self::watched::Watched;
use crate::pace::Pace;

/// When simulated time begins, in milliseconds since 1970: at midnight.
const BEGINNING: u64 = 1_767_225_600_000;

/// Why there is no story.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    /// The endpoint has nothing to simulate.
    #[error("{0}")]
    Nothing(&'static str),
    /// The traffic file does not fit.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The policy gives no evaluation at the beginning, as a host would find when the file is
    /// applied.
    #[error("{table}: {source}")]
    Policy {
        /// `rollout` or `routing`.
        table: &'static str,
        /// Why.
        source: PolicyError,
    },
}

/// Which policy of an endpoint is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The one that moves traffic to the next revision.
    Rollout,
    /// The one that chooses among variants.
    Routing,
}

impl Table {
    /// As the endpoint file names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Routing => "routing",
        }
    }

    /// The one that an endpoint has; of two, the rollout's unless routing is `wanted`.
    pub fn of(spec: &EndpointSpec, wanted: Option<Self>) -> Result<Self, SimulationError> {
        match (wanted, spec.rollout.is_some(), spec.routing.is_some()) {
            (None | Some(Self::Rollout), true, _) => Ok(Self::Rollout),
            (None | Some(Self::Routing), _, true) => Ok(Self::Routing),
            (None, false, false) => Err(SimulationError::Nothing(
                "the endpoint file has neither [rollout] nor [routing], so no policy decides anything",
            )),
            (Some(Self::Rollout), false, _) => {
                Err(SimulationError::Nothing("the endpoint file has no [rollout]"))
            }
            (Some(Self::Routing), _, false) => {
                Err(SimulationError::Nothing("the endpoint file has no [routing]"))
            }
        }
    }

    /// The policy's reference in an endpoint that has it, and its configuration.
    pub fn policy(self, spec: &EndpointSpec) -> Option<(&Reference, &Map<String, Value>)> {
        match self {
            Self::Rollout => spec.rollout.as_ref().map(|it| (&it.policy, &it.config)),
            Self::Routing => spec.routing.as_ref().map(|it| (&it.policy, &it.config)),
        }
    }

    /// What a traffic file has to fit to.
    pub fn declared(self, spec: &EndpointSpec) -> Declared {
        let names = spec.attributes.keys().filter(|name| Some(*name) != spec.unit.as_ref());
        Declared {
            arms: match self {
                Self::Rollout => ARMS.map(str::to_owned).to_vec(),
                Self::Routing => spec.variants.iter().map(|it| it.name.to_string()).collect(),
            },
            attributes: names.map(ToString::to_string).collect(),
            unit: spec.unit.is_some(),
        }
    }
}

/// What is simulated.
pub struct Simulation<'a> {
    /// The endpoint file, checked.
    pub spec: &'a EndpointSpec,
    /// Which of its policies.
    pub table: Table,
    /// That policy.
    pub policy: Arc<Policy>,
    /// What traffic is like.
    pub traffic: &'a Traffic,
    /// The seed of all chance.
    pub seed: u64,
}

/// What a policy is asked with, and where it is taken down.
struct Asked {
    policy: Arc<Policy>,
    table: Table,
    /// What of an observation stays the same.
    bare: Observation,
    watched: Watched,
    telling: Telling,
    clock: Clock,
    /// When time begins, in milliseconds since 1970.
    beginning: u64,
}

/// Simulated time as what paces policies has it.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    /// So many microseconds after the beginning.
    fn at(self, micros: u64) -> Instant {
        self.0 + Duration::from_micros(micros)
    }

    /// How many microseconds after the beginning.
    fn micros(self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Asked {
    /// The time that policies see, so many microseconds after the beginning.
    fn now_ms(&self, micros: u64) -> u64 {
        self.beginning + micros / 1000
    }

    fn refused(&self, source: PolicyError) -> SimulationError {
        SimulationError::Policy { table: self.table.name(), source }
    }
}

impl Simulation<'_> {
    /// Goes through it. `progress` is told now and then which part of the time is over, and how many
    /// requests have come.
    pub fn run(&self, progress: &mut dyn FnMut(f64, u64)) -> Result<Story, SimulationError> {
        let Self { spec, table, traffic, seed, .. } = self;
        traffic.check(&table.declared(spec))?;
        let (asked, names) = self.asked(BEGINNING)?;
        let unit = spec.unit.as_ref().map(ToString::to_string);
        let flow = Flow::new(traffic, &names, &spec.slices, unit.is_some(), *seed);
        let (course, ready) = match table {
            Table::Rollout => (Course::Moving(Box::new(self.moving(&asked)?)), 1),
            Table::Routing => {
                (Course::Choosing(Box::new(self.choosing(&names, &asked))), names.len())
            }
        };
        let arms = Arms::new(names.len(), ready);
        let (reference, config) = self.named()?;
        let bare = Story {
            endpoint: spec.name.to_string(),
            policy: reference.to_string(),
            config: Value::Object(config.clone()),
            kind: table.name(),
            seed: *seed,
            arms: names.clone(),
            ..Story::default()
        };
        let mut drive = Drive::new(traffic, flow, asked, arms, names, course, unit);
        let end = drive.run(progress)?;
        let (shares, outcome) = (drive.shares(), drive.ended().cloned());
        let by_request = matches!(&drive.course, Course::Choosing(it) if it.by_request());
        Ok(drive.asked.telling.told(end, shares, Story { outcome, by_request, ..bare }))
    }

    fn named(&self) -> Result<(&Reference, &Map<String, Value>), SimulationError> {
        let missing = SimulationError::Nothing("the endpoint file has no such policy");
        self.table.policy(self.spec).ok_or(missing)
    }

    /// What the policy is asked with when time begins there, in milliseconds since 1970, and the
    /// names of its arms.
    fn asked(&self, beginning: u64) -> Result<(Asked, Vec<String>), SimulationError> {
        let Self { spec, table, policy, traffic, .. } = self;
        let names = table.declared(spec).arms;
        let (_, config) = self.named()?;
        let bare = Observation {
            config: Value::Object(config.clone()).to_string(),
            attributes: spec.attributes.keys().map(ToString::to_string).collect(),
            unit: spec.unit.as_ref().map(ToString::to_string),
            ..Observation::default()
        };
        let asked = Asked {
            policy: Arc::clone(policy),
            table: *table,
            bare,
            watched: Watched::new(names.clone(), spec.slices.clone()),
            telling: Telling::new(names.len(), traffic.duration.0),
            clock: Clock(Instant::now()),
            beginning,
        };
        Ok((asked, names))
    }

    /// Stands for the revision, whose digest the draws of a rollout and the policy's own chance go
    /// by.
    fn revision(&self) -> Digest {
        Digest::of(format!("{}\n{}", serde_json::json!(self.spec), self.seed).as_bytes())
    }

    fn choosing(&self, variants: &[String], asked: &Asked) -> Choosing {
        let pace = Pace::new(asked.clock.at(0));
        Choosing::new(self.spec.name.as_str(), variants.len(), self.revision(), pace)
    }

    fn moving(&self, asked: &Asked) -> Result<Moving, SimulationError> {
        let rollout = self.rollout(self.named()?.0, self.revision());
        Ok(Moving::new(rollout, self.spec.name.as_str(), Pace::new(asked.clock.at(0))))
    }

    fn rollout(&self, reference: &Reference, next: Digest) -> Rollout {
        let spec = self.spec.rollout.as_ref();
        let policy = Pinned { name: reference.name.clone(), version: 0, digest: Digest::of(&[]) };
        Rollout {
            arms: [Digest::of(b"live"), next],
            policy: PinnedPolicy {
                policy,
                config: spec.map(|spec| spec.config.clone()).unwrap_or_default(),
            },
            max_step: spec.and_then(|spec| spec.max_step),
            started_ms: BEGINNING,
            paused: false,
            quarantined: false,
            share: 0.0,
            evaluation: None,
            order: None,
        }
    }
}
