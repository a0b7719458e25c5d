//! Tensors, into the body of an answer.

use berth_tensor::{DataType, NamedTensor, Tensor};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::OipError;
use super::request::{BinaryOutputs, SIZE};

/// An answer to an inference request.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InferResponse<'a> {
    /// The name that the client called.
    pub model_name: &'a str,
    /// The version that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_version: Option<&'a str>,
    /// The id that the client sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// Strings, numbers and booleans that belong to the answer as a whole.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub parameters: &'a Map<String, Value>,
    /// The outputs, in the order to be written.
    #[serde(skip)]
    pub outputs: &'a [NamedTensor],
    /// Those of them that are written as they are.
    #[serde(skip)]
    pub binary: &'a BinaryOutputs,
}

impl InferResponse<'_> {
    /// About how many bytes its body takes.
    pub fn size(&self) -> usize {
        let size = |output: &NamedTensor| match self.binary.wants(&output.name) {
            true => output.tensor.data().len(),
            false => text_size(&output.tensor),
        };
        let sizes = self.outputs.iter().map(|output| 100 + size(output));
        sizes.fold(200, usize::saturating_add)
    }
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// All of it.
    pub body: Bytes,
    /// How many bytes of it are JSON, when data follow.
    pub json: Option<usize>,
}

/// Writes the body of an answer; data are flat and row-major. Floating-point numbers are written as
/// JSON with the fewest digits that read back as the same value, and those that JSON has no form for
/// as `NaN`, `Infinity` and `-Infinity`. A floating-point output of 16 or of 8 bits, and a BYTES
/// output that is not UTF-8, is [`OipError::Output`] unless it is asked for as it is. What is asked for as it is
/// follows the JSON, in the order of the outputs.
pub fn encode_infer(response: &InferResponse<'_>) -> Result<Encoded, OipError> {
    let is_binary = |output: &&NamedTensor| response.binary.wants(&output.name);
    let mut body = Vec::with_capacity(response.size());
    push(&mut body, response);
    // The outputs are the object's last member; the name is always before them.
    body.pop();
    body.extend_from_slice(b",\"outputs\":[");
    for (index, output) in response.outputs.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(b"{\"name\":");
        push(&mut body, &output.name);
        body.extend_from_slice(b",\"shape\":");
        push(&mut body, output.tensor.shape());
        body.extend_from_slice(b",\"datatype\":\"");
        body.extend_from_slice(output.tensor.datatype().name().as_bytes());
        if is_binary(&output) {
            body.extend_from_slice(b"\",\"parameters\":{\"");
            body.extend_from_slice(SIZE.as_bytes());
            body.extend_from_slice(b"\":");
            push(&mut body, &output.tensor.data().len());
            body.extend_from_slice(b"}}");
            continue;
        }
        body.extend_from_slice(b"\",\"data\":[");
        data(&mut body, &output.tensor)
            .map_err(|problem| OipError::Output { name: output.name.clone(), problem })?;
        body.extend_from_slice(b"]}");
    }
    body.extend_from_slice(b"]}");
    let json = response.outputs.iter().any(|output| is_binary(&output)).then_some(body.len());
    for output in response.outputs.iter().filter(is_binary) {
        body.extend_from_slice(output.tensor.data());
    }
    Ok(Encoded { body: body.into(), json })
}

/// The way out for what has no JSON form.
const ASK: &str = "ask for it with \"binary_data\": true among its parameters";

/// About how many bytes the data take as text.
fn text_size(tensor: &Tensor) -> usize {
    let bytes = tensor.data().len();
    match tensor.datatype() {
        DataType::Fp32 => bytes.saturating_mul(3),
        DataType::Bool => bytes.saturating_mul(6),
        DataType::Uint8 | DataType::Int8 => bytes.saturating_mul(4),
        _ => bytes.saturating_mul(5) / 2,
    }
}

