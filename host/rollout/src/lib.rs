//! Moves traffic from an endpoint's live revision to the next as its policy decides.
//!
//! - [`controller`]: asks policies again and again, commits what they decide and brings it about
//! - [`decide`]: what follows from an evaluation, within the operator's bounds
//! - [`verbs`]: status, pause, resume, promote, abort

pub mod controller;
pub mod decide;
pub mod verbs;

pub use controller::run;
