//! What an endpoint file says about recording.

use std::collections::BTreeSet;

use berth_tensor::DataType;
use serde::{Deserialize, Serialize};

use super::column::{Column, Kind};
use super::row::{BODY, Side};

/// Days that predictions are kept, unless the endpoint file says otherwise.
const KEEP_DAYS: u32 = 365;

/// MiB of predictions that are kept of an endpoint, unless its file says otherwise.
const KEEP_MIB: u64 = 1024;

/// What of an endpoint's predictions is recorded, and how they are compared with labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictionsSpec {
    /// The share of predictions that is recorded, above 0 to 1; all when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// What is kept of what was sent. `/a/0/b` is a field of a body of JSON.
    #[serde(default, skip_serializing_if = "Kept::is_none")]
    pub inputs: Kept,
    /// What is kept of what was answered.
    #[serde(default, skip_serializing_if = "Kept::is_none")]
    pub outputs: Kept,
    /// Attributes, inputs, outputs and fields of bodies of JSON, such as `/a/*/b`, that are left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub redact: BTreeSet<String>,
    /// How long predictions are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
    /// The most that they may take on disk; the oldest go first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_mib: Option<u64>,
    /// Where the answer has what is compared with labels: an output, or `/a/0/b` in a body of JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// Where it has how sure it is of the positive class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// What labels are.
    #[serde(default, skip_serializing_if = "Labels::are_classes")]
    pub labels: Labels,
    /// The class that precision, recall and ROC AUC are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive: Option<String>,
}

/// What is kept of what was sent or answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"none\", \"tensors\" or a list of names")]
pub enum Kept {
    /// Nothing.
    #[default]
    None,
    /// Every tensor, no body.
    Tensors,
    /// What is named; a body is called `body`, a field of one of JSON `/a/0/b`.
    #[serde(untagged)]
    Names(Vec<String>),
}

impl Kept {
    /// What is named.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Names(names) => names,
            Self::None | Self::Tensors => &[],
        }
    }

    /// Whether it is nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What labels are, and so what they are scored by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// One of several: accuracy, precision, recall, ROC AUC.
    #[default]
    Classes,
    /// Numbers: MAE, RMSE.
    Numbers,
}

impl Labels {
    fn are_classes(&self) -> bool {
        *self == Self::Classes
    }
}

impl PredictionsSpec {
    /// The key that does not fit, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(share) = self.share.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return Err(("share", format!("{share} is not above 0 and up to 1")));
        }
        if self.keep_days == Some(0) {
            return Err(("keep_days", "give 1 or more".into()));
        }
        if self.keep_mib == Some(0) {
            return Err(("keep_mib", "give 1 or more".into()));
        }
        if self.labels == Labels::Numbers && (self.score.is_some() || self.positive.is_some()) {
            let key = if self.score.is_some() { "score" } else { "positive" };
            return Err((key, "goes with labels = \"classes\"".into()));
        }
        Ok(())
    }

    /// What is kept of what was sent, or answered.
    pub(crate) fn kept(&self, side: Side) -> &Kept {
        match side {
            Side::Input => &self.inputs,
            Side::Output => &self.outputs,
        }
    }

    /// How long predictions are kept, in milliseconds, and how many bytes of them.
    pub(crate) fn keep(&self) -> (u64, u64) {
        let days = u64::from(self.keep_days.unwrap_or(KEEP_DAYS));
        let mib = self.keep_mib.unwrap_or(KEEP_MIB);
        (days * 86_400_000, mib.saturating_mul(1 << 20))
    }
}

/// What an endpoint file says about recording, and the columns that follow from it.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// What the file says.
    pub spec: PredictionsSpec,
    /// Of what is kept of inputs and outputs, whether or not a row has it.
    pub(crate) columns: Vec<Column>,
}

impl Declared {
    /// With the tensors that are known to be taken and answered: those of others have columns once a row
    /// has them.
    pub fn new(
        spec: PredictionsSpec,
        inputs: &[(String, DataType)],
        outputs: &[(String, DataType)],
    ) -> Self {
        let mut columns = Vec::new();
        for (side, known) in [(Side::Input, inputs), (Side::Output, outputs)] {
            let mut add = |name: &str, kind, beside: &str, of_beside| {
                let name = format!("{}.{name}", side.name());
                let beside = Column { name: format!("{name}.{beside}"), kind: of_beside };
                columns.extend([Column { name, kind }, beside]);
            };
            let named = spec.kept(side).names();
            for (name, datatype) in known {
                let kept = *spec.kept(side) == Kept::Tensors || named.contains(name);
                if kept && !spec.redact.contains(name) {
                    add(name, Kind::Tensor(*datatype), "shape", Kind::Shape);
                }
            }
            if spec.redact.contains(BODY) {
                continue;
            }
            if named.iter().any(|name| name == BODY) {
                add(BODY, Kind::Blob, "type", Kind::Text);
            }
            let fields = named.iter().filter(|name| name.starts_with('/'));
            columns.extend(
                fields.map(|name| Column {
                    name: format!("{}.{name}", side.name()),
                    kind: Kind::Text,
                }),
            );
        }
        Self { spec, columns }
    }
}
