//! Every method beside scipy, statsmodels and definitions (reference.py), and beside published
//! examples.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use berth_statistics::*;
use serde_json::Value;

/// A line's arguments.
struct Given(Vec<Value>);

impl Given {
    fn number(&self, index: usize) -> f64 {
        self.0[index].as_f64().unwrap()
    }

    fn count(&self, index: usize) -> u64 {
        self.0[index].as_u64().unwrap()
    }

    fn alpha(&self, index: usize) -> Alpha {
        Alpha::new(self.number(index)).unwrap()
    }

    fn list(&self, index: usize) -> Vec<f64> {
        numbers(&self.0[index])
    }

    fn counts(&self, index: usize) -> Vec<u64> {
        self.0[index].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect()
    }

    fn rows(&self, index: usize) -> Vec<Vec<f64>> {
        self.0[index].as_array().unwrap().iter().map(numbers).collect()
    }

    fn moments(&self, index: usize) -> Moments {
        let (sum, sum_of_squares) = (self.number(index + 1), self.number(index + 2));
        Moments { count: self.count(index), sum, sum_of_squares }
    }

    fn proportion(&self, index: usize) -> Proportion {
        Proportion { successes: self.count(index), trials: self.count(index + 1) }
    }

    fn design(&self, index: usize) -> Design {
        Design {
            alpha: self.alpha(index),
            power: Power::new(self.number(index + 1)).unwrap(),
            share: Share::new(self.number(index + 2)).unwrap(),
        }
    }
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|value| value.as_f64().unwrap_or(f64::INFINITY)).collect()
}

fn all(comparison: Comparison) -> Vec<f64> {
    let Comparison { effect, interval, p_value, .. } = comparison;
    vec![effect, interval.lower, interval.upper, p_value]
}

fn bounds(interval: Interval) -> Vec<f64> {
    vec![interval.lower, interval.upper]
}

fn parts(estimate: Estimate) -> Vec<f64> {
    vec![estimate.value, estimate.variance]
}

/// What a function comes to, and how far it may be off for each unit of the expected.
fn compute(function: &str, given: &Given) -> (Vec<f64>, f64) {
    use distribution as d;
    let n = |index| given.number(index);
    match function {
        "normal_cdf" => (vec![d::normal_cdf(n(0))], 1e-12),
        "normal_quantile" => (vec![d::normal_quantile(n(0))], 1e-14),
        "student_two_sided" => (vec![d::student_two_sided(n(0), n(1))], 1e-9),
        "student_critical" => (vec![d::student_critical(n(0), n(1))], 1e-9),
        "chi_squared_upper" => (vec![d::chi_squared_upper(n(0), n(1))], 1e-11),
        "beta_cdf" => (vec![d::beta_cdf(n(0), n(1), n(2))], 1e-11),
        "beta_quantile" => (vec![d::beta_quantile(n(0), n(1), n(2))], 1e-10),
        "fixed::means" => {
            let (before, after) = (given.moments(0), given.moments(3));
            (all(fixed::means(&before, &after, given.alpha(6))), 1e-9)
        }
        "fixed::proportions" => {
            let (before, after) = (given.proportion(0), given.proportion(2));
            (all(fixed::proportions(before, after, given.alpha(4))), 1e-6)
        }
        "fixed::proportion" => {
            (bounds(fixed::proportion(given.proportion(0), given.alpha(2))), 1e-12)
        }
        "fixed::sample_ratio" | "sequential::sample_ratio" => {
            let (units, shares) = (given.counts(0), given.list(1));
            let stages = [Exposures { units: &units, shares: &shares }];
            let p_value = if function == "fixed::sample_ratio" {
                fixed::sample_ratio(&stages)
            } else {
                sequential::sample_ratio(&stages)
            };
            (vec![p_value.unwrap()], 1e-8)
        }
        "sequential::difference" => {
            let difference = Estimate { value: n(0), variance: n(1), units: 1000 };
            let effect = Effect::new(n(3)).unwrap();
            let comparison = sequential::difference(difference, given.alpha(2), effect);
            (all(comparison)[1..].to_vec(), 1e-9)
        }
        "sequential::proportion" => {
            (bounds(sequential::proportion(given.proportion(0), given.alpha(2))), 1e-8)
        }
        "sequential::proportions_exact" => {
            let (before, after) = (given.proportion(0), given.proportion(2));
            (all(sequential::proportions_exact(before, after, given.alpha(4))), 1e-6)
        }
        "sequential::events" => {
            let stage = |row: Vec<f64>| Events {
                baseline: row[0] as u64,
                candidate: row[1] as u64,
                share: Share::new(row[2]).unwrap(),
            };
            let stages: Vec<_> = given.rows(0).into_iter().map(stage).collect();
            (all(sequential::events(&stages, given.alpha(1))), 1e-6)
        }
        "fixed::quantile" | "sequential::quantile" => {
            let (edges, counts) = (given.list(0), given.counts(1));
            let buckets = Buckets { bounds: &edges, counts: &counts };
            let of = Quantile::new(n(2)).unwrap();
            let interval = if function == "fixed::quantile" {
                fixed::quantile(&buckets, of, given.alpha(3))
            } else {
                sequential::quantile(&buckets, of, given.alpha(3))
            };
            (bounds(interval), 0.0)
        }
        "Design::means" => {
            let units = given.design(2).means(n(0), Effect::new(n(1)).unwrap());
            (vec![units.unwrap() as f64], 0.01)
        }
        "Design::proportions" => {
            (vec![given.design(2).proportions(n(0), n(1)).unwrap() as f64], 0.001)
        }
        "Ratio::estimate" => {
            let ratio = Ratio {
                units: given.count(0),
                numerator: n(1),
                denominator: n(2),
                numerator_squares: n(3),
                denominator_squares: n(4),
                products: n(5),
            };
            (parts(ratio.estimate()), 1e-10)
        }
        "several::holm" => (several::holm(&given.list(0)), 1e-14),
        "several::stability" => {
            let days = given.list(0).into_iter().zip(given.list(1));
            let days: Vec<_> =
                days.map(|(value, variance)| Estimate { value, variance, units: 100 }).collect();
            let found = several::stability(&days).unwrap();
            let mut results = parts(found.effect);
            results.extend([found.statistic, found.p_value, found.excess]);
            (results, 1e-10)
        }
        "probability_best" => {
            let arm = |row: Vec<f64>| match row[0] {
                0.0 => Posterior::Normal { mean: row[1], deviation: row[2] },
                _ => Posterior::Beta { a: row[1], b: row[2] },
            };
            let arms: Vec<_> = given.rows(0).into_iter().map(arm).collect();
            (probability_best(&arms), 1e-6)
        }
        "OffPolicy" => {
            let mut logged = OffPolicy::default();
            for ((propensity, target), reward) in
                given.list(0).into_iter().zip(given.list(1)).zip(given.list(2))
            {
                logged.add(propensity, target, reward);
            }
            let mut results = parts(logged.weighted());
            results.extend(parts(logged.self_normalised()));
            results.push(logged.effective_count());
            (results, 1e-10)
        }
        "scores::roc_auc" => (parts(scores::roc_auc(&given.counts(0), &given.counts(1))), 1e-10),
        "scores::root_mean_square" => (parts(scores::root_mean_square(&given.moments(0))), 1e-10),
        _ => panic!("no function {function}"),
    }
}

