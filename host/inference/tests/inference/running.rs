//! What goes in and what comes out.

use super::*;
use berth_onnx::encode::*;
use berth_onnx::networks::perceptron;
use berth_onnx::small::identity;

/// Three elements of a datatype.
fn three(datatype: DataType) -> Tensor {
    match datatype {
        DataType::Bytes => Tensor::from_byte_strings(vec![1, 3], &["", "é", "a\0b"]).unwrap(),
        DataType::Bool => Tensor::new(datatype, vec![1, 3], vec![1, 0, 1]).unwrap(),
        _ => {
            let size = datatype.size().unwrap();
            Tensor::new(datatype, vec![1, 3], (1..=3 * size as u8).collect::<Vec<_>>()).unwrap()
        }
    }
}

#[tokio::test]
async fn every_datatype_passes_through_unchanged() {
    let Some(runtime) = runtime(1) else { return };
    for datatype in DataType::ALL {
        let model = open(&runtime, &identity(datatype, &[-1, 3])).unwrap();
        let tensor = three(datatype);
        // One byte further than any alignment.
        let shifted = bytes::Bytes::from([&[0], tensor.data().as_ref()].concat()).slice(1..);
        let empty = Tensor::new(datatype, vec![0, 3], vec![]).unwrap();
        for tensor in [tensor.clone(), Tensor::new(datatype, vec![1, 3], shifted).unwrap(), empty] {
            let input = [NamedTensor { name: "x".to_owned(), tensor: tensor.clone() }];
            let output = run(&model, &input, &[]).await.unwrap();
            assert_eq!(output, [NamedTensor { name: "y".to_owned(), tensor }], "{datatype}");
        }
    }
}

#[tokio::test]
async fn large_outputs_outlive_their_model() {
    let Some(runtime) = runtime(1) else { return };
    let model = open(&runtime, &identity(DataType::Fp32, &[-1])).unwrap();
    let data: Vec<u8> = (0..1u32 << 20).map(|i| i as u8).collect();
    let output = run(&model, &[named("x", DataType::Fp32, &[1 << 18], &data)], &[]).await.unwrap();
    drop(model);
    assert!(output[0].tensor.data() == &data);
}

#[tokio::test]
async fn a_tensor_of_no_dimensions_is_a_scalar_or_of_any_shape() {
    let Some(runtime) = runtime(1) else { return };
    let scalar = open(&runtime, &identity(DataType::Fp64, &[])).unwrap();
    let input = [named("x", DataType::Fp64, &[], &1.5f64.to_le_bytes())];
    assert_eq!(run(&scalar, &input, &[]).await.unwrap()[0].tensor, input[0].tensor);
    let any = || tensor(1, None);
    let any = open(
        &runtime,
        &model(graph(
            &[node("Identity", &["x"], &["y"])],
            &[],
            &[value("x", any())],
            &[value("y", any())],
        )),
    )
    .unwrap();
    let input = [named("x", DataType::Fp32, &[1, 2], &[0; 8])];
    assert_eq!(run(&any, &input, &[]).await.unwrap()[0].tensor, input[0].tensor);
}

/// `sum = a + b` and `difference = a - b`, with two elements each, the first of any number.
fn two_by_two() -> Vec<u8> {
    let ty = || tensor(1, Some(&[-1, 2]));
    let nodes = [node("Add", &["a", "b"], &["sum"]), node("Sub", &["a", "b"], &["difference"])];
    model(graph(
        &nodes,
        &[],
        &[value("a", ty()), value("b", ty())],
        &[value("sum", ty()), value("difference", ty())],
    ))
}

