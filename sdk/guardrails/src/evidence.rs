//! What was observed of one value of an arm: an error rate, a latency, a reward, a processor's own
//! metric; and how much of it is of units that are alike.

use berth_sdk::{Measure, Observe};
use berth_statistics::{
    Alpha, Comparison, Effect, Estimate, Interval, Moments, Proportion, Ratio, sequential,
};
use serde::{Deserialize, Serialize};

/// Which of more and less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More.
    Higher,
    /// Less.
    Lower,
}

/// Since when units are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Since observing began, in the whole only.
    Beginning,
    /// Since the plan changed, in slices too.
    Plan,
}

impl Since {
    /// A measure over units, of an arm and the slice or what stands in for it.
    pub(crate) fn measure(
        self,
        observation: &impl Observe,
        arm: u32,
        name: &str,
        slice: Option<&str>,
    ) -> Option<Measure> {
        match self {
            Self::Beginning => observation.measure(arm, name, None),
            Self::Plan => observation.measure(arm, &format!("since-plan:{name}"), slice),
        }
    }
}

/// How many tell as much as one would if each were of another unit, where all that a unit has comes to
/// the same: 1 or more. By what each unit has of them.
pub(crate) fn worst(of_units: Option<Measure>) -> f64 {
    let known = of_units.filter(|measure| measure.sum > 0.0);
    known.map_or(1.0, |measure| (measure.sum_of_squares / measure.sum).max(1.0))
}

/// A value that requests have, by the name of its measure.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Metric {
    /// `errors`: the part of the requests that failed by the model's, the plugin's or the host's
    /// fault.
    Errors,
    /// `latency`: seconds, of all requests but those refused as the caller's fault.
    Latency,
    /// `reward`, or `metric:NAME`: what feedback or a processor reported, the mean of the reports.
    Reported(String),
}

impl TryFrom<String> for Metric {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "errors" => Ok(Self::Errors),
            "latency" => Ok(Self::Latency),
            "reward" => Ok(Self::Reported(name)),
            _ if name.strip_prefix("metric:").is_some_and(|rest| !rest.is_empty()) => {
                Ok(Self::Reported(name))
            }
            _ => Err(format!(
                "{name:?} is no metric: use \"errors\", \"latency\", \"reward\" or \"metric:NAME\", NAME as a processor reports it"
            )),
        }
    }
}

impl Metric {
    /// The name as it is configured.
    pub fn name(&self) -> &str {
        match self {
            Self::Errors => "errors",
            Self::Latency => "latency",
            Self::Reported(name) => name,
        }
    }

    /// Whether more of it is better: as it is `said`, else more of what is reported, and less of errors
    /// and latency.
    pub fn higher_is_better(&self, said: Option<Better>) -> bool {
        match said {
            Some(better) => better == Better::Higher,
            None => matches!(self, Self::Reported(_)),
        }
    }

    /// What was observed of an arm, in the whole where `slices` are none, else in all of these
    /// together, which are to have no request in common.
    pub fn observed(
        &self,
        observation: &impl Observe,
        arm: u32,
        slices: &[String],
        since: Since,
    ) -> Values {
        if slices.is_empty() {
            return self.observed_in(observation, arm, None, since);
        }
        let each =
            slices.iter().map(|slice| self.observed_in(observation, arm, Some(slice), since));
        each.fold(Values::default(), |sum, slice| sum.with(&slice))
    }

    fn observed_in(
        &self,
        observation: &impl Observe,
        arm: u32,
        slice: Option<&str>,
        since: Since,
    ) -> Values {
        let measure = |name| observation.measure(arm, name, slice);
        let empty = Measure { count: 0, sum: 0.0, sum_of_squares: 0.0 };
        let found = match self {
            Self::Errors => {
                let requests = measure("requests").unwrap_or(empty);
                let errors = measure("errors").unwrap_or(empty).count as f64;
                Measure { count: requests.count, sum: errors, sum_of_squares: errors }
            }
            Self::Latency => measure("latency-seconds").unwrap_or(empty),
            Self::Reported(name) => measure(name).unwrap_or(empty),
        };
        // What is no number tells nothing.
        let found = match found.sum.is_finite() && found.sum_of_squares.is_finite() {
            true => found,
            false => empty,
        };
        let mut values = Values {
            count: found.count,
            sum: found.sum,
            squares: found.sum_of_squares,
            alike: 1.0,
        };
        let of_units = |name: &str| since.measure(observation, arm, name, slice);
        values.alike = self.alike(of_units, &values);
        values
    }

