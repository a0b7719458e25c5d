//! A policy on made-up traffic, before it touches any.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use berth_plugin::engine::Engines;
use berth_plugin::{COMPILE_BOUNDS, EngineOptions, Level, Policy, ProcessorLimits};
use berth_rollout::simulation::logged::{self, Earned, Logged};
use berth_rollout::simulation::span::Span;
use berth_rollout::simulation::story::{Lies, Story, Told};
use berth_rollout::simulation::traffic::Traffic;
use berth_rollout::simulation::{Simulation, Table, picture};
use berth_serving::documents::PluginVersion;
use berth_serving::{EndpointSpec, catalog};
use berth_store::Store;
use berth_tensor::{Digest, Reference};
use clap::Args;
use serde_json::json;

use crate::serve::say;
use crate::spec_text;
use crate::table::{self, cell, print, print_json};

/// Rows of decisions that are printed at most.
const ROWS: usize = 40;

/// Pieces of time that are printed at most.
const PIECES: usize = 24;

/// Lines of a policy's log that are shown.
const LINES: u32 = 20;

/// What is quicker shows no progress.
const QUICK: Duration = Duration::from_millis(500);

/// Try an endpoint's policy on made-up traffic, by a virtual clock.
#[derive(Args)]
pub(crate) struct Simulate {
    /// The endpoint file, whose [rollout] is simulated, or where it has none its [routing].
    file: PathBuf,
    /// The policy's component. Without it, the one that the file names, in the folder of --data.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    plugin: Option<PathBuf>,
    /// The folder of a store that no host is using now.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// What traffic is like and how the arms answer; without it, a day of ten requests a second.
    #[arg(long, value_name = "FILE")]
    traffic: Option<PathBuf>,
    /// Estimate what [routing] would have earned on recorded predictions, in place of making traffic
    /// up: what `berth predictions export ENDPOINT --to FILE.jsonl` has written.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "traffic")]
    predictions: Option<PathBuf>,
    /// The same seed tells the same story.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Simulate [routing], also where there is a [rollout].
    #[arg(long)]
    routing: bool,
    /// Draw what happened.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// What the picture is called; the policy and the endpoint when not given.
    #[arg(long, value_name = "TEXT", requires = "svg")]
    title: Option<String>,
    /// Print JSON, with every decision and every point of the picture.
    #[arg(long)]
    json: bool,
}

