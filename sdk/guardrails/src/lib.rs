//! What policies share that decide by what was observed.
//!
//! - [`evidence`]: what was observed of a value
//! - [`guardrails`], [`bounds`]: what an arm must keep to
//! - [`latency`]: how long requests take in one arm and in the other
//! - [`assignment`]: whether units fall to arms by their shares
//! - [`steps`]: traffic that moves on while guardrails hold

pub mod assignment;
pub mod bounds;
pub mod evidence;
pub mod guardrails;
pub mod latency;
pub mod steps;

pub use bounds::Bound;
pub use evidence::{Better, Metric, Since, Values};
pub use guardrails::{Alike, Baseline, Counts, Evidence, Floor, Guardrails, Judgement};
pub use steps::{LIVE, NEXT, Steps, rolls_out, two_revisions};
