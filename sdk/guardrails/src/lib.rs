//! What rollout policies share.
//!
//! - [`guardrails`]: what an arm must keep to
//! - [`steps`]: traffic that moves on while it does

pub mod guardrails;
pub mod steps;

pub use guardrails::{Counts, Guardrails, Judgement};
pub use steps::{LIVE, NEXT, Steps, two_revisions};
