//! What the store keeps: models, plugins, revisions and endpoints.

use std::collections::BTreeMap;

use berth_monitor::Observed;
use berth_monitor::predictions::PredictionsSpec;
use berth_plugin::{ArmState, Evaluation, Inspection};
use berth_tensor::{Digest, Name, TensorType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::spec::{AttributeSource, Limits, ModelSpec, ShadowSpec};
use crate::warm_up::WarmUp;

/// The store's kinds of documents.
pub(crate) const MODEL: &str = "model";
pub(crate) const PLUGIN: &str = "plugin";
pub(crate) const REVISION: &str = "revision";
pub(crate) const ENDPOINT: &str = "endpoint";
/// What was observed of the arms of an endpoint's last rollout.
pub(crate) const OBSERVED: &str = "observed";
/// What was observed of the variants of an endpoint's live revision.
pub(crate) const OBSERVED_VARIANTS: &str = "observed-variants";

/// One version of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelVersion {
    /// The model's name.
    pub name: Name,
    /// From 1.
    pub version: u64,
    /// The sha256 of the file; with data files, [`ModelFiles::digest`].
    pub digest: Digest,
    /// The size of all files in bytes.
    pub bytes: u64,
    /// Its files, when the weights are not in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<ModelFiles>,
    /// When it was pushed, in milliseconds since 1970.
    pub pushed_ms: u64,
    /// What it takes.
    pub inputs: Vec<TensorType>,
    /// What it answers.
    pub outputs: Vec<TensorType>,
    /// The names of dimensions that vary, by input or output: one for each dimension, empty where it
    /// is fixed or has no name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub symbols: BTreeMap<String, Vec<String>>,
    /// What the file says of itself.
    pub properties: Vec<(String, String)>,
    /// Whether requests for it run together, or why not, as it was found when it was pushed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub batching: String,
    /// What makes it doubtful that it answers anybody, as it was found when it was pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// The files of a model, by their sha256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFiles {
    /// The model's own file.
    pub model: Digest,
    /// Those that hold its weights, by the names that it gives them.
    #[serde(default)]
    pub data: BTreeMap<String, Digest>,
}

impl ModelFiles {
    /// The digest of the whole: of the only file, else of the JSON form of this, whose order of keys is
    /// fixed.
    pub fn digest(&self) -> Digest {
        match self.data.is_empty() {
            true => self.model,
            // A map of text has a JSON form, so this cannot fail.
            false => Digest::of(&serde_json::to_vec(self).unwrap_or_default()),
        }
    }
}

/// One version of a plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PluginVersion {
    /// The plugin's name.
    pub name: Name,
    /// From 1.
    pub version: u64,
    /// The sha256 of the component.
    pub digest: Digest,
    /// The size of the component in bytes.
    pub bytes: u64,
    /// When it was pushed, in milliseconds since 1970.
    pub pushed_ms: u64,
    /// What it is and asks for.
    pub inspection: Inspection,
}

/// A version and the digest that it stood for when the revision was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// The name.
    pub name: Name,
    /// The version.
    pub version: u64,
    /// The digest.
    pub digest: Digest,
}

impl std::fmt::Display for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// One immutable state of an endpoint: everything that decides how a request is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The endpoint's name.
    pub endpoint: Name,
    /// The declared attributes.
    pub attributes: BTreeMap<Name, AttributeSource>,
    /// The attribute whose values stay on one arm.
    pub unit: Option<Name>,
    /// What policies see apart from the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<String>,
    /// When a request is given up, in milliseconds.
    pub timeout_ms: u64,
    /// Whether clients may ask for a variant by name.
    pub direct: bool,
    /// What its processors may use.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// How its models are run, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<Name, ModelSpec>,
    /// How to choose among the variants.
    pub routing: Option<PinnedPolicy>,
    /// How answers of shadows are compared with the live ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowSpec>,
    /// A request that every variant answers first, with its file by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUp>,
    /// What is recorded of its predictions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictions: Option<PredictionsSpec>,
    /// The ways to answer.
    pub variants: Vec<PinnedVariant>,
}

/// A policy fixed by digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PinnedPolicy {
    /// The plugin.
    pub policy: Pinned,
    /// Its configuration.
    pub config: Map<String, Value>,
}

