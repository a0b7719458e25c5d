//! How good predictions were, by the labels and rewards that came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use berth_monitor::predictions::{Filter, Labels, PredictionsSpec, Summary};
use berth_statistics::scores::{Confusion, roc_auc, root_mean_square};
use berth_statistics::{Alpha, Estimate, Interval, Moments, Proportion, Ratio, fixed};
use berth_store::{FeedbackLog, Said};
use berth_tensor::Name;
use serde::Serialize;

use crate::error::ControlError;
use crate::host::Host;
use crate::prepare::blocking;

/// The most rows that an answer has.
const ROWS: usize = 4096;

/// The most buckets of scores of a row.
const BUCKETS: usize = 4096;

/// Among how many groups units are divided, which tells the error of what comes of them to a tenth.
const GROUPS: u64 = 64;

/// What is asked about predictions.
#[derive(Clone, Debug, Default)]
pub struct ScoreQuery {
    /// Which predictions.
    pub filter: Filter,
    /// Windows of so many milliseconds, each by itself; 0 for one of all.
    pub window_ms: u64,
    /// Slices `ATTRIBUTE=VALUE` beside those that the endpoint declares, each by itself beside the whole.
    pub slices: Vec<(String, String)>,
}

/// How good the predictions of a window, a revision, a variant, an arm and a slice were.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// When the window begins, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// The id of the revision.
    pub revision: String,
    /// The variant.
    pub variant: String,
    /// The arm of the rollout, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// The slice; none is the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// Predictions.
    pub predictions: u64,
    /// Those with a label.
    pub labels: u64,
    /// Those with a reward.
    pub rewards: u64,
    /// The numbers by their names.
    #[serde(flatten)]
    pub numbers: BTreeMap<&'static str, Number>,
}

/// A number, and where it is with a probability of 95 %.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Number {
    /// The best guess.
    pub value: f64,
    /// The interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// Window, revision, variant, arm, slice.
type Key = (u64, String, String, Option<String>, Option<String>);

#[derive(Default)]
struct Tally {
    predictions: u64,
    labels: u64,
    right: u64,
    confusion: Confusion,
    scores: ByScore,
    /// Labels that are neither.
    others: bool,
    rewards: Moments,
    absolute: Moments,
    squared: Moments,
    /// The same where predictions have units: of what is right, of rewards, of errors and their squares.
    of_units: [ByUnits; 4],
}

/// Sums of values and how many there are, by groups of units: however many predictions a unit has, it
/// is in one group, and groups are independent of each other (random groups: Wolter 2007,
/// Introduction to Variance Estimation, chapter 2). So they take little room of any number of units.
#[derive(Default)]
struct ByUnits(BTreeMap<u64, [f64; 2]>);

impl ByUnits {
    fn add(&mut self, unit: Option<u64>, value: f64) {
        let Some(unit) = unit else { return };
        let [sum, count] = self.0.entry(unit % GROUPS).or_default();
        *sum += value;
        *count += 1.0;
    }

    /// Around what was found, and around what is known by predictions alone; that where none has a unit,
    /// or units do not differ.
    fn around(&self, found: Estimate, alone: Option<Interval>) -> Option<Interval> {
        let (alpha, alone) = (Alpha::new(0.05).ok()?, alone?);
        let mut ratio = Ratio::default();
        self.0.values().for_each(|&[sum, count]| ratio.add(sum, count));
        // Those without a unit are one each.
        let part = (ratio.denominator / found.units as f64).min(1.0);
        let of_units = match (ratio.units, ratio.estimate().variance) {
            // All are of one, which tells nothing of others.
            (1, _) if part >= 1.0 => Interval::UNKNOWN,
            (0 | 1, _) => return Some(alone),
            (_, variance) if variance <= 1e-12 * found.value * found.value => return Some(alone),
            (_, variance) => {
                let variance = variance * part * part + found.variance * (1.0 - part);
                fixed::estimate(Estimate { variance, ..found }, alpha)
            }
        };
        let (lower, upper) = (of_units.lower.min(alone.lower), of_units.upper.max(alone.upper));
        Some(Interval { lower, upper })
    }

