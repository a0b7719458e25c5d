//! The draw of an arm from shares.

use berth_plugin::Share;

/// Shares are kept in ten-thousandths.
const BUCKETS: u32 = 10_000;

/// The outcome of a draw for one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// The arm's index.
    pub arm: usize,
    /// The probability, above 0 to 1, with which it was drawn.
    pub propensity: f64,
    /// Why, in a router's words; empty where none was asked.
    pub reason: String,
    /// Arms to try, in order, when the drawn one cannot answer.
    pub fallbacks: Vec<usize>,
    /// Arms that get a copy.
    pub shadows: Vec<usize>,
}

impl Drawn {
    /// The next arm to try once the drawn one has failed, from place `next` on.
    pub(crate) fn fallback(&self, next: &mut usize) -> Option<usize> {
        let arm = self.fallbacks[*next..].iter().position(|&arm| arm != self.arm)?;
        *next += arm + 1;
        Some(self.fallbacks[*next - 1])
    }

    /// Where there was no choice.
    pub(crate) fn certain(arm: usize) -> Self {
        Self::from((arm, 1.0))
    }
}

impl From<(usize, f64)> for Drawn {
    fn from((arm, propensity): (usize, f64)) -> Self {
        Self { arm, propensity, ..Self::default() }
    }
}

/// Shares ready to be drawn from.
///
/// A unit falls into one of 10,000 buckets by a hash of the salt and the unit. The arms after the
/// first take the buckets from 0 upwards and the first takes the rest, so that raising the share of
/// a second arm only ever moves units towards it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Arms with a share, with the bucket below which each ends, ascending.
    ends: Vec<(usize, u32)>,
}

impl Shares {
    /// From weights that are finite, not negative and not all zero, one for each arm.
    pub fn from_weights(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let mut order: Vec<usize> = (1..weights.len()).collect();
        order.push(0);
        let mut sum = 0.0;
        let mut ends: Vec<(usize, u32)> = Vec::with_capacity(order.len());
        for arm in order {
            let weight = weights.get(arm).copied().unwrap_or(0.0);
            sum += weight;
            let end = (sum / total * f64::from(BUCKETS)).round() as u32;
            if weight > 0.0 && end > ends.last().map_or(0, |&(_, end)| end) {
                ends.push((arm, end));
            }
        }
        if let Some(last) = ends.last_mut() {
            last.1 = BUCKETS;
        }
        Self { ends }
    }

    /// From a decision's shares among `arms` arms.
    pub fn from_decision(shares: &[Share], arms: usize) -> Self {
        let mut weights = vec![0.0; arms];
        for share in shares {
            weights[share.arm] = share.weight;
        }
        Self::from_weights(&weights)
    }

    /// The arm for a hash (`berth_plugin::unit_hash`) and the arm's probability.
    pub fn draw(&self, hash: u64) -> (usize, f64) {
        let bucket = (hash % u64::from(BUCKETS)) as u32;
        let mut start = 0;
        for &(arm, end) in &self.ends {
            if bucket < end {
                return (arm, f64::from(end - start) / f64::from(BUCKETS));
            }
            start = end;
        }
        (0, 1.0)
    }

    /// The share of each of `arms` arms, 0 to 1.
    pub fn probabilities(&self, arms: usize) -> Vec<f64> {
        let mut probabilities = vec![0.0; arms];
        let mut start = 0;
        for &(arm, end) in &self.ends {
            probabilities[arm] = f64::from(end - start) / f64::from(BUCKETS);
            start = end;
        }
        probabilities
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(weights: &[f64]) -> Vec<usize> {
        let shares = Shares::from_weights(weights);
        let hash = |user: u32| berth_plugin::unit_hash("salt", Some(&user.to_string()), 0);
        (0..20_000).map(|user| shares.draw(hash(user)).0).collect()
    }

    #[test]
    fn shares_are_kept() {
        for weights in
            [&[90.0, 10.0][..], &[1.0, 0.0], &[0.0, 1.0], &[1.0, 2.0, 7.0], &[0.5, 0.0, 0.5]]
        {
            let arms = chosen(weights);
            let total: f64 = weights.iter().sum();
            let stated = Shares::from_weights(weights).probabilities(weights.len());
            for (arm, weight) in weights.iter().enumerate() {
                let share =
                    arms.iter().filter(|&&chosen| chosen == arm).count() as f64 / arms.len() as f64;
                // Four standard errors of a share of one half among 20,000.
                assert!(
                    (share - weight / total).abs() < 0.015,
                    "{weights:?}: arm {arm} got {share}"
                );
                assert!((stated[arm] - weight / total).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn raising_a_share_only_moves_units_towards_it() {
        let (five, fifty) = (chosen(&[95.0, 5.0]), chosen(&[50.0, 50.0]));
        assert!(five.iter().zip(&fifty).all(|(before, after)| before <= after));
    }

    #[test]
    fn a_weight_too_small_for_a_bucket_takes_none() {
        assert_eq!(Shares::from_weights(&[1.0, 1e-9]).probabilities(2), [1.0, 0.0]);
        assert_eq!(Shares::from_weights(&[1e-9, 1.0]).probabilities(2), [0.0, 1.0]);
    }
}
