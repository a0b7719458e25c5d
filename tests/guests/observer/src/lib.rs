//! Policy that tells what it sees of its arms and goes by it.
//!
//! Its arms have the `weights` that are configured; once each arm has a measure `best` at least
//! `least` times, all goes to the one where that comes to the most on average, and stays there. With
//! `least` it goes by the whole; a measure is named as in `requests` or `requests@segment=vip`.

use std::collections::BTreeMap;

use berth_sdk::{Evaluation, Observation, Plan, Policy, PolicyError};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// When to be asked again, in milliseconds.
    tick_ms: Option<u64>,
    weights: BTreeMap<String, f64>,
    best: Option<String>,
    #[serde(default)]
    least: u64,
    /// Measures for the message: count, sum and sum of squares of each arm, `-` where there is none.
    #[serde(default)]
    tell: Vec<String>,
    /// Arms that are shadows.
    #[serde(default)]
    shadow: Vec<String>,
    /// Attributes of the evaluation.
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

const SCHEMA: &str = "observer";

struct Observer;

impl Policy for Observer {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let arms = observation.arms();
        let chosen: Option<usize> = plan.map_or(Ok(None), |plan| plan.read(SCHEMA))?;
        let best = config.best.as_ref();
        let found = chosen.or_else(|| highest(observation, arms.len(), best?, config.least));
        let weight = |(at, arm): (usize, &String)| match found {
            Some(found) => f64::from(u8::from(at == found)),
            None => config.weights.get(arm).copied().unwrap_or(0.0),
        };
        let weights: Vec<f64> = arms.iter().enumerate().map(weight).collect();
        let mut evaluation = Evaluation::standing(&weights);
        for (arm, name) in evaluation.arms.iter_mut().zip(&arms) {
            arm.shadow = config.shadow.contains(name);
        }
        evaluation.plan = Plan::keep(SCHEMA, &found);
        evaluation.next_tick_ms = config.tick_ms;
        evaluation.attributes = config.attributes.into_iter().collect();
        let told = arms.iter().enumerate().flat_map(|(at, arm)| {
            config.tell.iter().map(move |name| match measure(observation, at, name) {
                Some((count, sum, squares)) => format!("{arm} {name} {count} {sum} {squares}"),
                None => format!("{arm} {name} -"),
            })
        });
        evaluation.message = told.collect::<Vec<_>>().join("; ");
        Ok(evaluation)
    }
}

fn measure(observation: &Observation, arm: usize, name: &str) -> Option<(u64, f64, f64)> {
    let (name, slice) = match name.split_once('@') {
        Some((name, slice)) => (name, Some(slice)),
        None => (name, None),
    };
    let found = observation.measure(arm as u32, name, slice)?;
    Some((found.count, found.sum, found.sum_of_squares))
}

fn highest(observation: &Observation, arms: usize, name: &str, least: u64) -> Option<usize> {
    let mean = |arm| {
        let (count, sum, _) = measure(observation, arm, name).filter(|found| found.0 >= least)?;
        Some(sum / count as f64)
    };
    let means: Vec<f64> = (0..arms).map(mean).collect::<Option<_>>()?;
    (0..arms).max_by(|&a, &b| means[a].total_cmp(&means[b]))
}

berth_sdk::export_policy!(Observer);