    /// A part of predictions that came to `found` in units that do not differ, of as many as there are of
    /// those: by how many groups have none (linear counting: Whang, Vander-Zanden and Taylor 1990), some
    /// three hundred where none is without.
    fn part(&self, found: Proportion) -> Proportion {
        let empty = (GROUPS as f64 - self.0.len() as f64).max(0.5);
        let units = (GROUPS as f64 * (GROUPS as f64 / empty).ln()).round() as u64;
        match self.0.len() {
            0 => found,
            _ => {
                let with: f64 = self.0.values().map(|&[_, count]| count).sum();
                let without = found.trials.saturating_sub(with as u64);
                let trials = (units + without).min(found.trials);
                let successes = (found.rate() * trials as f64).round() as u64;
                Proportion { successes, trials }
            }
        }
    }
}

impl Host {
    /// Scores the predictions of an endpoint.
    pub async fn scores(
        self: &Arc<Self>,
        endpoint: &Name,
        mut query: ScoreQuery,
    ) -> Result<Vec<Score>, ControlError> {
        let (spec, declared) = self.recorded(endpoint)?;
        let declared = declared.iter().filter_map(|slice| slice.split_once('='));
        query.slices.extend(declared.map(|(name, value)| (name.to_owned(), value.to_owned())));
        query.slices.sort();
        query.slices.dedup();
        let (host, name) = (Arc::clone(self), endpoint.as_str().to_owned());
        blocking(move || {
            let recorder = host.recorder();
            recorder.flush();
            let mut tallies: BTreeMap<Key, Tally> = BTreeMap::new();
            let mut failed = None;
            recorder.summaries(&name, &query.filter, |group| {
                let counted =
                    count(&mut tallies, host.store().feedback(), &name, &spec, &query, group);
                failed = failed.take().or(counted.err());
            })?;
            match failed {
                Some(error) => Err(error),
                None => {
                    Ok(tallies.into_iter().map(|(key, tally)| tally.score(key, &query)).collect())
                }
            }
        })
        .await
    }
}

fn count(
    tallies: &mut BTreeMap<Key, Tally>,
    feedback: &FeedbackLog,
    endpoint: &str,
    spec: &PredictionsSpec,
    query: &ScoreQuery,
    group: Vec<Summary>,
) -> Result<(), ControlError> {
    let ids = || group.iter().map(|known| known.id);
    let (Some(first), Some(last)) = (ids().min(), ids().max()) else { return Ok(()) };
    let (mut labels, mut rewards) = (HashMap::new(), HashMap::new());
    for known in feedback.between(endpoint, first, last)? {
        match known.said {
            Said::Label(label) => drop(labels.insert(known.prediction, label)),
            Said::Reward(reward) => drop(rewards.insert(known.prediction, reward)),
        }
    }
    for prediction in group {
        let time_ms = (prediction.id >> 80) as u64;
        let window = time_ms.checked_div(query.window_ms).unwrap_or(0) * query.window_ms;
        let within = query.slices.iter().filter(|slice| prediction.attributes.contains(slice));
        let slices = within.map(|(name, value)| Some(format!("{name}={value}")));
        for slice in std::iter::once(None).chain(slices) {
            let Summary { revision, variant, arm, .. } = &prediction;
            let key = (window, revision.clone(), variant.clone(), arm.clone(), slice);
            if tallies.len() >= ROWS && !tallies.contains_key(&key) {
                return Err(ControlError::Invalid(format!(
                    "more than {ROWS} rows: ask for a shorter time or longer windows"
                )));
            }
            let tally = tallies.entry(key).or_default();
            tally.predictions += 1;
            if let Some(&reward) = rewards.get(&prediction.id).filter(|reward| reward.is_finite()) {
                tally.rewards.add(reward);
                tally.of_units[1].add(prediction.unit_hash, reward);
            }
            if let Some(label) = labels.get(&prediction.id) {
                tally.label(&prediction, label, spec);
            }
        }
    }
    Ok(())
}

