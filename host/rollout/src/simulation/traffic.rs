//! What simulated traffic is like: a small file beside the endpoint file.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::behaviour::{Behaviour, Latency};
use super::span::{DAY, Span};

/// The longest that is simulated: a year.
const LONGEST: Span = Span(366 * DAY);

/// The most requests of a simulation.
const REQUESTS: f64 = 1e8;

/// The most rewards that are on their way at once.
const ON_THEIR_WAY: f64 = 1e7;

/// The most units.
const UNITS: u32 = 1_000_000;

/// The most changes, so that what holds of a request is soon found.
const CHANGES: usize = 64;

/// The most of a processor's own numbers, as in a host.
const METRICS: usize = 32;

/// What traffic is like, and how the arms answer it. What a file leaves out is as
/// [`Traffic::default`] has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traffic {
    /// How long it goes on. A rollout that ends sooner is shown a little beyond its end.
    pub duration: Span,
    /// The mean of requests, which come at random.
    pub requests_per_second: f64,
    /// By which part of that there are more at noon and fewer at midnight, 0 to 1.
    pub wave: f64,
    /// How many units there are; only where the endpoint declares a unit.
    pub units: Option<u32>,
    /// How much more active some units are than others: the standard deviation of the logarithm of
    /// what each sends. 0 has all send alike.
    pub activity: f64,
    /// For each declared attribute its values, with how often each comes. A unit keeps its values.
    pub attributes: BTreeMap<String, BTreeMap<String, f64>>,
    /// How each arm answers.
    pub arms: BTreeMap<String, Behaviour>,
    /// What becomes different on the way.
    pub change: Vec<Change>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            duration: Span(DAY),
            requests_per_second: 10.0,
            wave: 0.0,
            units: None,
            activity: 1.0,
            attributes: BTreeMap::new(),
            arms: BTreeMap::new(),
            change: Vec::new(),
        }
    }
}

/// What becomes different at some time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// When, from the beginning.
    pub at: Span,
    /// The arm that answers differently; all of them when left out.
    #[serde(default)]
    pub arm: Option<String>,
    /// The requests for which it does, `ATTRIBUTE=VALUE`; all when left out.
    #[serde(default)]
    pub slice: Option<String>,
    /// How it answers from then on.
    #[serde(default)]
    pub to: Behaviour,
    /// How many requests come from then on.
    #[serde(default)]
    pub requests_per_second: Option<f64>,
}

/// The key of a traffic file that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct TrafficError {
    /// The key, such as `arms.next.error_rate`.
    pub key: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// What a traffic file has to fit to.
#[derive(Clone, Debug)]
pub struct Declared {
    /// The arms.
    pub arms: Vec<String>,
    /// The attributes, without the unit.
    pub attributes: Vec<String>,
    /// Whether requests have a unit.
    pub unit: bool,
}

pub(super) fn refuse<T>(
    key: impl Into<String>,
    problem: impl Into<String>,
) -> Result<T, TrafficError> {
    Err(TrafficError { key: key.into(), problem: problem.into() })
}

pub(super) fn share(key: &str, value: Option<f64>) -> Result<(), TrafficError> {
    match value.filter(|value| !(0.0..=1.0).contains(value)) {
        None => Ok(()),
        Some(value) => refuse(key, format!("{value} is no share: use 0 to 1")),
    }
}

fn one_of(key: &str, what: &str, name: &str, known: &[String]) -> Result<(), TrafficError> {
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let known = if known.is_empty() { "there are none".into() } else { known.join(", ") };
    refuse(key, format!("the endpoint has no {what} {name:?}; known: {known}"))
}

