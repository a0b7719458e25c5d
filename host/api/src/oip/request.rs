//! The body of an inference request, into tensors: JSON, or JSON and after it the data of tensors as
//! they are (the protocol's binary tensor data extension).

use std::borrow::Cow;

use berth_tensor::tensor::DIMENSIONS;
use berth_tensor::{DataType, NamedTensor, Tensor};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::OipError;
use super::elements;
use super::scan::{Fault, Kind, Scanned, Scanner, shortened};

/// Inputs, or outputs asked for, in one request at most.
const TENSORS: usize = 1024;
/// Bytes of an id, a name or a datatype at most.
const TEXT: usize = 1024;
/// The parameter of an input whose data follow the JSON: how many bytes of them.
pub(super) const SIZE: &str = "binary_data_size";

/// An inference request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferRequest {
    /// The client's id of the request, to be sent back; an empty one counts as none.
    pub id: Option<String>,
    /// Strings, numbers and booleans that belong to the request as a whole.
    pub parameters: Map<String, Value>,
    /// The inputs in the client's order, each name once.
    pub inputs: Vec<NamedTensor>,
    /// The outputs asked for, each name once; empty for all of them.
    pub outputs: Vec<String>,
    /// Which outputs are to be answered as they are, not as JSON.
    pub binary: BinaryOutputs,
}

/// Which outputs a client wants as they are, after the JSON of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BinaryOutputs {
    /// What it said of all of them.
    all: bool,
    /// What it said of one: this goes before.
    named: Vec<(String, bool)>,
}

impl BinaryOutputs {
    /// Whether it wants this output so.
    pub fn wants(&self, output: &str) -> bool {
        let named = self.named.iter().find(|(name, _)| name == output);
        named.map_or(self.all, |&(_, binary)| binary)
    }
}

/// Reads the body of an inference request, the first `json` bytes of which are JSON; the data of
/// inputs that have a `binary_data_size` follow, in the order of the inputs, and are not copied where they
/// are half of the body or more. Unknown members are passed over.
pub fn decode_infer(body: &Bytes, json: usize) -> Result<InferRequest, OipError> {
    let Some((head, _)) = body.split_at_checked(json) else {
        let problem = format!("{json} bytes of JSON are announced, the body has {}", body.len());
        return Err(OipError::Request(problem));
    };
    let text = std::str::from_utf8(head).map_err(|error| OipError::Malformed {
        at: error.valid_up_to(),
        problem: "the body is not UTF-8".into(),
    })?;
    let data = body.slice(json..);
    // Whoever keeps a tensor keeps the body that it is a part of: little of a long one is taken out.
    let data = if data.len() < json { Bytes::copy_from_slice(&data) } else { data };
    let mut rest = Rest { data, wrong_input: None };
    request(&mut Scanner::new(text), &mut rest).map_err(|fault| match (fault, rest.wrong_input) {
        (Fault::Syntax { at, problem }, _) => OipError::Malformed { at, problem },
        (Fault::Value(problem), Some(name)) => OipError::Input { name, problem },
        (Fault::Value(problem), None) => OipError::Request(problem),
    })
}

/// What reading the inputs one after the other leaves.
struct Rest {
    /// The data after the JSON that no input has taken yet.
    data: Bytes,
    /// A fault inside an input carries the input's name, once it is known.
    wrong_input: Option<String>,
}

fn request(scan: &mut Scanner<'_>, rest: &mut Rest) -> Scanned<InferRequest> {
    let (mut id, mut parameters, mut outputs) = (None, None, None);
    let mut inputs: Option<Vec<NamedTensor>> = None;
    scan.object("the body", |scan, key| match &*key {
        "id" => once(&mut id, "id", optional(scan, |scan| text(scan, "\"id\""))?),
        "parameters" => once(&mut parameters, "parameters", optional(scan, self::parameters)?),
        "inputs" => {
            let mut list = Vec::new();
            scan.array("\"inputs\"", |scan| {
                let input = input(scan, list.len(), rest)?;
                if list.iter().any(|other: &NamedTensor| other.name == input.name) {
                    rest.wrong_input = Some(input.name);
                    return Err(Fault::Value("is given twice".into()));
                }
                push(&mut list, "inputs", input)
            })?;
            once(&mut inputs, "inputs", list)
        }
        "outputs" => once(&mut outputs, "outputs", optional(scan, requested_outputs)?),
        _ => scan.skip(),
    })?;
    scan.end()?;
    let inputs = inputs.ok_or_else(|| Fault::Value("\"inputs\" is missing".into()))?;
    if !rest.data.is_empty() {
        let left = rest.data.len();
        return Err(Fault::Value(format!("no input's \"{SIZE}\" takes the last {left} bytes")));
    }
    let parameters: Map<String, Value> = parameters.flatten().unwrap_or_default();
    let (outputs, named) = outputs.flatten().unwrap_or_default();
    let all = flag(&parameters, "binary_data_output")?.unwrap_or(false);
    Ok(InferRequest {
        id: id.flatten().map(Cow::into_owned).filter(|id: &String| !id.is_empty()),
        parameters,
        inputs,
        outputs,
        binary: BinaryOutputs { all, named },
    })
}