    /// How many values of an arm tell as much as one would if each were of another unit: by how much
    /// units differ more from each other than their values do, and the worst case where that cannot
    /// be told.
    fn alike(&self, measure: impl Fn(&str) -> Option<Measure>, values: &Values) -> f64 {
        let (sums, counts, products) = match self {
            Self::Errors => (
                measure("errors-of-units"),
                measure("requests-of-units"),
                measure("errors-by-requests-of-units"),
            ),
            // Latencies of units are not told.
            Self::Latency => (None, measure("requests-of-units"), None),
            Self::Reported(name) => (
                measure(&format!("{name}-of-units")),
                measure(&format!("{name}-counts-of-units")),
                measure(&format!("{name}-by-counts-of-units")),
            ),
        };
        let Some(counts) = counts.filter(|counts| counts.sum > 0.0) else { return 1.0 };
        let (mut worst, mut apart) = (worst(Some(counts)), 1.0);
        if *self == Self::Errors {
            // One unit that fails again and again is one. By how much more of the failures are of one
            // than by the units that the moments are of, it is not among those.
            let failing = self::worst(measure("errors-of-failing-units"));
            apart = (failing / self::worst(sums)).max(1.0);
            worst = worst.max(self::worst(sums)).max(failing);
        }
        let (Some(sums), Some(products)) = (sums, products) else { return worst };
        let over_units = Ratio {
            units: counts.count,
            numerator: sums.sum,
            denominator: counts.sum,
            numerator_squares: sums.sum_of_squares,
            denominator_squares: counts.sum_of_squares,
            products: products.sum,
        };
        // Of as many values as these units have, if they had nothing to do with each other.
        let by_values = values.moments().variance() / counts.sum;
        let by_units = over_units.estimate().variance;
        match by_units / by_values {
            times if times.is_finite() && by_values > 0.0 => {
                (times.max(1.0) * apart).clamp(1.0, worst)
            }
            _ => worst,
        }
    }
}

/// Count, sum and sum of squares of the values of an arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Values {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub squares: f64,
    /// How many of them tell as much as one would if each were of another unit: 1 or more.
    #[serde(default)]
    pub alike: f64,
}

impl Values {
    /// What came after `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            count: self.count.saturating_sub(before.count),
            sum: self.sum - before.sum,
            squares: (self.squares - before.squares).max(0.0),
            alike: self.alike,
        }
    }

    /// These and others.
    pub fn with(&self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            squares: self.squares + other.squares,
            alike: self.alike.max(other.alike),
        }
    }

    /// So many times as many of the same.
    pub(crate) fn times(&self, times: f64) -> Self {
        let count = (self.count as f64 * times).round();
        let times = if self.count > 0 { count / self.count as f64 } else { 1.0 };
        let (sum, squares) = (self.sum * times, self.squares * times);
        Self { count: count as u64, sum, squares, alike: self.alike }
    }

    /// The mean; NaN of none.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// How many values, each of another unit, would tell as much.
    pub fn units(&self) -> u64 {
        (self.count as f64 / self.alike.max(1.0)) as u64
    }

    /// As a rate, when all values are 0 or 1, but for what rounding does to sums that were weighed: of
    /// so many values as tell as much if each were of another unit.
    pub fn rate(&self) -> Option<Proportion> {
        let rounding = 1e-9 * self.squares.max(1.0);
        let binary = (self.sum - self.squares).abs() <= rounding
            && self.sum >= -rounding
            && self.sum <= self.count as f64 + rounding;
        let trials = self.units();
        let successes = || ((self.mean() * trials as f64).round() as u64).min(trials);
        binary.then(|| Proportion { successes: if trials == 0 { 0 } else { successes() }, trials })
    }

    /// The mean and its error.
    pub fn estimate(&self) -> Estimate {
        let estimate = match self.rate() {
            Some(rate) => Estimate { value: self.mean(), ..rate.estimate() },
            None => {
                let by_values = self.moments().estimate();
                Estimate { variance: by_values.variance * self.alike.max(1.0), ..by_values }
            }
        };
        Estimate { units: self.units(), ..estimate }
    }

    /// The mean and its error, where values are not all 0 or 1 and may all be the same, by how far `all`
    /// values of all arms are apart: before any came, the arm's are taken to be as far apart as those,
    /// with the weight of one observation. Their variance is then (v + (n − 1) s²) / n, of n values
    /// with variance s² and of `all` with variance v (the scaled inverse chi-squared posterior of one
    /// degree of freedom before: Gelman and others 2013, Bayesian Data Analysis, sections 2.6 and
    /// 3.3). Not known where all values of all arms are the same.
    pub fn estimate_among(&self, all: &Self) -> Estimate {
        let (own, all) = (self.moments(), all.moments());
        let count = self.count as f64;
        let variance = (all.variance() + (count - 1.0) * own.variance()) / count;
        let variance = variance / count * self.alike.max(1.0);
        Estimate { value: self.mean(), variance, units: self.units() }
    }

    fn moments(&self) -> Moments {
        Moments { count: self.count, sum: self.sum, sum_of_squares: self.squares }
    }
}

