//! Models of a few nodes.

use berth_tensor::DataType;

use crate::encode::{
    Message, constant, element, graph, integer, model, model_with, node, port, subgraph,
};

/// `y = x`; -1 is a dimension that varies.
pub fn identity(datatype: DataType, shape: &[i64]) -> Vec<u8> {
    let nodes = [node("Identity", &["x"], &["y"])];
    model(graph(&nodes, &[], &[port("x", datatype, shape)], &[port("y", datatype, shape)]))
}

/// `y = x + n`, for FP32 of any length.
pub fn adder(n: f32) -> Vec<u8> {
    let constants = [constant("n", DataType::Fp32, &[], &n.to_le_bytes())];
    let port = |name| port(name, DataType::Fp32, &[-1]);
    model(graph(&[node("Add", &["x", "n"], &["y"])], &constants, &[port("x")], &[port("y")]))
}

/// `y`, so many zeros, FP32, as `n`, INT64 [1], says: outputs larger than the input.
pub fn zeros() -> Vec<u8> {
    let (n, y) = (port("n", DataType::Int64, &[1]), port("y", DataType::Fp32, &[-1]));
    model(graph(&[node("ConstantOfShape", &["n"], &["y"])], &[], &[n], &[y]))
}

/// `y`, the sum of so many zeros, FP32, as `n`, INT64 [1], says: large within, and nothing of it seen.
pub fn sum_of_zeros() -> Vec<u8> {
    let (n, y) = (port("n", DataType::Int64, &[1]), port("y", DataType::Fp32, &[]));
    let sum = integer(node("ReduceSum", &["zeros"], &["y"]), "keepdims", 0);
    model(graph(&[node("ConstantOfShape", &["n"], &["zeros"]), sum], &[], &[n], &[y]))
}

/// `y = x` so many times over, for FP32 [1]: a large answer to a small question.
pub fn wide(times: i64) -> Vec<u8> {
    let (x, y) = (port("x", DataType::Fp32, &[1]), port("y", DataType::Fp32, &[times]));
    let constants = [constant("shape", DataType::Int64, &[1], &times.to_le_bytes())];
    model(graph(&[node("Expand", &["x", "shape"], &["y"])], &constants, &[x], &[y]))
}

/// `y = x` and then `truth`, which is `x` as BOOL, for FP32 [n]: an output that `wasi:nn` has a form for,
/// and one that it has none for.
pub fn with_truth() -> Vec<u8> {
    let cast = integer(node("Cast", &["x"], &["truth"]), "to", element(DataType::Bool));
    let port = |name, datatype| port(name, datatype, &[-1]);
    let outputs = [port("y", DataType::Fp32), port("truth", DataType::Bool)];
    let nodes = [node("Identity", &["x"], &["y"]), cast];
    model(graph(&nodes, &[], &[port("x", DataType::Fp32)], &outputs))
}

/// `sum = a + b` and `difference = a - b`, for FP32 [n, 2].
pub fn two_inputs() -> Vec<u8> {
    let port = |name| port(name, DataType::Fp32, &[-1, 2]);
    let nodes = [node("Add", &["a", "b"], &["sum"]), node("Sub", &["a", "b"], &["difference"])];
    model(graph(&nodes, &[], &[port("a"), port("b")], &[port("sum"), port("difference")]))
}

/// `y = x + c`, for INT32 of any length, where `c` is the lowest number by -1: a division that ONNX
/// Runtime makes when it opens the model, and that ends its process.
pub fn fatal() -> Vec<u8> {
    let port = |name| port(name, DataType::Int32, &[-1]);
    let number = |name, n: i32| constant(name, DataType::Int32, &[], &n.to_le_bytes());
    let nodes = [node("Div", &["lowest", "minus"], &["c"]), node("Add", &["x", "c"], &["y"])];
    let constants = [number("lowest", i32::MIN), number("minus", -1)];
    model(graph(&nodes, &constants, &[port("x")], &[port("y")]))
}

