//! How many units a comparison takes.

use crate::distribution::normal_quantile;
use crate::{Alpha, Effect, Power, Share, sequential};

/// What a comparison is to be able to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Design {
    /// How often it may find what is not there, two-sided.
    pub alpha: Alpha,
    /// How often it is to find what is there.
    pub power: Power,
    /// The candidate's part of the units of both arms.
    pub share: Share,
}

impl Design {
    /// Units of both arms together for [`fixed::means`](crate::fixed::means) to find a difference:
    /// (z₁₋α⸝₂ + z_power)² σ² (1/share + 1/(1 − share)) / effect² + z²₁₋α⸝₂ / 2, the last for
    /// Student's t (Guenther 1981, The American Statistician 35:243). `None` when the standard
    /// deviation is none, or there are more than can be counted.
    pub fn means(&self, standard_deviation: f64, effect: Effect) -> Option<u64> {
        let (reach, power) = self.quantiles();
        let error = effect.value() / (reach + power);
        let each = self.of_one(standard_deviation, standard_deviation)?;
        whole(each / (error * error) + 0.5 * reach * reach)
    }

    /// Units of both arms together for [`fixed::proportions`](crate::fixed::proportions) to tell
    /// two rates apart: (z₁₋α⸝₂ √(p̄(1 − p̄)(1/share + 1/(1 − share))) + z_power S)² / (p′ − p)² with
    /// p̄ the rate of both together and S² = p′(1 − p′)/share + p(1 − p)/(1 − share) (Fleiss, Levin
    /// and Paik 2003, Statistical Methods for Rates and Proportions, chapter 4). `None` when the
    /// rates are equal or no rates.
    pub fn proportions(&self, baseline: f64, candidate: f64) -> Option<u64> {
        let (reach, power) = self.quantiles();
        let share = self.share.value();
        let deviation = |rate: f64| (rate * (1.0 - rate)).sqrt();
        let both = deviation(share * candidate + (1.0 - share) * baseline);
        let same = self.of_one(both, both)?.sqrt();
        let apart = self.of_one(deviation(baseline), deviation(candidate))?.sqrt();
        let total = (reach * same + power * apart) / (candidate - baseline);
        whole(total * total)
    }

    /// The most units of both arms together that [`sequential::means`] takes to find a difference,
    /// when it looks all the time and is tuned to it ([`sequential::power`]); on average it takes
    /// fewer.
    pub fn sequential_means(&self, standard_deviation: f64, effect: Effect) -> Option<u64> {
        self.sequential(self.of_one(standard_deviation, standard_deviation)?, effect)
    }

    /// The most units of both arms together that [`sequential::proportions`] takes to tell two
    /// rates apart, likewise.
    pub fn sequential_proportions(&self, baseline: f64, candidate: f64) -> Option<u64> {
        let deviation = |rate: f64| (rate * (1.0 - rate)).sqrt();
        let each = self.of_one(deviation(baseline), deviation(candidate))?;
        self.sequential(each, Effect::new((candidate - baseline).abs()).ok()?)
    }

    /// Units of both arms together for one look at [`fixed::proportions`](crate::fixed::proportions)
    /// to show that the candidate's rate is higher by less than `margin`, when both have this rate:
    /// (z₁₋α⸝₂ + z_power)² p(1 − p)(1/share + 1/(1 − share)) / margin² (Blackwelder 1982, Controlled
    /// Clinical Trials 3:345, with alpha / 2 for the one side). `None` when the rate is none.
    pub fn not_worse(&self, rate: f64, margin: Effect) -> Option<u64> {
        let (reach, power) = self.quantiles();
        let deviation = (rate * (1.0 - rate)).sqrt();
        let error = margin.value() / (reach + power);
        whole(self.of_one(deviation, deviation)? / (error * error))
    }

    /// The most units of both arms together that [`sequential::guardrail`] takes to show the same,
    /// when it looks all the time; on average it takes fewer.
    pub fn sequential_not_worse(&self, rate: f64, margin: Effect) -> Option<u64> {
        let deviation = (rate * (1.0 - rate)).sqrt();
        let each = self.of_one(deviation, deviation)?;
        // It is two tests, each with half of alpha.
        Self { alpha: self.alpha.among(2), ..*self }.sequential(each, margin)
    }

    fn sequential(&self, each: f64, effect: Effect) -> Option<u64> {
        let truth = effect.value();
        let weak =
            |variance| sequential::power(truth, variance, self.alpha, effect) < self.power.value();
        // Of squared effects; the bounds are beyond any power that is a setting.
        let (mut most, mut least) = (truth * truth, 1e-6 * truth * truth);
        for _ in 0..64 {
            let middle = (most * least).sqrt();
            if weak(middle) { most = middle } else { least = middle }
        }
        whole(each / least)
    }

    /// The variance of a difference, times the units of both arms.
    fn of_one(&self, baseline: f64, candidate: f64) -> Option<f64> {
        let share = self.share.value();
        let variance = candidate * candidate / share + baseline * baseline / (1.0 - share);
        (variance.is_finite() && variance > 0.0).then_some(variance)
    }

    fn quantiles(&self) -> (f64, f64) {
        (-normal_quantile(0.5 * self.alpha.value()), normal_quantile(self.power.value()))
    }
}

fn whole(units: f64) -> Option<u64> {
    let units = units.ceil();
    // Beyond 2⁵³ a number no longer counts units.
    (units <= 9e15).then_some(units as u64)
}
