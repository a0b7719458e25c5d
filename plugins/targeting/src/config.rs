//! The configuration as it is written.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The first that applies decides.
    #[serde(default)]
    pub(crate) rules: Vec<Rule>,
    /// The arm for all else.
    pub(crate) default: String,
    /// The arms to try, in order, when the drawn one cannot answer.
    #[serde(default)]
    pub(crate) fallbacks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// Names the rule in metrics and records; by default `rule-N`, counted from 1.
    pub(crate) name: Option<String>,
    pub(crate) when: Option<When>,
    /// How many of a hundred units the rule applies to.
    pub(crate) percentage: Option<f64>,
    /// Rules of different salt divide the units independently.
    pub(crate) salt: Option<String>,
    pub(crate) arm: Option<String>,
    /// The weights of several arms.
    pub(crate) shares: Option<BTreeMap<String, f64>>,
    /// In place of the fallbacks for all.
    pub(crate) fallbacks: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct When {
    pub(crate) attribute: String,
    pub(crate) equals: Option<String>,
    #[serde(rename = "in")]
    pub(crate) one_of: Option<Vec<String>>,
    pub(crate) range: Option<Range>,
    pub(crate) prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}