fn data(body: &mut Vec<u8>, tensor: &Tensor) -> Result<(), String> {
    match tensor.datatype() {
        DataType::Bool => items(body, tensor.data(), |body, [byte]| push(body, &(byte != 0))),
        DataType::Uint8 => {
            items(body, tensor.data(), |body, it| push(body, &u8::from_le_bytes(it)))
        }
        DataType::Uint16 => {
            items(body, tensor.data(), |body, it| push(body, &u16::from_le_bytes(it)))
        }
        DataType::Uint32 => {
            items(body, tensor.data(), |body, it| push(body, &u32::from_le_bytes(it)))
        }
        DataType::Uint64 => {
            items(body, tensor.data(), |body, it| push(body, &u64::from_le_bytes(it)))
        }
        DataType::Int8 => items(body, tensor.data(), |body, it| push(body, &i8::from_le_bytes(it))),
        DataType::Int16 => {
            items(body, tensor.data(), |body, it| push(body, &i16::from_le_bytes(it)))
        }
        DataType::Int32 => {
            items(body, tensor.data(), |body, it| push(body, &i32::from_le_bytes(it)))
        }
        DataType::Int64 => {
            items(body, tensor.data(), |body, it| push(body, &i64::from_le_bytes(it)))
        }
        DataType::Fp32 => items(body, tensor.data(), |body, it| {
            let value = f32::from_le_bytes(it);
            if value.is_finite() { push(body, &value) } else { not_finite(body, value.into()) }
        }),
        DataType::Fp64 => items(body, tensor.data(), |body, it| {
            let value = f64::from_le_bytes(it);
            if value.is_finite() { push(body, &value) } else { not_finite(body, value) }
        }),
        DataType::Bytes => {
            for (index, string) in tensor.byte_strings().enumerate() {
                if index > 0 {
                    body.push(b',');
                }
                let text = std::str::from_utf8(string).map_err(|_| {
                    format!("element {index} is not UTF-8, so it has no JSON form; {ASK}")
                })?;
                push(body, text);
            }
        }
        datatype @ (DataType::Fp16
        | DataType::Bf16
        | DataType::Float8E4M3Fn
        | DataType::Float8E4M3Fnuz
        | DataType::Float8E5M2
        | DataType::Float8E5M2Fnuz) => {
            return Err(format!("{datatype} has no JSON form; {ASK}"));
        }
    }
    Ok(())
}

/// Writes elements of `N` bytes each, separated by commas.
fn items<const N: usize>(
    body: &mut Vec<u8>,
    data: &[u8],
    mut item: impl FnMut(&mut Vec<u8>, [u8; N]),
) {
    let (elements, _) = data.as_chunks::<N>();
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        item(body, *element);
    }
}

fn not_finite(body: &mut Vec<u8>, value: f64) {
    body.extend_from_slice(match value {
        f64::INFINITY => b"Infinity",
        f64::NEG_INFINITY => b"-Infinity",
        _ => b"NaN",
    });
}