#[tokio::test]
async fn inputs_and_outputs_go_by_name() {
    let Some(runtime) = runtime(1) else { return };
    let model = open(&runtime, &two_by_two()).unwrap();
    let inputs = [
        named("b", DataType::Fp32, &[1, 2], &floats(&[1.0, 2.0])),
        named("a", DataType::Fp32, &[1, 2], &floats(&[10.0, 20.0])),
    ];
    let sum = || named("sum", DataType::Fp32, &[1, 2], &floats(&[11.0, 22.0]));
    let difference = || named("difference", DataType::Fp32, &[1, 2], &floats(&[9.0, 18.0]));
    let cases: [(&[&str], Vec<NamedTensor>); 4] = [
        (&[], vec![sum(), difference()]),
        (&["difference", "sum"], vec![difference(), sum()]),
        (&["difference"], vec![difference()]),
        (&["sum", "sum"], vec![sum(), sum()]),
    ];
    for (outputs, expected) in cases {
        assert_eq!(run(&model, &inputs, outputs).await.unwrap(), expected, "{outputs:?}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let Some(runtime) = runtime(1) else { return };
    let model = open(&runtime, &two_by_two()).unwrap();
    let good = |name| named(name, DataType::Fp32, &[1, 2], &[0; 8]);
    let cases = [
        (vec![good("a")], "b", "missing"),
        (vec![good("a"), good("b"), good("c")], "c", "no such input, it takes [\"a\", \"b\"]"),
        (vec![good("a"), good("a"), good("b")], "a", "given twice"),
        (
            vec![good("a"), named("b", DataType::Fp64, &[1, 2], &[0; 16])],
            "b",
            "expected datatype FP32, got FP64",
        ),
        (
            vec![good("a"), named("b", DataType::Fp32, &[1, 3], &[0; 12])],
            "b",
            "expected shape [-1, 2], got [1, 3]",
        ),
        (
            vec![good("a"), named("b", DataType::Fp32, &[2], &[0; 8])],
            "b",
            "expected shape [-1, 2], got [2]",
        ),
    ];
    for (inputs, name, part) in cases {
        check(&model, inputs, name, part).await;
    }
    let unknown = InferenceError::UnknownOutput("product".to_owned());
    assert_eq!(
        model.check(&[good("a"), good("b")], &["sum".to_owned(), "product".to_owned()]),
        Err(unknown)
    );
    run(&model, &[good("a"), good("b")], &[]).await.unwrap();

    let truth = open(&runtime, &identity(DataType::Bool, &[2])).unwrap();
    check(
        &truth,
        vec![named("x", DataType::Bool, &[2], &[1, 2])],
        "x",
        "element 1 is 2, and a BOOL is 0 or 1",
    )
    .await;
    let text = open(&runtime, &identity(DataType::Bytes, &[2])).unwrap();
    let tensor = Tensor::from_byte_strings(vec![2], &[&b"a"[..], &[0xff]]).unwrap();
    check(&text, vec![NamedTensor { name: "x".to_owned(), tensor }], "x", "element 1 is not UTF-8")
        .await;
}

#[tokio::test]
async fn dimensions_of_one_name_are_of_one_size() {
    let Some(runtime) = runtime(1) else { return };
    // `y = ids + mask` by broadcasting, so that ONNX Runtime itself would take some of what differs.
    let ty = |names: &[&str]| named_dimensions(1, names);
    let nodes = [node("Add", &["ids", "mask"], &["y"]), node("Identity", &["square"], &["z"])];
    let ports = [
        value("ids", ty(&["batch", "seq"])),
        value("mask", ty(&["batch", "seq"])),
        value("square", ty(&["n", "n"])),
    ];
    let outputs = [value("y", ty(&["batch", "seq"])), value("z", ty(&["n", "n"]))];
    let model = open(&runtime, &berth_onnx::encode::model(graph(&nodes, &[], &ports, &outputs)));
    let model = model.unwrap();
    let zeros = |name, shape: &[u64]| {
        named(name, DataType::Fp32, shape, &vec![0; 4 * shape.iter().product::<u64>() as usize])
    };
    let inputs = |ids: &[u64], mask: &[u64], square: &[u64]| {
        vec![zeros("mask", mask), zeros("ids", ids), zeros("square", square)]
    };
    for (inputs, refused) in [
        (inputs(&[2, 4], &[2, 4], &[3, 3]), None),
        (
            inputs(&[2, 4], &[2, 5], &[3, 3]),
            Some((
                "mask",
                "dimension 1 is 5, but it is the model's \"seq\", which is 4 in dimension 1 of input \"ids\"",
            )),
        ),
        (
            inputs(&[2, 4], &[1, 4], &[3, 3]),
            Some((
                "mask",
                "dimension 0 is 1, but it is the model's \"batch\", which is 2 in dimension 0 of input \"ids\"",
            )),
        ),
        (
            inputs(&[2, 4], &[2, 4], &[3, 2]),
            Some((
                "square",
                "dimension 1 is 2, but it is the model's \"n\", which is 3 in dimension 0 of input \"square\"",
            )),
        ),
    ] {
        match refused {
            None => drop(run(&model, &inputs, &[]).await.unwrap()),
            Some((name, part)) => check(&model, inputs, name, part).await,
        }
    }
}

async fn check(model: &Model, inputs: Vec<NamedTensor>, name: &str, part: &str) {
    let error = model.check(&inputs, &[]).unwrap_err();
    assert_eq!(run(model, &inputs, &[]).await, Err(error.clone()));
    let InferenceError::InvalidInput { input, problem } = &error else { panic!("{error}") };
    assert!(input == name && problem.contains(part), "{error}");
}

#[test]
fn one_model_answers_many_threads_at_once() {
    let Some(runtime) = runtime(2) else { return };
    let model = open(&runtime, &perceptron(1)).unwrap();
    let input = |seed: usize| {
        let values: Vec<f32> = (0..64).map(|i| ((i * 7 + seed) % 13) as f32).collect();
        [named("x", DataType::Fp32, &[1, 64], &floats(&values))]
    };
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let alone: Vec<_> =
        (0..8).map(|seed| tokio.block_on(run(&model, &input(seed), &[])).unwrap()).collect();
    assert_ne!(alone[0], alone[1]);
    std::thread::scope(|scope| {
        for (seed, alone) in alone.iter().enumerate() {
            let (model, input) = (&model, input(seed));
            scope.spawn(move || {
                let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for _ in 0..2000 {
                    assert_eq!(&tokio.block_on(run(model, &input, &[])).unwrap(), alone);
                }
            });
        }
    });
}

#[tokio::test]
async fn an_input_that_is_put_out_is_the_callers_no_more() {
    let Some(runtime) = runtime(1) else { return };
    let port = |name| berth_onnx::encode::port(name, DataType::Fp32, &[-1, 8192]);
    let relu = berth_onnx::encode::node("Relu", &["x"], &["y"]);
    let graph = berth_onnx::encode::graph(&[relu], &[], &[port("x")], &[port("y"), port("x")]);
    let model = open(&runtime, &berth_onnx::encode::model(graph)).unwrap();
    let values: Vec<f32> = (0..8192).map(|at| at as f32).collect();
    // Out of line with its elements, so that what is lent is another copy; or as it is.
    for skipped in [1, 4] {
        let mut bytes = vec![0; skipped];
        bytes.extend(floats(&values));
        let data = bytes::Bytes::from(bytes).slice(skipped..);
        let own = data.as_ptr_range();
        let tensor = Tensor::new(DataType::Fp32, vec![1, 8192], data.clone()).unwrap();
        let input = [NamedTensor { name: "x".into(), tensor }];
        let output = run(&model, &input, &["x"]).await.unwrap().remove(0);
        assert!(!own.contains(&output.tensor.data().as_ptr()));
        drop((input, data));
        // What was freed is written over by others.
        let others: Vec<Vec<u8>> = (0..64).map(|_| vec![0xff; 8192 * 4]).collect();
        assert_eq!(output.tensor.data().as_ref(), floats(&values));
        drop(others);
    }
}
