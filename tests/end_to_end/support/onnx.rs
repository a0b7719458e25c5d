//! Writes small ONNX models, so that tests need no binary files.

/// ONNX's numbers for datatypes.
pub(crate) const FP32: i64 = 1;
pub(crate) const INT64: i64 = 7;
pub(crate) const BOOL: i64 = 9;
pub(crate) const FP16: i64 = 10;

/// A protocol buffer message under construction.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.as_ref().len() as u64);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    fn each<T: AsRef<[u8]>>(self, field: u64, values: &[T]) -> Self {
        values.iter().fold(self, |message, value| message.bytes(field, value))
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A named input or output; -1 is a dimension that varies.
fn value(name: &str, element: i64, shape: &[i64]) -> Message {
    let dimension = |&size: &i64| match size {
        -1 => Message::default().bytes(2, "n"),
        _ => Message::default().number(1, size),
    };
    let dimensions: Vec<Message> = shape.iter().map(dimension).collect();
    let tensor =
        Message::default().number(1, element).bytes(2, Message::default().each(1, &dimensions));
    Message::default().bytes(1, name).bytes(2, Message::default().bytes(1, tensor))
}

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    Message::default().each(1, inputs).each(2, outputs).bytes(4, operator)
}

/// A constant without dimensions.
fn constant(name: &str, element: i64, data: &[u8]) -> Message {
    Message::default().number(2, element).bytes(8, name).bytes(9, data)
}

fn graph(
    nodes: &[Message],
    constants: &[Message],
    inputs: &[Message],
    outputs: &[Message],
) -> Message {
    let graph = Message::default().each(1, nodes).bytes(2, "graph").each(5, constants);
    graph.each(11, inputs).each(12, outputs)
}

fn model(graph: Message) -> Vec<u8> {
    let operators = Message::default().bytes(1, "").number(2, 17);
    Message::default().number(1, 8).bytes(2, "berth").bytes(7, graph).bytes(8, operators).0
}

/// `y = x`.
pub(crate) fn identity(element: i64) -> Vec<u8> {
    let (x, y) = (value("x", element, &[-1]), value("y", element, &[-1]));
    model(graph(&[node("Identity", &["x"], &["y"])], &[], &[x], &[y]))
}

/// `y = x + n`, for FP32 of any length.
pub(crate) fn adder(n: f32) -> Vec<u8> {
    let (x, y) = (value("x", FP32, &[-1]), value("y", FP32, &[-1]));
    let constants = [constant("n", FP32, &n.to_le_bytes())];
    model(graph(&[node("Add", &["x", "n"], &["y"])], &constants, &[x], &[y]))
}

/// `sum = a + b` and `difference = a - b`, for FP32 [n, 2].
pub(crate) fn two_inputs() -> Vec<u8> {
    let port = |name| value(name, FP32, &[-1, 2]);
    let nodes = [node("Add", &["a", "b"], &["sum"]), node("Sub", &["a", "b"], &["difference"])];
    model(graph(&nodes, &[], &[port("a"), port("b")], &[port("sum"), port("difference")]))
}

/// `y = x`, as FP16.
pub(crate) fn to_half() -> Vec<u8> {
    let to = Message::default().bytes(1, "to").number(3, FP16).number(20, 2);
    let cast = node("Cast", &["x"], &["y"]).bytes(5, to);
    model(graph(&[cast], &[], &[value("x", FP32, &[-1])], &[value("y", FP16, &[-1])]))
}

/// `y = n`, after `n + extra` turns of a loop: a model as slow as one likes.
pub(crate) fn turns(extra: i64) -> Vec<u8> {
    let scalar = |name, element| value(name, element, &[]);
    let body = graph(
        &[node("Identity", &["go"], &["on"]), node("Identity", &["before"], &["after"])],
        &[],
        &[scalar("i", INT64), scalar("go", BOOL), scalar("before", INT64)],
        &[scalar("on", BOOL), scalar("after", INT64)],
    );
    let body = Message::default().bytes(1, "body").bytes(6, body).number(20, 5);
    let nodes = [
        node("Add", &["n", "extra"], &["turns"]),
        node("Loop", &["turns", "", "n"], &["y"]).bytes(5, body),
    ];
    let constants = [constant("extra", INT64, &extra.to_le_bytes())];
    model(graph(&nodes, &constants, &[scalar("n", INT64)], &[scalar("y", INT64)]))
}