/// Where the mean lies, valid at any look. Tuned to an effect, which matters where values are not
/// all 0 or 1.
pub fn mean(values: &Values, alpha: Alpha, effect: Effect) -> Interval {
    match values.rate() {
        Some(rate) => sequential::proportion(rate, alpha),
        None => sequential::estimate(values.estimate(), alpha, effect),
    }
}

/// How much more the mean of `next` is than that of `live`, valid at any look while shares stand
/// still.
pub fn difference(live: &Values, next: &Values, alpha: Alpha, effect: Effect) -> Comparison {
    match (live.rate(), next.rate()) {
        (Some(live), Some(next)) => sequential::guardrail(live, next, effect, alpha),
        _ => sequential::difference(next.estimate() - live.estimate(), alpha, effect),
    }
}

#[cfg(test)]
mod tests {
    use berth_sdk::Observed;
    use berth_statistics::Random;

    use super::*;

    fn measure(values: &[f64]) -> Measure {
        Measure {
            count: values.len() as u64,
            sum: values.iter().sum(),
            sum_of_squares: values.iter().map(|value| value * value).sum(),
        }
    }

    /// Observes so many units with so many values each, which lie `apart` of their deviation from
    /// each other by unit and the rest by chance.
    fn observed(units: u64, each: usize, apart: f64) -> Observed {
        let mut random = Random::new(7);
        let (mut all, mut sums, mut counts, mut products) = (vec![], vec![], vec![], 0.0);
        for _ in 0..units {
            let own = random.normal();
            let values: Vec<f64> = (0..each)
                .map(|_| apart.sqrt() * own + (1.0 - apart).sqrt() * random.normal())
                .collect();
            let sum: f64 = values.iter().sum();
            sums.push(sum);
            counts.push(each as f64);
            products += sum * each as f64;
            all.extend(values);
        }
        let mut observed = Observed::new(&["live", "next"]);
        let products = Measure { count: units, sum: products, sum_of_squares: 0.0 };
        observed
            .put(1, "metric:m", None, measure(&all))
            .put(1, "metric:m-of-units", None, measure(&sums))
            .put(1, "metric:m-counts-of-units", None, measure(&counts))
            .put(1, "metric:m-by-counts-of-units", None, products);
        observed
    }

    #[test]
    fn what_is_alike_in_a_unit_counts_less() {
        let alike = |apart| {
            let metric = Metric::Reported("metric:m".into());
            metric.observed(&observed(2000, 10, apart), 1, &[], Since::Beginning).alike
        };
        // 1 + (10 − 1) times the part that lies between units.
        for (apart, expected) in [(0.0, 1.0), (0.3, 3.7), (1.0, 10.0)] {
            let found = alike(apart);
            assert!((found / expected - 1.0).abs() < 0.1, "{apart}: {found}, not {expected}");
        }
    }

    #[test]
    fn without_a_difference_the_worst_is_taken() {
        let mut observed = Observed::new(&["live", "next"]);
        let ten = Measure { count: 10, sum: 100.0, sum_of_squares: 1000.0 };
        let none = Measure { count: 10, sum: 0.0, sum_of_squares: 0.0 };
        observed
            .count(1, "requests", 100)
            .put(1, "requests-of-units", None, ten)
            .put(1, "errors-of-units", None, none)
            .put(1, "errors-by-requests-of-units", None, none);
        let errors = Metric::Errors.observed(&observed, 1, &[], Since::Beginning);
        assert_eq!((errors.alike, errors.units()), (10.0, 10));
        assert_eq!(errors.rate(), Some(Proportion { successes: 0, trials: 10 }));
        // Without units nothing is alike, and what is not there is nothing.
        observed.measures.truncate(1);
        assert_eq!(Metric::Errors.observed(&observed, 1, &[], Since::Beginning).alike, 1.0);
        assert_eq!(Metric::Latency.observed(&observed, 1, &[], Since::Beginning).count, 0);
    }

