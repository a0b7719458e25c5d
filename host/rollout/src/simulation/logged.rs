//! What a routing policy would have earned, by predictions that were logged under another one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use berth_monitor::{End, Exposed, SLICES};
use berth_plugin::Subject;
use berth_serving::live::counted_unit;
use serde::{Deserialize, Serialize};

use super::choosing::Choosing;
use super::estimates::{Draw, Estimated, as_logged, estimated};
use super::story::{Lies, Story, seconds};
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
    /// The revision that answered.
    pub revision: String,
    /// `live` or `next`, where it was drawn in a rollout.
    pub arm: Option<String>,
    /// The value of its unit.
    pub unit: Option<String>,
    /// The hash by which its unit is counted, hexadecimal.
    pub unit_hash: Option<String>,
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

    /// The hash by which its unit is counted, also where the unit itself was not to be recorded.
    fn counted_unit(&self) -> Option<u64> {
        match (&self.unit, &self.unit_hash) {
            (Some(unit), _) => Some(counted_unit(unit)),
            (None, Some(hash)) => u64::from_str_radix(hash, 16).ok(),
            (None, None) => None,
        }
    }

    /// The declared slices that it is in, a bit each, the first one the lowest.
    fn slices(&self, declared: &[String]) -> u16 {
        let within = |slice: &str| {
            let (name, value) = slice.split_once('=')?;
            let known = self.attributes.as_ref()?.get(name)?;
            (known == value).then_some(())
        };
        let bits = declared.iter().take(SLICES).enumerate();
        bits.filter(|(_, slice)| within(slice).is_some()).fold(0, |bits, (at, _)| bits | 1 << at)
    }
}

