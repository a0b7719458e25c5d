//! Which providers can be asked for, and what is said when one is not there.

use berth_onnx::networks::{dense, perceptron};

use super::*;

type Named<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)])];

fn made(named: Named) -> Result<Providers, String> {
    let options = |options: &[(&str, &str)]| {
        options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    Providers::new(named.iter().map(|&(name, given)| (name.to_owned(), options(given))))
}

fn check(named: Named, expected: Result<&[&str], &str>) {
    let made = made(named);
    match (&made, expected) {
        (Ok(made), Ok(names)) => assert_eq!(made.names().collect::<Vec<_>>(), names),
        (Err(problem), Err(part)) if problem.contains(part) => {}
        _ => panic!("{named:?}: {made:?}, expected {expected:?}"),
    }
}

#[test]
fn providers_are_used_in_order_or_refused() {
    check(&[("cpu", &[])], Ok(&["cpu"]));
    check(
        &[("cuda", &[("device_id", "1"), ("use_tf32", "0")]), ("cpu", &[])],
        Ok(&["cuda", "cpu"]),
    );
    check(&[("cuda", &[])], Ok(&["cuda"]));
    check(&[], Err("name at least one"));
    check(&[("CUDA", &[])], Err("there is no provider \"CUDA\", only cuda, cpu"));
    check(&[("cpu", &[]), ("cuda", &[])], Err("put cpu last"));
    check(&[("cuda", &[]), ("cuda", &[("device_id", "1")])], Err("cuda is there twice"));
    check(&[("cpu", &[]), ("cpu", &[])], Err("cpu is there twice"));
    let no_option = "cpu has no option \"device_id\"; it has intra_op_num_threads";
    check(&[("cpu", &[("device_id", "0")])], Err(no_option));
    for threads in ["1", "256"] {
        check(&[("cpu", &[("intra_op_num_threads", threads)])], Ok(&["cpu"]));
    }
    for threads in ["0", "257", "-1", "two", ""] {
        let refused = format!("intra_op_num_threads of cpu is {threads}; give 1 to 256");
        check(&[("cpu", &[("intra_op_num_threads", threads)])], Err(&refused));
    }
    // Addresses, and what records them.
    for option in ["user_compute_stream", "gpu_external_alloc", "enable_cuda_graph", ""] {
        check(&[("cuda", &[(option, "1")])], Err("; it has arena_extend_strategy, "));
    }
    check(&[("cuda", &[("device_id", "0\0")])], Err("option device_id of cuda has a zero byte"));
    assert_eq!(made(&[("cpu", &[])]), Ok(Providers::default()));
}

#[test]
fn a_provider_that_is_not_there_is_named_with_what_it_needs() {
    let Some(runtime) = runtime(1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, perceptron(1)).unwrap();
    let open = |providers: Providers| {
        let options = ModelOptions { providers, ..ModelOptions::default() };
        runtime.open("tested@1", &file, &options)
    };
    open(Providers::default()).unwrap();
    let built_with = runtime.providers();
    assert!(built_with.split(", ").any(|name| name == "cpu"), "{built_with}");
    if built_with.contains("cuda") {
        eprintln!("skipped: {} has cuda", runtime.library().display());
        return;
    }
    let error = open(made(&[("cuda", &[]), ("cpu", &[])]).unwrap()).unwrap_err().to_string();
    for part in [
        "model tested@1: the provider cuda of ONNX Runtime",
        runtime.library().to_str().unwrap(),
        &format!("it was built with {built_with} alone"),
        "install PyPI's onnxruntime-gpu",
    ] {
        assert!(error.contains(part) && !error.contains('\n'), "{part}: {error}");
    }
}

#[tokio::test]
async fn a_run_on_several_threads_answers_what_one_does() {
    let Some(runtime) = runtime(1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, dense(1, &[512, 512, 10])).unwrap();
    let mut answers = Vec::new();
    for given in ["1", "3"] {
        let providers = made(&[("cpu", &[("intra_op_num_threads", given)])]).unwrap();
        let options = ModelOptions { providers, ..ModelOptions::default() };
        let model = runtime.open("tested@1", &file, &options).unwrap().in_lane(&runtime.lane());
        let values: Vec<_> = (0..64 * 512).map(|at| (at % 7) as f32 - 3.0).collect();
        let input = named(&model.inputs()[0].name, DataType::Fp32, &[64, 512], &floats(&values));
        answers.push(run(&model, &[input], &[]).await.unwrap().remove(0).tensor);
    }
    let [one, several] = [&answers[0], &answers[1]].map(|tensor| tensor.data().to_vec());
    assert_eq!(one, several);
}
