//! What a policy would have earned, estimated from draws under another one.

use std::collections::BTreeMap;

use berth_statistics::{Alpha, Estimate, OffPolicy, Ratio, fixed};
use serde::Serialize;

use super::story::Lies;

/// The mean reward that is estimated; none where a variant that was never drawn has a part in it.
#[derive(Clone, Debug, Serialize)]
pub struct Estimated {
    /// Of what.
    pub of: String,
    /// By inverse propensity: unbiased, and far off where weights are large.
    pub inverse_propensity: Option<Lies>,
    /// The same by the sum of the weights: mostly the closer one.
    pub self_normalised: Option<Lies>,
    /// Doubly robust, with each variant's mean reward as the model.
    pub doubly_robust: Option<Lies>,
    /// How many predictions of the policy's own these are worth; below some hundreds trust no
    /// interval.
    pub worth: f64,
}

/// A prediction that counts.
pub(super) struct Draw {
    /// When it came, in seconds after the first.
    pub(super) at: f64,
    /// The number of its unit, or its own where it has none.
    pub(super) unit: usize,
    pub(super) arm: usize,
    pub(super) propensity: f64,
    pub(super) reward: f64,
    /// The shares that the policy would have drawn it from.
    pub(super) shares: Vec<f64>,
}

/// What is to be estimated of draws: of the policy, or of an arm `alone`.
pub(super) fn estimated(
    of: String,
    draws: &[Draw],
    arms: usize,
    alone: Option<usize>,
) -> Estimated {
    let target = |draw: &Draw, arm: usize| match alone {
        Some(alone) => f64::from(u8::from(alone == arm)),
        None => draw.shares[arm],
    };
    let weight = |draw: &Draw| target(draw, draw.arm) / draw.propensity;
    let mut model = vec![(0.0, 0.0); arms];
    for draw in draws {
        model[draw.arm].0 += draw.reward / draw.propensity;
        model[draw.arm].1 += 1.0 / draw.propensity;
    }
    // What was never drawn could have earned anything.
    let unseen = (0..arms)
        .any(|arm| model[arm].1 == 0.0 && draws.iter().any(|draw| target(draw, arm) > 0.0));
    let mean = |arm: usize| match model[arm] {
        (_, 0.0) => 0.0,
        (rewards, weights) => rewards / weights,
    };
    let mut plain = OffPolicy::default();
    draws.iter().for_each(|draw| plain.add(draw.propensity, target(draw, draw.arm), draw.reward));
    // What is of one unit is not independent: units are what varies.
    let (mut inverse, mut normalised, mut robust) =
        (Ratio::default(), Ratio::default(), Ratio::default());
    by_unit(draws.iter().map(|draw| (draw.unit, weight(draw) * draw.reward, 1.0)))
        .for_each(|(sum, count)| inverse.add(sum, count));
    by_unit(draws.iter().map(|draw| (draw.unit, weight(draw) * draw.reward, weight(draw))))
        .for_each(|(sum, weights)| normalised.add(sum, weights));
    let doubly = |draw: &Draw| {
        let expected: f64 = (0..arms).map(|arm| target(draw, arm) * mean(arm)).sum();
        (draw.unit, expected + weight(draw) * (draw.reward - mean(draw.arm)), 1.0)
    };
    by_unit(draws.iter().map(doubly)).for_each(|(sum, count)| robust.add(sum, count));
    Estimated {
        of,
        inverse_propensity: lies(inverse.estimate()).filter(|_| !unseen),
        self_normalised: lies(normalised.estimate()).filter(|_| !unseen),
        doubly_robust: lies(robust.estimate()).filter(|_| !unseen),
        worth: plain.effective_count(),
    }
}

/// Two sums for each unit, in the order of the units.
fn by_unit(values: impl Iterator<Item = (usize, f64, f64)>) -> impl Iterator<Item = (f64, f64)> {
    let mut units: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (unit, first, second) in values {
        let sums = units.entry(unit).or_default();
        sums.0 += first;
        sums.1 += second;
    }
    units.into_values()
}

fn lies(estimate: Estimate) -> Option<Lies> {
    let alpha = Alpha::new(0.05).ok()?;
    let interval = fixed::estimate(estimate, alpha);
    let known = estimate.value.is_finite() && interval.lower.is_finite();
    known.then_some(Lies { found: estimate.value, lower: interval.lower, upper: interval.upper })
}

/// The mean reward of draws as they were.
pub(super) fn as_logged(draws: &[Draw]) -> Option<Lies> {
    let mut logged = Ratio::default();
    by_unit(draws.iter().map(|draw| (draw.unit, draw.reward, 1.0)))
        .for_each(|(rewards, count)| logged.add(rewards, count));
    lies(logged.estimate())
}

#[cfg(test)]
mod tests {
    use berth_statistics::Random;

    use super::*;

    /// Two arms that earn 0.2 and 0.6, logged with 0.75 and 0.25.
    fn draws(count: usize, seed: u64) -> Vec<Draw> {
        let mut random = Random::new(seed);
        let draw = |number: usize| {
            let arm = usize::from(random.chance(0.25));
            let reward = f64::from(u8::from(random.chance([0.2, 0.6][arm])));
            let (unit, propensity) = (number / 3, [0.75, 0.25][arm]);
            Draw { at: 0.0, unit, arm, propensity, reward, shares: vec![0.1, 0.9] }
        };
        (0..count).map(draw).collect()
    }

    #[test]
    fn estimates_cover_what_would_have_been_earned() {
        for (alone, truth) in [(None, 0.56), (Some(0), 0.2), (Some(1), 0.6)] {
            let mut covered = [0; 3];
            for seed in 0..400 {
                let found = estimated(String::new(), &draws(3000, seed), 2, alone);
                let all = [found.inverse_propensity, found.self_normalised, found.doubly_robust];
                for (count, lies) in covered.iter_mut().zip(all) {
                    let Lies { lower, upper, .. } = lies.unwrap();
                    *count += usize::from(lower <= truth && truth <= upper);
                }
            }
            // 95 % of 400, less and more by four standard errors.
            assert!(
                covered.iter().all(|count| (363..=397).contains(count)),
                "{alone:?}: {covered:?}"
            );
        }
    }

    #[test]
    fn what_was_never_drawn_is_unknown() {
        let mut draws = draws(3000, 1);
        draws.iter_mut().for_each(|draw| draw.shares = vec![0.1, 0.5, 0.4]);
        for alone in [None, Some(2)] {
            let found = estimated(String::new(), &draws, 3, alone);
            let all = [found.inverse_propensity, found.self_normalised, found.doubly_robust];
            assert_eq!(all, [None; 3], "{alone:?}");
        }
        let nothing = estimated(String::new(), &[], 3, None);
        assert_eq!((nothing.inverse_propensity, nothing.worth), (None, 0.0));
    }
}
