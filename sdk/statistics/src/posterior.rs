//! What an arm may be worth, given what it earned: for bandits.

use std::f64::consts::TAU;

use libm::{exp, log, log1p, sqrt};

use crate::distribution::{beta_cdf, beta_quantile, ln_beta, normal_cdf, normal_quantile};
use crate::{Estimate, Proportion, Random};

/// What one arm's mean reward may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Posterior {
    /// Of rewards that come or do not: Beta(a, b), both at least 1.
    Beta {
        /// Rewards that came, and 1.
        a: f64,
        /// Rewards that did not come, and 1.
        b: f64,
    },
    /// Of rewards of any size, over dozens of units.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard error of the mean.
        deviation: f64,
    },
}

impl Posterior {
    /// Of a rate, before which any was as likely: Beta(successes + 1, failures + 1). Count as
    /// trials only what had time to succeed.
    pub fn of_rate(observed: Proportion) -> Self {
        let (successes, failures) = observed.counts();
        Self::Beta { a: successes + 1.0, b: failures + 1.0 }
    }

    /// Of a mean, before which any was as likely; `None` when nothing is known of it.
    pub fn of_mean(estimate: Estimate) -> Option<Self> {
        let deviation = estimate.standard_error();
        estimate.is_known().then_some(Self::Normal { mean: estimate.value, deviation })
    }

    /// One that may be the truth: Thompson sampling chooses the arm whose draw is highest.
    pub fn draw(&self, random: &mut Random) -> f64 {
        match *self {
            Self::Beta { a, b } => random.beta(a, b),
            Self::Normal { mean, deviation } => mean + deviation * random.normal(),
        }
    }

    /// The probability of `value` or less.
    pub fn cdf(&self, value: f64) -> f64 {
        match *self {
            Self::Beta { a, b } => beta_cdf(a, b, value),
            Self::Normal { mean, deviation } => normal_cdf((value - mean) / deviation),
        }
    }

    /// The value below which the truth is with a probability.
    pub fn quantile(&self, probability: f64) -> f64 {
        match *self {
            Self::Beta { a, b } => beta_quantile(a, b, probability),
            Self::Normal { mean, deviation } => mean + deviation * normal_quantile(probability),
        }
    }

    /// How likely a value is, beside others.
    fn density(&self, value: f64) -> f64 {
        match *self {
            Self::Beta { a, b } => {
                exp((a - 1.0) * log(value) + (b - 1.0) * log1p(-value) - ln_beta(a, b))
            }
            Self::Normal { mean, deviation } => {
                let z = (value - mean) / deviation;
                exp(-0.5 * z * z) / (deviation * sqrt(TAU))
            }
        }
    }

    /// Mean, standard deviation, least and most.
    fn shape(&self) -> (f64, f64, f64, f64) {
        match *self {
            Self::Beta { a, b } => {
                let mean = a / (a + b);
                (mean, sqrt(mean * (1.0 - mean) / (a + b + 1.0)), 0.0, 1.0)
            }
            Self::Normal { mean, deviation } => (mean, deviation, f64::NEG_INFINITY, f64::INFINITY),
        }
    }

    /// Points close enough to each other for its density, and sparser ones in its tails.
    fn points(&self) -> impl Iterator<Item = f64> {
        let (mean, deviation, least, most) = self.shape();
        let near = (-32..=32).map(|step| f64::from(step) / 4.0);
        let far = (9..=32).flat_map(|step| [f64::from(-step), f64::from(step)]);
        near.chain(far).map(move |z| (mean + z * deviation).clamp(least, most))
    }
}

/// The probability of each arm that it is the best, which Thompson sampling makes its share:
/// ∫ Π_{j≠i} Fⱼ dFᵢ, to six digits behind the point; NaN where
/// an arm's numbers make no distribution. Its work grows with the square of the number of
/// arms.
pub fn probability_best(arms: &[Posterior]) -> Vec<f64> {
    let narrowest = arms.iter().map(|arm| arm.shape().1).fold(f64::INFINITY, f64::min);
    let mut points: Vec<f64> = arms.iter().flat_map(Posterior::points).collect();
    points.sort_by(f64::total_cmp);
    // What is closer than any arm needs only costs time.
    let end = points.last().copied();
    points.dedup_by(|point, before| *point - *before < narrowest / 8.0);
    if let (Some(last), Some(end)) = (points.last_mut(), end) {
        *last = end;
    }
    let mut best = vec![0.0; arms.len()];
    let mut below = vec![0.0; arms.len()];
    let mut others = vec![0.0; arms.len()];
    for pair in points.windows(2) {
        let width = pair[1] - pair[0];
        let densities: Vec<[f64; 3]> =
            arms.iter().map(|arm| NODES.map(|node| arm.density(pair[0] + node * width))).collect();
        let sum = |weights: [f64; 3], densities: &[f64; 3]| {
            width * weights.iter().zip(densities).map(|(weight, value)| weight * value).sum::<f64>()
        };
        for (node, weights) in INNER.into_iter().enumerate() {
            let at = below.iter().zip(&densities);
            let at: Vec<f64> = at.map(|(below, of)| below + sum(weights, of)).collect();
            // The product of all others: of those before, times those after.
            let mut product = 1.0;
            for (others, at) in others.iter_mut().zip(&at) {
                *others = product;
                product *= at;
            }
            product = 1.0;
            for arm in (0..arms.len()).rev() {
                best[arm] += width * WEIGHTS[node] * densities[arm][node] * others[arm] * product;
                product *= at[arm];
            }
        }
        for (below, densities) in below.iter_mut().zip(&densities) {
            *below += sum(WEIGHTS, densities);
        }
    }
    let sum: f64 = best.iter().sum();
    best.iter().map(|best| best / sum).collect()
}

const ROOT: f64 = 3.872_983_346_207_417;
/// Gauss and Legendre's rule of three between 0 and 1: where, and with what weights up to 1.
const NODES: [f64; 3] = [0.5 - ROOT / 10.0, 0.5, 0.5 + ROOT / 10.0];
const WEIGHTS: [f64; 3] = [5.0 / 18.0, 4.0 / 9.0, 5.0 / 18.0];
/// The same with weights up to each node.
const INNER: [[f64; 3]; 3] = [
    [5.0 / 36.0, 2.0 / 9.0 - ROOT / 15.0, 5.0 / 36.0 - ROOT / 30.0],
    [5.0 / 36.0 + ROOT / 24.0, 2.0 / 9.0, 5.0 / 36.0 - ROOT / 24.0],
    [5.0 / 36.0 + ROOT / 30.0, 2.0 / 9.0 + ROOT / 15.0, 5.0 / 36.0],
];
