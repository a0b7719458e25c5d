//! The endpoint file: what an operator applies.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_inference::{BatchOptions, ModelOptions, Providers};
use berth_monitor::predictions::PredictionsSpec;
use berth_plugin::ProcessorLimits;
use berth_plugin::inspect::WantedLimits;
use berth_tensor::digest::DigestError;
use berth_tensor::{Digest, Name, Reference};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::compare::Compare;
use crate::provider::ProviderSpec;
use crate::slices;
use crate::warm_up::WarmUp;

/// An endpoint as an operator writes it. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// What clients call it.
    pub name: Name,
    /// The values of a request that policies see and logs keep.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<Name, AttributeSource>,
    /// The attribute whose values stay on one arm, such as `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Name>,
    /// What policies see apart from the whole, such as `segment=vip`: requests with that value of a
    /// declared attribute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<String>,
    /// When a request is given up, in milliseconds; 30,000 when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether clients may ask for a variant by name, past the routing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// What its processors may use.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// How its models are run, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<Name, ModelSpec>,
    /// How to choose among the variants; needed with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<PolicySpec>,
    /// How to move traffic to the next revision; without it the next takes over when it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSpec>,
    /// How answers of shadows are compared with the live ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowSpec>,
    /// A request that every variant answers before a revision takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUp>,
    /// What is recorded of its predictions; nothing when it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictions: Option<PredictionsSpec>,
    /// The ways to answer.
    pub variants: Vec<VariantSpec>,
}

/// What an endpoint's processors may use: where a value is not set, what the operator grants all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memory of an instance, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// CPU time of a call, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Tensors and answers that the host holds for a call, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mib: Option<u64>,
    /// Instances under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u64>,
}

impl Limits {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses what is above the most that the operator grants, or 0.
    pub(crate) fn check(&self, most: ProcessorLimits, instances: usize) -> Result<(), SpecError> {
        let cpu_ms = u64::try_from(most.cpu.as_millis()).unwrap_or(u64::MAX);
        for (key, wanted, most, from) in [
            ("memory_mib", self.memory_mib, most.memory >> 20, "--processor-memory"),
            ("cpu_ms", self.cpu_ms, cpu_ms, "--processor-cpu"),
            ("host_mib", self.host_mib, most.host_bytes >> 20, "--processor-host"),
            ("instances", self.instances, instances as u64, "three quarters of --max-instances"),
        ] {
            if let Some(wanted) = wanted
                && !(1..=most).contains(&wanted)
            {
                let problem = format!(
                    "{wanted} is not within 1 and the operator's maximum of {most} ({from})"
                );
                return Err(SpecError::new(format!("limits.{key}"), problem));
            }
        }
        Ok(())
    }

    /// What a call may use: the least of what the endpoint, the plugin's manifest and the operator
    /// say.
    pub(crate) fn grant(&self, wanted: WantedLimits, most: ProcessorLimits) -> ProcessorLimits {
        let least =
            |most: u64, others: [Option<u64>; 2]| others.into_iter().flatten().fold(most, u64::min);
        let bytes = |mib: Option<u64>| mib.map(|mib| mib.saturating_mul(1 << 20));
        let cpu_ms = u64::try_from(most.cpu.as_millis()).unwrap_or(u64::MAX);
        ProcessorLimits {
            memory: least(most.memory, [wanted.memory, bytes(self.memory_mib)]),
            cpu: Duration::from_millis(least(cpu_ms, [wanted.cpu_ms, self.cpu_ms])),
            host_bytes: least(most.host_bytes, [bytes(self.host_mib), None]),
        }
    }
}

/// How a model is run: where a value is not set, the host chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The most rows of several requests that run as one; 1 has every request run alone. When not
    /// set, requests run together where that is safe and quicker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<u32>,
    /// How long a request that waits with others waits for more of them, in microseconds; 0 when
    /// not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delay_us: Option<u64>,
    /// Requests that may wait; 128 when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queue: Option<u32>,
    /// What runs its operators, first what is asked first; the CPU when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub providers: Option<Vec<ProviderSpec>>,
}

