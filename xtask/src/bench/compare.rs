//! The rivals side by side: the same job, the same load, in turns.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::bench::jobs::{Answer, Job};
use crate::bench::process::used;
use crate::bench::rivals::{NAMES, Parts};
use crate::http::{Connection, Request};
use crate::traffic::{Pace, Tally, Traffic, Verdict};
use crate::workspace::say;

/// Connections, each of which asks again as soon as it has its answer.
pub(crate) const CONNECTIONS: [usize; 3] = [1, 8, 32];
/// Odd, so that a median is a round that was measured.
pub(crate) const ROUNDS: usize = 11;
/// Before the first round at a number of connections.
const WARM_UP: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// What one rival made of one job over one number of connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) job: &'static str,
    pub(crate) connections: usize,
    pub(crate) rival: &'static str,
    /// Requests a second; the median of the rounds.
    pub(crate) per_second: f64,
    /// Milliseconds to an answer, over all rounds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Requests for each second that the server's processes spent on a core; one for each round.
    pub(crate) per_cpu_second: Vec<f64>,
    /// Resident memory after the last round, and the most since the start, in bytes.
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Cell {
    /// The median of the rounds.
    pub(crate) fn efficiency(&self) -> f64 {
        median(&self.per_cpu_second)
    }

    /// Requests for each CPU-second over those of `other`, which ran in turns with this one: least,
    /// median and most of the rounds.
    pub(crate) fn ratio(&self, other: &Self) -> [f64; 3] {
        let pairs = self.per_cpu_second.iter().zip(&other.per_cpu_second);
        let mut ratios: Vec<_> = pairs.map(|(mine, theirs)| mine / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        [0.0, 0.5, 1.0].map(|q| quantile(&ratios, q))
    }
}

/// What one round of load came to.
pub(crate) struct Round {
    pub(crate) per_second: f64,
    pub(crate) per_cpu_second: f64,
    /// Microseconds to each answer, sorted.
    pub(crate) answered: Vec<u32>,
}

/// Has all rivals do one job, over every number of connections.
pub(crate) fn compare(parts: &Parts, job: &Job) -> Result<Vec<Cell>> {
    say(format!("{}: {}", job.name, job.title));
    let rivals = parts.start(job)?;
    let right = ask(rivals[1].address(), &job.request).context("native")?;
    for (rival, name) in rivals.iter().zip(NAMES) {
        right.ensure_same(&ask(rival.address(), &job.request).context(name)?).context(name)?;
    }
    let mut cells = Vec::new();
    for connections in CONNECTIONS {
        let load = Load { request: &job.request, connections, right: &right };
        for rival in &rivals {
            load.run(rival.address(), rival.process(), WARM_UP)?;
        }
        let mut rounds: [Vec<Round>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (rival, rounds) in rivals.iter().zip(&mut rounds) {
                let duration = Duration::from_secs_f64(job.seconds);
                rounds.push(load.run(rival.address(), rival.process(), duration)?);
            }
        }
        for ((rival, name), rounds) in rivals.iter().zip(NAMES).zip(rounds) {
            let used = used(rival.process())?;
            let mut answered: Vec<_> =
                rounds.iter().flat_map(|round| round.answered.iter().copied()).collect();
            answered.sort_unstable();
            let millis = |q: f64| f64::from(quantile(&answered, q)) / 1e3;
            cells.push(Cell {
                job: job.name,
                connections,
                rival: name,
                per_second: median(
                    &rounds.iter().map(|round| round.per_second).collect::<Vec<_>>(),
                ),
                p50: millis(0.5),
                p99: millis(0.99),
                per_cpu_second: rounds.iter().map(|round| round.per_cpu_second).collect(),
                resident: used.resident,
                peak: used.peak,
            });
        }
        let [berth, native, fastapi] = &cells[cells.len() - 3..] else { unreachable!("three") };
        say(format!(
            "  {connections} connections, requests per CPU-second: Berth {:.0}, native {:.0}, FastAPI {:.0}; Berth to native {:.3}",
            berth.efficiency(),
            native.efficiency(),
            fastapi.efficiency(),
            berth.ratio(native)[1],
        ));
    }
    Ok(cells)
}

/// Asks once; the answer must be one.
pub(crate) fn ask(address: SocketAddr, request: &Request) -> Result<Answer> {
    let answer = Connection::new(address, PATIENCE).send(request)?;
    ensure!(answer.status == 200, "status {}: {}", answer.status, answer.text());
    Answer::read(&answer.body)
}

/// Load on a server whose every answer must be right.
pub(crate) struct Load<'a> {
    pub(crate) request: &'a Request,
    /// Each asks again as soon as it has its answer.
    pub(crate) connections: usize,
    pub(crate) right: &'a Answer,
}

impl Load<'_> {
    /// Loads the server at `address`, the first of whose processes is `process`.
    pub(crate) fn run(
        &self,
        address: SocketAddr,
        process: u32,
        duration: Duration,
    ) -> Result<Round> {
        let before = used(process)?.cpu;
        let requests = std::slice::from_ref(self.request);
        let traffic = Traffic::start(address, requests, self.connections, Pace::Closed)?;
        std::thread::sleep(duration);
        let tally = traffic.stop()?;
        let cpu = used(process)?.cpu - before;
        ensure_right(&tally, self.right)?;
        Ok(Round {
            per_second: tally.answered.len() as f64 / tally.elapsed.as_secs_f64(),
            per_cpu_second: tally.answered.len() as f64 / cpu,
            answered: tally.answered,
        })
    }
}

/// Fails unless every request had the right answer.
pub(crate) fn ensure_right(tally: &Tally, right: &Answer) -> Result<()> {
    let verdict = Verdict::of(tally, []);
    ensure!(
        verdict.refused.is_empty() && verdict.broken.is_empty(),
        "requests failed under load: {}",
        Verdict { wrong: 0, ..verdict }.complaints()
    );
    tally.bodies().try_for_each(|body| right.ensure_same(&Answer::read(body)?))
}

/// The value in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// The value below which a share `q` of the sorted values lies; the default of none.
pub(crate) fn quantile<T: Copy + Default>(sorted: &[T], q: f64) -> T {
    let index = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}
