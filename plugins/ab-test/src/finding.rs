//! What is found of an arm beside the first.

use berth_guardrails::Values;
use berth_guardrails::bounds::number;
use berth_statistics::distribution::normal_quantile;
use berth_statistics::{
    Alpha, Comparison, Estimate, Interval, Verdict, fixed, sequential, several,
};

use crate::config::{Aim, Method, Setting};

/// Fewer units than this, in either arm, are no evidence of how much values differ.
const LEAST_UNITS: u64 = 100;

/// What the evidence says of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Result {
    Wins,
    Loses,
    Undecided,
}

/// An arm beside the first.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) result: Result,
    /// How much more of the metric it has, and between what bounds.
    pub(crate) effect: f64,
    pub(crate) interval: Interval,
    /// Corrected for several arms.
    pub(crate) p_value: f64,
    /// Which part of the evidence that a fixed test takes is there.
    pub(crate) progress: f64,
}

/// What is found of each arm but the first, by the values of all.
pub(crate) fn findings(setting: &Setting, values: &[Values]) -> Vec<Finding> {
    let Some((first, others)) = values.split_first() else { return Vec::new() };
    let alpha = setting.alpha.among(others.len());
    let compared: Vec<(Comparison, f64)> =
        others.iter().map(|other| compare(setting, first, other, alpha)).collect();
    let p_values: Vec<f64> = compared.iter().map(|(comparison, _)| comparison.p_value).collect();
    let p_values = several::holm(&p_values);
    // A fixed test looks once, at all arms.
    let due = compared.iter().all(|(_, progress)| *progress >= 1.0);
    let each = compared.into_iter().zip(p_values).map(|((comparison, progress), p_value)| {
        let Comparison { effect, interval, .. } = comparison;
        let result = match setting.config.method {
            Method::Fixed if !due => Result::Undecided,
            Method::Fixed => match judged(setting, effect, interval, p_value) {
                Result::Undecided => Result::Loses,
                result => result,
            },
            Method::Sequential => judged(setting, effect, interval, p_value),
        };
        Finding { result, effect, interval, p_value, progress }
    });
    each.collect()
}

/// The comparison, and which part of the evidence for a fixed test is there.
fn compare(setting: &Setting, first: &Values, other: &Values, alpha: Alpha) -> (Comparison, f64) {
    let difference = other.estimate() - first.estimate();
    match setting.config.method {
        Method::Sequential => {
            let comparison = sequential::difference(difference, alpha, setting.effect);
            (comparison, 0.0)
        }
        Method::Fixed => {
            let progress = progress(setting, difference, alpha);
            (fixed::difference(difference, alpha), progress)
        }
    }
}

/// Beside the variance that a difference is to come down to: (effect / (z₁₋α⸝₂ + z_power))².
fn progress(setting: &Setting, difference: Estimate, alpha: Alpha) -> f64 {
    let varies = difference.variance > 0.0;
    if difference.units < LEAST_UNITS || !varies {
        return 0.0;
    }
    let reach = -normal_quantile(0.5 * alpha.value()) + normal_quantile(setting.power.value());
    let error = setting.effect.value() / reach;
    error * error / difference.variance
}

/// What an arm comes to by how much more it has.
fn judged(setting: &Setting, effect: f64, interval: Interval, p_value: f64) -> Result {
    let sign = setting.sign();
    let worth = setting.effect.value();
    let turned = match sign > 0.0 {
        true => interval,
        false => Interval { lower: -interval.upper, upper: -interval.lower },
    };
    match setting.config.aim {
        Aim::NotWorse => match turned.at_least(-worth) {
            Verdict::Holds => Result::Wins,
            Verdict::Broken => Result::Loses,
            Verdict::Inconclusive => Result::Undecided,
        },
        Aim::Better if p_value <= setting.alpha.value() && sign * effect > 0.0 => Result::Wins,
        Aim::Better if p_value <= setting.alpha.value() => Result::Loses,
        // Whatever it is better by is not worth the change.
        Aim::Better if turned.upper < worth => Result::Loses,
        Aim::Better => Result::Undecided,
    }
}

impl Finding {
    /// In words.
    pub(crate) fn words(&self, setting: &Setting, arm: usize, values: &[Values]) -> String {
        let name = setting.config.metric.name();
        let of = |at: usize| match values[at].count {
            0 => format!("{}: nothing", setting.arms[at]),
            count => format!("{}: {} in {count}", setting.arms[at], number(values[at].mean())),
        };
        let effect = match self.effect.is_finite() {
            true => format!(", by {} ({})", number(self.effect), self.bounds()),
            false => String::new(),
        };
        let result = match self.result {
            Result::Wins if setting.config.aim == Aim::NotWorse => "is not worse",
            Result::Wins => "is better",
            Result::Loses => "is not better",
            Result::Undecided => "may be better or not",
        };
        let progress = match setting.config.method {
            Method::Fixed if self.progress < 1.0 => {
                format!(", {} % of the evidence", (self.progress * 100.0).floor())
            }
            _ => String::new(),
        };
        format!(
            "{name} of {}, {}{effect}: {} {result}{progress}",
            of(arm),
            of(0),
            setting.arms[arm]
        )
    }

    /// The bounds of the effect.
    pub(crate) fn bounds(&self) -> String {
        format!("{} to {}", number(self.interval.lower), number(self.interval.upper))
    }
}