/// `y = x + c`, for FP32 of any length, where `c` takes ONNX Runtime many seconds to work out when it
/// opens the model.
pub fn slow_to_open() -> Vec<u8> {
    const TIMES: usize = 200;
    let port = |name| port(name, DataType::Fp32, &[-1]);
    let squares = [2048i64; 2].map(i64::to_le_bytes).concat();
    let constants = [constant("size", DataType::Int64, &[2], &squares)];
    let square = |at: usize| {
        let (before, after) = (format!("m{at}"), format!("m{}", at + 1));
        node("MatMul", &[&before, &before], &[&after])
    };
    let mut nodes = vec![node("ConstantOfShape", &["size"], &["m0"])];
    nodes.extend((0..TIMES).map(square));
    let last = format!("m{TIMES}");
    nodes.push(integer(node("ReduceSum", &[&last], &["c"]), "keepdims", 0));
    nodes.push(node("Add", &["x", "c"], &["y"]));
    model(graph(&nodes, &constants, &[port("x")], &[port("y")]))
}

/// `y = x`, of any length, from one datatype to another.
pub fn casts(from: DataType, to: DataType) -> Vec<u8> {
    let (x, y) = (port("x", from, &[-1]), port("y", to, &[-1]));
    model(graph(&[cast("x", "y", to)], &[], &[x], &[y]))
}

fn cast(from: &str, to: &str, datatype: DataType) -> Message {
    integer(node("Cast", &[from], &[to]), "to", element(datatype))
}

/// `NAME.seen = NAME` as FP32, for every name and one shape.
pub fn seen(names: &[&str], datatype: DataType, shape: &[i64]) -> Vec<u8> {
    let outputs: Vec<String> = names.iter().map(|name| format!("{name}.seen")).collect();
    let pairs = || names.iter().zip(&outputs);
    let nodes: Vec<Message> = pairs().map(|(from, to)| cast(from, to, DataType::Fp32)).collect();
    let inputs: Vec<Message> = names.iter().map(|name| port(name, datatype, shape)).collect();
    let outputs: Vec<Message> =
        outputs.iter().map(|name| port(name, DataType::Fp32, shape)).collect();
    model(graph(&nodes, &[], &inputs, &outputs))
}

/// `y = n`, INT64, after `n + extra` turns of a loop: a model as slow as one likes.
pub fn turns(extra: i64) -> Vec<u8> {
    let scalar = |name: &str| port(name, DataType::Int64, &[]);
    let nodes = [node("Add", &["n", "extra"], &["turns"]), count("turns", "n", "y")];
    let constants = [constant("extra", DataType::Int64, &[], &extra.to_le_bytes())];
    model(graph(&nodes, &constants, &[scalar("n")], &[scalar("y")]))
}

/// `y = n`, INT64 [rows], after as many turns of a loop as the largest of `n` and `extra`. Its file
/// has one property.
pub fn turns_of_rows(extra: i64, property: &str, value: &str) -> Vec<u8> {
    let rows = |name: &str| port(name, DataType::Int64, &[-1]);
    let largest = integer(node("ReduceMax", &["n"], &["largest"]), "keepdims", 0);
    let nodes = [
        largest,
        node("Add", &["largest", "extra"], &["turns"]),
        count("turns", "largest", "last"),
        node("Sub", &["last", "last"], &["zero"]),
        node("Add", &["n", "zero"], &["y"]),
    ];
    let constants = [constant("extra", DataType::Int64, &[], &extra.to_le_bytes())];
    model_with(graph(&nodes, &constants, &[rows("n")], &[rows("y")]), property, value)
}

/// A loop of so many turns that puts out what it is given.
fn count(turns: &str, from: &str, to: &str) -> Message {
    let scalar = |name: &str, datatype| port(name, datatype, &[]);
    let (int, flag) = (DataType::Int64, DataType::Bool);
    let body = graph(
        &[node("Identity", &["go"], &["on"]), node("Identity", &["before"], &["after"])],
        &[],
        &[scalar("i", int), scalar("go", flag), scalar("before", int)],
        &[scalar("on", flag), scalar("after", int)],
    );
    subgraph(node("Loop", &[turns, "", from], &[to]), "body", &body)
}
