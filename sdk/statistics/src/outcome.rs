//! What comes out: intervals, comparisons and what they decide.

use crate::Alpha;

/// What the evidence says of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Kept, as far as alpha goes.
    Holds,
    /// Broken, as far as alpha goes.
    Broken,
    /// Either may be: there is too little evidence, or none.
    Inconclusive,
}

/// What the evidence says of a candidate beside a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The candidate has more of it.
    Higher,
    /// The candidate has less of it.
    Lower,
    /// Either may be: there is too little evidence, or none.
    Undecided,
}

/// Where the truth lies, with probability 1 − alpha. Bounds are infinite, or those of what is
/// possible, where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The lower bound.
    pub lower: f64,
    /// The upper bound.
    pub upper: f64,
}

impl Interval {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { lower: f64::NEG_INFINITY, upper: f64::INFINITY };

    /// What lies up to `radius` around `centre`; unknown when that is no number.
    pub(crate) fn around(centre: f64, radius: f64) -> Self {
        if centre.is_finite() && radius.is_finite() {
            Self { lower: centre - radius, upper: centre + radius }
        } else {
            Self::UNKNOWN
        }
    }

    /// Whether the truth is `limit` or less. For an effect, whether the candidate is higher by no
    /// more than a margin: non-inferiority where higher is worse.
    pub fn at_most(&self, limit: f64) -> Verdict {
        if self.upper <= limit {
            Verdict::Holds
        } else if self.lower > limit {
            Verdict::Broken
        } else {
            Verdict::Inconclusive
        }
    }

    /// Whether the truth is `limit` or more: a floor. For an effect and a limit of −margin,
    /// non-inferiority where lower is worse.
    pub fn at_least(&self, limit: f64) -> Verdict {
        if self.lower >= limit {
            Verdict::Holds
        } else if self.upper < limit {
            Verdict::Broken
        } else {
            Verdict::Inconclusive
        }
    }

    /// Whether a value is not excluded.
    pub fn contains(&self, value: f64) -> bool {
        self.lower <= value && value <= self.upper
    }
}

/// A candidate beside a baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The best guess: candidate less baseline, or candidate by baseline where the method says
    /// ratio. NaN where there is nothing to guess by.
    pub effect: f64,
    /// Where the true effect lies.
    pub interval: Interval,
    /// The smallest alpha at which there would be a decision; 1 where nothing is known.
    pub p_value: f64,
    /// Which of the two has more, when `p_value` is at most alpha.
    pub decision: Decision,
}

impl Comparison {
    /// `same` is the effect of equal arms: 0 for a difference, 1 for a ratio.
    pub(crate) fn new(
        effect: f64,
        interval: Interval,
        p_value: f64,
        same: f64,
        alpha: Alpha,
    ) -> Self {
        let decision = if p_value <= alpha.value() && effect > same {
            Decision::Higher
        } else if p_value <= alpha.value() && effect < same {
            Decision::Lower
        } else {
            Decision::Undecided
        };
        let p_value = if p_value.is_nan() { 1.0 } else { p_value.clamp(0.0, 1.0) };
        Self { effect, interval, p_value, decision }
    }

    pub(crate) fn unknown(effect: f64) -> Self {
        let decision = Decision::Undecided;
        Self { effect, interval: Interval::UNKNOWN, p_value: 1.0, decision }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_or_broken_only_by_evidence() {
        let check = |lower, upper, most, least| {
            let interval = Interval { lower, upper };
            assert_eq!((interval.at_most(1.0), interval.at_least(1.0)), (most, least));
        };
        check(0.0, 0.9, Verdict::Holds, Verdict::Broken);
        check(0.0, 1.0, Verdict::Holds, Verdict::Inconclusive);
        check(0.0, 1.1, Verdict::Inconclusive, Verdict::Inconclusive);
        check(1.0, 1.1, Verdict::Inconclusive, Verdict::Holds);
        check(1.1, 1.2, Verdict::Broken, Verdict::Holds);
        check(f64::NEG_INFINITY, f64::INFINITY, Verdict::Inconclusive, Verdict::Inconclusive);
        check(f64::NAN, f64::NAN, Verdict::Inconclusive, Verdict::Inconclusive);
    }

    #[test]
    fn no_number_decides_nothing() {
        let alpha = Alpha::new(0.05).unwrap();
        for (effect, p_value) in [(f64::NAN, 0.0), (1.0, f64::NAN), (0.0, 0.0)] {
            let comparison = Comparison::new(effect, Interval::UNKNOWN, p_value, 0.0, alpha);
            assert_eq!(comparison.decision, Decision::Undecided);
        }
    }
}