/// A variant fixed by digests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PinnedVariant {
    /// Its name.
    pub name: Name,
    /// The plugin, when there is one.
    pub processor: Option<Pinned>,
    /// Models by role.
    pub models: BTreeMap<String, Pinned>,
    /// The processor's configuration.
    pub config: Map<String, Value>,
    /// Assets by name.
    pub assets: BTreeMap<String, Digest>,
}

impl Revision {
    /// The digest that names it: of its JSON form, whose order of keys is fixed.
    pub fn digest(&self) -> Digest {
        // Maps are sorted and every part has a JSON form, so this cannot fail.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// Where an endpoint stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The revision that answers, once one was ready.
    pub live: Option<Digest>,
    /// The revision that was applied last.
    pub applied: Digest,
    /// What became of it.
    pub state: EndpointState,
    /// Why it failed, when it did.
    pub problem: Option<String>,
    /// Starts of the host that have gone on with preparing it and did not come to an end of it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub starts: u32,
    /// The routing policy's last evaluation, which the live revision goes on with after a restart.
    #[serde(default)]
    pub evaluation: Option<Evaluation>,
    /// Revisions that were live before, latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Digest>,
    /// How traffic moves to the revision applied last, or has moved, where a policy has a say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// The most revisions that an endpoint remembers to have been live.
const EARLIER: usize = 32;

impl EndpointRecord {
    /// A revision becomes the live one.
    pub(crate) fn take_over(&mut self, next: Digest) {
        let before = self.live.replace(next).filter(|before| *before != next);
        self.earlier.retain(|known| *known != next && Some(*known) != before);
        self.earlier.splice(0..0, before);
        self.earlier.truncate(EARLIER);
    }
}

/// What was observed of the variants of a revision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VariantsObserved {
    pub(crate) revision: Digest,
    pub(crate) arms: Vec<Observed>,
}

fn is_none(starts: &u32) -> bool {
    *starts == 0
}

/// How traffic moves from the live revision, arm 0, to the next, arm 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The two revisions in the order of the arms.
    pub arms: [Digest; 2],
    /// The policy that decides.
    pub policy: PinnedPolicy,
    /// The most of all traffic, 0 to 1, that one evaluation may move to the next revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_step: Option<f64>,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// Whether the policy is not asked for now.
    #[serde(default)]
    pub paused: bool,
    /// Whether the policy's router was in quarantine: it stays so until the end of the rollout.
    #[serde(default)]
    pub quarantined: bool,
    /// The share of the next revision that is in force, 0 to 1.
    pub share: f64,
    /// The policy's last evaluation; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// How it is to end, once that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// How a rollout is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Which revision is to serve.
    pub outcome: Outcome,
    /// Who decided so.
    pub who: String,
    /// Why.
    pub why: String,
}

impl Outcome {
    /// As it is shown and counted.
    pub fn word(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Aborted => "aborted",
        }
    }
}

/// Which revision a rollout ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The next.
    Promoted,
    /// The one that was live.
    Aborted,
}

impl Rollout {
    /// What the arms are to be now. An arm that has a share stays ready, whatever the policy wants.
    pub fn wanted(&self) -> [ArmState; 2] {
        let named = |arm: usize| {
            let evaluation = self.evaluation.as_ref()?;
            evaluation.arms.iter().find(|named| named.arm == arm).map(|named| named.state)
        };
        let states = [named(0).unwrap_or(ArmState::Ready), named(1).unwrap_or(ArmState::Stopped)];
        match self.order.as_ref().map(|order| order.outcome) {
            Some(Outcome::Promoted) => [states[0], ArmState::Ready],
            Some(Outcome::Aborted) => [ArmState::Ready, ArmState::Stopped],
            None if self.share >= 1.0 => [states[0], ArmState::Ready],
            None if self.share > 0.0 => [ArmState::Ready, ArmState::Ready],
            None => [ArmState::Ready, states[1]],
        }
    }
}

/// What became of the revision applied last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// It is being prepared beside the live one.
    Preparing,
    /// It is the live one.
    Live,
    /// A policy moves traffic to it from the live one.
    Rolling,
    /// It could not be prepared, or its rollout failed; the one before goes on.
    Failed,
}

pub(crate) fn key(name: &Name, version: u64) -> String {
    format!("{name}@{version:012}")
}
