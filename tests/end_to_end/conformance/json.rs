//! Tensors as the Open Inference Protocol writes them in JSON, by means of their own.

use berth_tensor::{DataType, NamedTensor, Tensor};
use serde_json::{Value, json};

/// The body of an inference request.
pub(crate) fn request(inputs: &[NamedTensor]) -> String {
    let inputs: Vec<String> =
        inputs.iter().map(|input| tensor(&input.name, &input.tensor)).collect();
    format!("{{\"inputs\":[{}]}}", inputs.join(","))
}

fn tensor(name: &str, tensor: &Tensor) -> String {
    fn list<const N: usize>(tensor: &Tensor, text: impl Fn([u8; N]) -> String) -> Vec<String> {
        tensor.data().as_chunks::<N>().0.iter().map(|&bytes| text(bytes)).collect()
    }
    let data = match tensor.datatype() {
        DataType::Bool => list(tensor, |[byte]| (byte != 0).to_string()),
        DataType::Uint8 => list(tensor, |bytes| u8::from_le_bytes(bytes).to_string()),
        DataType::Uint16 => list(tensor, |bytes| u16::from_le_bytes(bytes).to_string()),
        DataType::Uint32 => list(tensor, |bytes| u32::from_le_bytes(bytes).to_string()),
        DataType::Uint64 => list(tensor, |bytes| u64::from_le_bytes(bytes).to_string()),
        DataType::Int8 => list(tensor, |bytes| i8::from_le_bytes(bytes).to_string()),
        DataType::Int16 => list(tensor, |bytes| i16::from_le_bytes(bytes).to_string()),
        DataType::Int32 => list(tensor, |bytes| i32::from_le_bytes(bytes).to_string()),
        DataType::Int64 => list(tensor, |bytes| i64::from_le_bytes(bytes).to_string()),
        DataType::Fp32 => list(tensor, |bytes| {
            float(f32::from_le_bytes(bytes).into(), || json!(f32::from_le_bytes(bytes)).to_string())
        }),
        DataType::Fp64 => list(tensor, |bytes| {
            float(f64::from_le_bytes(bytes), || json!(f64::from_le_bytes(bytes)).to_string())
        }),
        DataType::Bytes => tensor
            .byte_strings()
            .map(|text| json!(String::from_utf8_lossy(text)).to_string())
            .collect(),
        // Which have no form; whatever is sent, the host is to say so.
        _ => tensor.numbers().map(|_| "0".to_owned()).collect(),
    };
    let (name, shape, datatype) = (json!(name), json!(tensor.shape()), tensor.datatype());
    format!(
        "{{\"name\":{name},\"shape\":{shape},\"datatype\":\"{datatype}\",\"data\":[{}]}}",
        data.join(",")
    )
}

fn float(value: f64, finite: impl Fn() -> String) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => finite(),
    }
}

/// The outputs of an inference's answer.
pub(crate) fn outputs(body: &str) -> Result<Vec<NamedTensor>, String> {
    // Outside strings, and no case's text or name has these words.
    let body = body.replace("-Infinity", "\"-inf\"").replace("Infinity", "\"inf\"");
    let body: Value = serde_json::from_str(&body.replace("NaN", "\"nan\""))
        .map_err(|problem| format!("an answer that is no JSON: {problem}"))?;
    let outputs = body["outputs"].as_array().ok_or("an answer without outputs")?;
    outputs.iter().map(|value| output(value).ok_or_else(|| format!("an output {value}"))).collect()
}

fn output(value: &Value) -> Option<NamedTensor> {
    let name = value["name"].as_str()?.to_owned();
    let datatype = DataType::from_name(value["datatype"].as_str()?)?;
    let shape = value["shape"].as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?;
    let data = value["data"].as_array()?;
    let mut bytes = Vec::new();
    for element in data {
        let number = || element.as_f64().or_else(|| element.as_str()?.parse().ok());
        match datatype {
            DataType::Bool => bytes.push(element.as_bool()?.into()),
            DataType::Fp32 => bytes.extend((number()? as f32).to_le_bytes()),
            DataType::Fp64 => bytes.extend(number()?.to_le_bytes()),
            DataType::Bytes => {
                let text = element.as_str()?;
                bytes.extend((text.len() as u32).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            integer => {
                let all = match element.as_u64() {
                    Some(value) => value.to_le_bytes(),
                    None => element.as_i64()?.to_le_bytes(),
                };
                bytes.extend_from_slice(&all[..integer.size()?]);
            }
        }
    }
    Some(NamedTensor { name, tensor: Tensor::new(datatype, shape, bytes).ok()? })
}
