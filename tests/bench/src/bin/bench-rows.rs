//! Rows a second through a model on one execution provider.
//!
//! `bench-rows PROVIDER alone MODEL ROWS SECONDS` runs ONNX Runtime's session without a server around
//! it, so many rows at a time. `bench-rows PROVIDER berth MODEL ROWS SECONDS CALLERS BATCH` goes
//! through `host/inference`, with so many callers at once of so many rows each, of which at most BATCH
//! rows run as one. `ORT_DYLIB_PATH` names ONNX Runtime. It prints the rows a second, by the clock:
//! what is scarce is the device.

#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use berth_inference::{BatchOptions, Model, ModelOptions, Providers, Runtime, RuntimeOptions};
use berth_tensor::{NamedTensor, Tensor};
use ort::ep;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;

/// Before it is measured: a provider tries ways to compute at its first runs.
const WARM_UP: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let rows_a_second = match arguments.as_slice() {
        [provider, "alone", model, rows, seconds] => {
            alone(provider, model, rows.parse()?, seconds.parse()?)?
        }
        [provider, "berth", model, rows, seconds, callers, batch] => {
            let (callers, batch) = (callers.parse()?, batch.parse()?);
            berth(provider, model, rows.parse()?, seconds.parse()?, callers, batch)?
        }
        _ => bail!(
            "usage: bench-rows PROVIDER alone MODEL ROWS SECONDS, or PROVIDER berth MODEL ROWS SECONDS CALLERS BATCH"
        ),
    };
    println!("{rows_a_second}");
    Ok(())
}

/// Values between 0 and 1 for an input with so many rows.
fn values(rows: u64, shape: &[i64]) -> (Vec<u64>, Vec<f32>) {
    let mut shape: Vec<u64> = shape.iter().map(|&size| u64::try_from(size).unwrap_or(1)).collect();
    if let Some(first) = shape.first_mut() {
        *first = rows;
    }
    let count = shape.iter().product::<u64>();
    (shape, (0..count).map(|at| (at % 251) as f32 / 251.0).collect())
}

fn alone(provider: &str, model: &str, rows: u64, seconds: f64) -> anyhow::Result<f64> {
    let library = std::env::var("ORT_DYLIB_PATH").context("ORT_DYLIB_PATH is not set")?;
    let environment = ort::init_from(library)?.with_telemetry(false).build()?;
    environment.set_log_level(ort::logging::LogLevel::Warning);
    let provider = match provider {
        "cpu" => ep::CPU::default().with_arena_allocator(true).build(),
        "cuda" => ep::CUDA::default().build(),
        other => bail!("{other} is none of cpu and cuda"),
    };
    let open = || -> ort::Result<Session> {
        Session::builder(&environment)?
            .with_execution_providers([provider.error_on_failure()])?
            .with_intra_threads(1)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .commit_from_file(model)
    };
    let mut session = open()?;
    let input = session.inputs().first().context("the model has no input")?;
    let shape = input.dtype().tensor_shape().context("the input is no tensor")?.to_vec();
    let name = input.name().to_owned();
    let (shape, values) = values(rows, &shape);
    let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    let mut run = |time: Duration| -> anyhow::Result<f64> {
        let (begin, mut done) = (Instant::now(), 0);
        while begin.elapsed() < time {
            let input = TensorRef::from_array_view((shape.as_slice(), values.as_slice()))?;
            session.run(ort::inputs![name.as_str() => input])?;
            done += rows;
        }
        Ok(done as f64 / begin.elapsed().as_secs_f64())
    };
    run(WARM_UP)?;
    run(Duration::from_secs_f64(seconds))
}

fn berth(
    provider: &str,
    model: &str,
    rows: u64,
    seconds: f64,
    callers: usize,
    batch: u32,
) -> anyhow::Result<f64> {
    let runtime = Runtime::load(None, RuntimeOptions::default())?;
    let mut names = vec![provider];
    names.extend((provider != "cpu").then_some("cpu"));
    let named = names.into_iter().map(|name| (name.to_owned(), BTreeMap::new()));
    let options = ModelOptions {
        batch: BatchOptions { most: Some(batch), queue: 1024, ..BatchOptions::default() },
        providers: Providers::new(named).map_err(|problem| anyhow!(problem))?,
    };
    let opened = runtime.open("model@1", Path::new(model), &options)?;
    let input = opened.inputs().first().context("the model has no input")?;
    let (shape, values) = values(rows, &input.shape);
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor::new(input.datatype, shape, data)?;
    let input = Arc::new([NamedTensor { name: input.name.clone(), tensor }]);
    let model = opened.in_lane(&runtime.lane());
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let run = |time: Duration| -> anyhow::Result<f64> {
        let begin = Instant::now();
        let calls = (0..callers)
            .map(|_| threads.spawn(call(Arc::clone(&model), Arc::clone(&input), begin + time)));
        let mut done = 0;
        for call in calls.collect::<Vec<_>>() {
            done += threads.block_on(call)??;
        }
        Ok((done * rows) as f64 / begin.elapsed().as_secs_f64())
    };
    run(WARM_UP)?;
    run(Duration::from_secs_f64(seconds))
}

/// One run after the other; how many there were.
async fn call(
    model: Arc<Model>,
    input: Arc<[NamedTensor; 1]>,
    end: Instant,
) -> anyhow::Result<u64> {
    let mut done = 0;
    while Instant::now() < end {
        model.run(input.as_slice(), &[], Instant::now() + Duration::from_secs(60)).await?;
        done += 1;
    }
    Ok(done)
}
