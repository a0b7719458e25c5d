//! Valid at any time: look as often as you like, stop when you like. With probability 1 − alpha the
//! interval covers the truth at all looks together, and a p-value never falls to alpha or below
//! where there is no effect.
//!
//! Most differences go by a mixture of normal distributions, tuned to an effect and good for
//! hundreds of units ([`difference`], [`means`], [`proportions`]). Others go by counts, exact for
//! any number ([`proportion`], [`proportions_exact`], [`events`], [`quantile`], [`sample_ratio`]).

use libm::{exp, lgamma, log, log1p, sqrt};

use crate::distribution::{normal_cdf, turn};
use crate::fixed::{DIFFERENCES, enclose, ratio};
use crate::likelihood::{log_likelihood, log_mixture, most_likely};
use crate::{
    Alpha, Buckets, Comparison, Effect, Estimate, Events, Exposures, Interval, Moments, Proportion,
    Quantile,
};

/// With fewer units than this, in either arm, the normal mixture knows nothing: it goes by the
/// observed variance, and that of a few units may be anything (on such a delayed start Bibaut,
/// Kallus and Lindon 2022, arXiv 2212.14411).
pub const LEAST_UNITS: u64 = 50;

/// The dispersion of shares that a mismatch may have, in units: the odds of a mismatch are averaged
/// over them, since it may be of any size. An arm that gets nothing shows after dozens of units, a
/// share that is off by a hundredth of itself after two hundred thousand.
const CONCENTRATIONS: [f64; 3] = [10.0, 1_000.0, 100_000.0];

/// The mixture's variance t² for an effect: that which makes the interval narrowest when there is
/// as much evidence as an effect of this size needs with power 0.8. With L = 2 ln(1/alpha) and
/// c = L + ln(1 + L) it is c V where √V = effect / (√((c + 1)/c · (L + ln(c + 1))) + 0.8416) (as
/// Waudby-Smith and others choose their ρ: 2024, Annals of Statistics 52:2613). The choice is a
/// soft one: an effect twice that size takes a sixth more units than with a choice made for it, one
/// half that size a twenty-fifth.
fn mixture_variance(alpha: Alpha, effect: Effect) -> f64 {
    let l = -2.0 * log(alpha.value());
    let c = l + log1p(l);
    let reach = sqrt((c + 1.0) / c * (l + log1p(c))) + 0.841_621_233_572_914_3;
    let error = effect.value() / reach;
    c * error * error
}

/// Where one value lies: value ± √(V (V + t²)/t² · (2 ln(1/alpha) + ln((V + t²)/V))) with V its
/// variance and t² that of the mixture (Robbins 1970, Annals of Mathematical Statistics 41:1397;
/// with an estimated variance Waudby-Smith and others 2024, Annals of Statistics 52:2613).
pub fn estimate(estimate: Estimate, alpha: Alpha, effect: Effect) -> Interval {
    if !estimate.is_known() || estimate.units < LEAST_UNITS {
        return Interval::UNKNOWN;
    }
    let (v, t2) = (estimate.variance, mixture_variance(alpha, effect));
    let squares = v * (v + t2) / t2 * (-2.0 * log(alpha.value()) + log1p(t2 / v));
    Interval::around(estimate.value, sqrt(squares))
}

/// A difference of two independent values, such as `candidate.estimate() - baseline.estimate()`.
/// The p-value is 1/L with L = √(V/(V + t²)) · exp(t² d² / (2 V (V + t²))), the mixture sequential
/// probability ratio of the difference d with variance V (Johari, Pekelis and Walsh 2022,
/// Operations Research 70:1806).
///
/// Shares may change by plan, as in a ramp, not by what was observed. Where both shares and what is
/// usual change over time, take the difference of each time of constant shares, and of these
/// [`several::pooled`](crate::several::pooled): else the candidate is compared by the hours that it
/// had most of.
pub fn difference(difference: Estimate, alpha: Alpha, effect: Effect) -> Comparison {
    if !difference.is_known() || difference.units < LEAST_UNITS {
        return Comparison::unknown(difference.value);
    }
    let (v, t2) = (difference.variance, mixture_variance(alpha, effect));
    let squares = difference.value * difference.value;
    let p_value = exp(0.5 * log1p(t2 / v) - t2 * squares / (2.0 * v * (v + t2)));
    let interval = estimate(difference, alpha, effect);
    Comparison::new(difference.value, interval, p_value, 0.0, alpha)
}

/// The difference of two means, as [`difference`].
pub fn means(baseline: &Moments, candidate: &Moments, alpha: Alpha, effect: Effect) -> Comparison {
    difference(candidate.estimate() - baseline.estimate(), alpha, effect)
}