impl Traffic {
    /// Says what is wrong with it, for an endpoint that declares this.
    pub fn check(&self, declared: &Declared) -> Result<(), TrafficError> {
        if !(Span(1_000_000)..=LONGEST).contains(&self.duration) {
            return refuse("duration", "use 1s to 366d");
        }
        let rate = |key: &str, rate: f64| match rate > 0.0 && rate.is_finite() {
            true => Ok(()),
            false => refuse(key, format!("{rate} is no rate: use a number above 0")),
        };
        rate("requests_per_second", self.requests_per_second)?;
        share("wave", Some(self.wave))?;
        if !(0.0..=3.0).contains(&self.activity) {
            return refuse("activity", format!("{} is not within 0 and 3", self.activity));
        }
        match self.units {
            Some(_) if !declared.unit => {
                return refuse("units", "the endpoint declares no unit: unit = \"ATTRIBUTE\"");
            }
            Some(units) if !(1..=UNITS).contains(&units) => {
                return refuse("units", format!("{units} is not within 1 and {UNITS}"));
            }
            _ => {}
        }
        for (name, values) in &self.attributes {
            let key = format!("attributes.{name}");
            one_of(&key, "attribute besides its unit", name, &declared.attributes)?;
            let fits = values.values().all(|weight| *weight >= 0.0 && weight.is_finite());
            if !fits || values.values().sum::<f64>() <= 0.0 || values.len() > 1000 {
                return refuse(
                    key,
                    "give 1 to 1000 values weights above 0, such as { de = 3, fr = 1 }",
                );
            }
        }
        for (arm, behaviour) in &self.arms {
            let key = format!("arms.{arm}");
            one_of(&key, "arm", arm, &declared.arms)?;
            behaviour.check(&key)?;
        }
        if self.change.len() > CHANGES {
            return refuse("change", format!("give {CHANGES} at most"));
        }
        for (index, change) in self.change.iter().enumerate() {
            let key = |part: &str| format!("change[{index}].{part}");
            self.check_change(change, &key, declared)?;
            change
                .requests_per_second
                .map_or(Ok(()), |rps| rate(&key("requests_per_second"), rps))?;
        }
        let metrics: BTreeSet<&String> =
            self.behaviours().flat_map(|behaviour| behaviour.metrics.keys()).collect();
        if metrics.len() > METRICS {
            return refuse("arms", format!("{} metrics are more than {METRICS}", metrics.len()));
        }
        self.check_amount()
    }

    fn check_change(
        &self,
        change: &Change,
        key: &dyn Fn(&str) -> String,
        declared: &Declared,
    ) -> Result<(), TrafficError> {
        if change.at >= self.duration {
            return refuse(
                key("at"),
                format!("{} is not within the duration, {}", change.at, self.duration),
            );
        }
        if let Some(arm) = &change.arm {
            one_of(&key("arm"), "arm", arm, &declared.arms)?;
        }
        if let Some(slice) = &change.slice {
            let known = slice.split_once('=').is_some_and(|(attribute, value)| {
                self.attributes.get(attribute).is_some_and(|values| values.contains_key(value))
            });
            if !known {
                let problem = "write it ATTRIBUTE=VALUE, of a value that [attributes] names";
                return refuse(key("slice"), format!("{slice:?} is no slice: {problem}"));
            }
            if change.to.prepare.is_some() {
                return refuse(
                    key("to.prepare"),
                    "an arm is made ready as a whole: leave slice out",
                );
            }
        }
        if change.to == Behaviour::default() && change.requests_per_second.is_none() {
            return refuse(key("to"), "say what changes, such as to = { error_rate = 0.1 }");
        }
        change.to.check(&key("to"))
    }

    fn check_amount(&self) -> Result<(), TrafficError> {
        let expected = self.most_per_second() * self.duration.seconds();
        if expected > REQUESTS {
            let problem = format!("{expected:.0} requests may come, more than {REQUESTS:.0}");
            return refuse(
                "duration",
                format!("{problem}: give less of it or fewer requests_per_second"),
            );
        }
        for behaviour in self.behaviours() {
            let after = behaviour.reward.and_then(|reward| reward.after).unwrap_or_default();
            let waiting = self.most_per_second() * after.seconds().min(self.duration.seconds());
            if waiting > ON_THEIR_WAY {
                let problem = format!("{waiting:.0} rewards would be on their way at once");
                return refuse("reward.after", format!("{problem}, more than {ON_THEIR_WAY:.0}"));
            }
        }
        Ok(())
    }

    fn behaviours(&self) -> impl Iterator<Item = &Behaviour> {
        self.arms.values().chain(self.change.iter().map(|change| &change.to))
    }

    /// The highest rate at which requests ever come.
    pub(super) fn most_per_second(&self) -> f64 {
        let changed = self.change.iter().filter_map(|change| change.requests_per_second);
        changed.fold(self.requests_per_second, f64::max) * (1.0 + self.wave)
    }
}