impl Tally {
    fn label(&mut self, prediction: &Summary, label: &str, spec: &PredictionsSpec) {
        let Some(predicted) = &prediction.predicted else { return };
        if spec.labels == Labels::Numbers {
            let (Ok(predicted), Ok(label)) = (predicted.parse::<f64>(), label.parse::<f64>())
            else {
                return;
            };
            let error = predicted - label;
            // The sums would be no numbers any more.
            if !(error * error).is_finite() {
                return;
            }
            self.labels += 1;
            self.absolute.add(error.abs());
            self.squared.add(error * error);
            self.of_units[2].add(prediction.unit_hash, error.abs());
            self.of_units[3].add(prediction.unit_hash, error * error);
            return;
        }
        self.labels += 1;
        self.right += u64::from(predicted == label);
        self.of_units[0].add(prediction.unit_hash, f64::from(u8::from(predicted == label)));
        let positive = |class: &str| match &spec.positive {
            Some(positive) => Some(class == positive),
            None => match class {
                "1" | "true" => Some(true),
                "0" | "false" => Some(false),
                _ => None,
            },
        };
        let (Some(says), Some(is)) = (positive(predicted), positive(label)) else {
            self.others = true;
            return;
        };
        let Confusion { true_positives, false_positives, false_negatives, true_negatives } =
            &mut self.confusion;
        *match (says, is) {
            (true, true) => true_positives,
            (true, false) => false_positives,
            (false, true) => false_negatives,
            (false, false) => true_negatives,
        } += 1;
        if let Some(score) = prediction.score {
            self.scores.add(score, is);
        }
    }

    fn score(self, (window, revision, variant, arm, slice): Key, query: &ScoreQuery) -> Score {
        let mut numbers = BTreeMap::new();
        let mut put = |name: &'static str, value: f64, interval: Option<Interval>| {
            if value.is_finite() {
                let interval =
                    interval.filter(|known| known.lower.is_finite() && known.upper.is_finite());
                let interval = interval.map(|known| [known.lower, known.upper]);
                numbers.insert(name, Number { value, interval });
            }
        };
        let alpha = Alpha::new(0.05).ok();
        let of = |estimate: Estimate| alpha.map(|alpha| fixed::estimate(estimate, alpha));
        let part = |part: Proportion| alpha.map(|alpha| fixed::proportion(part, alpha));
        let labels = if self.absolute.count > 0 { 0 } else { self.labels };
        let accuracy = Proportion { successes: self.right, trials: labels };
        let [right, rewards, absolute_errors, squares] = &self.of_units;
        let plain = accuracy.successes == 0 || accuracy.successes == accuracy.trials;
        let alone = if plain { part(right.part(accuracy)) } else { part(accuracy) };
        let of_units = right.around(accuracy.estimate(), alone);
        let possible =
            |known: Interval| Interval { lower: known.lower.max(0.0), upper: known.upper.min(1.0) };
        put("accuracy", accuracy.rate(), of_units.map(possible));
        if !self.others {
            for (name, proportion) in
                [("precision", self.confusion.precision()), ("recall", self.confusion.recall())]
            {
                put(name, proportion.rate(), part(proportion));
            }
            let (positives, negatives): (Vec<u64>, Vec<u64>) =
                self.scores.counts.into_values().unzip();
            let area = roc_auc(&positives, &negatives);
            put("roc_auc", area.value, of(area).map(possible));
        }
        let absolute = self.absolute.estimate();
        put("mae", absolute.value, absolute_errors.around(absolute, of(absolute)));
        let root = root_mean_square(&self.squared);
        let square = self.squared.estimate();
        // As the root is by its own: to the first order.
        let of_root = squares.around(square, of(square)).zip(of(root)).map(|(known, alone)| {
            let [lower, upper] = [known.lower, known.upper]
                .map(|bound| root.value + (bound - square.value) / (2.0 * root.value));
            Interval { lower: lower.min(alone.lower), upper: upper.max(alone.upper) }
        });
        put("rmse", root.value, of_root);
        let reward = self.rewards.estimate();
        put("reward", reward.value, rewards.around(reward, of(reward)));
        Score {
            window_ms: (query.window_ms > 0).then_some(window),
            revision,
            variant,
            arm,
            slice,
            predictions: self.predictions,
            labels: self.labels,
            rewards: self.rewards.count,
            numbers,
        }
    }
}

