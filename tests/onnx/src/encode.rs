//! The parts of a model as protocol buffers.

use berth_tensor::DataType;

/// A protocol buffer message under construction.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Appends a number field.
    pub fn number(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    /// Appends a field of bytes: a string or another message.
    pub fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Appends the same field once for each value.
    pub fn each<T: AsRef<[u8]>>(self, field: u64, values: impl IntoIterator<Item = T>) -> Self {
        values.into_iter().fold(self, |message, value| message.bytes(field, value))
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// ONNX's number for a datatype.
pub fn element(datatype: DataType) -> i64 {
    match datatype {
        DataType::Fp32 => 1,
        DataType::Uint8 => 2,
        DataType::Int8 => 3,
        DataType::Uint16 => 4,
        DataType::Int16 => 5,
        DataType::Int32 => 6,
        DataType::Int64 => 7,
        DataType::Bytes => 8,
        DataType::Bool => 9,
        DataType::Fp16 => 10,
        DataType::Fp64 => 11,
        DataType::Uint32 => 12,
        DataType::Uint64 => 13,
        DataType::Bf16 => 16,
        DataType::Float8E4M3Fn => 17,
        DataType::Float8E4M3Fnuz => 18,
        DataType::Float8E5M2 => 19,
        DataType::Float8E5M2Fnuz => 20,
    }
}

/// ONNX's numbers for types that are none of [`DataType`].
pub const COMPLEX64: i64 = 14;
/// Two elements in a byte.
pub const INT4: i64 = 22;

/// A tensor type by ONNX's number of its datatype; -1 is a dimension that varies, each by itself, no
/// shape at all an unknown rank.
pub fn tensor(element: i64, shape: Option<&[i64]>) -> Message {
    let dimension = |(at, &size): (usize, &i64)| match size {
        ..0 => Message::default().bytes(2, format!("n{at}")),
        0.. => Message::default().number(1, size),
    };
    let ty = Message::default().number(1, element);
    let ty = match shape {
        Some(shape) => {
            ty.bytes(2, Message::default().each(1, shape.iter().enumerate().map(dimension)))
        }
        None => ty,
    };
    Message::default().bytes(1, ty)
}

/// A tensor type by ONNX's number of its datatype, whose dimensions all vary and have these names.
pub fn named_dimensions(element: i64, names: &[&str]) -> Message {
    let dimensions = names.iter().map(|name| Message::default().bytes(2, name));
    let shape = Message::default().each(1, dimensions);
    let ty = Message::default().number(1, element).bytes(2, shape);
    Message::default().bytes(1, ty)
}

/// A sequence of a type.
pub fn sequence(of: Message) -> Message {
    Message::default().bytes(4, Message::default().bytes(1, of))
}

/// A named input or output.
pub fn value(name: &str, ty: Message) -> Message {
    Message::default().bytes(1, name).bytes(2, ty)
}

/// An input or output that is a tensor of a known shape; -1 is a dimension that varies.
pub fn port(name: &str, datatype: DataType, shape: &[i64]) -> Message {
    value(name, tensor(element(datatype), Some(shape)))
}

/// A node without attributes, which [`integer`], [`integers`] and [`subgraph`] add.
pub fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    Message::default().each(1, inputs).each(2, outputs).bytes(4, operator)
}

/// The node with an integer attribute.
pub fn integer(node: Message, name: &str, value: i64) -> Message {
    node.bytes(5, Message::default().bytes(1, name).number(3, value).number(20, 2))
}

/// The node with a list of integers as an attribute.
pub fn integers(node: Message, name: &str, values: &[i64]) -> Message {
    let attribute = Message::default().bytes(1, name);
    let attribute = values.iter().fold(attribute, |attribute, &value| attribute.number(8, value));
    node.bytes(5, attribute.number(20, 7))
}

/// The node with a graph as an attribute.
pub fn subgraph(node: Message, name: &str, graph: &Message) -> Message {
    node.bytes(5, Message::default().bytes(1, name).bytes(6, graph).number(20, 5))
}

/// A constant tensor; `data` are its elements, row-major, little-endian.
pub fn constant(name: &str, datatype: DataType, shape: &[i64], data: &[u8]) -> Message {
    let dimensions =
        shape.iter().fold(Message::default(), |message, &size| message.number(1, size));
    dimensions.number(2, element(datatype)).bytes(8, name).bytes(9, data)
}

/// A constant tensor whose elements are so many bytes of a file beside the model, from an offset on.
pub fn external(
    name: &str,
    datatype: DataType,
    shape: &[i64],
    (file, offset, length): (&str, usize, usize),
) -> Message {
    let dimensions =
        shape.iter().fold(Message::default(), |message, &size| message.number(1, size));
    let pair = |key: &str, value: &str| Message::default().bytes(1, key).bytes(2, value);
    let (offset, length) = (offset.to_string(), length.to_string());
    let pairs = [pair("location", file), pair("offset", &offset), pair("length", &length)];
    dimensions.number(2, element(datatype)).bytes(8, name).each(13, pairs).number(14, 1)
}

/// A graph.
pub fn graph(
    nodes: &[Message],
    constants: &[Message],
    inputs: &[Message],
    outputs: &[Message],
) -> Message {
    Message::default()
        .each(1, nodes)
        .bytes(2, "graph")
        .each(5, constants)
        .each(11, inputs)
        .each(12, outputs)
}

/// A model file of operator set 19, with the property `task`.
pub fn model(graph: Message) -> Vec<u8> {
    model_with(graph, "task", "testing")
}

/// A model file of operator set 19, with one property.
pub fn model_with(graph: Message, property: &str, value: &str) -> Vec<u8> {
    let operators = Message::default().bytes(1, "").number(2, 19);
    let property = Message::default().bytes(1, property).bytes(2, value);
    Message::default()
        .number(1, 9)
        .bytes(2, "berth")
        .bytes(7, graph)
        .bytes(8, operators)
        .bytes(14, property)
        .0
}
