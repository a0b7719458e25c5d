//! The cases as `tests/conformance/cases.py` writes them, and what counts as the same.

use std::fs;
use std::path::{Path, PathBuf};

use berth_tensor::{DataType, NamedTensor, Tensor};
use serde::{Deserialize, Serialize};

/// All cases.
#[derive(Deserialize)]
pub(crate) struct Cases {
    pub(crate) onnx: String,
    pub(crate) onnxruntime: String,
    pub(crate) cases: Vec<Case>,
    #[serde(skip)]
    folder: PathBuf,
    #[serde(skip)]
    tensors: Vec<u8>,
}

/// One model, what it is given and what it has to answer.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The kinds of its values that are no tensors, such as `sequence`; it has no data then.
    other: Vec<String>,
    /// What came of it on Python's onnxruntime.
    #[serde(default)]
    pub(crate) python: Option<Outcome>,
    #[serde(default)]
    inputs: Vec<Place>,
    #[serde(default)]
    outputs: Vec<Place>,
    rtol: f64,
    atol: f64,
}

/// What came of a case, and why.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Every output is what is expected.
    Passed(String),
    /// It ran and is not, or it did not run through.
    Failed(String),
    /// It was refused before it ran.
    Unsupported(String),
}

impl Outcome {
    pub(crate) fn passed(&self) -> bool {
        matches!(self, Self::Passed(_))
    }
}

#[derive(Deserialize)]
struct Place {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    at: usize,
    length: usize,
}

impl Cases {
    pub(crate) fn read(folder: &Path) -> Self {
        let index = fs::read(folder.join("cases.json")).expect("cases.json is readable");
        let cases: Self = serde_json::from_slice(&index).expect("cases.json is as it was written");
        let tensors = fs::read(folder.join("tensors.bin")).expect("tensors.bin is readable");
        Self { folder: folder.to_owned(), tensors, ..cases }
    }

    pub(crate) fn model(&self, case: &Case) -> PathBuf {
        self.folder.join("models").join(&case.name).with_extension("onnx")
    }

    pub(crate) fn inputs(&self, case: &Case) -> Vec<NamedTensor> {
        case.inputs.iter().map(|place| self.tensor(place)).collect()
    }

    /// Says how outputs differ from those expected, as the ONNX project's runner would.
    pub(crate) fn difference(&self, case: &Case, outputs: &[NamedTensor]) -> Result<(), String> {
        if outputs.len() != case.outputs.len() {
            return Err(format!("{} outputs, expected {}", outputs.len(), case.outputs.len()));
        }
        for (place, have) in case.outputs.iter().zip(outputs) {
            let want = self.tensor(place);
            if want.name != have.name {
                return Err(format!("output {:?}, expected {:?}", have.name, want.name));
            }
            difference(case, &want.tensor, &have.tensor)
                .map_err(|problem| format!("output {:?} {problem}", have.name))?;
        }
        Ok(())
    }

    fn tensor(&self, place: &Place) -> NamedTensor {
        let datatype = DataType::from_name(&place.datatype).expect("a model of it does not open");
        let data = self.tensors[place.at..place.at + place.length].to_vec();
        let tensor = Tensor::new(datatype, place.shape.clone(), data).expect("a whole tensor");
        NamedTensor { name: place.name.clone(), tensor }
    }
}

impl Case {
    /// The datatypes of its values, by Berth's names, or by ONNX's where it has none.
    fn datatypes(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().chain(&self.outputs).map(|place| place.datatype.as_str())
    }

    /// What of its values Berth does not serve: a datatype, or a kind such as `sequence`.
    pub(crate) fn unserved(&self) -> Option<&str> {
        let datatype = self.datatypes().find(|name| DataType::from_name(name).is_none());
        self.other.first().map(String::as_str).or(datatype)
    }

    /// A datatype of its values that has no JSON form.
    pub(crate) fn beyond_json(&self) -> Option<&str> {
        self.datatypes().find(|name| matches!(*name, "FP16" | "BF16") || name.starts_with("FLOAT8"))
    }
}

fn difference(case: &Case, want: &Tensor, have: &Tensor) -> Result<(), String> {
    if have.shape() != want.shape() {
        return Err(format!("has shape {:?}, expected {:?}", have.shape(), want.shape()));
    }
    if have.datatype() != want.datatype() {
        return Err(format!("is {}, expected {}", have.datatype(), want.datatype()));
    }
    let exact = matches!(want.datatype(), DataType::Bytes | DataType::Bool);
    // Two units in the last place, as the runner has it.
    let least = if want.datatype() == DataType::Bf16 { 1.0 / 64.0 } else { 0.0 };
    let same = |(have, want): (f64, f64)| {
        let near = (have - want).abs() <= case.atol + case.rtol.max(least) * want.abs();
        have == want || (have.is_nan() && want.is_nan()) || (want.is_finite() && near)
    };
    let equal =
        have.data() == want.data() || (!exact && have.numbers().zip(want.numbers()).all(same));
    if equal { Ok(()) } else { Err("holds other values".to_owned()) }
}