/// What would have been earned.
#[derive(Clone, Debug, Serialize)]
pub struct Earned {
    /// The endpoint.
    pub endpoint: String,
    /// Predictions that were read.
    pub predictions: usize,
    /// Of these, those that were left aside: of revisions before the last one that is there, or drawn
    /// in a rollout, by a probability that is not the routing policy's alone.
    pub aside: usize,
    /// Of the others, those that count: drawn with a known probability, and with a reward.
    pub counted: usize,
    /// The mean reward of those as they were.
    pub logged: Option<Lies>,
    /// That of the policy, then that of each variant alone.
    pub estimates: Vec<Estimated>,
    /// The same over time: the shares that the policy would have given, what it decided, what came.
    pub story: Story,
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
        let predictions = logged.len();
        // What stood last, out of any rollout.
        let standing = logged.iter().rev().find(|logged| logged.arm.is_none());
        let standing = standing.map(|logged| logged.revision.clone());
        logged.retain(|it| it.arm.is_none() && Some(&it.revision) == standing.as_ref());
        let aside = predictions - logged.len();
        let Some(first) = logged.iter().find_map(Logged::ms) else {
            return Err(SimulationError::Nothing(
                "there is no prediction in the file, or none out of a rollout",
            ));
        };
        let (mut asked, names) = self.asked(first)?;
        let mut choosing = self.choosing(&names, &asked);
        let mut units = HashMap::new();
        let mut draws = Vec::new();
        let mut end = 1;
        choosing.round(0, &mut asked)?;
        for (number, logged) in logged.iter().enumerate() {
            let Some(ms) = logged.ms() else { continue };
            let now = ms.saturating_sub(first) * 1000;
            end = end.max(now);
            while choosing.due(asked.clock) <= now {
                let due = choosing.due(asked.clock);
                choosing.round(due, &mut asked)?;
            }
            while asked.telling.until() <= now {
                asked.telling.close(choosing.shares());
            }
            let drawn = logged.drawn.as_ref().or(logged.variant.as_ref());
            let Some(arm) = names.iter().position(|name| Some(name) == drawn) else { continue };
            let unit = match logged.counted_unit() {
                Some(unit) => {
                    let next = units.len();
                    *units.entry(unit).or_insert(next)
                }
                // Beyond every unit.
                None => usize::MAX - number,
            };
            if let (Some(propensity), Some(reward)) = (logged.propensity, logged.reward) {
                let shares = self.shares(&choosing, logged, number, &mut asked, names.len());
                let at = seconds(now);
                draws.push(Draw { at, unit, arm, propensity, reward, shares });
            }
            note(logged, arm, logged.slices(&self.spec.slices), &mut asked);
        }
        let (reference, config) = self.named()?;
        let policy = reference.to_string();
        let bare = Story {
            endpoint: self.spec.name.to_string(),
            policy: policy.clone(),
            config: serde_json::Value::Object(config.clone()),
            kind: self.table.name(),
            seed: self.seed,
            by_request: choosing.by_request(),
            arms: names.clone(),
            ..Story::default()
        };
        let mut story = asked.telling.told(end, choosing.shares(), bare);
        estimate_points(&mut story, &policy, &draws, names.len());
        let mut estimates = vec![estimated(policy, &draws, names.len(), None)];
        let alone = names
            .iter()
            .enumerate()
            .map(|(arm, name)| estimated(format!("all to {name}"), &draws, names.len(), Some(arm)));
        estimates.extend(alone);
        Ok(Earned {
            endpoint: self.spec.name.to_string(),
            predictions,
            aside,
            counted: draws.len(),
            logged: as_logged(&draws),
            estimates,
            story,
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

/// What is estimated of each piece of time, and the shares that the policy would have given in it.
fn estimate_points(story: &mut Story, policy: &str, draws: &[Draw], arms: usize) {
    let mut rest = draws;
    let mut over_time = [Vec::new(), Vec::new()];
    let last = story.points.len().saturating_sub(1);
    for (at, point) in story.points.iter_mut().enumerate() {
        let until = rest.partition_point(|draw| at == last || draw.at < point.to);
        let (piece, later) = rest.split_at(until);
        rest = later;
        if !piece.is_empty() {
            let mean = |arm: usize| {
                piece.iter().map(|draw| draw.shares[arm]).sum::<f64>() / piece.len() as f64
            };
            point.shares = (0..arms).map(mean).collect();
        }
        over_time[0].push(estimated(String::new(), piece, arms, None).self_normalised);
        over_time[1].push(as_logged(piece));
    }
    let [of_policy, logged] = over_time;
    story.estimates =
        vec![(format!("{policy}, estimated"), of_policy), ("as it was logged".to_owned(), logged)];
}

/// A prediction and its reward, as the policy sees them.
fn note(logged: &Logged, arm: usize, slices: u16, asked: &mut Asked) {
    let (unit, propensity) = (logged.counted_unit(), logged.propensity);
    let at = Exposed { arm, slices, unit, propensity };
    let end = match logged.status.as_deref() {
        None | Some("ok") => End::Answered,
        Some("invalid") => End::Refused,
        _ => End::Failed,
    };
    let latency =
        Duration::try_from_secs_f64(logged.latency_seconds.unwrap_or_default()).unwrap_or_default();
    asked.watched.ended(at, end, latency, &[]);
    asked.telling.requests += 1;
    asked.telling.ended(arm, end, u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    if let Some(reward) = logged.reward {
        asked.watched.rewarded(at, reward);
        asked.telling.rewarded(arm, reward);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_slices_are_those_that_were_logged() {
        let read = |text: &str| serde_json::from_str::<Logged>(text).unwrap();
        let named = read(r#"{"unit": "ada", "unit_hash": "00000000000000ff"}"#);
        assert_eq!(named.counted_unit(), Some(counted_unit("ada")));
        // Where the unit was redacted, its hash is left.
        assert_eq!(read(r#"{"unit_hash": "00000000000000ff"}"#).counted_unit(), Some(255));
        assert_eq!(read("{}").counted_unit(), None);
        let slices = ["region=eu", "segment=vip", "region=us"].map(str::to_owned);
        let of = |text: &str| read(text).slices(&slices);
        assert_eq!(of(r#"{"attributes": {"region": "us", "segment": "vip"}}"#), 0b110);
        assert_eq!((of(r#"{"attributes": {"region": "uk"}}"#), of("{}")), (0, 0));
    }
}