/// The difference of two rates, as [`difference`]: for success metrics. By the variance of
/// [`Proportion::estimate`] it keeps to alpha for rare successes too. It takes a third of the units
/// of [`proportions_exact`] for the effect that it is tuned to, and more for one that is much
/// larger.
pub fn proportions(
    baseline: Proportion,
    candidate: Proportion,
    alpha: Alpha,
    effect: Effect,
) -> Comparison {
    difference(candidate.estimate() - baseline.estimate(), alpha, effect)
}

/// The power of [`difference`] when the difference is `truth` and its variance will have come down
/// to `variance` at the last look: the probability that a Brownian motion with drift crosses the
/// tangent of the boundary at that point (Siegmund 1985, Sequential Analysis, chapter III). The
/// boundary is concave, so the power is no less than this, and hardly more.
pub fn power(truth: f64, variance: f64, alpha: Alpha, effect: Effect) -> f64 {
    let information = 1.0 / variance;
    let t2 = mixture_variance(alpha, effect);
    let odds = -2.0 * log(alpha.value()) + log1p(information * t2);
    let height = sqrt((information + 1.0 / t2) * odds);
    let slope = (odds + 1.0) / (2.0 * height);
    let start = height - slope * information;
    let drift = truth.abs() - slope;
    let (end, spread) = (drift * information, sqrt(information));
    let reflected = normal_cdf((-end - start) / spread);
    let reflected = if reflected > 0.0 { exp(2.0 * drift * start + log(reflected)) } else { 0.0 };
    normal_cdf((end - start) / spread) + reflected
}

/// Where one rate p lies: where Beta(s + ½, f + ½) / (Beta(½, ½) pˢ (1 − p)ᶠ) stays below 1/alpha,
/// for s successes and f failures. Exact for any number (Robbins 1970; Howard and others 2021,
/// Annals of Statistics 49:1055, the two-sided beta-binomial mixture).
pub fn proportion(observed: Proportion, alpha: Alpha) -> Interval {
    let counts = observed.counts();
    if counts == (0.0, 0.0) {
        return Interval { lower: 0.0, upper: 1.0 };
    }
    let least = log_mixture(counts) + log(alpha.value());
    let possible = |rate: f64| log_likelihood(counts, rate) > least;
    let best = observed.rate();
    Interval { lower: turn(0.0, best, |rate| !possible(rate)), upper: turn(best, 1.0, possible) }
}

/// The difference of two rates, exact for any number, none of many included, and however shares
/// were decided on, as long as rates stay what they are: for guardrails under a bandit. A
/// difference is excluded once the mixtures of both arms, as in [`proportion`], exceed the
/// likelihood of any two rates that differ by it 1/alpha-fold (universal inference: Wasserman,
/// Ramdas and Balakrishnan 2020, PNAS 117:16880).
pub fn proportions_exact(baseline: Proportion, candidate: Proportion, alpha: Alpha) -> Comparison {
    let observed = candidate.rate() - baseline.rate();
    if !observed.is_finite() {
        return Comparison { interval: DIFFERENCES, ..Comparison::unknown(observed) };
    }
    let log_odds = |difference| difference_log_odds(baseline, candidate, difference);
    let p_value = exp(-log_odds(0.0));
    let most = -log(alpha.value());
    let interval = Interval {
        lower: turn(-1.0, observed, |difference| log_odds(difference) >= most),
        upper: turn(observed, 1.0, |difference| log_odds(difference) < most),
    };
    Comparison::new(observed, interval, p_value, 0.0, alpha)
}

/// The difference of two rates for a guardrail that allows the candidate a margin: by
/// [`proportions`] tuned to the margin, which finds soonest that it holds, and by
/// [`proportions_exact`], which finds within dozens of units that much fails, each with alpha / 2.
/// The interval is what neither excludes.
pub fn guardrail(
    baseline: Proportion,
    candidate: Proportion,
    margin: Effect,
    alpha: Alpha,
) -> Comparison {
    let exact = proportions_exact(baseline, candidate, alpha.among(2));
    let tuned = proportions(baseline, candidate, alpha.among(2), margin);
    let interval = Interval {
        lower: exact.interval.lower.max(tuned.interval.lower),
        upper: exact.interval.upper.min(tuned.interval.upper),
    };
    let p_value = 2.0 * exact.p_value.min(tuned.p_value);
    Comparison::new(exact.effect, interval, p_value, 0.0, alpha)
}

/// ln of how much better the mixtures of both arms explain the counts than rates that differ by
/// `difference`.
pub(crate) fn difference_log_odds(
    baseline: Proportion,
    candidate: Proportion,
    difference: f64,
) -> f64 {
    let (before, after) = (baseline.counts(), candidate.counts());
    let rates = most_likely(baseline, candidate, difference);
    log_mixture(before) - log_likelihood(before, rates.0) + log_mixture(after)
        - log_likelihood(after, rates.1)
}

