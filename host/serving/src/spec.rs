//! The endpoint file: what an operator applies.

use std::collections::BTreeMap;

use berth_tensor::{Digest, Name, Reference};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    /// When a request is given up, in milliseconds; 30,000 when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether clients may ask for a variant by name, past the routing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// How to choose among the variants; needed with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<PolicySpec>,
    /// How to move traffic to the next revision; without it the next takes over when it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<PolicySpec>,
    /// The ways to answer.
    pub variants: Vec<VariantSpec>,
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
        if self.rollout.is_some() {
            return Err(SpecError::new(
                "rollout",
                "this version of Berth moves all traffic as soon as the revision is ready; leave [rollout] out",
            ));
        }
        for (index, variant) in self.variants.iter().enumerate() {
            if self.variants[..index].iter().any(|other| other.name == variant.name) {
                let key = format!("variants.{}", variant.name);
                return Err(SpecError::new(key, "there are two of this name"));
            }
            variant.check()?;
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
        let parsed = self.assets.iter().map(|(name, text)| match text.strip_prefix("sha256:") {
            Some(digest) => match digest.parse() {
                Ok(digest) => Ok((name.clone(), digest)),
                Err(error) => Err(SpecError::new(
                    format!("variants.{}.assets.{name}", self.name),
                    format!("{error}"),
                )),
            },
            None => Err(SpecError::new(
                format!("variants.{}.assets.{name}", self.name),
                format!("{text:?} is no digest: upload the file and give sha256:DIGEST"),
            )),
        });
        parsed.collect()
    }
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
        check(
            &format!(r#"{{"name":"e","rollout":{{"policy":"canary@1"}},"variants":[{plain}]}}"#),
            Some("rollout: "),
        );
    }
}