/// The most that [`ModelSpec`] takes: rows of a run, microseconds, requests that wait.
const MOST: [u64; 3] = [4096, 1_000_000, 65_536];

impl ModelSpec {
    fn check(&self, model: &Name) -> Result<(), SpecError> {
        let given = [
            ("max_batch", self.max_batch.map(u64::from), 1),
            ("max_delay_us", self.max_delay_us, 0),
            ("max_queue", self.max_queue.map(u64::from), 1),
        ];
        for ((key, value, least), most) in given.into_iter().zip(MOST) {
            if value.is_some_and(|value| !(least..=most).contains(&value)) {
                let problem = format!("give {least} to {most}");
                return Err(SpecError::new(format!("models.{model}.{key}"), problem));
            }
        }
        self.options(model).map(drop)
    }

    pub(crate) fn options(&self, model: &Name) -> Result<ModelOptions, SpecError> {
        let default = BatchOptions::default();
        let batch = BatchOptions {
            most: self.max_batch,
            delay: self.max_delay_us.map_or(default.delay, Duration::from_micros),
            queue: self.max_queue.map_or(default.queue, |queue| queue as usize),
        };
        let named = |providers: &Vec<ProviderSpec>| {
            Providers::new(providers.iter().cloned().map(ProviderSpec::into))
        };
        let providers = self.providers.as_ref().map_or_else(|| Ok(Providers::default()), named);
        let refused = |problem| SpecError::new(format!("models.{model}.providers"), problem);
        Ok(ModelOptions { batch, providers: providers.map_err(refused)? })
    }
}

/// Where the value of an attribute comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum AttributeSource {
    /// A header, by its lowercase name.
    Header(String),
    /// A parameter of the query.
    Query(String),
    /// A parameter of the inference request's body.
    Parameter(String),
}

/// A policy and its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// The plugin.
    pub policy: Reference,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
}

/// A policy that moves traffic to the next revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSpec {
    /// The plugin.
    pub policy: Reference,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// The most of all traffic, above 0 to 1, that one evaluation may move to the next revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_step: Option<f64>,
}

/// How answers of shadows are compared with the live ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShadowSpec {
    /// When two answers agree.
    #[serde(default)]
    pub compare: Compare,
}

/// One way to answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    /// Its name.
    pub name: Name,
    /// The plugin around the model; without one, tensors go straight to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<Reference>,
    /// Model versions by role; without a processor there is one, `default`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, Reference>,
    /// The processor's configuration.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// Files that the processor may read, by name. In a file these are paths beside it; the command
    /// line uploads them and puts their digests here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub assets: BTreeMap<String, String>,
}

/// The key of the endpoint file that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct SpecError {
    /// The key, such as `variants.main.models`.
    pub key: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