/// How many times as often something happens to what the candidate gets, by events alone: of events
/// that are as frequent in both arms, the candidate's part is its share. Quickest to find out that
/// something rare happens more often, also where it never happens to the baseline; right however
/// frequency changes over time, as long as arms are assigned at random. It can never find out that
/// something happens equally rarely when it never happens: that is for [`proportions_exact`].
///
/// A ratio λ is excluded once the product over stages of
/// Beta(k + ½, m − k + ½) / (Beta(½, ½) θᵏ (1 − θ)ᵐ⁻ᵏ) reaches 1/alpha, with k of m events the
/// candidate's, share r and θ = r λ / (r λ + 1 − r) (Lindon and Malek 2022, arXiv
/// 2011.03567).
pub fn events(stages: &[Events], alpha: Alpha) -> Comparison {
    let sum = |part: fn(&Events) -> u64| stages.iter().map(|stage| part(stage) as f64).sum::<f64>();
    let (before, after) = (sum(|stage| stage.baseline), sum(|stage| stage.candidate));
    let possible = Interval { lower: 0.0, upper: f64::INFINITY };
    if before + after == 0.0 {
        return Comparison { interval: possible, ..Comparison::unknown(f64::NAN) };
    }
    // The best ratio is that which expects as many events of the candidate.
    let fewer = |ln_ratio: f64| {
        let expected = |stage: &Events| {
            (stage.candidate as f64 + stage.baseline as f64) * stage.part(ln_ratio)
        };
        stages.iter().map(expected).sum::<f64>() < after
    };
    // Ratios beyond e³⁵ to 1 are as good as infinite.
    const END: f64 = 35.0;
    let log_odds = |ln_ratio| events_log_odds(stages, ln_ratio);
    let most = -log(alpha.value());
    let best = turn(-END, END, fewer);
    let lower = turn(-END, best, |ln_ratio| log_odds(ln_ratio) >= most);
    let upper = turn(best, END, |ln_ratio| log_odds(ln_ratio) < most);
    let never = after == 0.0;
    let always = before == 0.0;
    let interval = Interval {
        lower: if never { 0.0 } else { exp(lower) },
        upper: if always { f64::INFINITY } else { exp(upper) },
    };
    let effect = match (never, always) {
        (true, _) => 0.0,
        (_, true) => f64::INFINITY,
        _ => exp(best),
    };
    Comparison::new(effect, interval, exp(-log_odds(0.0)), 1.0, alpha)
}

/// ln of how much better mixtures explain whose the events are than a ratio of frequencies.
pub(crate) fn events_log_odds(stages: &[Events], ln_ratio: f64) -> f64 {
    let of = |stage: &Events| {
        let counts = (stage.candidate as f64, stage.baseline as f64);
        log_mixture(counts) - log_likelihood(counts, stage.part(ln_ratio))
    };
    stages.iter().map(of).sum()
}

/// Where a quantile lies: above a bound once fewer values are at or below it, or below it once more
/// are, than [`proportion`] allows at the quantile's own rate (Howard and Ramdas 2022, Bernoulli
/// 28:1704, the beta-binomial variant). Bounds are those of buckets.
pub fn quantile(observed: &Buckets, quantile: Quantile, alpha: Alpha) -> Interval {
    let q = quantile.value();
    let most = -log(alpha.value());
    let sure = |below: f64, total: f64| {
        let counts = (below, total - below);
        log_mixture(counts) - log_likelihood(counts, q) >= most
    };
    enclose(observed, sure, q)
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

/// The p-value of units falling to arms by their shares. Below 0.001 something is wrong with
/// assignment or counting, and no comparison is to be trusted. `None` when there is nothing to
/// judge by.
///
/// It is 1/B with B the average over K of 10, 1,000 and 100,000 of Γ(K)/Γ(K + n) · Π Γ(K rᵢ + xᵢ) /
/// (Γ(K rᵢ) rᵢ^xᵢ), for xᵢ of n units at the arm with share rᵢ: the Bayes factor of shares from
/// Dirichlet(K r) against r (Lindon and Malek 2022, arXiv 2011.03567), multiplied over stages.
pub fn sample_ratio(stages: &[Exposures]) -> Option<f64> {
    let mut log_odds = [0.0; CONCENTRATIONS.len()];
    let mut all = 0.0;
    for stage in stages {
        let (arms, total) = stage.arms()?;
        all += if arms.len() > 1 { total } else { 0.0 };
        for (log_odds, k) in log_odds.iter_mut().zip(CONCENTRATIONS) {
            *log_odds += lgamma(k) - lgamma(k + total);
            for &(units, share) in &arms {
                let prior = k * share;
                *log_odds += lgamma(prior + units) - lgamma(prior) - units * log(share);
            }
        }
    }
    if stages.iter().any(Exposures::impossible) {
        return Some(0.0);
    }
    if all == 0.0 {
        return None;
    }
    let largest = log_odds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = log_odds.iter().map(|odds| exp(odds - largest)).sum();
    Some(exp(log(CONCENTRATIONS.len() as f64 / sum) - largest).min(1.0))
}