/// Reads one input. On a fault in it, the wrong input is named.
fn input(scan: &mut Scanner<'_>, index: usize, rest: &mut Rest) -> Scanned<NamedTensor> {
    let mut name = None;
    let tensor = tensor(scan, &mut name, &mut rest.data);
    match (name, tensor) {
        (Some(name), Ok(tensor)) => Ok(NamedTensor { name: name.into_owned(), tensor }),
        (name, tensor) => {
            rest.wrong_input = Some(
                name.map_or_else(|| format!("#{index}"), |name| shortened(&name).into_owned()),
            );
            Err(tensor.err().unwrap_or_else(|| Fault::Value("\"name\" is missing".into())))
        }
    }
}

fn tensor<'a>(
    scan: &mut Scanner<'a>,
    name: &mut Option<Cow<'a, str>>,
    binary: &mut Bytes,
) -> Scanned<Tensor> {
    let (mut shape, mut datatype, mut value) = (None, None, None);
    let mut parameters = None;
    // Data that comes before its shape or datatype is read once they are known.
    let mut data_ahead: Option<Scanner<'a>> = None;
    scan.object("it", |scan, key| match &*key {
        "name" => once(name, "name", text(scan, "\"name\"")?),
        "shape" => once(&mut shape, "shape", dimensions(scan)?),
        "datatype" => once(&mut datatype, "datatype", self::datatype(scan)?),
        "parameters" => once(&mut parameters, "parameters", optional(scan, self::parameters)?),
        "data" if value.is_some() || data_ahead.is_some() => Err(twice("data")),
        "data" => match (datatype, shape.take()) {
            (Some(datatype), Some(dimensions)) => {
                let tensor = elements::tensor(scan, datatype, dimensions)?;
                // A second shape is still to be refused.
                shape = Some(Vec::new());
                value = Some(tensor);
                Ok(())
            }
            (_, dimensions) => {
                shape = dimensions;
                data_ahead = Some(scan.clone());
                scan.pass_over()
            }
        },
        _ => scan.skip(),
    })?;
    let size = parameters.flatten().and_then(|map: Map<String, Value>| map.get(SIZE).cloned());
    if size.is_some() && (value.is_some() || data_ahead.is_some()) {
        return Err(Fault::Value(format!("has both \"data\" and \"{SIZE}\"")));
    }
    if let Some(value) = value {
        return Ok(value);
    }
    let missing = |what| Fault::Value(format!("{what:?} is missing"));
    let datatype = datatype.ok_or_else(|| missing("datatype"))?;
    let shape = shape.ok_or_else(|| missing("shape"))?;
    match (data_ahead, size) {
        (Some(mut data), _) => elements::tensor(&mut data, datatype, shape),
        (None, Some(size)) => {
            let left = binary.len();
            let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
            let size = size.filter(|&size| size <= left).ok_or_else(|| {
                Fault::Value(format!("\"{SIZE}\" must be 0 to {left}, the bytes that are left"))
            })?;
            Tensor::new(datatype, shape, binary.split_to(size))
                .map_err(|error| Fault::Value(error.to_string()))
        }
        (None, None) => Err(missing("data")),
    }
}

fn dimensions(scan: &mut Scanner<'_>) -> Scanned<Vec<u64>> {
    let mut shape = Vec::with_capacity(4);
    scan.array("\"shape\"", |scan| {
        let dimension = scan.number("a dimension of \"shape\"")?;
        if shape.len() == DIMENSIONS {
            return Err(Fault::Value(format!("\"shape\" has more than {DIMENSIONS} dimensions")));
        }
        let fits = dimension.parse().ok().filter(|&value: &u64| value <= i64::MAX as u64);
        shape.push(fits.ok_or_else(|| {
            Fault::Value(format!("\"shape\" has {}, which is no dimension", shortened(dimension)))
        })?);
        Ok(())
    })?;
    Ok(shape)
}

