//! What was observed, as sums: how much it is does not depend on how many requests there were.
//!
//! A **unit** is what was assigned to an arm at random: a user where assignment is sticky, else a
//! request. Units are independent, the requests of one unit are not; so every count of units here
//! is of units, and what a unit did several times is summed up first.

use std::ops::Sub;

/// A guess and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The best guess.
    pub value: f64,
    /// The variance of the guess itself, its standard error squared: not that of a unit.
    pub variance: f64,
    /// How many units it stands on.
    pub units: u64,
}

impl Estimate {
    /// The square root of the variance.
    pub fn standard_error(&self) -> f64 {
        self.variance.sqrt()
    }

    /// Whether it is a number with an error of which something is known.
    pub(crate) fn is_known(&self) -> bool {
        self.value.is_finite() && self.variance.is_finite() && self.variance > 0.0
    }
}

impl Sub for Estimate {
    type Output = Self;

    /// The difference of two that are independent, such as those of two arms; it stands on the
    /// fewer units.
    fn sub(self, other: Self) -> Self {
        Self {
            value: self.value - other.value,
            variance: self.variance + other.variance,
            units: self.units.min(other.units),
        }
    }
}

/// Count, sum and sum of squares of one value for each unit: a policy's `measure`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// How many units.
    pub count: u64,
    /// The sum of their values.
    pub sum: f64,
    /// The sum of their values' squares.
    pub sum_of_squares: f64,
}

impl Moments {
    /// Adds the value of one more unit.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.sum_of_squares += value * value;
    }

    /// The variance of the values, with count − 1; NaN for fewer than two.
    pub fn variance(&self) -> f64 {
        if self.count < 2 {
            return f64::NAN;
        }
        let count = self.count as f64;
        (self.sum_of_squares - self.sum * self.sum / count).max(0.0) / (count - 1.0)
    }

    /// The mean, with variance / count.
    pub fn estimate(&self) -> Estimate {
        let count = self.count as f64;
        Estimate { value: self.sum / count, variance: self.variance() / count, units: self.count }
    }
}

/// How many of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proportion {
    /// How many units it happened to.
    pub successes: u64,
    /// How many units there are. Fewer than successes make no sense, and are taken for no data.
    pub trials: u64,
}

impl Proportion {
    /// Successes by trials; NaN without trials.
    pub fn rate(&self) -> f64 {
        if self.successes > self.trials {
            return f64::NAN;
        }
        self.successes as f64 / self.trials as f64
    }

    /// Successes and failures, both 0 when the counts make no sense.
    pub(crate) fn counts(&self) -> (f64, f64) {
        match self.trials.checked_sub(self.successes) {
            Some(failures) => (self.successes as f64, failures as f64),
            None => (0.0, 0.0),
        }
    }

    /// The rate, with the variance that one more success and one more failure would give, so that
    /// none of a thousand is not taken for certainty (Agresti and Caffo 2000, The American
    /// Statistician 54:280).
    pub fn estimate(&self) -> Estimate {
        let trials = self.trials as f64;
        let rate = (self.successes as f64 + 1.0) / (trials + 2.0);
        Estimate { value: self.rate(), variance: rate * (1.0 - rate) / trials, units: self.trials }
    }
}

/// A ratio of two sums over units, such as errors by requests where a unit sends several requests,
/// or weighted rewards by weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ratio {
    /// How many units.
    pub units: u64,
    /// The sum of the numerators, one for each unit.
    pub numerator: f64,
    /// The sum of the denominators, one for each unit.
    pub denominator: f64,
    /// The sum of the numerators' squares.
    pub numerator_squares: f64,
    /// The sum of the denominators' squares.
    pub denominator_squares: f64,
    /// The sum of numerator times denominator of each unit.
    pub products: f64,
}

impl Ratio {
    /// Adds one more unit.
    pub fn add(&mut self, numerator: f64, denominator: f64) {
        self.units += 1;
        self.numerator += numerator;
        self.denominator += denominator;
        self.numerator_squares += numerator * numerator;
        self.denominator_squares += denominator * denominator;
        self.products += numerator * denominator;
    }

    /// R = Σy / Σn, with variance U/(U−1) · Σ(y − R n)² / (Σn)² over U units: the delta method, the
    /// same as errors that are robust to clusters (Deng, Knoblich and Lu 2018, arXiv
    /// 1803.06336).
    pub fn estimate(&self) -> Estimate {
        let value = self.numerator / self.denominator;
        let residuals = self.numerator_squares - 2.0 * value * self.products
            + value * value * self.denominator_squares;
        let units = self.units as f64;
        let variance = if self.units < 2 {
            f64::NAN
        } else {
            units / (units - 1.0) * residuals.max(0.0) / (self.denominator * self.denominator)
        };
        Estimate { value, variance, units: self.units }
    }
}

/// Counts of values by bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buckets<'a> {
    /// The upper bound of each bucket but the last, rising; a value equal to it belongs to it.
    pub bounds: &'a [f64],
    /// How many values each bucket has: one more than bounds, the last for what is above all.
    pub counts: &'a [u64],
}

impl Buckets<'_> {
    /// Each bound with the count of values at or below it, and the count of all; `None` when the
    /// two lists do not fit each other.
    pub(crate) fn cumulative(&self) -> Option<(impl Iterator<Item = (f64, u64)>, u64)> {
        let rising = self.bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if self.counts.len() != self.bounds.len() + 1 || !rising {
            return None;
        }
        let total = self.counts.iter().try_fold(0u64, |total, &count| total.checked_add(count))?;
        let below = self.bounds.iter().zip(self.counts).scan(0, |below, (&bound, &count)| {
            *below += count;
            Some((bound, *below))
        });
        Some((below, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_give_what_values_give() {
        let (mut moments, mut ratio) = (Moments::default(), Ratio::default());
        for (value, weight) in [(1.0, 1.0), (2.0, 3.0), (6.0, 2.0)] {
            moments.add(value);
            ratio.add(value, weight);
        }
        assert_eq!((moments.estimate().value, moments.variance()), (3.0, 7.0));
        // Residuals 1 − 1.5, 2 − 4.5 and 6 − 3.
        let estimate = ratio.estimate();
        assert_eq!((estimate.value, estimate.variance), (1.5, 1.5 * 15.5 / 36.0));
    }

    #[test]
    fn nothing_is_not_known() {
        let none = Proportion { successes: 2, trials: 1 };
        for estimate in [
            Moments::default().estimate(),
            Moments { count: 1, sum: 1.0, sum_of_squares: 1.0 }.estimate(),
            Moments { count: 9, sum: 9.0, sum_of_squares: 9.0 }.estimate(),
            Moments { count: 9, sum: f64::NAN, sum_of_squares: 9.0 }.estimate(),
            Proportion::default().estimate(),
            none.estimate(),
            Ratio::default().estimate(),
        ] {
            assert!(!estimate.is_known(), "{estimate:?}");
        }
        assert_eq!(none.counts(), (0.0, 0.0));
        assert!(Proportion { successes: 0, trials: 9 }.estimate().is_known());
    }

    #[test]
    fn buckets_fit_their_bounds() {
        let fits = |bounds, counts| Buckets { bounds, counts }.cumulative().is_some();
        assert!(fits(&[1.0, 2.0], &[0, 1, 2]));
        assert!(!fits(&[1.0, 2.0], &[0, 1]));
        assert!(!fits(&[2.0, 1.0], &[0, 1, 2]));
        assert!(!fits(&[1.0], &[u64::MAX, 1]));
    }
}
