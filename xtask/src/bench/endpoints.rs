//! What endpoints cost that nobody asks: memory, and the requests to another.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::bench::compare::{Load, ask};
use crate::bench::process::used;
use crate::bench::rivals::{Parts, apply, push_model, push_plugin};
use crate::host::Host;
use crate::http::Request;
use crate::pictures;
use crate::workspace::say;

pub(crate) const ENDPOINTS: u32 = 1000;
/// The first of the further endpoints have a model each, so that sessions count too.
const MODELS: u32 = 200;
const CONNECTIONS: usize = 8;
const ROUNDS: usize = 11;
const ROUND: Duration = Duration::from_secs(1);
/// What a change leaves behind is given back to the system within this.
const SETTLE: Duration = Duration::from_secs(2);

/// What many endpoints cost, each with a processor under a configuration of its own.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Endpoints {
    /// Requests for each CPU-second to one endpoint of many, over those to one that is alone; one
    /// for each round.
    pub(crate) ratios: Vec<f64>,
    /// Resident bytes that an idle endpoint with a model of its own adds, less the model's file.
    pub(crate) own_model: f64,
    /// Resident bytes that an idle endpoint adds whose model is open already.
    pub(crate) shared_model: f64,
}

/// Fills one host with endpoints, has another serve one, and asks both the same.
pub(crate) fn measure(parts: &Parts) -> Result<Endpoints> {
    let scratch = tempfile::tempdir()?;
    let picture = pictures::read()?.into_iter().next().context("there are no held-out pictures")?;
    let request = Request::post("/v2/models/e0/invoke", "image/png", picture.request.body());
    let plugin = parts.built.metadata.plugins().join("image-classifier.wasm");
    let start = || -> Result<Host> {
        let host = parts.berth()?;
        push_plugin(&host, "image-classifier", &plugin)?;
        push_model(&host, "digits", &pictures::example().join("digits-2.onnx"))?;
        apply_one(&host, 0, "digits")?;
        Ok(host)
    };
    let (one, many) = (start()?, start()?);
    let right = ask(one.listen, &request)?;
    right.ensure_same(&ask(many.listen, &request)?)?;

    say(format!("{ENDPOINTS} endpoints, {MODELS} of them with models of their own"));
    let mut files = 0;
    for number in 1..=MODELS {
        let name = format!("m{number}");
        let model = berth_onnx::networks::perceptron(u64::from(number));
        let file = scratch.path().join("model.onnx");
        files += model.len();
        fs::write(&file, model)?;
        push_model(&many, &name, &file)?;
    }
    let before = settled(&many)?;
    for number in 1..=MODELS {
        apply_one(&many, number, &format!("m{number}"))?;
    }
    let between = settled(&many)?;
    for number in MODELS + 1..ENDPOINTS {
        apply_one(&many, number, "digits")?;
    }
    let after = settled(&many)?;

    say("the same requests to both hosts");
    let load = Load { request: &request, connections: CONNECTIONS, right: &right };
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let [alone, among] = [&one, &many].map(|host| load.run(host.listen, host.process(), ROUND));
        // The first round is for warming up.
        if round > 0 {
            ratios.push(among?.per_cpu_second / alone?.per_cpu_second);
        }
    }
    Ok(Endpoints {
        ratios,
        own_model: (between - before - files as f64) / f64::from(MODELS),
        shared_model: (after - between) / f64::from(ENDPOINTS - 1 - MODELS),
    })
}

fn apply_one(host: &Host, number: u32, model: &str) -> Result<()> {
    // As many classes as are answered make a configuration of each endpoint's own.
    let content = format!(
        "name = \"e{number}\"\n[[variants]]\nname = \"only\"\nprocessor = \"image-classifier@1\"\n\
         models = {{ default = \"{model}@1\" }}\n\
         config = {{ width = 8, height = 8, channels = \"grey\", scale = 0.0627, shape = [1, 64], top = {} }}\n",
        10 + number
    );
    apply(host, &format!("e{number}"), &content)
}

fn settled(host: &Host) -> Result<f64> {
    std::thread::sleep(SETTLE);
    Ok(used(host.process())?.resident as f64)
}
