//! For one look, at a number of units that was settled before ([`Design`](crate::Design)). Whoever
//! looks again and again and stops when it suits finds what is not there far more often than alpha:
//! that is what [`sequential`](crate::sequential) is for.

use crate::distribution::{
    beta_cdf, chi_squared_upper, normal_cdf, normal_quantile, student_critical, student_two_sided,
    turn,
};
use crate::likelihood::most_likely;
use crate::{
    Alpha, Buckets, Comparison, Estimate, Exposures, Interval, Moments, Proportion, Quantile,
};

/// How many standard errors the normal interval reaches.
fn reach(alpha: Alpha) -> f64 {
    -normal_quantile(0.5 * alpha.value())
}

/// Where one value lies, by the normal distribution: value ± z √variance.
pub fn estimate(estimate: Estimate, alpha: Alpha) -> Interval {
    if !estimate.is_known() {
        return Interval::UNKNOWN;
    }
    Interval::around(estimate.value, reach(alpha) * estimate.standard_error())
}

/// A difference of two independent values, such as `candidate.estimate() - baseline.estimate()`, by
/// the normal distribution: for ratios and off-policy values, over hundreds of units.
pub fn difference(difference: Estimate, alpha: Alpha) -> Comparison {
    if !difference.is_known() {
        return Comparison::unknown(difference.value);
    }
    let z = difference.value / difference.standard_error();
    let p_value = 2.0 * normal_cdf(-z.abs());
    Comparison::new(difference.value, estimate(difference, alpha), p_value, 0.0, alpha)
}

/// The difference of two means: Welch's t, with Satterthwaite's degrees of freedom (Welch 1947,
/// Biometrika 34:28).
pub fn means(baseline: &Moments, candidate: &Moments, alpha: Alpha) -> Comparison {
    let (before, after) = (baseline.estimate(), candidate.estimate());
    let difference = after - before;
    if !difference.is_known() {
        return Comparison::unknown(difference.value);
    }
    let part = |arm: Estimate| arm.variance * arm.variance / (arm.units as f64 - 1.0);
    let degrees = difference.variance * difference.variance / (part(before) + part(after));
    let error = difference.standard_error();
    let p_value = student_two_sided(difference.value / error, degrees);
    let radius = student_critical(alpha.value(), degrees) * error;
    let interval = Interval::around(difference.value, radius);
    Comparison::new(difference.value, interval, p_value, 0.0, alpha)
}

/// Where one rate lies: Wilson's interval (1927, Journal of the American Statistical Association
/// 22:209), which also works for none of many.
pub fn proportion(observed: Proportion, alpha: Alpha) -> Interval {
    let (successes, failures) = observed.counts();
    let trials = successes + failures;
    if trials == 0.0 {
        return Interval { lower: 0.0, upper: 1.0 };
    }
    let z = reach(alpha);
    let centre = (successes + 0.5 * z * z) / (trials + z * z);
    let radius = z / (trials + z * z) * (successes * failures / trials + 0.25 * z * z).sqrt();
    Interval { lower: (centre - radius).max(0.0), upper: (centre + radius).min(1.0) }
}

/// The difference of two rates by the score test, which also works for none of many: an assumed
/// difference is excluded when z = (observed − assumed) / √(p(1−p)/n + p′(1−p′)/n′) is beyond
/// alpha, with the rates p and p′ that are most likely under it (Mee 1984, Biometrics 40:1175;
/// method 5 of Newcombe 1998, Statistics in Medicine 17:873). The p-value is that of the pooled
/// z-test.
pub fn proportions(baseline: Proportion, candidate: Proportion, alpha: Alpha) -> Comparison {
    let observed = candidate.rate() - baseline.rate();
    if !observed.is_finite() {
        return Comparison { interval: DIFFERENCES, ..Comparison::unknown(observed) };
    }
    let z = |assumed: f64| {
        let (before, after) = most_likely(baseline, candidate, assumed);
        let variance = before * (1.0 - before) / baseline.trials as f64
            + after * (1.0 - after) / candidate.trials as f64;
        let off = observed - assumed;
        if off == 0.0 { 0.0 } else { off / variance.sqrt() }
    };
    let reach = reach(alpha);
    let interval = Interval {
        lower: turn(-1.0, observed, |assumed| z(assumed) > reach),
        upper: turn(observed, 1.0, |assumed| z(assumed) > -reach),
    };
    let p_value = 2.0 * normal_cdf(-z(0.0).abs());
    Comparison::new(observed, interval, p_value, 0.0, alpha)
}

