//! What was observed of an arm, in numbers for people: each with where the truth lies.

use std::collections::BTreeMap;

use berth_monitor::{Lately, Observed, Sum, Tally, UnitMoments, ValueMoments};
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
    /// The lower bound; infinite, in JSON null, where none is known.
    pub lower: f64,
    /// The same above.
    pub upper: f64,
}

impl Lies {
    /// In the narrowest range that holds all of the intervals.
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
    /// they come together. Of slices that is known of what came since the plan of the policy changed.
    fn from(observed: &Observed) -> Self {
        let slice = |(name, tally): (&String, &Tally)| {
            let lately = observed.lately.iter().find(|(slice, _)| slice.as_ref() == Some(name));
            let Some((_, lately)) = lately else { return (name.clone(), Self::from(tally)) };
            let by_units = || worst(tally, alike(lately)?, alpha()?);
            (name.clone(), Self::of(tally, by_units(), &lately.values))
        };
        let (whole, units) = (&observed.whole, &observed.units);
        Self {
            slices: observed.slices.iter().map(slice).collect(),
            ..Self::of(whole, errors_by_units(whole, units), &units.values)
        }
    }
}

impl From<&Tally> for Numbers {
    fn from(tally: &Tally) -> Self {
        Self::of(tally, None, &BTreeMap::new())
    }
}

