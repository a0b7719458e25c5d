//! The JSON of an inference request, against what serde_json makes of the same bytes.

#![no_main]

use std::collections::HashSet;

use berth_api::oip::{InferRequest, OipError, decode_infer};
use berth_tensor::{DataType, NamedTensor};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

fuzz_target!(|body: &[u8]| {
    let whole = Bytes::copy_from_slice(body);
    // The same bytes as a head of JSON and data after it, as the last brace divides them.
    let head = body.iter().rposition(|&byte| byte == b'}').map_or(0, |at| at + 1);
    if let Ok(request) = decode_infer(&whole, head) {
        let data = request.inputs.iter().map(|input| input.tensor.data().len()).sum::<usize>();
        assert!(data >= body.len() - head, "data that no input has: {request:?}");
    }
    let tree: Result<Value, _> = serde_json::from_slice(body);
    match (decode_infer(&whole, body.len()), tree) {
        (Ok(ours), Ok(tree)) => match expected(&tree) {
            Verdict::Taken(theirs) => same(&ours, &theirs),
            Verdict::Refused => panic!("taken, and should not be: {ours:?}"),
            Verdict::Unclear => {}
        },
        (Ok(ours), Err(problem)) => {
            // The two things that are taken beyond what serde_json takes.
            let beyond = [&b"NaN"[..], b"Infinity"];
            let beyond = beyond.iter().any(|word| body.windows(word.len()).any(|at| at == *word));
            assert!(beyond || problem.to_string().contains("out of range"), "{problem}: {ours:?}");
        }
        (Err(OipError::Malformed { problem, .. }), Ok(_)) => {
            assert!(problem.contains("nesting is deeper"), "it is JSON: {problem}");
        }
        // A tree has each key once, the last of several: what was refused may have been another.
        (Err(problem), Ok(tree)) if serde_json::from_slice::<Once>(body).is_ok() => {
            let verdict = expected(&tree);
            assert!(!matches!(verdict, Verdict::Taken(_)), "refused, and should not be: {problem}");
        }
        _ => {}
    }
});

/// A value in which no object has a key twice.
struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value in which no object has a key twice")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, Self)) = map.next_entry::<String, Self>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom("a key twice"));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while let Some(Self) = items.next_element()? {}
        Ok(self)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// What is to become of a body, told from its tree.
enum Verdict {
    Taken(Request),
    Refused,
    /// The tree no longer has what would tell.
    Unclear,
}

struct Request {
    id: Option<String>,
    parameters: Map<String, Value>,
    inputs: Vec<Input>,
    outputs: Vec<String>,
}

struct Input {
    name: String,
    datatype: DataType,
    shape: Vec<u64>,
    elements: Vec<Element>,
}

/// One element, as bytes or as a number to be close to.
enum Element {
    Exact(Vec<u8>),
    Near32(f32),
    Near64(f64),
}

/// Why a tree is no request: it is to be refused, or does not tell.
enum Not {
    Good,
    Clear,
}

type Read<T> = Result<T, Not>;

fn expected(tree: &Value) -> Verdict {
    match request(tree) {
        Ok(request) => Verdict::Taken(request),
        Err(Not::Good) => Verdict::Refused,
        Err(Not::Clear) => Verdict::Unclear,
    }
}

fn good<T>(value: Option<T>) -> Read<T> {
    value.ok_or(Not::Good)
}

fn request(tree: &Value) -> Read<Request> {
    let body = good(tree.as_object())?;
    if tree.to_string().contains("binary_data") {
        return Err(Not::Clear);
    }
    let id = optional(body, "id", text)?.filter(|id| !id.is_empty());
    let parameters = optional(body, "parameters", parameters)?.unwrap_or_default();
    let inputs = list(good(body.get("inputs"))?, input)?;
    let outputs = optional(body, "outputs", |outputs| {
        list(outputs, |output| text(good(good(output.as_object())?.get("name"))?))
    })?;
    let outputs = outputs.unwrap_or_default();
    distinct(inputs.iter().map(|input| input.name.as_str()).collect())?;
    distinct(outputs.iter().map(String::as_str).collect())?;
    Ok(Request { id, parameters, inputs, outputs })
}

fn distinct(mut names: Vec<&str>) -> Read<()> {
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) { Err(Not::Good) } else { Ok(()) }
}

fn optional<T>(
    object: &Map<String, Value>,
    key: &str,
    read: impl Fn(&Value) -> Read<T>,
) -> Read<Option<T>> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some),
    }
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Read<T>) -> Read<Vec<T>> {
    let items = good(value.as_array().filter(|items| items.len() <= 1024))?;
    items.iter().map(read).collect()
}

fn text(value: &Value) -> Read<String> {
    good(value.as_str().filter(|text| text.len() <= 1024).map(str::to_owned))
}

fn parameters(value: &Value) -> Read<Map<String, Value>> {
    let object = good(value.as_object())?;
    let plain = |value: &Value| value.is_string() || value.is_boolean() || value.is_number();
    good(object.values().all(plain).then(|| object.clone()))
}