/// What a difference of rates can be.
pub(crate) const DIFFERENCES: Interval = Interval { lower: -1.0, upper: 1.0 };

/// Where a quantile lies, by the order of the values alone: below a bound when so many values are
/// at or below it that the binomial distribution gives that or more at most alpha / 2, above it
/// likewise (David and Nagaraja 2003, Order Statistics, chapter 7). Bounds are those of buckets.
pub fn quantile(observed: &Buckets, quantile: Quantile, alpha: Alpha) -> Interval {
    let (q, each) = (quantile.value(), 0.5 * alpha.value());
    // P(Binomial(total, q) ≥ below) and P(Binomial(total, q) ≤ below).
    enclose(
        observed,
        |below, total| {
            if below > q * total {
                beta_cdf(below, total - below + 1.0, q) <= each
            } else {
                below < total && beta_cdf(total - below, below + 1.0, 1.0 - q) <= each
            }
        },
        q,
    )
}

/// The interval between the last bound that is surely below the quantile and the first that is
/// surely not. `sure` says whether a count of values at or below a bound, of so many, cannot be
/// chance.
pub(crate) fn enclose(
    observed: &Buckets,
    sure: impl Fn(f64, f64) -> bool,
    quantile: f64,
) -> Interval {
    let mut interval = Interval::UNKNOWN;
    let Some((bounds, total)) = observed.cumulative() else {
        return interval;
    };
    let total = total as f64;
    for (bound, below) in bounds {
        let below = below as f64;
        if !sure(below, total) {
            continue;
        }
        if below > quantile * total {
            interval.upper = bound;
            break;
        }
        interval.lower = bound;
    }
    interval
}

/// How many times as high a quantile of the candidate is, of values that are not negative: each
/// arm's interval at alpha / 2, one by the other.
pub fn quantile_ratio(
    baseline: &Buckets,
    candidate: &Buckets,
    of: Quantile,
    alpha: Alpha,
) -> Interval {
    let interval = |arm| quantile(arm, of, alpha.among(2));
    ratio(interval(baseline), interval(candidate))
}

/// Candidate by baseline, both not negative.
pub(crate) fn ratio(baseline: Interval, candidate: Interval) -> Interval {
    let by =
        |over: f64, under: f64| if under > 0.0 { over.max(0.0) / under } else { f64::INFINITY };
    let lower = if candidate.lower > 0.0 { by(candidate.lower, baseline.upper) } else { 0.0 };
    Interval { lower, upper: by(candidate.upper, baseline.lower) }
}

/// The p-value of units falling to arms by their shares: Pearson's chi-squared, summed over stages.
/// Below 0.001 something is wrong with assignment or counting, and no comparison is to be trusted.
/// `None` when there is nothing to judge by.
pub fn sample_ratio(stages: &[Exposures]) -> Option<f64> {
    let (mut statistic, mut degrees) = (0.0, 0.0);
    for stage in stages {
        let (arms, total) = stage.arms()?;
        if total == 0.0 {
            continue;
        }
        degrees -= 1.0;
        for (units, share) in arms {
            degrees += 1.0;
            let expected = share * total;
            statistic += (units - expected) * (units - expected) / expected;
        }
    }
    if stages.iter().any(Exposures::impossible) {
        return Some(0.0);
    }
    (degrees > 0.0).then(|| chi_squared_upper(statistic, degrees))
}
