//! Three times as many requests as can be answered.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::bench::compare::{Load, ask, quantile};
use crate::bench::jobs::Job;
use crate::bench::rivals::{Parts, prepare};
use crate::traffic::{Pace, Traffic, Verdict};
use crate::workspace::say;

/// Connections while the peak is found.
const CONNECTIONS: usize = 32;
/// Connections while more is offered: enough that none is waited for.
const MOST: usize = 256;
const OVER: f64 = 3.0;
const PEAK: Duration = Duration::from_secs(5);
const OFFERED: Duration = Duration::from_secs(10);

/// What became of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Overload {
    /// Answers a second while every connection asks as soon as it has its answer.
    pub(crate) peak: f64,
    /// Requests a second that were sent at three times that.
    pub(crate) offered: f64,
    /// Answers a second meanwhile.
    pub(crate) goodput: f64,
    /// Requests a second that were refused, with 429 or 503.
    pub(crate) refused: f64,
    /// Milliseconds to a refusal.
    pub(crate) refused_p50: f64,
    pub(crate) refused_p99: f64,
    /// Milliseconds to an answer.
    pub(crate) answered_p99: f64,
}

/// Finds the peak of a job on Berth, then offers three times as much.
pub(crate) fn measure(parts: &Parts, job: &Job) -> Result<Overload> {
    let host = parts.berth()?;
    prepare(&host, &parts.built.metadata, job)?;
    let right = ask(host.listen, &job.request)?;
    say(format!("{}: the peak, then {OVER} times as much", job.name));
    let load = Load { request: &job.request, connections: CONNECTIONS, right: &right };
    load.run(host.listen, host.process(), Duration::from_secs(1))?;
    let peak = load.run(host.listen, host.process(), PEAK)?.per_second;

    let requests = std::slice::from_ref(&job.request);
    let traffic = Traffic::start(host.listen, requests, MOST, Pace::Open(peak * OVER))?;
    std::thread::sleep(OFFERED);
    let tally = traffic.stop()?;
    let verdict = Verdict::of(&tally, []);
    ensure!(
        verdict.failures(&[429, 503]) == verdict.wrong,
        "requests failed under overload: {}",
        verdict.complaints()
    );
    let seconds = tally.elapsed.as_secs_f64();
    ensure!(!tally.refused.is_empty(), "nothing was refused: that was no overload");
    let millis = |sorted: &[u32], q| f64::from(quantile(sorted, q)) / 1e3;
    Ok(Overload {
        peak,
        offered: (tally.answered.len() + tally.refused.len()) as f64 / seconds,
        goodput: tally.answered.len() as f64 / seconds,
        refused: tally.refused.len() as f64 / seconds,
        refused_p50: millis(&tally.refused, 0.5),
        refused_p99: millis(&tally.refused, 0.99),
        answered_p99: millis(&tally.answered, 0.99),
    })
}
