//! Models through real ONNX Runtime. Without `ORT_DYLIB_PATH` these tests say that they were
//! skipped, except on a build server, where they fail.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod batching;
mod opening;
mod providers;
mod running;
mod stopping;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_inference::{
    BatchOptions, InferenceError, Model, ModelOptions, OpenError, Opened, Providers, Runtime,
    RuntimeOptions,
};
use berth_tensor::{DataType, NamedTensor, Tensor};

/// A runtime in which so many runs of a lane go on at once, or none where there is no library to test
/// with.
fn runtime(each: usize) -> Option<Runtime> {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "ORT_DYLIB_PATH is not set, and on a build server nothing is skipped"
        );
        eprintln!("skipped: ORT_DYLIB_PATH names no ONNX Runtime to test with");
        return None;
    }
    Some(Runtime::load(None, RuntimeOptions { each, trials: None }).unwrap())
}

/// Opens a model from the bytes of its file, in a lane of its own.
fn open(runtime: &Runtime, bytes: &[u8]) -> Result<Arc<Model>, OpenError> {
    Ok(open_with(runtime, bytes, BatchOptions::default())?.in_lane(&runtime.lane()))
}

fn open_with(
    runtime: &Runtime,
    bytes: &[u8],
    options: BatchOptions,
) -> Result<Arc<Opened>, OpenError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, bytes).unwrap();
    let options = ModelOptions { batch: options, providers: providers() };
    runtime.open("tested@1", &file, &options)
}

/// What models run on: the CPU, unless `cargo xtask gpu-check` says otherwise.
fn providers() -> Providers {
    let Ok(provider) = std::env::var("BERTH_TEST_PROVIDER") else { return Providers::default() };
    // With as many digits as the CPU has.
    let exact = BTreeMap::from([("use_tf32".to_owned(), "0".to_owned())]);
    Providers::new([(provider, exact), ("cpu".to_owned(), BTreeMap::new())]).unwrap()
}

fn named(name: &str, datatype: DataType, shape: &[u64], data: &[u8]) -> NamedTensor {
    NamedTensor {
        name: name.to_owned(),
        tensor: Tensor::new(datatype, shape.to_vec(), data.to_vec()).unwrap(),
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Runs with more time than any test needs.
async fn run(
    model: &Model,
    inputs: &[NamedTensor],
    outputs: &[&str],
) -> Result<Vec<NamedTensor>, InferenceError> {
    let outputs: Vec<_> = outputs.iter().map(|&name| name.to_owned()).collect();
    model.run(inputs, &outputs, Instant::now() + Duration::from_secs(60)).await
}

/// The number of threads of this process, by name.
fn threads(prefix: &str) -> usize {
    let names = std::fs::read_dir(Path::new("/proc/self/task")).unwrap().flatten();
    names
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| name.starts_with(prefix))
        })
        .count()
}