impl SpecError {
    pub(crate) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

/// The longest that a request may take, in milliseconds: an hour.
const TIMEOUT_MS: u64 = 3_600_000;

/// The most variants of a revision.
const VARIANTS: usize = 64;

/// The most attributes of an endpoint.
const ATTRIBUTES: usize = 32;

impl EndpointSpec {
    /// Says what is wrong that can be told without looking anything up.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.variants.is_empty() || self.variants.len() > VARIANTS {
            return Err(SpecError::new("variants", format!("give 1 to {VARIANTS} [[variants]]")));
        }
        if self.attributes.len() > ATTRIBUTES {
            return Err(SpecError::new("attributes", format!("at most {ATTRIBUTES}")));
        }
        for (name, source) in &self.attributes {
            let AttributeSource::Header(header) = source else { continue };
            let plain = !header.is_empty()
                && header
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
            if !plain {
                let key = format!("attributes.{name}.header");
                return Err(SpecError::new(
                    key,
                    format!("{header:?} is no header name in lowercase"),
                ));
            }
        }
        if let Some(unit) = &self.unit
            && !self.attributes.contains_key(unit)
        {
            return Err(SpecError::new("unit", format!("\"{unit}\" is not among the attributes")));
        }
        slices::check(&self.slices, self.attributes.keys(), self.variants.len())?;
        if let Some(timeout) = self.timeout_ms
            && !(1..=TIMEOUT_MS).contains(&timeout)
        {
            return Err(SpecError::new("timeout_ms", format!("give 1 to {TIMEOUT_MS}")));
        }
        if self.variants.len() > 1 && self.routing.is_none() {
            return Err(SpecError::new(
                "routing",
                "several variants need a policy to choose among them, such as policy = \"weighted@1\"",
            ));
        }
        let max_step = self.rollout.as_ref().and_then(|rollout| rollout.max_step);
        if let Some(step) = max_step.filter(|step| !(*step > 0.0 && *step <= 1.0)) {
            let problem = format!("{step} is not above 0 and up to 1");
            return Err(SpecError::new("rollout.max_step", problem));
        }
        self.shadow.map_or(Ok(()), |shadow| shadow.compare.check())?;
        self.warm_up.as_ref().map_or(Ok(()), WarmUp::check)?;
        if let Some(Err((key, problem))) = self.predictions.as_ref().map(PredictionsSpec::check) {
            return Err(SpecError::new(format!("predictions.{key}"), problem));
        }
        for (index, variant) in self.variants.iter().enumerate() {
            if self.variants[..index].iter().any(|other| other.name == variant.name) {
                let key = format!("variants.{}", variant.name);
                return Err(SpecError::new(key, "there are two of this name"));
            }
            variant.check()?;
        }
        for (name, model) in &self.models {
            let bound = |variant: &VariantSpec| {
                variant.models.values().any(|reference| reference.name == *name)
            };
            if !self.variants.iter().any(bound) {
                let problem = "no variant binds a model of this name".to_owned();
                return Err(SpecError::new(format!("models.{name}"), problem));
            }
            model.check(name)?;
        }
        Ok(())
    }
}

impl VariantSpec {
    fn check(&self) -> Result<(), SpecError> {
        let key = |part: &str| format!("variants.{}.{part}", self.name);
        if self.processor.is_none() {
            if self.models.len() != 1 || !self.models.contains_key("default") {
                return Err(SpecError::new(
                    key("models"),
                    "without a processor there is exactly one model: models = { default = \"NAME@VERSION\" }",
                ));
            }
            if !self.config.is_empty() {
                return Err(SpecError::new(key("config"), "there is no processor to configure"));
            }
            if !self.assets.is_empty() {
                return Err(SpecError::new(key("assets"), "there is no processor to read them"));
            }
        }
        Ok(())
    }

    pub(crate) fn asset_digests(&self) -> Result<BTreeMap<String, Digest>, SpecError> {
        let key = |name: &str| format!("variants.{}.assets.{name}", self.name);
        let parsed =
            |(name, text): (&String, &String)| Ok((name.clone(), asset_digest(&key(name), text)?));
        self.assets.iter().map(parsed).collect()
    }
}