fn input(value: &Value) -> Read<Input> {
    let object = good(value.as_object())?;
    let name = text(good(object.get("name"))?)?;
    let datatype = good(DataType::from_name(&text(good(object.get("datatype"))?)?))?;
    optional(object, "parameters", parameters)?;
    // However few elements there are.
    good(has_json(datatype).then_some(()))?;
    let shape = good(good(object.get("shape"))?.as_array().filter(|shape| shape.len() <= 64))?;
    let dimension = |value: &Value| good(value.as_u64().filter(|&it| it <= i64::MAX as u64));
    let shape = shape.iter().map(dimension).collect::<Read<Vec<_>>>()?;
    let data = good(object.get("data"))?;
    let mut flat = Vec::new();
    let nested = data.as_array().and_then(|data| data.first()).is_some_and(Value::is_array);
    if shape.len() > 1 && nested {
        flatten(data, &shape, &mut flat)?;
    } else if shape.is_empty() && !data.is_array() {
        flat.push(data);
    } else {
        flat.extend(good(data.as_array())?);
        good((shape.iter().product_checked() == Some(flat.len() as u64)).then_some(()))?;
    }
    // Shapes whose other dimensions overflow beside a zero are refused for what runtimes make of
    // them, and nothing is lost by not telling how here.
    if shape.contains(&0) && shape.iter().any(|&dimension| dimension > 1 << 20) {
        return Err(Not::Clear);
    }
    let elements = flat.into_iter().map(|value| element(datatype, value)).collect::<Read<_>>()?;
    Ok(Input { name, datatype, shape, elements })
}

fn has_json(datatype: DataType) -> bool {
    let name = datatype.name();
    !matches!(name, "FP16" | "BF16") && !name.starts_with("FLOAT8")
}

trait ProductChecked {
    fn product_checked(self) -> Option<u64>;
}

impl<'a, I: Iterator<Item = &'a u64>> ProductChecked for I {
    fn product_checked(mut self) -> Option<u64> {
        self.try_fold(1u64, |product, &dimension| product.checked_mul(dimension))
    }
}

fn flatten<'a>(data: &'a Value, shape: &[u64], flat: &mut Vec<&'a Value>) -> Read<()> {
    let Some((&count, inner)) = shape.split_first() else {
        flat.push(data);
        return Ok(());
    };
    let items = good(data.as_array().filter(|items| items.len() as u64 == count))?;
    items.iter().try_for_each(|item| flatten(item, inner, flat))
}

fn element(datatype: DataType, value: &Value) -> Read<Element> {
    // The tree has this as a float, whichever way it was written.
    let minus_zero = value.as_f64().is_some_and(|it| it == 0.0 && it.is_sign_negative());
    macro_rules! integer {
        ($type:ty, $as:ident) => {{
            if minus_zero {
                return Err(Not::Clear);
            }
            let value = good(value.$as().and_then(|value| <$type>::try_from(value).ok()))?;
            Element::Exact(value.to_le_bytes().to_vec())
        }};
    }
    Ok(match datatype {
        DataType::Bool => Element::Exact(vec![u8::from(good(value.as_bool())?)]),
        DataType::Uint8 => integer!(u8, as_u64),
        DataType::Uint16 => integer!(u16, as_u64),
        DataType::Uint32 => integer!(u32, as_u64),
        DataType::Uint64 => integer!(u64, as_u64),
        DataType::Int8 => integer!(i8, as_i64),
        DataType::Int16 => integer!(i16, as_i64),
        DataType::Int32 => integer!(i32, as_i64),
        DataType::Int64 => integer!(i64, as_i64),
        DataType::Fp32 => {
            let value = good(value.as_f64())?;
            // Whether rounding ends at infinity is decided by digits that the tree has not.
            if (value.abs() / f64::from(f32::MAX) - 1.0).abs() < 1e-6 {
                return Err(Not::Clear);
            }
            Element::Near32(good(Some(value as f32).filter(|value| value.is_finite()))?)
        }
        DataType::Fp64 => {
            let value = good(value.as_f64())?;
            if value.abs() > f64::MAX / 1.000_001 {
                return Err(Not::Clear);
            }
            Element::Near64(value)
        }
        DataType::Bytes => {
            let text = good(value.as_str())?;
            Element::Exact([&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat())
        }
        _ => return Err(Not::Good),
    })
}

fn same(ours: &InferRequest, theirs: &Request) {
    assert_eq!((&ours.id, &ours.outputs), (&theirs.id, &theirs.outputs));
    assert_eq!(ours.parameters, theirs.parameters);
    assert_eq!(ours.inputs.len(), theirs.inputs.len());
    for (NamedTensor { name, tensor }, expected) in ours.inputs.iter().zip(&theirs.inputs) {
        let named = (name, tensor.datatype(), tensor.shape());
        assert_eq!(named, (&expected.name, expected.datatype, &*expected.shape));
        let mut data = &tensor.data()[..];
        for element in &expected.elements {
            let taken = match element {
                Element::Exact(bytes) => {
                    assert!(data.starts_with(bytes), "{data:?} is not {bytes:?}");
                    bytes.len()
                }
                // serde_json rounds in two steps, and its own is off by one at times.
                Element::Near32(near) => {
                    let value = f32::from_le_bytes(*data.first_chunk().expect("an element"));
                    let steps = i64::from(value.to_bits()) - i64::from(near.to_bits());
                    assert!(steps.abs() <= 2, "{value} is not {near}");
                    4
                }
                Element::Near64(near) => {
                    let value = f64::from_le_bytes(*data.first_chunk().expect("an element"));
                    let steps = i128::from(value.to_bits()) - i128::from(near.to_bits());
                    assert!(steps.abs() <= 4, "{value} is not {near}");
                    8
                }
            };
            data = &data[taken..];
        }
        assert!(data.is_empty(), "{} bytes too many", data.len());
    }
}