fn datatype(scan: &mut Scanner<'_>) -> Scanned<DataType> {
    let name = text(scan, "\"datatype\"")?;
    DataType::from_name(&name).ok_or_else(|| {
        let known = DataType::ALL.map(DataType::name).join(", ");
        Fault::Value(format!("datatype {:?} is none of {known}", shortened(&name)))
    })
}

/// The names of outputs asked for, and of those that say so whether they are to be binary.
type Asked = (Vec<String>, Vec<(String, bool)>);

fn requested_outputs(scan: &mut Scanner<'_>) -> Scanned<Asked> {
    let (mut names, mut binary) = (Vec::<String>::new(), Vec::new());
    scan.array("\"outputs\"", |scan| {
        let (mut name, mut parameters) = (None, None);
        scan.object("an item of \"outputs\"", |scan, key| match &*key {
            "name" => once(&mut name, "name", text(scan, "\"name\" of an output")?),
            "parameters" => once(&mut parameters, "parameters", optional(scan, self::parameters)?),
            _ => scan.skip(),
        })?;
        let name = name.ok_or_else(|| Fault::Value("an output has no \"name\"".into()))?;
        if names.iter().any(|other| *other == name) {
            return Err(Fault::Value(format!("output {:?} is asked for twice", shortened(&name))));
        }
        if let Some(wanted) = flag(&parameters.flatten().unwrap_or_default(), "binary_data")? {
            binary.push((name.clone().into_owned(), wanted));
        }
        push(&mut names, "outputs", name.into_owned())
    })?;
    Ok((names, binary))
}

/// A parameter that is true or false, when it is given.
fn flag(parameters: &Map<String, Value>, key: &str) -> Scanned<Option<bool>> {
    match parameters.get(key) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(Fault::Value(format!("parameter {key:?} must be true or false"))),
    }
}

fn parameters(scan: &mut Scanner<'_>) -> Scanned<Map<String, Value>> {
    let mut map = Map::new();
    scan.object("\"parameters\"", |scan, key| {
        let value = match scan.kind()? {
            Kind::String => Value::from(scan.string("")?),
            Kind::Boolean => Value::from(scan.boolean("")?),
            Kind::Number => {
                let number = scan.number("")?;
                serde_json::from_str(number).map_err(|_| {
                    let (key, number) = (shortened(&key), shortened(number));
                    Fault::Value(format!("parameter {key:?}: {number} is out of range"))
                })?
            }
            other => {
                return Err(Fault::Value(format!(
                    "parameter {:?} must be a string, a number or a boolean, got {other}",
                    shortened(&key)
                )));
            }
        };
        match map.insert(key.clone().into_owned(), value) {
            None => Ok(()),
            Some(_) => Err(twice(&format!("parameter {}", shortened(&key)))),
        }
    })?;
    Ok(map)
}

/// Reads a value that may also be `null`, as some clients write what they do not send.
fn optional<'a, T>(
    scan: &mut Scanner<'a>,
    read: impl FnOnce(&mut Scanner<'a>) -> Scanned<T>,
) -> Scanned<Option<T>> {
    if scan.null() { Ok(None) } else { read(scan).map(Some) }
}

fn text<'a>(scan: &mut Scanner<'a>, what: &str) -> Scanned<Cow<'a, str>> {
    let text = scan.string(what)?;
    if text.len() > TEXT {
        return Err(Fault::Value(format!("{what} is longer than {TEXT} bytes")));
    }
    Ok(text)
}

fn once<T>(place: &mut Option<T>, key: &str, value: T) -> Scanned<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice(key)),
    }
}

fn twice(key: &str) -> Fault {
    Fault::Value(format!("{key:?} is given twice"))
}

fn push<T>(list: &mut Vec<T>, key: &str, item: T) -> Scanned<()> {
    if list.len() == TENSORS {
        return Err(Fault::Value(format!("{key:?} has more than {TENSORS} items")));
    }
    list.push(item);
    Ok(())
}

#[cfg(test)]
mod tests;
