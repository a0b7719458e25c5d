//! Who was assigned to what, and what became of it, while shares stood still.

/// First exposures of units to arms while shares stood still. When shares change, a new stage
/// begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exposures<'a> {
    /// How many units each arm saw for the first time.
    pub units: &'a [u64],
    /// The share each arm was to get, relative to the others.
    pub shares: &'a [f64],
}

impl Exposures<'_> {
    /// Whether a unit is at an arm that was to get none.
    pub(crate) fn impossible(&self) -> bool {
        self.units.iter().zip(self.shares).any(|(&units, &share)| units > 0 && share == 0.0)
    }

    /// Units and share of each arm that was to get some, the shares adding up to 1, and all units;
    /// `None` when shares are no shares.
    pub(crate) fn arms(&self) -> Option<(Vec<(f64, f64)>, f64)> {
        let sum: f64 = self.shares.iter().sum();
        let fit = self.shares.iter().all(|&share| share >= 0.0) && sum > 0.0 && sum.is_finite();
        if self.units.len() != self.shares.len() || !fit {
            return None;
        }
        let arms = self.units.iter().zip(self.shares).filter(|&(_, &share)| share > 0.0);
        let arms: Vec<_> = arms.map(|(&units, &share)| (units as f64, share / sum)).collect();
        let total = arms.iter().map(|&(units, _)| units).sum();
        Some((arms, total))
    }
}

/// Events of two arms, such as units that saw an error, while the shares of the two stood still.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Events {
    /// Those of the baseline.
    pub baseline: u64,
    /// Those of the candidate.
    pub candidate: u64,
    /// The candidate's part of what the two arms got together.
    pub share: crate::Share,
}

impl Events {
    /// The candidate's part of the events when they are so many times as frequent there.
    pub(crate) fn part(&self, ln_ratio: f64) -> f64 {
        let share = self.share.value();
        1.0 / (1.0 + libm::exp(-ln_ratio) * (1.0 - share) / share)
    }
}
