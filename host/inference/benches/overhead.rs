//! What a run through the host costs, beside ONNX Runtime's own time for the same model.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and may stop at the first failure"
)]

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use berth_inference::{Runtime, RuntimeOptions};
use berth_tensor::{DataType, NamedTensor, Tensor};
use ort::value::TensorRef;

/// The median of many calls.
fn median(mut call: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..200_000)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("perceptron.onnx");
    std::fs::write(&file, berth_onnx::networks::perceptron(1)).unwrap();
    // A process has one environment of ONNX Runtime, so the other way needs a process of its own.
    if std::env::args().any(|argument| argument == "alone") {
        alone(&file);
    } else {
        through_host(&file);
        let executable = std::env::current_exe().unwrap();
        assert!(std::process::Command::new(executable).arg("alone").status().unwrap().success());
    }
}

fn through_host(file: &Path) {
    let runtime = Runtime::load(None, RuntimeOptions::default()).unwrap();
    let model = runtime.open("perceptron@1", file).unwrap();
    let tensor = Tensor::new(DataType::Fp32, vec![1, 64], vec![0; 256]).unwrap();
    let input = [NamedTensor { name: "x".to_owned(), tensor }];
    let time = median(|| {
        let run = pin!(model.run(&input, &[], Instant::now() + Duration::from_secs(10)));
        let Poll::Ready(answer) = run.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("not small")
        };
        answer.unwrap();
    });
    println!("64-64-10 perceptron, ONNX Runtime {}: {time:?} through the host", runtime.version());
}

fn alone(file: &Path) {
    let library = std::env::var("ORT_DYLIB_PATH").unwrap();
    let environment = ort::init_from(library).unwrap().build().unwrap();
    environment.set_log_level(ort::logging::LogLevel::Warning);
    let mut session = ort::session::Session::builder(&environment)
        .unwrap()
        .with_intra_threads(1)
        .unwrap()
        .commit_from_file(file)
        .unwrap();
    let data = vec![0f32; 64];
    let time = median(|| {
        session
            .run(ort::inputs!["x" => TensorRef::from_array_view(([1usize, 64], &*data)).unwrap()])
            .unwrap();
    });
    println!("64-64-10 perceptron: {time:?} through the ort crate alone");
}