/// What changes, as it is told: `next (segment=vip): error_rate 0.2`.
impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { arm, slice, to, requests_per_second, .. } = self;
        let share = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {value}"));
        let latency = to.latency.map(|Latency { median_ms, p99_ms }| {
            format!("latency {median_ms} ms, 99 % within {p99_ms} ms")
        });
        let parts = [
            requests_per_second.map(|rate| format!("{rate} requests a second")),
            share("error_rate", to.error_rate),
            share("refused_rate", to.refused_rate),
            latency,
            to.reward.map(|reward| format!("reward {reward}")),
            share("agreement", to.agreement),
            to.prepare.map(|_| "prepare".to_owned()),
        ];
        let metrics = to.metrics.iter().map(|(name, values)| format!("{name} {values}"));
        let parts: Vec<String> = parts.into_iter().flatten().chain(metrics).collect();
        let slice = slice.as_ref().map_or_else(String::new, |slice| format!(" ({slice})"));
        let arm = match arm {
            Some(arm) => arm,
            None if slice.is_empty() && *to == Behaviour::default() => "traffic",
            None => "all arms",
        };
        write!(f, "{arm}{slice}: {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let declared = Declared {
            arms: vec!["live".into(), "next".into()],
            attributes: vec!["segment".into()],
            unit: true,
        };
        let check = |value: serde_json::Value, problem: Option<&str>, declared: &Declared| {
            let text = value.to_string();
            let result = serde_json::from_value::<Traffic>(value)
                .map_err(|error| error.to_string())
                .and_then(|traffic| traffic.check(declared).map_err(|error| error.to_string()));
            match (&result, problem) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) if error.contains(part) => {}
                _ => panic!("{text}: {result:?}, expected {problem:?}"),
            }
        };
        let segments = json!({"segment": {"vip": 1, "other": 9}});
        for (value, problem) in [
            (json!({}), None),
            (json!({"duration": "3 days"}), Some("\"3 days\" is no span of time")),
            (json!({"duration": "900d"}), Some("duration: use 1s to 366d")),
            (json!({"requests_per_second": 0}), Some("requests_per_second: 0 is no rate")),
            (json!({"requests_per_second": 2000}), Some("duration: 172800000 requests may come")),
            (json!({"wave": 1.5}), Some("wave: 1.5 is no share")),
            (json!({"units": 0}), Some("units: 0 is not within 1")),
            (json!({"activity": -1.0}), Some("activity: -1 is not within 0 and 3")),
            (json!({"colour": 1}), Some("unknown field `colour`")),
            (json!({"attributes": segments}), None),
            (
                json!({"attributes": {"region": {"eu": 1}}}),
                Some("attributes.region: the endpoint has no attribute"),
            ),
            (
                json!({"attributes": {"segment": {"vip": -1}}}),
                Some("attributes.segment: give 1 to 1000"),
            ),
            (json!({"attributes": {"segment": {}}}), Some("attributes.segment: give 1 to 1000")),
            (
                json!({"arms": {"new": {}}}),
                Some("arms.new: the endpoint has no arm \"new\"; known: live, next"),
            ),
            (
                json!({"arms": {"next": {"error_rate": 2}}}),
                Some("arms.next.error_rate: 2 is no share"),
            ),
            (json!({"arms": {"next": {"errors": 2}}}), Some("unknown field `errors`")),
            (
                json!({"arms": {"next": {"latency": {"median_ms": 9, "p99_ms": 3}}}}),
                Some("arms.next.latency: give median_ms"),
            ),
            (
                json!({"arms": {"next": {"reward": {}}}}),
                Some("arms.next.reward: give rate, or mean"),
            ),
            (
                json!({"arms": {"next": {"reward": {"rate": 0.1, "mean": 1.0}}}}),
                Some("arms.next.reward: give rate, or mean"),
            ),
            (
                json!({"arms": {"next": {"reward": {"rate": 0.1, "after": "10m"}, "prepare": "fails"}}}),
                None,
            ),
            (
                json!({"arms": {"next": {"metrics": {"sure": {"mean": 1.0, "after": "1s"}}}}}),
                Some("arms.next.metrics.sure.after: only a reward"),
            ),
            (json!({"arms": {"next": {"prepare": "soon"}}}), Some("\"soon\" is neither a span")),
            (
                json!({"change": [{"at": "1d", "to": {"error_rate": 0.1}}]}),
                Some("change[0].at: 1d is not within the duration, 1d"),
            ),
            (json!({"change": [{"at": "1h"}]}), Some("change[0].to: say what changes")),
            (
                json!({"change": [{"at": "1h", "arm": "old", "to": {"error_rate": 0.1}}]}),
                Some("change[0].arm: the endpoint has no arm \"old\""),
            ),
            (
                json!({"change": [{"at": "1h", "slice": "segment=vip", "to": {"error_rate": 0.1}}]}),
                Some("change[0].slice: \"segment=vip\" is no slice"),
            ),
            (
                json!({"attributes": segments,
                    "change": [{"at": "1h", "slice": "segment=vip", "to": {"error_rate": 0.1}}]}),
                None,
            ),
            (
                json!({"requests_per_second": 900,
                    "arms": {"live": {"reward": {"rate": 0.5, "after": "20h"}}}}),
                Some("reward.after: 64800000 rewards"),
            ),
        ] {
            check(value, problem, &declared);
        }
        let bare = Declared { attributes: Vec::new(), unit: false, ..declared };
        check(json!({"units": 5}), Some("units: the endpoint declares no unit"), &bare);
    }
}