/// The digest of an asset, as the command line puts it where a path was.
pub(crate) fn asset_digest(key: &str, text: &str) -> Result<Digest, SpecError> {
    let Some(digest) = text.strip_prefix("sha256:") else {
        let problem = format!("{text:?} is no digest: upload the file and give sha256:DIGEST");
        return Err(SpecError::new(key, problem));
    };
    digest.parse().map_err(|error: DigestError| SpecError::new(key, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, problem: Option<&str>) {
        let result = serde_json::from_str::<EndpointSpec>(json)
            .map_err(|error| error.to_string())
            .and_then(|spec| spec.check().map_err(|error| error.to_string()));
        match (&result, problem) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) if error.contains(part) => {}
            _ => panic!("{json}: {result:?}, expected {problem:?}"),
        }
    }

    #[test]
    fn limits_are_within_the_operators_and_the_least_holds() {
        let most = ProcessorLimits {
            memory: 64 << 20,
            cpu: Duration::from_millis(500),
            host_bytes: 32 << 20,
        };
        let limits = |json: &str| serde_json::from_str::<Limits>(json).unwrap();
        for (json, problem) in [
            ("{}", None),
            (r#"{"memory_mib":64,"cpu_ms":500,"host_mib":32,"instances":3}"#, None),
            (
                r#"{"memory_mib":65}"#,
                Some(
                    "limits.memory_mib: 65 is not within 1 and the operator's maximum of 64 (--processor-memory)",
                ),
            ),
            (r#"{"cpu_ms":501}"#, Some("limits.cpu_ms: 501 ")),
            (r#"{"cpu_ms":0}"#, Some("limits.cpu_ms: 0 ")),
            (r#"{"host_mib":33}"#, Some("maximum of 32 (--processor-host)")),
            (r#"{"instances":4}"#, Some("limits.instances: 4 ")),
        ] {
            let checked = limits(json).check(most, 3).map_err(|error| error.to_string());
            match (&checked, problem) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) if error.contains(part) => {}
                _ => panic!("{json}: {checked:?}, expected {problem:?}"),
            }
        }
        let wanted = WantedLimits { memory: Some(8 << 20), cpu_ms: Some(400) };
        for (json, memory_mib, cpu_ms, host_mib) in [
            ("{}", 8, 400, 32),
            (r#"{"memory_mib":4,"cpu_ms":450,"host_mib":1}"#, 4, 400, 1),
            (r#"{"memory_mib":99,"cpu_ms":9,"host_mib":99}"#, 8, 9, 32),
        ] {
            let granted = ProcessorLimits {
                memory: memory_mib << 20,
                cpu: Duration::from_millis(cpu_ms),
                host_bytes: host_mib << 20,
            };
            assert_eq!(limits(json).grant(wanted, most), granted, "{json}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let plain = r#"{"name":"main","models":{"default":"m@1"}}"#;
        check(&format!(r#"{{"name":"e","variants":[{plain}]}}"#), None);
        check(&format!(r#"{{"name":"e","variants":[{plain}],"colour":1}}"#), Some("colour"));
        check(&format!(r#"{{"name":"E","variants":[{plain}]}}"#), Some("\"E\" is no name"));
        check(r#"{"name":"e","variants":[]}"#, Some("variants: give 1"));
        check(&format!(r#"{{"name":"e","variants":[{plain},{plain}]}}"#), Some("routing: several"));
        check(
            &format!(
                r#"{{"name":"e","routing":{{"policy":"weighted@1"}},"variants":[{plain},{plain}]}}"#
            ),
            Some("variants.main: there are two"),
        );
        check(&format!(r#"{{"name":"e","unit":"user","variants":[{plain}]}}"#), Some("unit: "));
        check(
            &format!(
                r#"{{"name":"e","attributes":{{"user":{{"header":"X-User"}}}},"variants":[{plain}]}}"#
            ),
            Some("attributes.user.header"),
        );
        check(
            &format!(
                r#"{{"name":"e","attributes":{{"user":{{"cookie":"u"}}}},"variants":[{plain}]}}"#
            ),
            Some("cookie"),
        );
        check(r#"{"name":"e","variants":[{"name":"main"}]}"#, Some("variants.main.models"));
        check(
            r#"{"name":"e","variants":[{"name":"main","models":{"default":"m"}}]}"#,
            Some("no reference"),
        );
        for (warm_up, problem) in [
            (r#"{"infer":"a"}"#, None),
            (r#"{"invoke":"a"}"#, None),
            (r#"{"invoke":"a","content_type":"image/png"}"#, None),
            (
                r#"{"infer":"a","content_type":"image/png"}"#,
                Some("warm_up: content_type goes with"),
            ),
            (r#"{"infer":"a","invoke":"b"}"#, Some("warm_up: give infer or invoke, not both")),
            (r#"{"content_type":"image/png"}"#, Some("warm_up: give the file of a request")),
            (r#"{"file":"a"}"#, Some("unknown field `file`")),
        ] {
            check(&format!(r#"{{"name":"e","warm_up":{warm_up},"variants":[{plain}]}}"#), problem);
        }
        check(
            &format!(
                r#"{{"name":"e","rollout":{{"policy":"canary@1","max_step":1.5}},"variants":[{plain}]}}"#
            ),
            Some("rollout.max_step: 1.5 is not"),
        );
    }
}
