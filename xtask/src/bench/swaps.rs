//! A model of 45 MB replaced again and again: what is left behind, and what others notice.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bench::compare::{Load, ask, median, quantile};
use crate::bench::jobs::Job;
use crate::bench::process::used;
use crate::bench::rivals::{Parts, apply, push_model, tensors};
use crate::host::Host;
use crate::http::{Connection, Request};
use crate::traffic::{Pace, Tally, Traffic, Verdict};
use crate::workspace::say;

/// Swaps in all, and between two looks.
pub(crate) const SWAPS: usize = 1000;
pub(crate) const LOOK: usize = 20;
/// What was replaced is let go of within this.
const SETTLE: Duration = Duration::from_millis(1500);
/// The load meanwhile, in requests a second.
const LOAD: f64 = 200.0;
/// Part of the machine's time that the other endpoint's requests take while models load.
pub(crate) const BUSY: f64 = 0.3;
const ROUNDS: usize = 5;
/// Loads in each round.
const LOADS: usize = 8;
/// Versions that take turns, so that each is closed before it is opened again: what is still open is
/// not loaded.
const VERSIONS: usize = 8;
/// The host closes what was replaced once a second.
const CLOSED: Duration = Duration::from_millis(1200);

/// What the host held at one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) resident: f64,
    pub(crate) threads: usize,
    pub(crate) files: usize,
    pub(crate) mappings: usize,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Swaps {
    /// After each [`LOOK`] swaps.
    pub(crate) looks: Vec<Held>,
    /// Milliseconds to an answer of another endpoint, 99 %: quiet and while a model loads.
    pub(crate) p99: [f64; 2],
    pub(crate) ratios: Vec<f64>,
}

impl Swaps {
    /// The first look and the last.
    pub(crate) fn ends(&self) -> (&Held, &Held) {
        const NONE: Held = Held { resident: 0.0, threads: 0, files: 0, mappings: 0 };
        (self.looks.first().unwrap_or(&NONE), self.looks.last().unwrap_or(&NONE))
    }
}

/// Swaps under load, and looks at the host every now and then.
pub(crate) fn measure(parts: &Parts, jobs: &[Job; 3]) -> Result<Swaps> {
    let folder = tempfile::tempdir()?;
    let host = parts.berth_with(&["--bake", "0"])?;
    push_model(&host, "digits", &jobs[0].model)?;
    for version in 0..VERSIONS {
        // The same network; a description makes the files differ.
        let mut model = fs::read(&jobs[1].model)?;
        model.extend([0x32, 1, b'0' + version as u8]);
        let file = folder.path().join("model.onnx");
        fs::write(&file, model)?;
        push_model(&host, "resnet18", &file)?;
    }
    apply(&host, "digits", &tensors("digits", "digits@1", ""))?;
    let right = ask(host.listen, &jobs[0].request)?;
    let mut next = 0;
    let mut replaced = [None::<Instant>; VERSIONS];
    let mut until_closed = |next: usize| {
        if let Some(since) = replaced[next] {
            std::thread::sleep(CLOSED.saturating_sub(since.elapsed()));
        }
        replaced[(next + VERSIONS - 1) % VERSIONS] = Some(Instant::now());
    };
    // Not by the command line, whose own process would take its part of the machine.
    let mut admin = Connection::new(host.admin, Duration::from_secs(60));
    let mut swap = |version: usize| {
        let models = format!("{{\"default\":\"resnet18@{}\"}}", version + 1);
        let variants = format!("[{{\"name\":\"only\",\"models\":{models}}}]");
        let spec = format!("{{\"name\":\"resnet18\",\"variants\":{variants}}}");
        let request = Request::post("/v1/endpoints", "application/json", spec.as_bytes());
        let answer = admin.send(&request)?;
        ensure!(answer.status == 200, "the host refuses a swap: {}", answer.text());
        Ok(())
    };

    say(format!("digits while {} loads", jobs[1].model.display()));
    let load = Load { request: &jobs[0].request, connections: 8, right: &right };
    let most = load.run(host.listen, host.process(), Duration::from_secs(2))?.per_cpu_second;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let pace = Pace::Open(BUSY * cores * most);
    let (mut quiet, mut loading, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut calm, mut busy) = (Vec::new(), Vec::new());
        for _ in 0..LOADS {
            until_closed(next);
            let took = answered(&host, jobs, pace, &mut busy, || swap(next))?;
            next = (next + 1) % VERSIONS;
            // What was replaced is closed before it is quiet.
            std::thread::sleep(CLOSED);
            answered(&host, jobs, pace, &mut calm, || {
                std::thread::sleep(took);
                Ok(())
            })?;
        }
        let [calm, busy] = [calm, busy].map(|mut times| {
            times.sort_unstable();
            f64::from(quantile(&times, 0.99)) / 1e3
        });
        quiet.push(calm);
        loading.push(busy);
        ratios.push(busy / calm);
    }

    say(format!("{SWAPS} swaps of {} under load", jobs[1].model.display()));
    let requests = std::slice::from_ref(&jobs[0].request);
    let traffic = Traffic::start(host.listen, requests, 4, Pace::Open(LOAD))?;
    let mut looks = Vec::new();
    for done in 1..=SWAPS {
        until_closed(next);
        swap(next)?;
        next = (next + 1) % VERSIONS;
        if done % LOOK == 0 {
            std::thread::sleep(SETTLE);
            looks.push(held(&host)?);
        }
        if done % 100 == 0 {
            say(format!("  {done} swaps"));
        }
    }
    ensure_answered(&traffic.stop()?)?;
    Ok(Swaps { looks, p99: [median(&quiet), median(&loading)], ratios })
}

/// Adds the microseconds to each answer while `meanwhile` goes on, and tells how long that took.
fn answered(
    host: &Host,
    jobs: &[Job; 3],
    pace: Pace,
    times: &mut Vec<u32>,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let requests = std::slice::from_ref(&jobs[0].request);
    let traffic = Traffic::start(host.listen, requests, 8, pace)?;
    let begin = Instant::now();
    let done = meanwhile();
    let took = begin.elapsed();
    let tally = traffic.stop()?;
    done?;
    ensure_answered(&tally)?;
    times.extend(&tally.answered);
    Ok(took)
}

fn ensure_answered(tally: &Tally) -> Result<()> {
    let verdict = Verdict::of(tally, []);
    ensure!(
        verdict.refused.is_empty() && verdict.broken.is_empty(),
        "requests failed: {}",
        Verdict { wrong: 0, ..verdict }.complaints()
    );
    Ok(())
}

fn held(host: &Host) -> Result<Held> {
    let folder = format!("/proc/{}", host.process());
    let count =
        |name: &str| -> Result<usize> { Ok(fs::read_dir(format!("{folder}/{name}"))?.count()) };
    Ok(Held {
        resident: used(host.process())?.resident as f64,
        threads: count("task")?,
        files: count("fd")?,
        mappings: fs::read_to_string(format!("{folder}/maps"))?.lines().count(),
    })
}
