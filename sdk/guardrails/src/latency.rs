//! How long requests take in one arm and in the other, by the time within which most of them end.

use berth_sdk::Observe;
use berth_statistics::{Alpha, Buckets, Interval, Quantile, sequential};
use serde::{Deserialize, Serialize};

use crate::bounds::number;

/// The part of the requests whose time is compared.
const PART: f64 = 0.95;

/// The least ratio that may be asked for: the host tells times apart by an eighth, in each arm.
pub(crate) const LEAST_RATIO: f64 = 1.3;

/// Times are told apart from 64 microseconds on, in as many doublings, as finely as the host does.
const FROM_MICROS: f64 = 64.0;
const DOUBLINGS: i32 = 21;
const PER_DOUBLING: i32 = 8;

/// How many requests took so long, by bucket; empty where nothing is compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times(Vec<u64>);

/// The upper bounds of the buckets but the last, in seconds.
fn bounds() -> Vec<f64> {
    let bound = |at: i32| {
        let (doubling, part) = (at / PER_DOUBLING, f64::from(at % PER_DOUBLING));
        let doubled = FROM_MICROS * f64::from(1u32 << doubling);
        doubled * (1.0 + part / f64::from(PER_DOUBLING)) / 1e6
    };
    (0..DOUBLINGS * PER_DOUBLING).map(bound).collect()
}

impl Times {
    /// Those of an arm.
    pub(crate) fn observed(observation: &impl Observe, arm: u32) -> Self {
        const NAME: &str = "latency-seconds";
        let all = observation.measure(arm, NAME, None).map_or(0, |measure| measure.count);
        let mut below = 0;
        let bounds = bounds().into_iter();
        let counts = bounds.map(|bound| observation.at_most(arm, NAME, None, bound).unwrap_or(0));
        let each = counts.chain([all]).map(|count| {
            let more = count.saturating_sub(below);
            below = count.max(below);
            more
        });
        Self(each.collect())
    }

    /// What came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let before = before.0.iter().copied().chain(std::iter::repeat(0));
        Self(self.0.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect())
    }

    /// So many times as many of the same.
    pub(crate) fn times(&self, times: f64) -> Self {
        Self(self.0.iter().map(|&count| (count as f64 * times).round() as u64).collect())
    }

    /// The time within which most came to their end, in milliseconds, for people.
    fn most(&self) -> String {
        let all: u64 = self.0.iter().sum();
        let mut seen = 0;
        let bucket = self.0.iter().position(|count| {
            seen += count;
            seen as f64 >= PART * all as f64
        });
        match bucket.and_then(|at| bounds().get(at).copied()) {
            _ if all == 0 => "nothing".to_owned(),
            Some(bound) => format!("{} ms", number(bound * 1e3)),
            None => "minutes".to_owned(),
        }
    }

    /// As if each were of another unit where so many are alike.
    fn of_units(&self, alike: f64) -> Vec<u64> {
        self.0.iter().map(|&count| (count as f64 / alike.max(1.0)).round() as u64).collect()
    }
}

/// How many times as long the next revision takes, with how many are alike in each arm.
pub(crate) fn ratio([live, next]: [(&Times, f64); 2], alpha: Alpha) -> Interval {
    let bounds = bounds();
    let [live, next] = [live, next].map(|(times, alike)| times.of_units(alike));
    let [live, next] = [&live, &next].map(|counts| Buckets { bounds: &bounds, counts });
    match Quantile::new(PART) {
        Ok(of) => sequential::quantile_ratio(&live, &next, of, alpha),
        Err(_) => Interval::UNKNOWN,
    }
}

/// What is compared, in words.
pub(crate) fn words([live, next]: [&Times; 2], before: &str, most: f64) -> String {
    format!(
        "95 % of the requests took at most {}, and {} of the live revision's{before}, at most {most} times that is right",
        next.most(),
        live.most()
    )
}
