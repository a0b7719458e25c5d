//! Thousands of tests by seed, looked at again and again: how often one finds what is not there, and
//! what is.

use berth_sdk::{Measure, Observed, Plan, config};
use berth_statistics::Random;

use crate::config::{Config, Setting};
use crate::trial::evaluate;

const RUNS: u64 = 1000;

/// What units are like.
#[derive(Clone, Copy)]
struct Units {
    /// How many rewards each has, all the same.
    each: u64,
    /// Units of each arm between two looks, and how many looks there are.
    step: u64,
    looks: u64,
}

/// Rewards of 0 and 1 with these rates; the arm that the test comes to, if it comes to any.
fn run(text: &str, rates: &[f64], units: Units, random: &mut Random) -> Option<usize> {
    let names: Vec<String> = (0..rates.len()).map(|arm| arm.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut observed = Observed::new(&names);
    let setting = Setting::new(config::parse::<Config>(text).unwrap(), &observed).unwrap();
    let mut plan: Option<Plan> = None;
    let mut rewarded = vec![0u64; rates.len()];
    for look in 0..=units.looks {
        for (arm, (rewarded, &rate)) in (0..).zip(rewarded.iter_mut().zip(rates)) {
            if look > 0 {
                *rewarded += (0..units.step).filter(|_| random.chance(rate)).count() as u64;
            }
            let (all, each) = (look * units.step, units.each as f64);
            let sum = *rewarded as f64;
            let measure = |count, sum, sum_of_squares| Measure { count, sum, sum_of_squares };
            observed
                .put(arm, "reward", None, measure(all * units.each, sum * each, sum * each))
                .put(arm, "reward-of-units", None, measure(all, sum * each, sum * each * each))
                .put(
                    arm,
                    "reward-counts-of-units",
                    None,
                    measure(all, all as f64 * each, all as f64 * each * each),
                )
                .put(arm, "reward-by-counts-of-units", None, measure(all, sum * each * each, 0.0))
                .count(arm, "first-exposures", all);
        }
        let evaluation = evaluate(&setting, &observed, plan).unwrap();
        let stays = evaluation.arms.iter().position(|arm| arm.weight == 0.0);
        if stays.is_some() {
            return evaluation.arms.iter().position(|arm| arm.weight > 0.0);
        }
        plan = Some(evaluation.plan);
    }
    None
}

/// How often, of a thousand tests, another arm than the first wins.
fn wins(text: &str, rates: &[f64], units: Units) -> f64 {
    let mut random = Random::new(11);
    let wins = (0..RUNS).filter(|_| run(text, rates, units, &mut random) > Some(0)).count();
    wins as f64 / RUNS as f64
}

const SEQUENTIAL: &str = r#"{"metric": "reward", "effect": 0.1}"#;
const FIXED: &str = r#"{"metric": "reward", "effect": 0.1, "method": "fixed"}"#;
const ONCE: Units = Units { each: 1, step: 40, looks: 50 };
const TEN_TIMES: Units = Units { each: 10, ..ONCE };

#[test]
fn what_is_not_there_is_seldom_found() {
    // Alpha and three standard errors of it.
    let most = 0.05 + 3.0 * (0.05 * 0.95 / RUNS as f64).sqrt();
    for (what, text, rates, units) in [
        ("sequential", SEQUENTIAL, &[0.5, 0.5][..], ONCE),
        ("sequential, ten rewards a unit", SEQUENTIAL, &[0.5, 0.5], TEN_TIMES),
        ("sequential, rare", SEQUENTIAL, &[0.02, 0.02], ONCE),
        ("sequential, four arms", SEQUENTIAL, &[0.5, 0.5, 0.5, 0.5], ONCE),
        ("fixed", FIXED, &[0.5, 0.5], ONCE),
        ("fixed, ten rewards a unit", FIXED, &[0.5, 0.5], TEN_TIMES),
        ("fixed, four arms", FIXED, &[0.5, 0.5, 0.5, 0.5], ONCE),
    ] {
        let found = wins(text, rates, units);
        assert!(found <= most, "{what}: {found}");
    }
}

#[test]
fn what_is_there_is_found_as_often_as_it_was_to_be() {
    // Three points beside the power, and three standard errors of it.
    let around = 0.03 + 3.0 * (0.8 * 0.2 / RUNS as f64).sqrt();
    for units in [ONCE, TEN_TIMES] {
        let found = wins(FIXED, &[0.45, 0.55], units);
        assert!((found - 0.8).abs() <= around, "fixed, {} a unit: {found}", units.each);
        // The most that a sequential test takes at this power are 642 units in each arm.
        let found = wins(SEQUENTIAL, &[0.45, 0.55], Units { looks: 17, ..units });
        assert!(found >= 0.8 - around, "sequential, {} a unit: {found}", units.each);
    }
}
