//! What was observed of an arm, in numbers for people: each with where the truth lies.

use std::collections::BTreeMap;

use berth_monitor::{Observed, Sum, Tally, UnitMoments, ValueMoments};
use berth_statistics::{
    Alpha, Buckets, Estimate, Interval, Moments, Proportion, Quantile, Ratio, fixed,
};
use serde::Serialize;

/// What was observed of an arm, or of a slice of it.
#[derive(Clone, Debug, Serialize)]
pub struct Numbers {
    /// Requests that came to their end.
    pub requests: u64,
    /// Of these, those that failed by the model's, the plugin's or the host's fault.
    pub errors: u64,
    /// Of these, those that were refused as the caller's fault.
    pub refused: u64,
    /// The part of requests that fail, 0 to 1.
    pub error_rate: Option<Lies>,
    /// The latency within which half of them were answered, in milliseconds.
    pub median_ms: Option<Lies>,
    /// The same of 99 %.
    pub p99_ms: Option<Lies>,
    /// Values by name, such as `reward` or `metric:faces`.
    pub values: BTreeMap<String, Sum>,
    /// Their means.
    pub means: BTreeMap<String, Lies>,
    /// The same of those in each declared slice.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub slices: BTreeMap<String, Numbers>,
}

/// A number, and where the truth lies with 95 % probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lies {
    /// What was found.
    pub found: f64,
    /// The lower bound.
    pub lower: f64,
    /// The upper bound.
    pub upper: f64,
}

impl Lies {
    /// In the narrowest range that holds all of the intervals, those that are unknown left out.
    fn around(found: f64, intervals: impl IntoIterator<Item = Interval>) -> Self {
        let none = Self { found, lower: found, upper: found };
        intervals.into_iter().fold(none, |lies, Interval { lower, upper }| Self {
            found,
            lower: lies.lower.min(lower),
            upper: lies.upper.max(upper),
        })
    }
}

impl From<&Observed> for Numbers {
    /// Where requests have units, these are what is drawn by chance, so that their requests count as
    /// they come together; of slices, units are not known.
    fn from(observed: &Observed) -> Self {
        let slices = observed.slices.iter();
        Self {
            slices: slices.map(|(name, tally)| (name.clone(), Self::from(tally))).collect(),
            ..Self::of(&observed.whole, &observed.units)
        }
    }
}

impl From<&Tally> for Numbers {
    fn from(tally: &Tally) -> Self {
        Self::of(tally, &UnitMoments::default())
    }
}

impl Numbers {
    fn of(tally: &Tally, units: &UnitMoments) -> Self {
        let mean = |(name, sum): (&String, &Sum)| {
            let of_units = units.values.get(name).copied().unwrap_or_default();
            Some((name.clone(), mean(sum, &of_units)?))
        };
        Self {
            requests: tally.requests,
            errors: tally.errors,
            refused: tally.refused,
            error_rate: error_rate(tally, units),
            median_ms: milliseconds(tally, 0.5),
            p99_ms: milliseconds(tally, 0.99),
            means: tally.values.iter().filter_map(mean).collect(),
            values: tally.values.clone(),
            slices: BTreeMap::new(),
        }
    }
}

fn alpha() -> Option<Alpha> {
    Alpha::new(0.05).ok()
}

fn error_rate(tally: &Tally, units: &UnitMoments) -> Option<Lies> {
    let failed = Proportion { successes: tally.errors, trials: tally.requests };
    let alpha = alpha().filter(|_| failed.trials > 0)?;
    let of_units = Ratio {
        units: units.units,
        numerator: units.errors,
        denominator: units.requests,
        numerator_squares: units.errors_squares,
        denominator_squares: units.requests_squares,
        products: units.errors_requests,
    };
    let rate = failed.rate();
    let of_units = by_units(rate, &of_units, failed.trials, alpha).map(|interval| Interval {
        lower: interval.lower.max(0.0),
        upper: interval.upper.min(1.0),
    });
    Some(Lies::around(
        rate,
        [Some(fixed::proportion(failed, alpha)), of_units].into_iter().flatten(),
    ))
}

