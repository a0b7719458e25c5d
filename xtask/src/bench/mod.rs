//! Berth measured: by itself, and against other servers that do the same.
//!
//! - [`criterion`]: what the host adds to a request, in parts
//! - [`jobs`], [`rivals`], [`compare`]: the same jobs by Berth, a native server and FastAPI
//! - [`stages`]: where the time of a picture goes
//! - [`endpoints`]: what endpoints cost that nobody asks
//! - [`batching`]: requests that run as one, and a model beside ONNX Runtime alone
//! - [`swaps`]: models that are replaced, and what others notice of it
//! - [`shadows`]: what copies cost the requests that are answered
//! - [`overload`]: more requests than can be answered
//! - [`process`]: CPU time and memory of a server
//! - [`report`], [`chart`]: the page and its pictures

mod batching;
mod chart;
mod compare;
mod criterion;
mod endpoints;
mod jobs;
mod overload;
mod process;
mod report;
mod rivals;
mod shadows;
mod stages;
mod swaps;

use anyhow::Result;

use crate::bench::batching::Batching;
use crate::bench::compare::Cell;
use crate::bench::criterion::Measured;
use crate::bench::endpoints::Endpoints;
use crate::bench::jobs::Job;
use crate::bench::overload::Overload;
use crate::bench::rivals::Parts;
use crate::bench::shadows::Shadows;
use crate::bench::stages::Stages;
use crate::bench::swaps::Swaps;
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
    /// 64 numbers as JSON into a perceptron, against other servers
    Digits,
    /// A JPEG into ResNet-18, against other servers
    Resnet18,
    /// The same JPEG into a network of 40 weights, against other servers
    MeanColour,
    /// Where the time of a picture goes, in Berth and natively
    Stages,
    /// A thousand endpoints: requests to one of them, and memory
    Endpoints,
    /// Requests that run as one, to each alone; ResNet-18, to ONNX Runtime alone
    Batching,
    /// A thousand swaps of a model of 45 MB: memory, and another endpoint's requests meanwhile
    Swaps,
    /// Requests to an endpoint with a shadow, to the same without
    Shadows,
    /// Three times as many requests as can be answered
    Overload,
    /// What the host adds to a request, in parts
    Criterion,
}

/// Everything that was measured.
struct Results {
    jobs: [Job; 3],
    cells: Vec<Cell>,
    stages: Vec<Stages>,
    endpoints: Option<Endpoints>,
    batching: Option<Batching>,
    swaps: Option<Swaps>,
    shadows: Vec<Shadows>,
    overload: Option<Overload>,
    parts: Vec<Measured>,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        let wants = |part| self.part.is_none_or(|only| only == part);
        let parts = Parts::obtain(build::for_tests()?)?;
        let folder = tempfile::tempdir()?;
        let mut results = Results {
            jobs: jobs::all(folder.path())?,
            cells: Vec::new(),
            stages: Vec::new(),
            endpoints: None,
            batching: None,
            swaps: None,
            shadows: Vec::new(),
            overload: None,
            parts: Vec::new(),
        };
        let jobs = [Part::Digits, Part::Resnet18, Part::MeanColour];
        for (part, job) in jobs.into_iter().zip(&results.jobs) {
            if wants(part) {
                results.cells.extend(compare::compare(&parts, job)?);
            }
        }
        if wants(Part::Stages) {
            for job in &results.jobs[1..] {
                results.stages.extend(stages::measure(&parts.built, job)?);
            }
        }
        if wants(Part::Endpoints) {
            results.endpoints = Some(endpoints::measure(&parts)?);
        }
        if wants(Part::Batching) {
            results.batching = Some(batching::measure(&parts, &results.jobs)?);
        }
        if wants(Part::Swaps) {
            results.swaps = Some(swaps::measure(&parts, &results.jobs)?);
        }
        if wants(Part::Shadows) {
            for job in [&results.jobs[0], &results.jobs[2]] {
                results.shadows.push(shadows::measure(&parts, job)?);
            }
        }
        if wants(Part::Overload) {
            results.overload = Some(overload::measure(&parts, &results.jobs[2])?);
        }
        if wants(Part::Criterion) {
            results.parts = criterion::measure(&parts.built)?;
        }
        println!("{}", report::tables(&results));
        if self.part.is_none() {
            report::write(&results, &parts.built.library)?;
        }
        Ok(())
    }
}
