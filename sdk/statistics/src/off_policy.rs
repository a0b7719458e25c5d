//! What another policy would have earned, from what was logged under this one.

use crate::{Estimate, Moments, Ratio};

/// Rewards of logged decisions, weighted by how much rather the other policy would have taken them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OffPolicy {
    /// Weighted rewards by weights.
    sums: Ratio,
}

impl OffPolicy {
    /// Adds a decision: the probability with which its arm was taken, that with which the other
    /// policy would have taken it, and what it earned. A decision with a propensity that is not
    /// above 0, or anything that is no number, makes every estimate unknown: what could not have
    /// been logged cannot be weighed.
    pub fn add(&mut self, propensity: f64, target: f64, reward: f64) {
        let weight = if propensity > 0.0 && target >= 0.0 { target / propensity } else { f64::NAN };
        self.sums.add(weight * reward, weight);
    }

    /// The mean of weight times reward: unbiased, and far off where weights are large (Horvitz and
    /// Thompson 1952; Li and others 2011, WSDM).
    pub fn weighted(&self) -> Estimate {
        let sums = &self.sums;
        let moments = Moments {
            count: sums.units,
            sum: sums.numerator,
            sum_of_squares: sums.numerator_squares,
        };
        moments.estimate()
    }

    /// Weighted rewards by weights: a little biased for few decisions, and mostly the closer one.
    /// Its variance is that of a ratio (Owen 2013, Monte Carlo theory, methods and examples,
    /// chapter 9).
    pub fn self_normalised(&self) -> Estimate {
        self.sums.estimate()
    }

    /// How many decisions of the other policy these are worth: (Σw)² / Σw² (Owen 2013, chapter 9).
    /// Below some hundreds, or a tenth of what was logged, trust no interval.
    pub fn effective_count(&self) -> f64 {
        let sums = &self.sums;
        if sums.denominator_squares == 0.0 {
            return 0.0;
        }
        sums.denominator * sums.denominator / sums.denominator_squares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_have_been_logged_makes_all_unknown() {
        for (propensity, target, reward) in
            [(0.0, 0.5, 1.0), (0.5, -0.1, 1.0), (f64::NAN, 0.5, 1.0), (0.5, 0.5, f64::NAN)]
        {
            let mut logged = OffPolicy::default();
            logged.add(0.5, 0.5, 1.0);
            logged.add(0.5, 0.1, 0.0);
            assert!(logged.weighted().is_known() && logged.self_normalised().is_known());
            logged.add(propensity, target, reward);
            assert!(!logged.weighted().is_known() && !logged.self_normalised().is_known());
        }
        assert_eq!(OffPolicy::default().effective_count(), 0.0);
    }
}