fn mean(sum: &Sum, units: &ValueMoments) -> Option<Lies> {
    let moments = Moments { count: sum.count, sum: sum.sum, sum_of_squares: sum.squares };
    let alpha = alpha().filter(|_| moments.count > 1)?;
    let of_units = Ratio {
        units: units.units,
        numerator: units.sums,
        denominator: units.counts,
        numerator_squares: units.sums_squares,
        denominator_squares: units.counts_squares,
        products: units.sums_counts,
    };
    let mean = moments.estimate();
    let of_units = by_units(mean.value, &of_units, moments.count, alpha);
    Some(Lies::around(
        mean.value,
        [Some(fixed::estimate(mean, alpha)), of_units].into_iter().flatten(),
    ))
}

/// The interval of a ratio over units around what was found in all requests, where a sample of the
/// units is kept: the more of the `count` requests are not theirs, the narrower.
fn by_units(found: f64, units: &Ratio, count: u64, alpha: Alpha) -> Option<Interval> {
    let estimate = units.estimate();
    let part = (units.denominator / count as f64).min(1.0);
    let estimate = Estimate { value: found, variance: estimate.variance * part, ..estimate };
    (units.units > 1 && estimate.variance.is_finite()).then(|| fixed::estimate(estimate, alpha))
}

/// Bounds that are above all of the buckets are unknown, and told as the highest.
fn milliseconds(tally: &Tally, quantile: f64) -> Option<Lies> {
    let found = tally.quantile(quantile)?;
    let (bounds, mut counts): (Vec<f64>, Vec<u64>) = tally.latencies().unzip();
    counts.push(0);
    let buckets = Buckets { bounds: &bounds, counts: &counts };
    let interval = fixed::quantile(&buckets, Quantile::new(quantile).ok()?, alpha()?);
    let lower = interval.lower.max(0.0);
    let upper = interval.upper.min(bounds.last().copied().unwrap_or(found));
    let Lies { found, lower, upper } = Lies::around(found, [Interval { lower, upper }]);
    Some(Lies { found: found * 1e3, lower: lower * 1e3, upper: upper * 1e3 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lies: Option<Lies>, expected: [f64; 3]) {
        let Lies { found, lower, upper } = lies.unwrap();
        for (value, expected) in [found, lower, upper].into_iter().zip(expected) {
            assert!((value - expected).abs() < 5e-4, "{found} {lower} {upper}");
        }
    }

    #[test]
    fn units_that_fail_together_tell_less() {
        let tally = Tally { requests: 100, errors: 10, ..Tally::default() };
        // As statsmodels' proportion_confint(10, 100, method="wilson").
        check(Numbers::from(&tally).error_rate, [0.1, 0.0552, 0.1744]);
        let none = Tally { requests: 100, ..Tally::default() };
        check(Numbers::from(&none).error_rate, [0.0, 0.0, 0.0370]);
        // Ten units of ten requests each, all failures by one of them: 0.1 by a standard error of 0.1.
        let units = UnitMoments {
            units: 10,
            requests: 100.0,
            requests_squares: 1000.0,
            errors: 10.0,
            errors_squares: 100.0,
            errors_requests: 100.0,
            ..UnitMoments::default()
        };
        let observed = Observed { whole: tally, units, ..Observed::default() };
        check(Numbers::from(&observed).error_rate, [0.1, 0.0, 0.2960]);
    }

    #[test]
    fn means_have_intervals() {
        let sum = Sum { count: 4, sum: 10.0, squares: 30.0 };
        let values = BTreeMap::from([("reward".to_owned(), sum)]);
        let numbers = Numbers::from(&Tally { values, ..Tally::default() });
        // As scipy's norm.interval(0.95, 2.5, sem([1, 2, 3, 4])).
        check(numbers.means.get("reward").copied(), [2.5, 1.2348, 3.7652]);
        let once = BTreeMap::from([("reward".to_owned(), Sum::of(1.0))]);
        assert!(Numbers::from(&Tally { values: once, ..Tally::default() }).means.is_empty());
    }
}
