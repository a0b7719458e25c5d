//! Berth measured: by itself, and against other servers that do the same.
//!
//! - [`criterion`]: what the host adds to a request, in parts
//! - [`jobs`], [`rivals`], [`compare`]: the same jobs by Berth, a native server and FastAPI
//! - [`process`]: CPU time and memory of a server
//! - [`python`]: the environment of the rival in Python

mod compare;
mod criterion;
mod jobs;
mod process;
mod python;
mod rivals;

use anyhow::Result;

use crate::bench::rivals::Parts;
use crate::build;

/// Measures Berth by itself and against other servers, and writes docs/performance.md.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// Only this part; prints it and writes no page
    part: Option<Part>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Part {
    /// What the host adds to a request, by itself
    Criterion,
    /// 64 numbers as JSON into a perceptron, against other servers
    Digits,
    /// A JPEG into ResNet-18, against other servers
    Resnet18,
    /// The same JPEG into a network of 30 weights, against other servers
    MeanColour,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        let wants = |part| self.part.is_none_or(|only| only == part);
        let built = build::for_tests()?;
        if wants(Part::Criterion) {
            criterion::run_all(&built)?;
        }
        let parts = Parts::obtain(built)?;
        let folder = tempfile::tempdir()?;
        let [digits, resnet18, mean_colour] = jobs::all(folder.path())?;
        let jobs =
            [(Part::Digits, digits), (Part::Resnet18, resnet18), (Part::MeanColour, mean_colour)];
        for (part, job) in &jobs {
            if wants(*part) {
                let cells = compare::compare(&parts, job)?;
                for cell in cells {
                    println!("{}", serde_json::to_string(&cell)?);
                }
            }
        }
        Ok(())
    }
}
