//! What simulated traffic is like: a small file beside the endpoint file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, de};

/// A day, in microseconds.
pub(super) const DAY: u64 = 86_400_000_000;

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

/// How an arm answers. What a file leaves out stays as it was: at first one request in a thousand
/// fails, half take at most 20 ms and 99 % at most 100 ms, there are no rewards, all answers agree,
/// and it is ready after 5 s.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// The part of requests that fail by the model's, the plugin's or the host's fault.
    pub error_rate: Option<f64>,
    /// The part of requests that are refused as the caller's fault.
    pub refused_rate: Option<f64>,
    /// How long an answer takes, log-normal.
    pub latency: Option<Latency>,
    /// What an answered request earns.
    pub reward: Option<Values>,
    /// What its processor observes of an answered request, by the number's name.
    pub metrics: BTreeMap<String, Values>,
    /// As a shadow, the part of its answers that agree with the one that was given.
    pub agreement: Option<f64>,
    /// How long it takes to be made ready.
    pub prepare: Option<Prepare>,
}

/// A log-normal latency by two of its quantiles, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Half of the requests take no longer.
    pub median_ms: f64,
    /// 99 % of the requests take no longer.
    pub p99_ms: f64,
}

/// Numbers at random: `rate`, the probability of 1 in place of 0, or `mean` and `deviation` of a
/// normal distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Values {
    /// The probability of 1.
    pub rate: Option<f64>,
    /// The mean.
    pub mean: Option<f64>,
    /// The standard deviation.
    pub deviation: Option<f64>,
    /// Of a reward, how long after the request it comes.
    pub after: Option<Span>,
}

/// What becomes of an arm that is made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepare {
    /// It is ready after this.
    Takes(Span),
    /// It cannot be prepared, which is found after 5 s.
    Fails,
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

fn refuse<T>(key: impl Into<String>, problem: impl Into<String>) -> Result<T, TrafficError> {
    Err(TrafficError { key: key.into(), problem: problem.into() })
}

fn share(key: &str, value: Option<f64>) -> Result<(), TrafficError> {
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

impl Behaviour {
    fn check(&self, key: &str) -> Result<(), TrafficError> {
        share(&format!("{key}.error_rate"), self.error_rate)?;
        share(&format!("{key}.refused_rate"), self.refused_rate)?;
        share(&format!("{key}.agreement"), self.agreement)?;
        if let Some(Latency { median_ms, p99_ms }) = self.latency
            && !(median_ms > 0.0 && p99_ms >= median_ms && p99_ms <= 3_600_000.0)
        {
            let problem = "give median_ms above 0 and p99_ms that is no less, up to an hour";
            return refuse(format!("{key}.latency"), problem);
        }
        if let Some(reward) = &self.reward {
            reward.check(&format!("{key}.reward"))?;
        }
        for (name, values) in &self.metrics {
            let key = format!("{key}.metrics.{name}");
            values.check(&key)?;
            if values.after.is_some() {
                return refuse(format!("{key}.after"), "only a reward comes later");
            }
        }
        Ok(())
    }
}

impl Values {
    fn check(&self, key: &str) -> Result<(), TrafficError> {
        match (self.rate, self.mean, self.deviation) {
            (Some(rate), None, None) => share(&format!("{key}.rate"), Some(rate)),
            (None, Some(mean), deviation) => {
                let deviation = deviation.unwrap_or(0.0);
                if mean.is_finite() && deviation >= 0.0 && deviation.is_finite() {
                    return Ok(());
                }
                refuse(key, "give a finite mean, and a deviation of 0 or more")
            }
            _ => refuse(key, "give rate, or mean and deviation"),
        }
    }
}

/// A span of time, in microseconds; written `3d`, `6h`, `10m`, `30s`, `250ms`, or several of these
/// together, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

const UNITS_OF_TIME: [(&str, u64); 5] =
    [("d", DAY), ("h", DAY / 24), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)];

impl Span {
    /// Reads it; none when it is not written so.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut micros = 0u64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: u64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (_, unit) = UNITS_OF_TIME.iter().find(|(name, _)| *name == &rest[..letters])?;
            micros = micros.checked_add(number.checked_mul(*unit)?)?;
            rest = &rest[letters..];
        }
        (!text.is_empty()).then_some(Self(micros))
    }

    /// In seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// As it is written, to the millisecond, its two largest units.
impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0;
        let mut parts = 0;
        for (name, unit) in UNITS_OF_TIME {
            let number = rest / unit;
            if number > 0 && parts < 2 {
                write!(f, "{number}{name}")?;
                rest %= unit;
                parts += 1;
            } else if parts > 0 {
                break;
            }
        }
        if parts == 0 { f.write_str("0s") } else { Ok(()) }
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

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.rate, self.mean, self.deviation) {
            (Some(rate), _, _) => write!(f, "rate {rate}"),
            (None, mean, deviation) => {
                write!(f, "mean {} ± {}", mean.unwrap_or(0.0), deviation.unwrap_or(0.0))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| {
            let example = "write it as \"3d\", \"6h\", \"10m\", \"30s\", \"250ms\" or \"1h30m\"";
            de::Error::custom(format!("{text:?} is no span of time: {example}"))
        })
    }
}

impl<'de> Deserialize<'de> for Prepare {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text == "fails" {
            return Ok(Self::Fails);
        }
        Span::parse(&text).map(Self::Takes).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is neither a span of time (\"5s\") nor \"fails\""))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, micros, written) in [
            ("3d", Some(3 * DAY), "3d"),
            ("1h30m", Some(5_400_000_000), "1h30m"),
            ("90m", Some(5_400_000_000), "1h30m"),
            ("1d1s", Some(DAY + 1_000_000), "1d"),
            ("250ms", Some(250_000), "250ms"),
            ("0s", Some(0), "0s"),
            ("", None, ""),
            ("3", None, ""),
            ("h", None, ""),
            ("3 d", None, ""),
            ("-3d", None, ""),
            ("99999999999999999999d", None, ""),
            ("999999999999999d", None, ""),
        ] {
            let span = Span::parse(text);
            assert_eq!(span.map(|span| span.0), micros, "{text}");
            if let Some(span) = span {
                assert_eq!(span.to_string(), written);
            }
        }
    }

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
