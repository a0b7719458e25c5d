//! Routing policy: a standing split by weights.
//!
//! ```toml
//! [routing]
//! policy = "weighted@1"
//! config = { weights = { current = 9, next = 1 }, fallbacks = ["current"] }
//! ```
//!
//! Weights count relative to each other. Arms that are not named get none and are kept warm. When
//! an arm cannot answer, the `fallbacks` are tried in order.

use std::collections::BTreeMap;

use berth_sdk::{ConfigError, Evaluation, Observation, Plan, Policy, PolicyError};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    weights: BTreeMap<String, f64>,
    #[serde(default)]
    fallbacks: Vec<String>,
}

struct Weighted;

impl Policy for Weighted {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        _: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let arms = observation.arms();
        let mut evaluation = Evaluation::standing(&weights(&config.weights, &arms)?);
        evaluation.attributes = fallbacks(&config.fallbacks, &arms)?;
        Ok(evaluation)
    }
}

berth_sdk::export_policy!(Weighted);

fn weights(named: &BTreeMap<String, f64>, arms: &[String]) -> Result<Vec<f64>, ConfigError> {
    for (arm, &weight) in named {
        let problem = if !arms.contains(arm) {
            format!("there is no arm `{arm}`; the arms are {}", arms.join(", "))
        } else if !weight.is_finite() || weight < 0.0 {
            format!("{weight} is no weight: use a number that is not negative")
        } else {
            continue;
        };
        return Err(ConfigError::new(format!("weights.{arm}"), problem));
    }
    let total: f64 = named.values().sum();
    if total <= 0.0 || !total.is_finite() {
        return Err(ConfigError::new(
            "weights",
            "give at least one arm a weight above 0, and none beyond all measure",
        ));
    }
    Ok(arms.iter().map(|arm| named.get(arm).copied().unwrap_or(0.0)).collect())
}

/// What each arm is to fall back to, as the host reads it.
fn fallbacks(named: &[String], arms: &[String]) -> Result<Vec<(String, String)>, ConfigError> {
    for (at, arm) in named.iter().enumerate() {
        if !arms.contains(arm) {
            let message = format!("there is no arm `{arm}`; the arms are {}", arms.join(", "));
            return Err(ConfigError::new(format!("fallbacks[{at}]"), message));
        }
    }
    let each = arms.iter().filter_map(|arm| {
        let others: Vec<&str> =
            named.iter().filter(|other| *other != arm).map(String::as_str).collect();
        (!others.is_empty()).then(|| (format!("fallback.{arm}"), others.join(",")))
    });
    Ok(each.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(named: &[(&str, f64)], expected: Result<&[f64], (&str, &str)>) {
        let named = named.iter().map(|&(arm, weight)| (arm.to_owned(), weight)).collect();
        match (weights(&named, &["a".to_owned(), "b".to_owned()]), expected) {
            (Ok(weights), Ok(expected)) => assert_eq!(weights, expected),
            (Err(error), Err((key, part))) => {
                assert!(error.key == key && error.message.contains(part), "{error:?}");
            }
            (weights, expected) => panic!("{weights:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn weights_follow_the_arms() {
        check(&[("b", 1.0), ("a", 9.0)], Ok(&[9.0, 1.0]));
        check(&[("b", 1.0)], Ok(&[0.0, 1.0]));
        check(&[("a", 0.0), ("b", 0.5)], Ok(&[0.0, 0.5]));
        check(&[("c", 1.0)], Err(("weights.c", "the arms are a, b")));
        check(&[("a", 1.0), ("b", -1.0)], Err(("weights.b", "not negative")));
        check(&[("a", f64::NAN)], Err(("weights.a", "not negative")));
        check(&[("a", f64::INFINITY)], Err(("weights.a", "not negative")));
        check(&[("a", f64::MAX), ("b", f64::MAX)], Err(("weights", "above 0")));
        check(&[("a", 0.0)], Err(("weights", "above 0")));
        check(&[], Err(("weights", "above 0")));
    }

    #[test]
    fn an_arm_falls_back_to_others() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let check = |named: &[&str], expected: Result<&[(&str, &str)], &str>| match (
            fallbacks(&list(named), &list(&["a", "b", "c"])),
            expected,
        ) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<_> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
                assert_eq!(found, expected);
            }
            (Err(error), Err(key)) => assert_eq!(error.key, key),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        };
        check(&[], Ok(&[]));
        check(&["a"], Ok(&[("fallback.b", "a"), ("fallback.c", "a")]));
        check(&["a", "b"], Ok(&[("fallback.a", "b"), ("fallback.b", "a"), ("fallback.c", "a,b")]));
        check(&["a", "z"], Err("fallbacks[1]"));
    }
}
