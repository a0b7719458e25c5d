//! What copies for a shadow cost the requests that are answered.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bench::compare::{Load, ask, ensure_right, median, quantile};
use crate::bench::jobs::{Answer, Job};
use crate::bench::process::used;
use crate::bench::rivals::{Parts, apply, prepare, push_plugin};
use crate::host::Host;
use crate::http::{Connection, Request};
use crate::traffic::{Pace, Traffic};
use crate::workspace::say;

/// Part of the machine's time that the host takes with requests and copies together.
pub(crate) const BUSY: f64 = 0.3;
const CONNECTIONS: usize = 8;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_secs(2);
/// Within this the last copies are run or dropped.
const SETTLE: Duration = Duration::from_millis(1500);

/// What was measured with one job.
#[derive(Clone, Debug)]
pub(crate) struct Shadows {
    pub(crate) job: &'static str,
    /// Milliseconds to an answer, median: without and with a shadow.
    pub(crate) p50: [f64; 2],
    /// With a shadow over without, one for each round.
    pub(crate) ratios: Vec<f64>,
    /// Part of the machine's time that the host took, without and with.
    pub(crate) busy: [f64; 2],
    /// Copies that were compared, of the requests that had one.
    pub(crate) compared: f64,
}

/// Asks two endpoints that do the same in turns, one of which has a shadow.
pub(crate) fn measure(parts: &Parts, job: &Job) -> Result<Shadows> {
    let host = parts.berth()?;
    prepare(&host, &parts.built.metadata, job)?;
    let policies = parts.built.metadata.plugins();
    push_plugin(&host, "shadow", &policies.join("shadow.wasm"))?;
    let [live, next] = ["live", "next"].map(|variant| job.variant(variant));
    // Nothing is decided meanwhile.
    let routing = "routing = { policy = \"shadow@1\", config = { interval_ms = 3600000 } }\n";
    apply(&host, "plain", &format!("name = \"plain\"\n{live}"))?;
    apply(&host, "shadowed", &format!("name = \"shadowed\"\n{routing}{live}{next}"))?;
    let [plain, shadowed] = ["plain", "shadowed"].map(|endpoint| job.request_to(endpoint));
    let right = ask(host.listen, &plain)?;
    right.ensure_same(&ask(host.listen, &shadowed)?)?;

    say(format!("{}: with a shadow and without", job.name));
    let load = Load { request: &plain, connections: CONNECTIONS, right: &right };
    let most = load.run(host.listen, host.process(), ROUND)?.per_cpu_second;
    let rate = BUSY / 2.0 * cores() * most;
    // A request costs more while there are few.
    let first = asked(&host, &shadowed, rate, &right)?;
    let rate = rate * BUSY / first.busy;
    let mut rounds: [Vec<Round>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (request, rounds) in [&plain, &shadowed].into_iter().zip(&mut rounds) {
            rounds.push(asked(&host, request, rate, &right)?);
        }
    }
    let shadow = Request::get("/v1/endpoints/shadowed/shadow");
    let answer = Connection::new(host.admin, ROUND).send(&shadow)?;
    let arm = serde_json::from_slice::<Value>(&answer.body)?["arms"][0].take();
    let count = |key: &str| arm[key].as_f64().with_context(|| format!("no {key} in {arm}"));
    let [plain, shadowed] = &rounds;
    let had_copies = shadowed.iter().chain([&first]).map(|round| round.requests);
    let compared = count("compared")?;
    ensure!(compared > 0.0 && count("agreed")? == compared, "the shadow answers otherwise: {arm}");
    let ratios = plain.iter().zip(shadowed).map(|(plain, shadowed)| shadowed.p50 / plain.p50);
    let median_of = |of: fn(&Round) -> f64| {
        [plain, shadowed].map(|rounds| median(&rounds.iter().map(of).collect::<Vec<_>>()))
    };
    Ok(Shadows {
        job: job.name,
        p50: median_of(|round| round.p50),
        ratios: ratios.collect(),
        busy: median_of(|round| round.busy),
        compared: compared / had_copies.sum::<usize>() as f64,
    })
}

struct Round {
    requests: usize,
    p50: f64,
    busy: f64,
}

fn asked(host: &Host, request: &Request, rate: f64, right: &Answer) -> Result<Round> {
    let before = used(host.process())?.cpu;
    let requests = std::slice::from_ref(request);
    let traffic = Traffic::start(host.listen, requests, CONNECTIONS, Pace::Random(rate))?;
    std::thread::sleep(ROUND);
    let tally = traffic.stop()?;
    ensure_right(&tally, right)?;
    std::thread::sleep(SETTLE);
    Ok(Round {
        requests: tally.answered.len(),
        p50: f64::from(quantile(&tally.answered, 0.5)) / 1e3,
        busy: (used(host.process())?.cpu - before) / tally.elapsed.as_secs_f64() / cores(),
    })
}

fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1, usize::from) as f64
}