    #[test]
    fn one_that_fails_again_and_again_is_one_though_it_is_in_no_sample() {
        let mut observed = Observed::new(&["live", "next"]);
        let of = |count, sum, sum_of_squares| Measure { count, sum, sum_of_squares };
        // 40,000 units with a request each, of which a tenth are a sample, and one with 2,000 that fail.
        observed
            .count(1, "requests", 42_000)
            .count(1, "errors", 2040)
            .put(1, "requests-of-units", None, of(4000, 4000.0, 4000.0))
            .put(1, "errors-of-units", None, of(4000, 4.0, 4.0))
            .put(1, "errors-by-requests-of-units", None, of(4000, 4.0, 0.0))
            .put(1, "errors-of-failing-units", None, of(41, 2040.0, 4_000_040.0));
        let errors = Metric::Errors.observed(&observed, 1, &[], Since::Beginning);
        assert!((1900.0..2000.0).contains(&errors.alike), "{errors:?}");
        // Where all are of as many, it changes nothing.
        observed.put(1, "errors-of-failing-units", None, of(2040, 2040.0, 2040.0));
        let errors = Metric::Errors.observed(&observed, 1, &[], Since::Beginning);
        assert!(errors.alike < 1.01, "{errors:?}");
        // None of the sample has failed.
        observed
            .put(1, "errors-of-units", None, of(4000, 0.0, 0.0))
            .put(1, "errors-by-requests-of-units", None, of(4000, 0.0, 0.0))
            .put(1, "errors-of-failing-units", None, of(41, 2040.0, 4_000_040.0));
        let errors = Metric::Errors.observed(&observed, 1, &[], Since::Beginning);
        assert!((1900.0..2000.0).contains(&errors.alike), "{errors:?}");
    }

    #[test]
    fn rounding_keeps_a_rate_a_rate() {
        // Sums of values that were weighed, of so many, and how many of them are 1.
        let of = |count: u64, sum: f64, squares: f64| Values { count, sum, squares, alike: 1.0 };
        for (values, ones) in [
            (of(1000, 1000.0 * (1.0 + 3e-16), 1000.0), Some(1000)),
            (of(1000, 1000.0 + 1e-10, 1000.0 + 2e-10), Some(1000)),
            (of(1000, -1e-13, 1e-13), Some(0)),
            (of(1000, 500.0, 500.0 + 1e-10), Some(500)),
            (of(1000, 1000.1, 1000.1), None),
            (of(1000, 3000.0, 9000.0), None),
            (of(1000, -1.0, 1.0), None),
        ] {
            let successes = values.rate().map(|rate| rate.successes);
            assert_eq!(successes, ones, "{values:?}");
        }
    }

    #[test]
    fn values_that_are_all_the_same_are_as_sure_as_one_more_would_make_them() {
        let same = |count: u64, value: f64| {
            let n = count as f64;
            Values { count, sum: n * value, squares: n * value * value, alike: 1.0 }
        };
        let (three, five) = (same(100, 3.0), same(100, 5.0));
        let both = three.with(&five);
        // Of both, the variance is 200/199; of each mean that by 100 by 100.
        let estimate = three.estimate_among(&both);
        assert_eq!((estimate.value, estimate.units), (3.0, 100));
        assert!((estimate.variance / (200.0 / 199.0 / 1e4) - 1.0).abs() < 1e-12, "{estimate:?}");
        // Where they differ, that counts for nearly all; where all are the same, nothing is known.
        let apart = Values { squares: 1000.0, ..same(100, 3.0) };
        let ratio = apart.estimate_among(&both).variance / apart.estimate().variance;
        assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
        assert_eq!(three.estimate_among(&three.with(&three)).variance, 0.0);
    }

    #[test]
    fn slices_add_up() {
        let mut observed = Observed::new(&["live", "next"]);
        for (slice, count) in [("region=eu", 10), ("region=us", 20), ("region=uk", 30)] {
            let values = vec![2.0; count];
            observed.put(0, "reward", Some(slice), measure(&values));
        }
        let slices = ["region=eu".to_owned(), "region=uk".to_owned()];
        let ten = Measure { count: 4, sum: 40.0, sum_of_squares: 400.0 };
        observed.put(0, "reward-counts-of-units", None, ten);
        let reward =
            Metric::Reported("reward".into()).observed(&observed, 0, &slices, Since::Beginning);
        assert_eq!((reward.count, reward.mean(), reward.alike), (40, 2.0, 10.0));
    }

    #[test]
    fn names_are_checked() {
        for (name, fits) in [
            ("errors", true),
            ("latency", true),
            ("reward", true),
            ("metric:confidence", true),
            ("metric:", false),
            ("confidence", false),
            ("", false),
        ] {
            assert_eq!(Metric::try_from(name.to_owned()).is_ok(), fits, "{name:?}");
        }
    }
}
