//! Policies and routers.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::policy::exports::berth::plugin::evaluating;
use crate::bindings::router::exports::berth::plugin::routing;
use crate::{
    ArmEvaluation, ArmState, Decision, Evaluation, Observation, Phase, Plan, PolicyError, Share,
    Subject, config,
};

/// Decides on shares of traffic among arms. Export it with
/// [`export_policy!`](crate::export_policy).
pub trait Policy: 'static {
    /// The policy's configuration, read from a JSON object.
    type Config: DeserializeOwned;

    /// Decides from what was observed and the plan so far (none at first). Must be pure: the same
    /// arguments give the same evaluation.
    fn evaluate(
        config: Self::Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError>;
}

/// Decides on each request. It belongs to a [`Policy`], which gives the plan and the weights that
/// hold when a router fails.
pub trait Router: Sized + 'static {
    /// The policy's configuration, read from the same JSON object as [`Policy::Config`].
    type Config: DeserializeOwned;

    /// A router under one plan, built once for the plan and thread.
    fn create(
        config: Self::Config,
        observation: &Observation,
        plan: Plan,
    ) -> Result<Self, PolicyError>;

    /// Decides on one request from its declared attributes. Must be pure, and is worth making
    /// fast: it runs before every request.
    fn route(&self, subject: &Subject) -> Decision;
}

impl Plan {
    /// A plan without content, for policies that remember nothing. `schema` names its layout, so
    /// that a newer version of the policy can tell an older plan.
    pub fn empty(schema: &str) -> Self {
        Self { schema: schema.to_owned(), data: Vec::new() }
    }

    /// A plan that holds a value, as JSON. Of a value that has no JSON form, nothing is kept.
    pub fn keep<T: Serialize>(schema: &str, value: &T) -> Self {
        let data = serde_json::to_vec(value).unwrap_or_default();
        Self { schema: schema.to_owned(), data }
    }

    /// The value that [`Plan::keep`] has kept under the same schema.
    pub fn read<T: DeserializeOwned>(&self, schema: &str) -> Result<T, PolicyError> {
        if self.schema != schema {
            let message = format!("the plan is {:?}, this version knows {schema:?}", self.schema);
            return Err(PolicyError::failed(message));
        }
        serde_json::from_slice(&self.data)
            .map_err(|error| PolicyError::failed(format!("the plan does not read: {error}")))
    }
}

impl Evaluation {
    /// A split that stands: one weight for each arm, in the order of [`Observation::arms`]. Arms
    /// without weight are kept warm. Remembers nothing and asks for no further tick.
    pub fn standing(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let arms = (0..).zip(weights).map(|(arm, &weight)| ArmEvaluation {
            arm,
            weight,
            state: if weight > 0.0 { ArmState::Ready } else { ArmState::Standby },
            sessions: if total > 0.0 { weight / total } else { 0.0 },
            shadow: false,
        });
        Self {
            arms: arms.collect(),
            plan: Plan::empty("standing"),
            phase: Phase::Steady,
            message: String::new(),
            next_tick_ms: None,
            attributes: Vec::new(),
        }
    }
}

impl Evaluation {
    /// A share, 0 to 1, for the next revision and the rest for the live one. Both are kept ready.
    pub fn moving(share: f64, phase: Phase, message: impl Into<String>) -> Self {
        let mut evaluation = Self::standing(&[1.0 - share, share]);
        for arm in &mut evaluation.arms {
            arm.state = ArmState::Ready;
        }
        Self { phase, message: message.into(), ..evaluation }
    }
}

impl Decision {
    /// All to one arm. `reason` says why in a word or two.
    pub fn arm(arm: u32, reason: &str) -> Self {
        Self::shares(vec![Share { arm, weight: 1.0 }], reason)
    }

    /// Shares among several arms, which the host draws from.
    pub fn shares(shares: Vec<Share>, reason: &str) -> Self {
        Self { shares, fallbacks: Vec::new(), shadows: Vec::new(), reason: reason.to_owned() }
    }
}

/// A policy as the ABI wants it.
#[derive(Debug)]
pub struct ExportedPolicy<P>(std::marker::PhantomData<P>);

impl<P: Policy> evaluating::Guest for ExportedPolicy<P> {
    fn evaluate(observation: &Observation, plan: Option<Plan>) -> Result<Evaluation, PolicyError> {
        P::evaluate(config::parse(&observation.config())?, observation, plan)
    }
}

/// A router as the ABI wants it.
#[derive(Debug)]
pub struct ExportedRouter<R>(R);

impl<R: Router> routing::Guest for ExportedRouter<R> {
    type Router = Self;
}

impl<R: Router> routing::GuestRouter for ExportedRouter<R> {
    fn create(observation: &Observation, plan: Plan) -> Result<routing::Router, PolicyError> {
        let config = config::parse(&observation.config())?;
        Ok(routing::Router::new(Self(R::create(config, observation, plan)?)))
    }

    fn route(&self, subject: &Subject) -> Decision {
        self.0.route(subject)
    }
}

/// Makes a plugin of a [`Policy`], with its [`Router`] where it has one, and writes its manifest.
///
/// After the types come the fields of [`Manifest`](crate::Manifest) that differ from their
/// defaults: `export_policy!(Targeting, router: Rules, attributes: &["country"])`.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty, router: $router:ty $(, $field:ident : $value:expr)* $(,)?) => {
        const _: () = {
            type Exported = $crate::export::ExportedRouter<$router>;
            $crate::bindings::router::export!(Exported with_types_in $crate::bindings::router);
        };
        $crate::export_policy!($policy $(, $field : $value)*);
    };
    ($policy:ty $(, $field:ident : $value:expr)* $(,)?) => {
        const _: () = {
            type Exported = $crate::export::ExportedPolicy<$policy>;
            $crate::bindings::policy::export!(Exported with_types_in $crate::bindings::policy);
        };
        $crate::write_manifest!("policy" $(, $field : $value)*);
    };
}