impl Simulate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = read(&self.file)?;
        let spec = spec_text::parse(&text).with_context(|| self.file.display().to_string())?;
        spec.check().with_context(|| self.file.display().to_string())?;
        let wanted = (self.routing || self.predictions.is_some()).then_some(Table::Routing);
        let table = Table::of(&spec, wanted).with_context(|| self.file.display().to_string())?;
        let traffic = match &self.traffic {
            None => Traffic::default(),
            Some(file) => {
                let named = || file.display().to_string();
                let traffic: Traffic = spec_text::read(&read(file)?).with_context(named)?;
                traffic.check(&table.declared(&spec)).with_context(named)?;
                traffic
            }
        };
        let Some((reference, _)) = table.policy(&spec) else {
            bail!("{}: there is no [{}]", self.file.display(), table.name());
        };
        let policy = self.policy(reference, &spec)?;
        let simulation =
            Simulation { spec: &spec, table, policy, traffic: &traffic, seed: self.seed };
        if let Some(file) = &self.predictions {
            let earned = simulation.earned(logged(file)?);
            let earned = earned.with_context(|| self.file.display().to_string())?;
            self.draw(&earned.story, reference, &spec)?;
            match self.json {
                true => print_json(&json!(earned)),
                false => show_earned(&earned),
            }
            return Ok(());
        }
        let mut bar = Bar::new();
        let story = simulation.run(&mut |part, requests| bar.draw(part, requests));
        bar.clear();
        let story = story.with_context(|| self.file.display().to_string())?;
        self.draw(&story, reference, &spec)?;
        match self.json {
            true => print_json(&json!(story)),
            false => show(&story),
        }
        Ok(())
    }

    /// Draws what happened, where that is asked for.
    fn draw(
        &self,
        story: &Story,
        reference: &Reference,
        spec: &EndpointSpec,
    ) -> anyhow::Result<()> {
        if let Some(file) = &self.svg {
            let title = format!("{reference} at the endpoint {}", spec.name);
            let drawn = picture::draw(story, self.title.as_ref().unwrap_or(&title));
            std::fs::write(file, drawn)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// The policy, compiled.
    fn policy(&self, reference: &Reference, spec: &EndpointSpec) -> anyhow::Result<Arc<Policy>> {
        let (bytes, from) = match (&self.plugin, &self.data) {
            (Some(file), _) => (
                std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
                file.display().to_string(),
            ),
            (None, Some(folder)) => {
                // Opening makes a folder that is not there.
                if !folder.is_dir() {
                    bail!("there is no folder {}", folder.display());
                }
                let store = Store::open(folder).with_context(|| {
                    format!(
                        "{}: give the policy's component with --plugin FILE instead",
                        folder.display()
                    )
                })?;
                let version: PluginVersion = catalog::resolve(&store, reference)?;
                (store.blob_read(&version.digest)?, reference.to_string())
            }
            (None, None) => bail!(
                "where is {reference}? Give its component with --plugin FILE, or with --data DIR the folder of a store that has it and that no host is using now"
            ),
        };
        // Compiled code is taken from nowhere but a folder of one's own.
        let cache = tempfile::tempdir().context("no folder for compiled code")?;
        let engines = Engines::new(EngineOptions {
            cache: cache.path().to_owned(),
            max_instances: 1,
            limits: ProcessorLimits::default(),
            compiler: std::env::current_exe().context("where this program is")?,
            compile_bounds: COMPILE_BOUNDS,
        })?;
        let compiled =
            engines.compile(&Digest::of(&bytes), &bytes).with_context(|| from.clone())?;
        let looks_at = &compiled.inspection.manifest.attributes;
        let declared = |name: &&String| spec.attributes.keys().any(|known| known.as_str() == *name);
        if let Some(missing) = looks_at.iter().find(|name| !declared(name)) {
            bail!("{}: attributes: {from} looks at {missing:?}: declare it", self.file.display());
        }
        let lines = AtomicU32::new(0);
        let log = move |level: Level, line: &str| {
            if lines.fetch_add(1, Ordering::Relaxed) < LINES {
                eprintln!("policy, {level:?}: {line}");
            }
        };
        let policy = Policy::new(&engines, &compiled, reference.to_string(), Arc::new(log));
        Ok(Arc::new(policy.context(from)?))
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Predictions, a line of JSON each.
fn logged(file: &Path) -> anyhow::Result<Vec<Logged>> {
    let named = || file.display().to_string();
    let lines =
        BufReader::new(File::open(file).with_context(|| format!("cannot read {}", named()))?);
    let mut all = Vec::new();
    for (at, line) in lines.lines().enumerate() {
        if at == logged::MOST {
            bail!(
                "{}: has more than {} predictions: export fewer with --since",
                named(),
                logged::MOST
            );
        }
        let line = line.with_context(named)?;
        let read = serde_json::from_str(&line);
        all.push(read.with_context(|| format!("{}: line {} is no prediction", named(), at + 1))?);
    }
    Ok(all)
}

/// How far it is, on a terminal.
struct Bar {
    start: Instant,
    shown: bool,
    is_terminal: bool,
}

impl Bar {
    fn new() -> Self {
        Self { start: Instant::now(), shown: false, is_terminal: io::stderr().is_terminal() }
    }

    fn draw(&mut self, part: f64, requests: u64) {
        if self.is_terminal && self.start.elapsed() > QUICK {
            self.shown = true;
            eprint!("\rsimulated {:3.0} %: {requests} requests \x1b[K", part * 100.0);
        }
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

fn show(story: &Story) {
    say(&format!("endpoint   {}", story.endpoint));
    say(&format!("policy     {} {}", story.policy, story.config));
    say(&format!("in short   {}", picture::summary(story)));
    if let Some(ended) = &story.outcome {
        say(&format!("because    {}", ended.why));
    }
    if story.failures > 0 {
        say(&format!(
            "failures   the policy gave nothing that can be followed {} times",
            story.failures
        ));
    }
    for change in &story.changes {
        say(&format!("changed    after {}: {}", span(change.at), change.what));
    }
    say("");
    let (told, left_out) = picture::marked(story, ROWS);
    let rows = told.into_iter().map(|decision| {
        let shares = decision.shares.iter().map(|share| format!("{:.1}", share * 100.0));
        let of = |of: &dyn Fn(&Told) -> String| {
            decision.arms.iter().map(of).collect::<Vec<_>>().join("/")
        };
        vec![
            span(decision.at),
            cell(&json!(decision.phase)),
            shares.collect::<Vec<_>>().join("/"),
            of(&|told| told.requests.to_string()),
            of(&|told| told.errors.to_string()),
            of(&|told| found(told.p99_ms.as_ref(), 0)),
            of(&|told| found(told.reward.as_ref(), 4)),
            of(&|told| found(told.agreement.as_ref(), 4)),
            decision.message.clone(),
        ]
    });
    let arms = story.arms.join("/");
    say(&format!("What was decided, and what had come to {arms} by then:"));
    let heading = [
        "AFTER", "PHASE", "SHARES %", "REQUESTS", "FAILED", "99 % MS", "REWARD", "AGREE", "BECAUSE",
    ];
    print(&heading, &rows.collect::<Vec<_>>());
    if left_out > 0 {
        say(&format!("and {left_out} more, smaller"));
    }
    say("");
    let rows = story.arms.iter().zip(&story.totals).map(|(arm, told)| {
        vec![
            arm.clone(),
            told.requests.to_string(),
            told.errors.to_string(),
            told.refused.to_string(),
            interval(told.error_rate.as_ref(), 100.0, 3),
            told.median_ms.map_or("-".into(), |ms| format!("{ms:.1}")),
            interval(told.p99_ms.as_ref(), 1.0, 1),
            interval(told.reward.as_ref(), 1.0, 4),
            interval(told.agreement.as_ref(), 100.0, 2),
        ]
    });
    let heading = [
        "ARM",
        "REQUESTS",
        "FAILED",
        "REFUSED",
        "FAILED % (95 %)",
        "MEDIAN MS",
        "99 % MS (95 %)",
        "REWARD (95 %)",
        "AGREE % (95 %)",
    ];
    print(&heading, &rows.collect::<Vec<_>>());
}

fn show_earned(earned: &Earned) {
    let Earned { endpoint, predictions, aside, counted, logged, estimates, story } = earned;
    say(&format!("endpoint     {endpoint}"));
    say(&format!(
        "predictions  {predictions}, of which {counted} were drawn by chance and have a reward"
    ));
    if *aside > 0 {
        say(&format!(
            "left aside   {aside}, of other revisions than the last or drawn in a rollout"
        ));
    }
    say(&format!("as it was    a mean reward of {} (95 %)", interval(logged.as_ref(), 1.0, 4)));
    say("");
    let rows = estimates.iter().map(|it| {
        let mut row = vec![it.of.clone()];
        let all = [it.inverse_propensity, it.self_normalised, it.doubly_robust];
        row.extend(all.map(|lies| interval(lies.as_ref(), 1.0, 4)));
        row.push(format!("{:.0}", it.worth));
        row
    });
    let heading = [
        "WITH",
        "INVERSE PROPENSITY (95 %)",
        "SELF-NORMALISED (95 %)",
        "DOUBLY ROBUST (95 %)",
        "WORTH",
    ];
    print(&heading, &rows.collect::<Vec<_>>());
    show_over_time(story);
}

/// Over time: the policy's shares, and what is estimated beside what was logged.
fn show_over_time(story: &Story) {
    let [(_, of_policy), (_, logged)] = &story.estimates[..] else { return };
    say("");
    say(&format!(
        "Over time, with the shares that it would have given to {}:",
        story.arms.join("/")
    ));
    // Of neighbours, the last one stands for all.
    let each = story.points.len().div_ceil(PIECES).max(1);
    let numbers = story.points.iter().zip(of_policy).zip(logged).skip(each - 1).step_by(each);
    let rows = numbers.map(|((point, of_policy), logged)| {
        let shares = point.shares.iter().map(|share| format!("{:.1}", share * 100.0));
        vec![
            span(point.to),
            shares.collect::<Vec<_>>().join("/"),
            interval(of_policy.as_ref(), 1.0, 4),
            interval(logged.as_ref(), 1.0, 4),
        ]
    });
    print(
        &["UNTIL", "SHARES %", "SELF-NORMALISED (95 %)", "AS IT WAS (95 %)"],
        &rows.collect::<Vec<_>>(),
    );
}

fn span(seconds: f64) -> String {
    Span((seconds * 1e6) as u64).to_string()
}

fn found(lies: Option<&Lies>, digits: usize) -> String {
    lies.map_or("-".into(), |lies| format!("{:.digits$}", lies.found))
}

fn interval(lies: Option<&Lies>, times: f64, digits: usize) -> String {
    let number = |value: f64| format!("{:.digits$}", value * times);
    let known = |value: f64| value.is_finite().then(|| number(value));
    let told = |it: &Lies| table::lies(number(it.found), [it.lower, it.upper].map(known));
    lies.map_or("-".into(), told)
}
