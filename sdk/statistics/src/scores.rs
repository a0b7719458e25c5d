//! How good predictions are whose labels came, with the error of the score.

use crate::{Estimate, Moments, Proportion};

/// Predictions of two classes, by what was predicted and what was right. Accuracy of more classes
/// is a [`Proportion`] of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Predicted positive, and so it was.
    pub true_positives: u64,
    /// Predicted positive, and it was not.
    pub false_positives: u64,
    /// Predicted negative, and it was not.
    pub false_negatives: u64,
    /// Predicted negative, and so it was.
    pub true_negatives: u64,
}

impl Confusion {
    /// Right predictions of all.
    pub fn accuracy(&self) -> Proportion {
        let right = self.true_positives + self.true_negatives;
        Proportion { successes: right, trials: right + self.false_positives + self.false_negatives }
    }

    /// Positives of what was predicted positive.
    pub fn precision(&self) -> Proportion {
        let trials = self.true_positives + self.false_positives;
        Proportion { successes: self.true_positives, trials }
    }

    /// What was predicted positive of the positives.
    pub fn recall(&self) -> Proportion {
        let trials = self.true_positives + self.false_negatives;
        Proportion { successes: self.true_positives, trials }
    }
}

/// The area under the receiver operating characteristic: the probability that a positive has a
/// higher score than a negative, ties counted half. From counts of scores by rising buckets, as
/// many of positives as of negatives, so that within a bucket all are ties. Variance by DeLong,
/// DeLong and Clarke-Pearson (1988, Biometrics 44:837). NaN without positives or negatives.
pub fn roc_auc(positives: &[u64], negatives: &[u64]) -> Estimate {
    // Of the scores of one class in each bucket, the moments of how much of the other is below.
    let moments = |own: &[u64], other: &[u64]| {
        let all: f64 = other.iter().map(|&count| count as f64).sum();
        let (mut below, mut moments) = (0.0, Moments::default());
        for (&own, &other) in own.iter().zip(other) {
            let part = (below + 0.5 * other as f64) / all;
            below += other as f64;
            moments.count += own;
            moments.sum += own as f64 * part;
            moments.sum_of_squares += own as f64 * part * part;
        }
        moments.estimate()
    };
    let (area, rest) = (moments(positives, negatives), moments(negatives, positives));
    let fit = positives.len() == negatives.len();
    Estimate {
        value: if fit { area.value } else { f64::NAN },
        variance: area.variance + rest.variance,
        units: area.units.min(rest.units),
    }
}

/// The root of the mean squared error, from the moments of squared errors: variance V / (4 m) with
/// m the mean and V its variance (delta method). The mean absolute error is the estimate of the
/// moments of absolute errors as it is.
pub fn root_mean_square(squared_errors: &Moments) -> Estimate {
    let mean = squared_errors.estimate();
    Estimate {
        value: mean.value.sqrt(),
        variance: mean.variance / (4.0 * mean.value),
        units: mean.units,
    }
}
