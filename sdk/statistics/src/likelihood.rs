//! Binomial likelihoods, for one arm and for two whose rates differ by a given amount.

use libm::{log, log1p};

use crate::Proportion;
use crate::distribution::{ln_beta, turn};

/// x ln y, 0 where x is 0.
fn times_log(x: f64, ln_y: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x * ln_y }
}

/// ln of rateˢ (1 − rate)ᶠ.
pub(crate) fn log_likelihood((successes, failures): (f64, f64), rate: f64) -> f64 {
    times_log(successes, log(rate)) + times_log(failures, log1p(-rate))
}

/// ln of the same, averaged over rates by Beta(½, ½): Jeffreys' prior, which costs about ½ ln n at
/// any rate, 0 and 1 included.
pub(crate) fn log_mixture((successes, failures): (f64, f64)) -> f64 {
    ln_beta(successes + 0.5, failures + 0.5) - ln_beta(0.5, 0.5)
}

/// The rates (baseline, candidate) that are most likely among those where the candidate's is higher
/// by `difference`.
pub(crate) fn most_likely(
    baseline: Proportion,
    candidate: Proportion,
    difference: f64,
) -> (f64, f64) {
    let (hits, misses) = baseline.counts();
    let (hits_after, misses_after) = candidate.counts();
    // The likelihood is concave in the rate, so its slope changes sign once.
    let rising = |rate: f64| {
        let after = rate + difference;
        let slope = |count: f64, rate: f64| if count == 0.0 { 0.0 } else { count / rate };
        slope(hits, rate) + slope(hits_after, after)
            > slope(misses, 1.0 - rate) + slope(misses_after, 1.0 - after)
    };
    let least = (-difference).max(0.0);
    let most = (1.0 - difference).min(1.0);
    let rate = turn(least, most, rising);
    (rate, (rate + difference).clamp(0.0, 1.0))
}
