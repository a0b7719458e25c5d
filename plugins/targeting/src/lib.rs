//! Routing policy: rules on attributes choose the arm.
//!
//! ```toml
//! [routing]
//! policy = "targeting@1"
//!
//! [routing.config]
//! default = "current"
//! fallbacks = ["current"]
//!
//! [[routing.config.rules]]
//! name = "testers"
//! when = { attribute = "user", prefix = "test-" }
//! arm = "next"
//!
//! [[routing.config.rules]]
//! when = { attribute = "country", in = ["de", "fr"] }
//! percentage = 20
//! shares = { next = 3, other = 1 }
//! ```
//!
//! The first rule that applies decides. A rule applies when its condition holds (`equals`, `in`,
//! `prefix`, or `range` with `min` and `max`, both included) and the unit falls into its
//! percentage. Units keep their place as long as the rule keeps its `salt`, by default its name.
//! When the arm cannot answer, the `fallbacks` are tried in order; a rule may have its own.
//!
//! - `config`: the configuration as it is written
//! - `rules`: the configuration checked against the endpoint, and its application to a request

mod config;
mod rules;

use berth_sdk::{Decision, Evaluation, Observation, Plan, Policy, PolicyError, Router, Subject};

use crate::config::Config;
use crate::rules::{Request, Rules};

struct Targeting;

impl Policy for Targeting {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        _: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let rules = Rules::new(config, &observation.arms(), &observation.attributes())?;
        Ok(rules.evaluation())
    }
}

impl Router for Rules {
    type Config = Config;

    fn create(config: Config, observation: &Observation, _: Plan) -> Result<Self, PolicyError> {
        Ok(Rules::new(config, &observation.arms(), &observation.attributes())?)
    }

    fn route(&self, subject: &Subject) -> Decision {
        self.decide(&Seen(subject))
    }
}

struct Seen<'a>(&'a Subject);

impl Request for Seen<'_> {
    fn attribute(&self, name: &str) -> Option<String> {
        self.0.attribute(name)
    }

    fn position(&self, salt: &str) -> f64 {
        self.0.position(salt)
    }
}

berth_sdk::export_policy!(Targeting, router: Rules);
