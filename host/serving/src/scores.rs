//! How good predictions were, by the labels and rewards that came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use berth_monitor::predictions::{Filter, Labels, PredictionsSpec, Summary};
use berth_statistics::scores::{Confusion, roc_auc, root_mean_square};
use berth_statistics::{Alpha, Estimate, Interval, Moments, Proportion, fixed};
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
            return;
        }
        self.labels += 1;
        self.right += u64::from(predicted == label);
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
        put("accuracy", accuracy.rate(), part(accuracy));
        if !self.others {
            for (name, proportion) in
                [("precision", self.confusion.precision()), ("recall", self.confusion.recall())]
            {
                put(name, proportion.rate(), part(proportion));
            }
            let (positives, negatives): (Vec<u64>, Vec<u64>) =
                self.scores.counts.into_values().unzip();
            let area = roc_auc(&positives, &negatives);
            let interval = of(area)
                .map(|known| Interval { lower: known.lower.max(0.0), upper: known.upper.min(1.0) });
            put("roc_auc", area.value, interval);
        }
        let absolute = self.absolute.estimate();
        put("mae", absolute.value, of(absolute));
        let root = root_mean_square(&self.squared);
        put("rmse", root.value, of(root));
        let reward = self.rewards.estimate();
        put("reward", reward.value, of(reward));
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
    use super::*;

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
