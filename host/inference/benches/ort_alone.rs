//! What a run of a small model costs by the crate `ort` alone, beside `through_host`.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first failure")]

use criterion::{Criterion, criterion_group, criterion_main};
use ort::value::TensorRef;

fn alone(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("perceptron.onnx");
    std::fs::write(&file, berth_onnx::networks::perceptron(1)).unwrap();
    let library = std::env::var("ORT_DYLIB_PATH").unwrap();
    let environment = ort::init_from(library).unwrap().build().unwrap();
    environment.set_log_level(ort::logging::LogLevel::Warning);
    let mut session = ort::session::Session::builder(&environment)
        .unwrap()
        .with_intra_threads(1)
        .unwrap()
        .commit_from_file(&file)
        .unwrap();
    let data = vec![0f32; 64];
    criterion.bench_function("a perceptron of 64, 64 and 10 units, by ort alone", |bencher| {
        bencher.iter(|| {
            let input = TensorRef::from_array_view(([1usize, 64], &*data)).unwrap();
            let outputs = session.run(ort::inputs!["x" => input]).unwrap();
            outputs[0].try_extract_tensor::<f32>().unwrap().1[0]
        });
    });
}

criterion_group!(benches, alone);
criterion_main!(benches);
