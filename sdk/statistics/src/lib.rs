//! Tests and intervals that policies share.
//!
//! Everything goes by sums ([`Moments`], [`Proportion`], [`Ratio`], [`Buckets`]), has no state, no
//! clock and no chance but by seed, and comes to the same bits natively and in a component. What is
//! missing, contradicts itself or is no number counts as no data: the answer is then
//! [`Verdict::Inconclusive`] or [`Decision::Undecided`].
//!
//! ```
//! use berth_statistics::{Alpha, Decision, Effect, Moments, Proportion, Verdict, sequential};
//!
//! let alpha = Alpha::new(0.05)?;
//!
//! // A guardrail: is the candidate's error rate higher by no more than half a percentage point?
//! let live = Proportion { successes: 0, trials: 9_000 };
//! let next = Proportion { successes: 2, trials: 9_000 };
//! let margin = Effect::new(0.005)?;
//! let errors = sequential::guardrail(live, next, margin, alpha);
//! assert_eq!(errors.interval.at_most(margin.value()), Verdict::Holds);
//!
//! // A floor: do at least 95 % of a segment get an answer? Twenty requests cannot tell.
//! let answered = Proportion { successes: 20, trials: 20 };
//! assert_eq!(sequential::proportion(answered, alpha).at_least(0.95), Verdict::Inconclusive);
//!
//! // A success metric: which arm earns more, when a difference of 0.1 matters?
//! let live = Moments { count: 4_000, sum: 8_000.0, sum_of_squares: 20_000.0 };
//! let next = Moments { count: 4_000, sum: 8_600.0, sum_of_squares: 22_500.0 };
//! let reward = sequential::means(&live, &next, alpha, Effect::new(0.1)?);
//! assert_eq!(reward.decision, Decision::Higher);
//! # Ok::<(), berth_statistics::SettingError>(())
//! ```
//!
//! The crate's README says which method answers which question.
//!
//! - [`sequential`]: for whoever looks all the time
//! - [`fixed`]: for one look at a number of units that [`Design`] gives
//! - [`several`]: several arms, several days
//! - [`Strata`]: two arms while shares follow what was observed
//! - [`scores`]: predictions whose labels came
//! - [`distribution`]: what the others stand on

pub mod distribution;
pub mod fixed;
pub mod scores;
pub mod sequential;
pub mod several;

mod design;
mod exposures;
mod likelihood;
mod observed;
mod off_policy;
mod outcome;
mod posterior;
mod random;
mod setting;
#[cfg(test)]
mod simulation;
mod strata;

pub use design::Design;
pub use exposures::{Events, Exposures};
pub use observed::{Buckets, Estimate, Moments, Proportion, Ratio};
pub use off_policy::OffPolicy;
pub use outcome::{Comparison, Decision, Interval, Verdict};
pub use posterior::{Posterior, probability_best};
pub use random::Random;
pub use setting::{Alpha, Effect, Power, Quantile, SettingError, Share};
pub use strata::{Strata, Stratified};
