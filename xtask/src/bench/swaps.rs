//! A model of 45 MB replaced again and again: what is left behind, and what others notice.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bench::compare::{Load, ask, median, quantile};
use crate::bench::jobs::Job;
use crate::bench::process::used;
use crate::bench::rivals::{Parts, apply, push_model, tensors};
use crate::host::Host;
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
const ROUND: Duration = Duration::from_secs(4);

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
    for version in 0..2 {
        // The same network twice; a description makes the files differ.
        let mut model = fs::read(&jobs[1].model)?;
        model.extend([0x32, 1, b'0' + version]);
        let file = folder.path().join("model.onnx");
        fs::write(&file, model)?;
        push_model(&host, "resnet18", &file)?;
    }
    apply(&host, "digits", &tensors("digits", "digits@1", ""))?;
    let right = ask(host.listen, &jobs[0].request)?;
    let mut version = 0;
    let mut swap = || {
        version = 1 + version % 2;
        apply(&host, "resnet18", &tensors("resnet18", &format!("resnet18@{version}"), ""))
    };

    say(format!("digits while {} loads", jobs[1].model.display()));
    let load = Load { request: &jobs[0].request, connections: 8, right: &right };
    let most = load.run(host.listen, host.process(), Duration::from_secs(2))?.per_cpu_second;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let pace = Pace::Open(BUSY * cores * most);
    let (mut quiet, mut loading, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let calm = p99(&host, jobs, pace, || {
            std::thread::sleep(ROUND);
            Ok(())
        })?;
        let busy = p99(&host, jobs, pace, || {
            let begin = Instant::now();
            while begin.elapsed() < ROUND {
                swap()?;
            }
            Ok(())
        })?;
        quiet.push(calm);
        loading.push(busy);
        ratios.push(busy / calm);
    }

    say(format!("{SWAPS} swaps of {} under load", jobs[1].model.display()));
    let requests = std::slice::from_ref(&jobs[0].request);
    let traffic = Traffic::start(host.listen, requests, 4, Pace::Open(LOAD))?;
    let mut looks = Vec::new();
    for done in 1..=SWAPS {
        swap()?;
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

/// Milliseconds to 99 % of the answers while `meanwhile` goes on.
fn p99(
    host: &Host,
    jobs: &[Job; 3],
    pace: Pace,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    let requests = std::slice::from_ref(&jobs[0].request);
    let traffic = Traffic::start(host.listen, requests, 8, pace)?;
    let done = meanwhile();
    let tally = traffic.stop()?;
    done?;
    ensure_answered(&tally)?;
    Ok(f64::from(quantile(&tally.answered, 0.99)) / 1e3)
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
