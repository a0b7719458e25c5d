//! Where the time of a picture goes, in Berth and natively.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::bench::compare::median;
use crate::bench::jobs::{self, Job};
use crate::bench::rivals::NAMES;
use crate::build::Built;
use crate::workspace::say;

/// In the order in which a request goes through them.
pub(crate) const STAGES: [&str; 6] = ["instantiate", "decode", "prepare", "copy", "infer", "reply"];
const ROUNDS: usize = 5;

/// The time of one server for one job.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stages {
    pub(crate) job: &'static str,
    pub(crate) rival: &'static str,
    /// Microseconds, in the order of [`STAGES`]; 0 for what the server does not do.
    pub(crate) micros: [f64; 6],
}

/// Times the stages of Berth and of the native server in turns.
pub(crate) fn measure(built: &Built, job: &Job) -> Result<[Stages; 2]> {
    say(format!("{}: time per stage", job.name));
    let plugin = built.metadata.plugins().join("image-classifier.wasm");
    let config = job.config.as_ref().context("only pictures have stages")?.to_string();
    let mut rounds: [Vec<BTreeMap<String, f64>>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (rounds, name) in rounds.iter_mut().zip(NAMES) {
            let mut command = Command::new(built.metadata.binary().with_file_name("bench-stages"));
            if name == NAMES[0] {
                command.arg("berth").arg(&plugin);
            } else {
                command.arg("native");
            }
            command.arg(&job.model).arg(&config).arg(jobs::picture());
            let output = command.envs(built.variables()).output().context("bench-stages")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "bench-stages failed: {}", said.trim());
            rounds.push(serde_json::from_slice(&output.stdout)?);
        }
    }
    let mut rounds = rounds.into_iter();
    Ok([NAMES[0], NAMES[1]].map(|rival| {
        let rounds = rounds.next().unwrap_or_default();
        let micros = STAGES.map(|stage| {
            let times: Vec<_> =
                rounds.iter().filter_map(|round| round.get(stage).copied()).collect();
            median(&times)
        });
        Stages { job: job.name, rival, micros }
    }))
}
