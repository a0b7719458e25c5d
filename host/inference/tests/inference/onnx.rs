//! Writes small ONNX models, so that tests need no binary files.

use berth_tensor::DataType;

/// A protocol buffer message under construction.
#[derive(Clone, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Appends a number field.
    pub(crate) fn number(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    /// Appends a field of bytes: a string or another message.
    pub(crate) fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.as_ref().len() as u64);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    fn each<T>(self, field: u64, values: impl IntoIterator<Item = T>) -> Self
    where
        T: AsRef<[u8]>,
    {
        values.into_iter().fold(self, |message, value| message.bytes(field, value))
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// ONNX's number for a datatype.
pub(crate) fn element(datatype: DataType) -> i64 {
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
    }
}

/// ONNX's number for a datatype that the protocol lacks.
pub(crate) const COMPLEX64: i64 = 14;

/// A tensor type; -1 is a dimension that varies, no shape at all an unknown rank.
pub(crate) fn tensor(element: i64, shape: Option<&[i64]>) -> Message {
    let dimension = |&size: &i64| {
        if size < 0 { Message::default().bytes(2, "n") } else { Message::default().number(1, size) }
    };
    let ty = Message::default().number(1, element);
    let ty = match shape {
        Some(shape) => ty.bytes(2, Message::default().each(1, shape.iter().map(dimension))),
        None => ty,
    };
    Message::default().bytes(1, ty)
}

/// A sequence of a type.
pub(crate) fn sequence(of: Message) -> Message {
    Message::default().bytes(4, Message::default().bytes(1, of))
}

/// A named input or output.
pub(crate) fn value(name: &str, ty: Message) -> Message {
    Message::default().bytes(1, name).bytes(2, ty)
}

/// A node.
pub(crate) fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    Message::default().each(1, inputs).each(2, outputs).bytes(4, operator)
}

/// A node with a subgraph as its attribute `body`.
pub(crate) fn node_with_body(
    operator: &str,
    inputs: &[&str],
    outputs: &[&str],
    body: Message,
) -> Message {
    node(operator, inputs, outputs)
        .bytes(5, Message::default().bytes(1, "body").bytes(6, body).number(20, 5))
}

/// A constant tensor.
pub(crate) fn constant(name: &str, datatype: DataType, shape: &[i64], data: &[u8]) -> Message {
    let dimensions =
        shape.iter().fold(Message::default(), |message, &size| message.number(1, size));
    dimensions.number(2, element(datatype)).bytes(8, name).bytes(9, data)
}

/// A graph.
pub(crate) fn graph(
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

/// A model of operator set 17, with two properties.
pub(crate) fn model(graph: Message) -> Vec<u8> {
    let opset = Message::default().bytes(1, "").number(2, 17);
    let property = Message::default().bytes(1, "task").bytes(2, "testing");
    Message::default()
        .number(1, 8)
        .bytes(2, "berth")
        .bytes(7, graph)
        .bytes(8, opset)
        .bytes(14, property)
        .0
}

/// `y = x`.
pub(crate) fn identity(datatype: DataType, shape: &[i64]) -> Vec<u8> {
    let ty = || tensor(element(datatype), Some(shape));
    model(graph(&[node("Identity", &["x"], &["y"])], &[], &[value("x", ty())], &[value("y", ty())]))
}

/// `y = relu(x · w1) · w2` with constant weights: a perceptron of 64, 64 and 10 units.
pub(crate) fn perceptron() -> Vec<u8> {
    let weights = |name, rows: usize, columns: usize| {
        let data: Vec<u8> =
            (0..rows * columns).flat_map(|i| ((i % 7) as f32 / 64.0).to_le_bytes()).collect();
        constant(name, DataType::Fp32, &[rows as i64, columns as i64], &data)
    };
    let nodes = [
        node("MatMul", &["x", "w1"], &["a"]),
        node("Relu", &["a"], &["b"]),
        node("MatMul", &["b", "w2"], &["y"]),
    ];
    let ty = |columns| tensor(1, Some(&[-1, columns]));
    model(graph(
        &nodes,
        &[weights("w1", 64, 64), weights("w2", 64, 10)],
        &[value("x", ty(64))],
        &[value("y", ty(10))],
    ))
}

/// `y = n`, after `n + extra` turns of a loop.
pub(crate) fn turns(extra: i64) -> Vec<u8> {
    let scalar = |datatype| tensor(element(datatype), Some(&[]));
    let body = graph(
        &[node("Identity", &["go"], &["on"]), node("Identity", &["before"], &["after"])],
        &[],
        &[
            value("i", scalar(DataType::Int64)),
            value("go", scalar(DataType::Bool)),
            value("before", scalar(DataType::Int64)),
        ],
        &[value("on", scalar(DataType::Bool)), value("after", scalar(DataType::Int64))],
    );
    let nodes = [
        node("Add", &["n", "extra"], &["turns"]),
        node_with_body("Loop", &["turns", "", "n"], &["y"], body),
    ];
    let constants = [constant("extra", DataType::Int64, &[], &extra.to_le_bytes())];
    let port = |name| value(name, scalar(DataType::Int64));
    model(graph(&nodes, &constants, &[port("n")], &[port("y")]))
}