#[expect(
    clippy::expect_used,
    reason = "numbers, strings, and maps with strings as keys always have a JSON form"
)]
fn push(body: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(body, value).expect("a value that has a JSON form");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oip::decode_infer;

    fn body_of(outputs: &[NamedTensor]) -> Result<String, String> {
        let encoded = encoded(outputs, &BinaryOutputs::default())?;
        assert_eq!(encoded.json, None);
        Ok(String::from_utf8(encoded.body.to_vec()).unwrap())
    }

    fn encoded(outputs: &[NamedTensor], binary: &BinaryOutputs) -> Result<Encoded, String> {
        let parameters = Map::new();
        let response = InferResponse {
            model_name: "m",
            model_version: None,
            id: None,
            parameters: &parameters,
            outputs,
            binary,
        };
        let encoded = encode_infer(&response).map_err(|error| error.to_string())?;
        // What is told before is enough to refuse by.
        assert!(encoded.body.len() < 2 * response.size(), "{encoded:?}");
        Ok(encoded)
    }

    fn check(datatype: DataType, data: &[u8], expected: Result<&str, &str>) {
        let count = datatype.size().map_or(1, |size| data.len() / size) as u64;
        let tensor = Tensor::new(datatype, vec![count], data.to_vec()).unwrap();
        let expected = match expected {
            Ok(data) => Ok(format!(
                r#"{{"model_name":"m","outputs":[{{"name":"y","shape":[{count}],"datatype":"{datatype}","data":[{data}]}}]}}"#
            )),
            Err(problem) => Err(format!("output \"y\": {problem}")),
        };
        assert_eq!(body_of(&[NamedTensor { name: "y".into(), tensor }]), expected);
    }

    #[test]
    fn data_as_text() {
        let floats =
            |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        check(DataType::Bool, &[1, 0, 2], Ok("true,false,true"));
        check(DataType::Int8, &[128, 127], Ok("-128,127"));
        check(DataType::Uint64, &[255; 8], Ok("18446744073709551615"));
        check(
            DataType::Fp32,
            &floats(&[0.1, -0.0, 1.0, 1e20, 1e-45]),
            Ok("0.1,-0.0,1.0,1e+20,1e-45"),
        );
        check(
            DataType::Fp32,
            &floats(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
            Ok("NaN,Infinity,-Infinity"),
        );
        check(DataType::Fp64, &0.1f64.to_le_bytes(), Ok("0.1"));
        check(DataType::Fp64, &(-f64::NAN).to_le_bytes(), Ok("NaN"));
        check(DataType::Fp32, &[], Ok(""));
        check(DataType::Bytes, b"\x04\0\0\0a\"\0b", Ok(r#""a\"\u0000b""#));
        check(
            DataType::Bytes,
            b"\x01\0\0\0\xff",
            Err(&format!("element 0 is not UTF-8, so it has no JSON form; {ASK}")),
        );
        check(DataType::Fp16, &[0, 0], Err(&format!("FP16 has no JSON form; {ASK}")));
        check(DataType::Bf16, &[0, 0], Err(&format!("BF16 has no JSON form; {ASK}")));
        check(DataType::Float8E5M2, &[0], Err(&format!("FLOAT8E5M2 has no JSON form; {ASK}")));
    }

    #[test]
    fn the_head_of_an_answer() {
        let Value::Object(parameters) = serde_json::json!({"k": true}) else { unreachable!() };
        let response = InferResponse {
            model_name: "m\"",
            model_version: Some("2"),
            id: Some("7"),
            parameters: &parameters,
            outputs: &[],
            binary: &BinaryOutputs::default(),
        };
        let body = encode_infer(&response).unwrap().body;
        let expected = r#"{"model_name":"m\"","model_version":"2","id":"7","parameters":{"k":true},"outputs":[]}"#;
        assert_eq!(body, expected);
    }

    #[test]
    fn random_tensors_round_trip() {
        let mut state = 0x0123_4567_89AB_CDEF_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_F491_4F6C_DD1D)
        };
        for round in 0..3000 {
            let outputs: Vec<_> = (0..round % 3)
                .map(|index| {
                    let shape: Vec<u64> = (0..random() % 4).map(|_| random() % 5).collect();
                    let count = shape.iter().product::<u64>() as usize;
                    let datatype = DataType::ALL[random() as usize % DataType::ALL.len()];
                    let tensor = match datatype {
                        // Of those without a JSON form, strings in their place.
                        DataType::Bytes
                        | DataType::Fp16
                        | DataType::Bf16
                        | DataType::Float8E4M3Fn
                        | DataType::Float8E4M3Fnuz
                        | DataType::Float8E5M2
                        | DataType::Float8E5M2Fnuz => {
                            let strings: Vec<String> = (0..count)
                                .map(|_| {
                                    (0..random() % 6)
                                        .filter_map(|_| char::from_u32(random() as u32 % 0x400))
                                        .collect()
                                })
                                .collect();
                            Tensor::from_byte_strings(shape, &strings)
                        }
                        DataType::Bool => {
                            let data: Vec<u8> = (0..count).map(|_| (random() % 2) as u8).collect();
                            Tensor::new(datatype, shape, data)
                        }
                        // Any bits: NaN is left out, since its payload does not come back.
                        DataType::Fp32 => {
                            let bits = (0..count).map(|_| f32::from_bits(random() as u32));
                            let data: Vec<u8> = bits
                                .flat_map(|v| if v.is_nan() { 0f32 } else { v }.to_le_bytes())
                                .collect();
                            Tensor::new(datatype, shape, data)
                        }
                        DataType::Fp64 => {
                            let bits = (0..count).map(|_| f64::from_bits(random()));
                            let data: Vec<u8> = bits
                                .flat_map(|v| if v.is_nan() { 0f64 } else { v }.to_le_bytes())
                                .collect();
                            Tensor::new(datatype, shape, data)
                        }
                        _ => {
                            let size = count * datatype.size().unwrap();
                            let data: Vec<u8> = (0..size).map(|_| random() as u8).collect();
                            Tensor::new(datatype, shape, data)
                        }
                    };
                    NamedTensor { name: format!("t\u{e9}{index}"), tensor: tensor.unwrap() }
                })
                .collect();
            let body = body_of(&outputs).unwrap().replace("\"outputs\":[", "\"inputs\":[");
            let body = Bytes::from(body);
            assert_eq!(decode_infer(&body, body.len()).unwrap().inputs, outputs, "{body:?}");
            // All of them, none, or the first alone as they are; the data of the others as JSON.
            let asked = |outputs: &str, all: bool| {
                let json = format!(
                    r#"{{"inputs":[],"outputs":{outputs},"parameters":{{"binary_data_output":{all}}}}}"#
                );
                decode_infer(&Bytes::from(json.clone()), json.len()).unwrap().binary
            };
            let first = r#"[{"name":"t\u00e90","parameters":{"binary_data":true}}]"#;
            for binary in [asked("[]", true), asked(first, false)] {
                let Encoded { body, json } = encoded(&outputs, &binary).unwrap();
                let some = outputs.iter().any(|output| binary.wants(&output.name));
                assert_eq!(json.is_some(), some);
                let json = json.unwrap_or(body.len());
                // "outputs" becomes "inputs", a letter less.
                let head = String::from_utf8(body[..json].to_vec()).unwrap();
                let head = head.replace("\"outputs\":[", "\"inputs\":[");
                let whole = Bytes::from([head.as_bytes(), &body[json..]].concat());
                assert_eq!(decode_infer(&whole, head.len()).unwrap().inputs, outputs, "{head}");
            }
        }
    }
}
