//! Whether units fall to arms by their shares. Where they do not, something is wrong with how they
//! are assigned or counted, and no comparison of arms is to be trusted.

use berth_sdk::Observe;
use berth_statistics::{Alpha, Effect, Estimate, Exposures, sequential};

/// Below this, chance is no explanation.
const MISMATCH: f64 = 0.001;

/// With less variance than that of so many units, nothing is said: where few are expected, chance
/// is lopsided.
const LEAST_VARIANCE: f64 = 20.0;

/// How likely an arm got as many units as it did, by what their shares let expect, whatever these
/// were when each unit came: `first-exposures` beside `expected-exposures`, the moments over units
/// of the arm's share. None where the host does not tell.
pub fn by_expectation(observation: &impl Observe, arm: u32) -> Option<f64> {
    let expected = observation.measure(arm, "expected-exposures", None)?;
    let found = observation.measure(arm, "first-exposures", None)?;
    let variance = expected.sum - expected.sum_of_squares;
    if variance.is_nan() || variance < LEAST_VARIANCE {
        return None;
    }
    let units = expected.count as f64;
    let off = Estimate {
        value: (found.count as f64 - expected.sum) / units,
        variance: variance / (units * units),
        units: expected.count,
    };
    let (alpha, effect) = (Alpha::new(MISMATCH).ok()?, Effect::new(0.02).ok()?);
    Some(sequential::difference(off, alpha, effect).p_value)
}

/// How likely units fell to the arms as they did, by shares that stood still all the time.
pub fn by_shares(observation: &impl Observe, shares: &[f64]) -> Option<f64> {
    let units: Option<Vec<u64>> = (0..shares.len() as u32)
        .map(|arm| Some(observation.measure(arm, "first-exposures", None)?.count))
        .collect();
    sequential::sample_ratio(&[Exposures { units: &units?, shares }])
}

/// Why nothing is to be decided, where units do not fall to arms by their shares.
pub fn mismatch(p_value: Option<f64>) -> Option<String> {
    let p_value = p_value.filter(|&p_value| p_value < MISMATCH)?;
    Some(format!(
        "units do not fall to the arms by their shares (p = {p_value:.1e}), so nothing is to be compared: see how the unit is read and who sends requests"
    ))
}

#[cfg(test)]
mod tests {
    use berth_sdk::{Measure, Observed};
    use berth_statistics::Random;

    use super::*;

    #[test]
    fn a_broken_split_is_found_and_a_good_one_is_not() {
        // 1,000 units at a share of 5 % and 1,000 at 25 %: 300 are expected.
        let check = |found: u64, broken: bool| {
            let mut observed = Observed::new(&["live", "next"]);
            let expected = Measure { count: 2000, sum: 300.0, sum_of_squares: 2.5 + 62.5 };
            observed.put(1, "expected-exposures", None, expected);
            observed.count(1, "first-exposures", found);
            let p_value = by_expectation(&observed, 1);
            assert_eq!(mismatch(p_value).is_some(), broken, "{found}: {p_value:?}");
        };
        for (found, broken) in [(300, false), (270, false), (330, false), (150, true), (450, true)]
        {
            check(found, broken);
        }
        let none = Observed::new(&["live", "next"]);
        assert_eq!((by_expectation(&none, 1), mismatch(None)), (None, None));
    }

    #[test]
    fn good_splits_are_seldom_taken_for_broken_ones_while_looking_all_the_time() {
        const RUNS: u64 = 10_000;
        let mut seeds = Random::new(20_260_101);
        for shares in [[0.05, 0.05], [0.05, 0.5], [0.5, 0.9]] {
            let alarm = |_: &u64| {
                let mut random = Random::new(seeds.bits());
                let (mut found, mut sum, mut squares) = (0u64, 0.0, 0.0);
                let mut observed = Observed::new(&["live", "next"]);
                (1..=60u64).any(|look| {
                    let share = shares[usize::from(look > 30)];
                    for _ in 0..50 {
                        found += u64::from(random.chance(share));
                        sum += share;
                        squares += share * share;
                    }
                    let expected = Measure { count: look * 50, sum, sum_of_squares: squares };
                    observed.put(1, "expected-exposures", None, expected);
                    observed.count(1, "first-exposures", found);
                    mismatch(by_expectation(&observed, 1)).is_some()
                })
            };
            let alarms = (0..RUNS).filter(alarm).count() as f64 / RUNS as f64;
            let most = MISMATCH + 3.0 * (MISMATCH * (1.0 - MISMATCH) / RUNS as f64).sqrt();
            assert!(alarms <= most, "{shares:?}: {alarms} false alarms, {most} at most");
        }
    }

    #[test]
    fn shares_that_stand_still_are_held_against() {
        let check = |units: [u64; 3], broken: bool| {
            let mut observed = Observed::new(&["a", "b", "c"]);
            for (arm, units) in (0..).zip(units) {
                observed.count(arm, "first-exposures", units);
            }
            let p_value = by_shares(&observed, &[0.5, 0.25, 0.25]);
            assert_eq!(mismatch(p_value).is_some(), broken, "{units:?}: {p_value:?}");
        };
        check([0, 0, 0], false);
        check([1000, 500, 500], false);
        check([1000, 520, 480], false);
        check([1000, 500, 200], true);
    }
}
