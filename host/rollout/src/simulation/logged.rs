//! What a routing policy would have earned, by predictions that were logged under another one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use berth_monitor::{End, Exposed};
use berth_plugin::Subject;
use berth_serving::live::counted_unit;
use berth_statistics::{Alpha, Estimate, OffPolicy, Ratio, fixed};
use serde::{Deserialize, Serialize};

use super::choosing::Choosing;
use super::story::Lies;
use super::{Asked, Simulation, SimulationError, Table};

/// The most predictions that are read.
pub const MOST: usize = 2_000_000;

/// A prediction as `berth predictions export … --to FILE.jsonl` writes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Logged {
    /// Its id: 32 hexadecimal digits, the first 12 of them milliseconds since 1970.
    pub prediction: String,
    /// The variant that answered.
    pub variant: Option<String>,
    /// The variant that was drawn, where another one stood in.
    pub drawn: Option<String>,
    /// The probability with which it was drawn.
    pub propensity: Option<f64>,
    /// The value of its unit.
    pub unit: Option<String>,
    /// Its declared attributes.
    pub attributes: Option<BTreeMap<String, String>>,
    /// How long it took.
    pub latency_seconds: Option<f64>,
    /// How it ended; `ok` when it was answered.
    pub status: Option<String>,
    /// What it earned, once that came.
    pub reward: Option<f64>,
}

impl Logged {
    fn ms(&self) -> Option<u64> {
        u64::from_str_radix(self.prediction.get(..12)?, 16).ok()
    }
}

/// What would have been earned.
#[derive(Clone, Debug, Serialize)]
pub struct Earned {
    /// The endpoint.
    pub endpoint: String,
    /// Predictions that were read.
    pub predictions: usize,
    /// Of these, those that count: drawn with a known probability, and with a reward.
    pub counted: usize,
    /// The mean reward of those as they were.
    pub logged: Option<Lies>,
    /// That of the policy, then that of each variant alone.
    pub estimates: Vec<Estimated>,
}

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
struct Draw {
    /// The number of its unit, or its own where it has none.
    unit: usize,
    arm: usize,
    propensity: f64,
    reward: f64,
    /// The shares that the policy would have drawn it from.
    shares: Vec<f64>,
}

impl Simulation<'_> {
    /// What the endpoint's routing policy would have earned. It is asked when it wants to be, by the
    /// clock of the predictions, and sees what came of those before, their rewards included.
    pub fn earned(&self, mut logged: Vec<Logged>) -> Result<Earned, SimulationError> {
        if self.table != Table::Routing {
            return Err(SimulationError::Nothing(
                "recorded predictions tell what another [routing] would have earned: give --routing and a file that has it",
            ));
        }
        logged.sort_by(|a, b| a.prediction.cmp(&b.prediction));
        let Some(first) = logged.iter().find_map(Logged::ms) else {
            return Err(SimulationError::Nothing("there is no prediction in the file"));
        };
        let (mut asked, names) = self.asked(first)?;
        let mut choosing = self.choosing(&names, &asked);
        let mut units = HashMap::new();
        let mut draws = Vec::new();
        choosing.round(0, &mut asked)?;
        for (number, logged) in logged.iter().enumerate() {
            let Some(ms) = logged.ms() else { continue };
            let now = ms.saturating_sub(first) * 1000;
            while choosing.due(asked.clock) <= now {
                let due = choosing.due(asked.clock);
                choosing.round(due, &mut asked)?;
            }
            let drawn = logged.drawn.as_ref().or(logged.variant.as_ref());
            let Some(arm) = names.iter().position(|name| Some(name) == drawn) else { continue };
            let unit = match &logged.unit {
                Some(unit) => {
                    let next = units.len();
                    *units.entry(unit.as_str()).or_insert(next)
                }
                // Beyond every unit.
                None => usize::MAX - number,
            };
            if let (Some(propensity), Some(reward)) = (logged.propensity, logged.reward) {
                let shares = self.shares(&choosing, logged, number, &mut asked, names.len());
                draws.push(Draw { unit, arm, propensity, reward, shares });
            }
            note(logged, arm, &asked);
        }
        let policy = self.table.policy(self.spec).map(|(reference, _)| reference.to_string());
        let mut estimates = vec![estimated(policy.unwrap_or_default(), &draws, names.len(), None)];
        let alone = names
            .iter()
            .enumerate()
            .map(|(arm, name)| estimated(format!("all to {name}"), &draws, names.len(), Some(arm)));
        estimates.extend(alone);
        let mut as_logged = OffPolicy::default();
        by_unit(draws.iter().map(|draw| (draw.unit, draw.reward, 1.0)))
            .for_each(|(rewards, count)| as_logged.add(1.0, count, rewards / count));
        Ok(Earned {
            endpoint: self.spec.name.to_string(),
            predictions: logged.len(),
            counted: draws.len(),
            logged: lies(as_logged.self_normalised()),
            estimates,
        })
    }

    /// The shares that the policy would have drawn a prediction from.
    fn shares(
        &self,
        choosing: &Choosing,
        logged: &Logged,
        number: usize,
        asked: &mut Asked,
        arms: usize,
    ) -> Vec<f64> {
        let subject = || {
            let mut attributes: Vec<(String, String)> =
                logged.attributes.clone().unwrap_or_default().into_iter().collect();
            let name = self.spec.unit.as_ref().map(ToString::to_string);
            let known = attributes.iter().position(|(known, _)| Some(known) == name.as_ref());
            let unit = known.or_else(|| {
                attributes.push((name?, logged.unit.clone()?));
                Some(attributes.len() - 1)
            });
            // As good as random, and the same again.
            let chance = super::chance::generator(self.seed, number as u64).bits();
            Subject { attributes: Arc::from(attributes), unit, chance }
        };
        choosing.shares_for(subject, asked).0.probabilities(arms)
    }
}

/// A prediction and its reward, as the policy sees them.
fn note(logged: &Logged, arm: usize, asked: &Asked) {
    let unit = logged.unit.as_deref().map(counted_unit);
    let propensity = logged.propensity;
    let at = Exposed { arm, unit, propensity, ..Exposed::default() };
    let end = match logged.status.as_deref() {
        None | Some("ok") => End::Answered,
        Some("invalid") => End::Refused,
        _ => End::Failed,
    };
    let latency =
        Duration::try_from_secs_f64(logged.latency_seconds.unwrap_or_default()).unwrap_or_default();
    asked.watched.ended(at, end, latency, &[]);
    if let Some(reward) = logged.reward {
        asked.watched.rewarded(at, reward);
    }
}

/// What is to be estimated of draws: of the policy, or of an arm `alone`.
fn estimated(of: String, draws: &[Draw], arms: usize, alone: Option<usize>) -> Estimated {
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
            Draw { unit, arm, propensity, reward, shares: vec![0.1, 0.9] }
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
