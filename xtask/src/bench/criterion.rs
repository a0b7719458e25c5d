//! What the host adds to a request, in parts.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::Built;
use crate::workspace::{cargo, run, say};

/// The benchmarks of the workspace that criterion runs.
const BENCHMARKS: [&str; 3] = ["request_path", "through_host", "ort_alone"];

/// One benchmark.
pub(crate) struct Measured {
    pub(crate) name: String,
    /// Nanoseconds: the median, and the ends of its confidence interval of 95 %.
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// Runs the criterion benchmarks.
pub(crate) fn measure(built: &Built) -> Result<Vec<Measured>> {
    say("what the host adds to a request");
    let results = built.metadata.target_directory.join("criterion");
    // What is there is of another run.
    let _ = fs::remove_dir_all(&results);
    let mut bench = cargo();
    bench.arg("bench");
    for name in BENCHMARKS {
        bench.args(["--bench", name]);
    }
    bench.envs(built.variables()).env("CRITERION_HOME", &results);
    run(&mut bench, "cargo bench")?;

    let mut measured = Vec::new();
    for entry in fs::read_dir(&results).context("criterion has left no results")? {
        let folder = entry?.path().join("new");
        let read = |file: &str| -> Option<Value> {
            serde_json::from_slice(&fs::read(folder.join(file)).ok()?).ok()
        };
        // The folder of the whole report is not one of a benchmark.
        let (Some(benchmark), Some(estimates)) = (read("benchmark.json"), read("estimates.json"))
        else {
            continue;
        };
        let median = &estimates["median"];
        let number = |value: &Value| value.as_f64().context("criterion has left no median");
        measured.push(Measured {
            name: benchmark["full_id"].as_str().unwrap_or_default().to_owned(),
            median: number(&median["point_estimate"])?,
            least: number(&median["confidence_interval"]["lower_bound"])?,
            most: number(&median["confidence_interval"]["upper_bound"])?,
        });
    }
    measured.sort_by(|one, other| one.median.total_cmp(&other.median));
    Ok(measured)
}
