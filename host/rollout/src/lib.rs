//! Moves traffic as policies decide: from an endpoint's live revision to the next, and among variants.
//!
//! - [`controller`]: asks policies again and again, commits what they decide and brings it about
//! - `ticks`: the same for the policy that routes among the variants of a live revision
//! - `pace`: when a policy is asked next, and when not any more
//! - [`decide`]: what follows from an evaluation, within the operator's bounds
//! - [`verbs`]: status, pause, resume, promote, abort
//! - [`simulation`]: a policy at work on traffic that is made up, by a virtual clock

pub mod controller;
pub mod decide;
mod pace;
pub mod simulation;
mod ticks;
pub mod verbs;

pub use controller::run;
