//! What a run of a small model costs through the host; `ort_alone` has the same without it. A
//! process has one environment of ONNX Runtime, so that each is a program of its own.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first failure")]

use std::time::{Duration, Instant};

use berth_inference::{ModelOptions, Runtime, RuntimeOptions};
use berth_tensor::{DataType, NamedTensor, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

fn through_host(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("perceptron.onnx");
    std::fs::write(&file, berth_onnx::networks::perceptron(1)).unwrap();
    let runtime = Runtime::load(None, RuntimeOptions::default()).unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let model = runtime
        .open("perceptron@1", &file, &ModelOptions::default())
        .unwrap()
        .in_lane(&runtime.lane());
    let tensor = Tensor::new(DataType::Fp32, vec![1, 64], vec![0; 256]).unwrap();
    let input = [NamedTensor { name: "x".to_owned(), tensor }];
    criterion.bench_function("a perceptron of 64, 64 and 10 units, through the host", |bencher| {
        bencher.to_async(&threads).iter(|| async {
            let deadline = Instant::now() + Duration::from_secs(10);
            model.run(&input, &[], deadline).await.unwrap()
        });
    });
}

criterion_group!(benches, through_host);
criterion_main!(benches);