impl Numbers {
    /// With where the error rate lies by units, and their values.
    fn of(
        tally: &Tally,
        errors: Option<Interval>,
        values: &BTreeMap<String, ValueMoments>,
    ) -> Self {
        let mean = |(name, sum): (&String, &Sum)| {
            let of_units = values.get(name).copied().unwrap_or_default();
            Some((name.clone(), mean(sum, &of_units)?))
        };
        Self {
            requests: tally.requests,
            errors: tally.errors,
            refused: tally.refused,
            error_rate: error_rate(tally, errors),
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

fn error_rate(tally: &Tally, by_units: Option<Interval>) -> Option<Lies> {
    let failed = Proportion { successes: tally.errors, trials: tally.requests };
    let by_requests = fixed::proportion(failed, alpha().filter(|_| failed.trials > 0)?);
    Some(Lies::around(failed.rate(), [Some(by_requests), by_units].into_iter().flatten()))
}

/// Where the error rate lies by how much more or less of each unit's requests fail, and where all
/// units are the same in that, by as many as there are of them.
fn errors_by_units(tally: &Tally, units: &UnitMoments) -> Option<Interval> {
    let alpha = alpha()?;
    let of_units = Ratio {
        units: units.units,
        numerator: units.errors,
        denominator: units.requests,
        numerator_squares: units.errors_squares,
        denominator_squares: units.requests_squares,
        products: units.errors_requests,
    };
    let rate = tally.errors as f64 / tally.requests as f64;
    let known = by_units(rate, &of_units, tally.requests, alpha).map(|interval| Interval {
        lower: interval.lower.max(0.0),
        upper: interval.upper.min(1.0),
    });
    let of = |sum: f64, squares: f64| if sum > 0.0 { squares / sum } else { 0.0 };
    let failing = of(units.failing.sum, units.failing.squares);
    let alike = of(units.requests, units.requests_squares).max(failing);
    // A unit beyond the sample may have failed more than any of it.
    let sampled = known.filter(|_| failing <= of(units.errors, units.errors_squares));
    let at_worst = || (units.units > 0).then(|| worst(tally, alike, alpha)).flatten();
    sampled.or_else(|| match (known, at_worst()) {
        (Some(one), Some(other)) => {
            Some(Interval { lower: one.lower.min(other.lower), upper: one.upper.max(other.upper) })
        }
        (one, other) => one.or(other),
    })
}

/// How many requests of a slice tell as much as one would if each were of another unit, at worst: by
/// what each unit has had of them, and of those that failed. None where no unit has had any.
fn alike(lately: &Lately) -> Option<f64> {
    let of = |sum: Sum| (sum.sum > 0.0).then(|| sum.squares / sum.sum);
    Some(of(lately.requests)?.max(of(lately.errors).unwrap_or(1.0)))
}

/// Where the error rate lies when all that a unit has comes to the same, so that so many requests
/// tell as much as one: of so many fewer, as it would of requests (the design effect of Kish
/// 1965, Survey Sampling).
fn worst(tally: &Tally, alike: f64, alpha: Alpha) -> Option<Interval> {
    let units = (tally.requests as f64 / alike.max(1.0)).round().max(1.0);
    let failed = tally.errors as f64 / tally.requests as f64 * units;
    let of_units = Proportion { successes: failed.round() as u64, trials: units as u64 };
    (tally.requests > 0).then(|| fixed::proportion(of_units, alpha))
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
    let of_units = match units.units {
        // All are of one, which tells nothing of others.
        1 if units.counts >= moments.count as f64 => Some(Interval::UNKNOWN),
        _ => by_units(mean.value, &of_units, moments.count, alpha),
    };
    Some(Lies::around(
        mean.value,
        [Some(fixed::estimate(mean, alpha)), of_units].into_iter().flatten(),
    ))
}

/// The interval of a ratio over units around what was found in all requests, where a sample of the
/// units is kept: the more of the `count` requests are not theirs, the narrower. None where all units
/// are the same.
fn by_units(found: f64, units: &Ratio, count: u64, alpha: Alpha) -> Option<Interval> {
    let estimate = units.estimate();
    let part = (units.denominator / count as f64).min(1.0);
    let estimate = Estimate { value: found, variance: estimate.variance * part, ..estimate };
    // Below that it is rounding.
    let least = 1e-12 * units.numerator_squares / (units.denominator * units.denominator);
    let known = estimate.variance.is_finite() && estimate.variance > least;
    known.then(|| fixed::estimate(estimate, alpha))
}

/// An upper bound that is above all of the buckets is not known.
fn milliseconds(tally: &Tally, quantile: f64) -> Option<Lies> {
    let found = tally.quantile(quantile)?;
    let (bounds, mut counts): (Vec<f64>, Vec<u64>) = tally.latencies().unzip();
    counts.push(0);
    let buckets = Buckets { bounds: &bounds, counts: &counts };
    let interval = fixed::quantile(&buckets, Quantile::new(quantile).ok()?, alpha()?);
    let interval = Interval { lower: interval.lower.max(0.0), ..interval };
    let Lies { found, lower, upper } = Lies::around(found, [interval]);
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
    fn units_that_are_all_the_same_tell_as_much_as_there_are_of_them() {
        // As proportion_confint(0, 10, method="wilson"), and of 10 and 1 of 10; of one unit, of 0 of 1.
        for (units, errors, expected) in [
            (10, 0, [0.0, 0.0, 0.2775]),
            (10, 100, [1.0, 0.7225, 1.0]),
            (10, 10, [0.1, 0.0179, 0.4042]),
            (1, 0, [0.0, 0.0, 0.7935]),
        ] {
            let (each, all) = (100.0 / units as f64, units as f64);
            let failed = errors as f64 / all;
            let units = UnitMoments {
                units,
                requests: 100.0,
                requests_squares: each * each * all,
                errors: errors as f64,
                errors_squares: failed * failed * all,
                errors_requests: failed * each * all,
                ..UnitMoments::default()
            };
            let whole = Tally { requests: 100, errors, ..Tally::default() };
            let observed = Observed { whole, units, ..Observed::default() };
            check(Numbers::from(&observed).error_rate, expected);
        }
    }

    #[test]
    fn of_slices_units_count_as_they_came_lately() {
        let of = |each: f64, units: usize| {
            (0..units).fold(Sum::default(), |sum, _| sum.with(Sum::of(each)))
        };
        let reward = Sum { count: 40, sum: 20.0, squares: 20.0 };
        let values = BTreeMap::from([("reward".to_owned(), reward)]);
        let tally = Tally { requests: 100, values, ..Tally::default() };
        // Of four units each, two of whose rewards are 1 and two 0: by a standard error of √(1/12).
        let rewards = ValueMoments {
            units: 4,
            sums: 20.0,
            sums_squares: 200.0,
            counts: 40.0,
            counts_squares: 400.0,
            sums_counts: 200.0,
        };
        let lately = Lately {
            requests: of(10.0, 5),
            values: BTreeMap::from([("reward".to_owned(), rewards)]),
            ..Lately::default()
        };
        let observed = Observed {
            slices: BTreeMap::from([("a=1".to_owned(), tally)]),
            lately: vec![(Some("a=1".to_owned()), lately)],
            ..Observed::default()
        };
        let numbers = &Numbers::from(&observed).slices["a=1"];
        check(numbers.error_rate, [0.0, 0.0, 0.2775]);
        check(numbers.means.get("reward").copied(), [0.5, -0.0658, 1.0658]);
    }

    #[test]
    fn of_few_requests_nothing_bounds_the_slowest() {
        let tally = Tally { requests: 7, latency: vec![(40, 7)], ..Tally::default() };
        let numbers = Numbers::from(&tally);
        let (median, p99) = (numbers.median_ms.unwrap(), numbers.p99_ms.unwrap());
        assert!(median.upper.is_finite() && p99.lower > 0.0, "{median:?} {p99:?}");
        assert_eq!(p99.upper, f64::INFINITY);
        assert_eq!(serde_json::to_value(p99).unwrap()["upper"], serde_json::Value::Null);
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