/// Positives and negatives by score, in buckets that are as fine as they are few.
#[derive(Default)]
struct ByScore {
    counts: BTreeMap<u32, (u64, u64)>,
    /// How many bits of a score are left out.
    coarse: u32,
}

impl ByScore {
    fn add(&mut self, score: f64, positive: bool) {
        let bits = (score as f32).to_bits();
        // Rises with the score.
        let place = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        let (positives, negatives) = self.counts.entry(place >> self.coarse).or_default();
        *if positive { positives } else { negatives } += 1;
        while self.counts.len() > BUCKETS {
            self.coarse += 1;
            for (place, (positives, negatives)) in std::mem::take(&mut self.counts) {
                let counts = self.counts.entry(place >> 1).or_default();
                *counts = (counts.0 + positives, counts.1 + negatives);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_statistics::Random;

    use super::*;

    #[test]
    fn what_a_unit_has_many_times_counts_as_it_tells() {
        // Five predictions each of so many units, half of which are always right: by units, as 1 of
        // each would be, beside what five times as many that are independent would be.
        for (units, each, reach) in [(4000u64, 5u64, 0.0155), (4000, 1, 0.0155), (0, 5, 0.0069)] {
            let mut random = Random::new(7);
            let (mut by_units, mut moments) = (ByUnits::default(), Moments::default());
            for unit in 0..4000u64 {
                let hash = random.bits();
                for _ in 0..each {
                    let right = f64::from(u8::from(unit % 2 == 0));
                    by_units.add((units > 0).then_some(hash), right);
                    moments.add(right);
                }
            }
            let estimate = moments.estimate();
            let alone = fixed::estimate(estimate, Alpha::new(0.05).unwrap());
            let known = by_units.around(estimate, Some(alone)).unwrap();
            let found = (known.upper - known.lower) / 2.0;
            // The groups tell it to a tenth, by chance.
            assert!((found / reach - 1.0).abs() < 0.3, "{units} {each}: {found}, not {reach}");
        }
        // All are right, of ten units and of thousands.
        for (units, trials) in [(10, 11), (4000, 311)] {
            let mut all = ByUnits::default();
            (0..9 * units).for_each(|at| all.add(Some(at % units), 1.0));
            for without in [0, 500] {
                let same = |trials| Proportion { successes: trials, trials };
                assert_eq!(all.part(same(9 * units + without)), same(trials + without));
            }
        }
        let mut one = ByUnits::default();
        (0..9).for_each(|at| one.add(Some(7), f64::from(at % 2)));
        let found = Estimate { value: 0.5, variance: 0.01, units: 9 };
        let alone = Interval { lower: 0.3, upper: 0.7 };
        assert_eq!(one.around(found, Some(alone)), Some(Interval::UNKNOWN));
    }

    #[test]
    fn many_scores_take_few_buckets_and_keep_their_order() {
        let mut scores = ByScore::default();
        // Positives are at the square root of a uniform number: the area is 2/3.
        for n in 0..100_000 {
            let uniform = (f64::from(n) + 0.5) / 100_000.0;
            scores.add(uniform.sqrt() - 0.5, true);
            scores.add(uniform - 0.5, false);
        }
        assert!(scores.counts.len() <= BUCKETS);
        let (positives, negatives): (Vec<u64>, Vec<u64>) = scores.counts.into_values().unzip();
        let area = roc_auc(&positives, &negatives).value;
        assert!((area - 2.0 / 3.0).abs() < 1e-4, "{area}");
    }
}