#[test]
fn every_method_comes_to_what_the_reference_comes_to() {
    let mut functions = BTreeSet::new();
    for line in include_str!("reference.json").lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let function = entry["function"].as_str().unwrap();
        let (found, off) = compute(function, &Given(entry["given"].as_array().unwrap().clone()));
        let expected = numbers(&entry["expected"]);
        assert_eq!(found.len(), expected.len(), "{line}");
        for (&found, &expected) in found.iter().zip(&expected) {
            let size = if expected == 0.0 { 0.1 } else { expected.abs() };
            let most = off * size;
            let near = (found - expected).abs() <= most || found == expected;
            assert!(near, "{found:e} instead of {expected:e}: {line}");
        }
        functions.insert(function.to_owned());
    }
    assert_eq!(functions.len(), 27, "{functions:?}");
}

/// To as many digits as are printed.
fn printed(found: &[f64], expected: &[&str]) {
    for (found, expected) in found.iter().zip(expected) {
        let digits = expected.split_once('.').map_or(0, |(_, digits)| digits.len());
        assert_eq!(format!("{found:.digits$}"), *expected);
    }
}

#[test]
fn published_examples_come_out() {
    let alpha = Alpha::new(0.05).unwrap();

    // Student 1908: hours of sleep gained under two drugs, Welch's test as R's manual has it.
    let moments = |values: [f64; 10]| {
        let mut moments = Moments::default();
        values.into_iter().for_each(|value| moments.add(value));
        moments
    };
    let second = moments([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]);
    let first = moments([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]);
    let expected = ["-1.58", "-3.3654832", "0.2054832", "0.07939"];
    printed(&all(fixed::means(&second, &first, alpha)), &expected);

    // Newcombe 1998, table II, example a, method 5 (Mee): 56 of 70 less 48 of 80.
    let (before, after) =
        (Proportion { successes: 48, trials: 80 }, Proportion { successes: 56, trials: 70 });
    let compared = fixed::proportions(before, after, alpha);
    printed(&bounds(compared.interval), &["0.0533", "0.3377"]);

    // Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (Wilson): 81 of 263.
    let observed = Proportion { successes: 81, trials: 263 };
    printed(&bounds(fixed::proportion(observed, alpha)), &["0.2553", "0.3662"]);

    // Cohen 1988, table 2.4.1: effects of 0.2, 0.5 and 0.8 deviations take 393, 64 and 26 units an
    // arm.
    let power = Power::new(0.8).unwrap();
    let design = Design { alpha, power, share: Share::new(0.5).unwrap() };
    for (effect, units) in [(0.2, 2 * 393), (0.5, 2 * 64), (0.8, 2 * 26)] {
        let found = design.means(1.0, Effect::new(effect).unwrap()).unwrap();
        assert!((units - 2..=units + 1).contains(&found), "{effect}: {found}");
    }

    // SplitMix64 from 1234567, as its implementations are commonly checked.
    let mut random = Random::new(1_234_567);
    let bits = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
    assert_eq!(bits, [random.bits(), random.bits(), random.bits()]);
}
