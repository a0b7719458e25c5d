//! Requests that run as one, beside the same requests each alone; and a model through Berth, beside
//! ONNX Runtime alone.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::compare::{Load, Round, ask, median, quantile};
use crate::bench::jobs::Job;
use crate::bench::rivals::{Parts, apply, push_model, tensors};
use crate::host::Host;
use crate::http::Request;
use crate::workspace::say;

const ROUNDS: usize = 11;
const ROUND: Duration = Duration::from_secs(1);
/// A run of ResNet-18 takes long: so do its rounds.
const LONG: Duration = Duration::from_secs(3);

/// One model whose requests may run as one, to the same with every request alone.
#[derive(Clone, Debug)]
pub(crate) struct Together {
    pub(crate) what: &'static str,
    pub(crate) connections: usize,
    /// Of the rounds: requests a second with and without, and the ratios of neighbours.
    pub(crate) per_second: [f64; 2],
    pub(crate) ratios: Vec<f64>,
    /// Milliseconds to an answer, median, with and without.
    pub(crate) p50: [f64; 2],
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Batching {
    pub(crate) together: Vec<Together>,
    /// Runs of ResNet-18 for each CPU-second through Berth, to ONNX Runtime alone on as many threads as
    /// there are connections: the tensor sent as bytes, and as JSON; and as bytes to one thread alone.
    pub(crate) alone: [Vec<f64>; 3],
}

/// Measures digits and a larger perceptron with batches and without, and ResNet-18.
pub(crate) fn measure(parts: &Parts, jobs: &[Job; 3]) -> Result<Batching> {
    let host = parts.berth()?;
    let folder = tempfile::tempdir()?;
    let dense = folder.path().join("dense.onnx");
    fs::write(&dense, berth_onnx::networks::dense(5, &[1024, 1024, 1024, 10]))?;
    push_model(&host, "digits", &jobs[0].model)?;
    push_model(&host, "dense", &dense)?;
    push_model(&host, "resnet18", &jobs[1].model)?;
    let mut together = Vec::new();
    for (model, what, input, width, connections) in [
        ("digits", "digits", "input", 64, 32),
        ("dense", "a perceptron of 1024, 1024, 1024 and 10 units", "x", 1024, 32),
        ("dense", "the same, one request after the other", "x", 1024, 1),
    ] {
        say(format!("{what}, {connections} connections: together and alone"));
        for (name, most) in [("on", 32), ("off", 1)] {
            let options = format!("[models.{model}]\nmax_batch = {most}\n");
            apply(&host, name, &tensors(name, &format!("{model}@1"), &options))?;
        }
        let [on, off] = [(); 2].map(|()| Vec::<Round>::new());
        let mut rounds = [on, off];
        let requests = ["on", "off"].map(|name| request(name, input, &[1, width]));
        let right = ask(host.listen, &requests[1])?;
        for round in 0..=ROUNDS {
            for (request, rounds) in requests.iter().zip(&mut rounds) {
                let load = Load { request, connections, right: &right };
                let done = load.run(host.listen, host.process(), ROUND)?;
                // The first is for warming up.
                if round > 0 {
                    rounds.push(done);
                }
            }
        }
        let figure = |of: fn(&Round) -> f64| {
            [0, 1].map(|at: usize| median(&rounds[at].iter().map(of).collect::<Vec<_>>()))
        };
        together.push(Together {
            what,
            connections,
            per_second: figure(|round| round.per_second),
            ratios: rounds[0]
                .iter()
                .zip(&rounds[1])
                .map(|(on, off)| on.per_second / off.per_second)
                .collect(),
            p50: figure(|round| f64::from(quantile(&round.answered, 0.5)) / 1e3),
        });
    }
    Ok(Batching { together, alone: resnet18(parts, &host, &jobs[1])? })
}

fn resnet18(parts: &Parts, host: &Host, job: &Job) -> Result<[Vec<f64>; 3]> {
    say("ResNet-18 through Berth, and ONNX Runtime alone");
    apply(host, "resnet18", &tensors("resnet18", "resnet18@1", ""))?;
    let shape = [1, 3, 224, 224];
    let requests = [binary("resnet18", "x", &shape), request("resnet18", "x", &shape)];
    let right = ask(host.listen, &requests[1])?;
    right.ensure_same(&ask(host.listen, &requests[0])?).context("the tensor as bytes")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut ratios = [(); 3].map(|()| Vec::new());
    for round in 0..=5 {
        // On as many threads as there are connections: runs that share a machine take longer.
        let alone = alone_on(parts, job, cores)?;
        let single = alone_on(parts, job, 1)?;
        let mut found = [0.0; 3];
        for (request, found) in requests.iter().zip(&mut found) {
            let load = Load { request, connections: cores, right: &right };
            *found = load.run(host.listen, host.process(), LONG)?.per_cpu_second / alone;
        }
        found[2] = found[0] * alone / single;
        if round > 0 {
            ratios.iter_mut().zip(found).for_each(|(ratios, found)| ratios.push(found));
        }
    }
    Ok(ratios)
}

/// Runs of the model for each CPU-second, on so many threads and without a server.
fn alone_on(parts: &Parts, job: &Job, threads: usize) -> Result<f64> {
    let mut command = Command::new(parts.built.metadata.binary().with_file_name("bench-alone"));
    command.arg(&job.model).args([LONG.as_secs().to_string(), threads.to_string()]);
    let output = command.envs(parts.built.variables()).output().context("bench-alone")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bench-alone failed: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// As many numbers as the shape has, each of few digits.
fn values(shape: &[u32]) -> Vec<f32> {
    (0..shape.iter().product()).map(|at: u32| ((at * 7) % 17) as f32 / 8.0).collect()
}

/// A request with those numbers as JSON.
fn request(endpoint: &str, input: &str, shape: &[u32]) -> Request {
    let values = values(shape);
    let tensor = json!({"name": input, "shape": shape, "datatype": "FP32", "data": values});
    let body = json!({ "inputs": [tensor] }).to_string();
    Request::post(&format!("/v2/models/{endpoint}/infer"), "application/json", body.as_bytes())
}

/// The same request with the numbers as they are.
fn binary(endpoint: &str, input: &str, shape: &[u32]) -> Request {
    let data: Vec<u8> = values(shape).into_iter().flat_map(f32::to_le_bytes).collect();
    let parameters = json!({ "binary_data_size": data.len() });
    let tensor =
        json!({"name": input, "shape": shape, "datatype": "FP32", "parameters": parameters});
    let head = json!({ "inputs": [tensor] }).to_string();
    Request::post_binary(&format!("/v2/models/{endpoint}/infer"), &head, &data)
}
