//! Where the time of a picture goes, in Berth and natively.
//!
//! `bench-stages native MODEL CONFIG PICTURE` or `bench-stages berth PLUGIN MODEL CONFIG PICTURE`
//! answers the picture over and over on one thread, without HTTP, and prints as JSON the median
//! microseconds of each stage. In Berth that is the plugin as it is in a fresh instance each time;
//! it tells of its stages in its log. `ORT_DYLIB_PATH` names ONNX Runtime, `BERTH_BIN` the program
//! that compiles the plugin.

#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use berth_bench::Failure;
use berth_bench::pictures::Classifier;
use berth_bench::session::Model;
use berth_inference::{ModelOptions, Runtime, RuntimeOptions};
use berth_plugin::engine::Engines;
use berth_plugin::{
    Bindings, Body, BoundModel, COMPILE_BOUNDS, Call, EngineOptions, Level, Processor,
    ProcessorLimits, Reports, Request, Sink, Usage,
};
use berth_tensor::Digest;

/// How long to measure, and how many requests at most come before that.
const DURATION: Duration = Duration::from_secs(2);
const WARM_UP: usize = 20;

/// What begins where the stage before it is over, in the words by which its end is told.
const STAGES: [(&str, &str); 4] =
    [("decode", "decoded"), ("prepare", "prepared"), ("copy", "copied"), ("infer", "inferred")];

/// When the stages of one request were over, in order.
type Marks = Vec<(String, Instant)>;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let medians = match arguments.as_slice() {
        ["native", model, config, picture] => native(model, config, picture)?,
        ["berth", plugin, model, config, picture] => berth(plugin, model, config, picture)?,
        _ => bail!("usage: bench-stages native MODEL CONFIG PICTURE, or berth PLUGIN and the same"),
    };
    println!("{}", serde_json::to_string(&medians)?);
    Ok(())
}

fn native(model: &str, config: &str, picture: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let classifier = Classifier::new(Model::open(model)?, config)?;
    let body = std::fs::read(picture)?;
    medians(|| {
        let mut marks = Marks::new();
        let start = Instant::now();
        let answer = classifier.classify(&body, |stage| marks.push((stage.into(), Instant::now())));
        match answer {
            Ok(_) => Ok((start, marks, Instant::now())),
            Err(Failure::Request(problem) | Failure::Server(problem)) => Err(anyhow!(problem)),
        }
    })
}

/// Keeps when a plugin has told of its stages, and what the last call used.
#[derive(Default)]
struct Clocked {
    marks: Mutex<Marks>,
    usage: Mutex<Usage>,
}

impl Sink for Clocked {
    fn enabled(&self, _: Level) -> bool {
        true
    }

    fn log(&self, _: Level, message: &str) {
        let now = Instant::now();
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.push((message.to_owned(), now));
    }

    fn used(&self, usage: &Usage) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = *usage;
    }
}

fn berth(
    plugin: &str,
    model: &str,
    config: &str,
    picture: &str,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let cache = tempfile::tempdir()?;
    let engines = Engines::new(EngineOptions {
        cache: cache.path().join("compiled"),
        max_instances: 8,
        limits: ProcessorLimits::default(),
        compiler: PathBuf::from(std::env::var("BERTH_BIN").context("BERTH_BIN is not set")?),
        compile_bounds: COMPILE_BOUNDS,
    })?;
    let component = std::fs::read(plugin)?;
    let compiled = Arc::new(engines.compile(&Digest::of(&component), &component)?);
    let limits = ProcessorLimits::default();
    let processor =
        Processor::new(&engines, &compiled, "image-classifier@1".into(), config.into(), limits)?;
    let runtime = Runtime::load(None, RuntimeOptions::default())?;
    let opened = runtime.open("model@1", Path::new(model), &ModelOptions::default())?;
    let model = opened.in_lane(&runtime.lane());
    let sink = Arc::new(Clocked::default());
    let bindings = Arc::new(Bindings {
        models: vec![BoundModel { role: "default".into(), name: "model@1".into(), model }],
        assets: Vec::new(),
        sink: sink.clone(),
    });
    let request = Arc::new(Request {
        id: "request".into(),
        prediction: "prediction".into(),
        body: Body::Bytes {
            content_type: Some("image/jpeg".into()),
            bytes: std::fs::read(picture)?.into(),
        },
        outputs: Vec::new(),
        attributes: Vec::new(),
        trace_context: None,
        reports: Reports::default(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    medians(|| {
        let start = Instant::now();
        let call = Call {
            request: Arc::clone(&request),
            bindings: Arc::clone(&bindings),
            deadline: start + Duration::from_secs(60),
        };
        let answer = runtime.block_on(processor.process(call));
        let end = Instant::now();
        answer?;
        let usage = *sink.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let mut marks = vec![("instantiated".to_owned(), start + usage.instantiate)];
        marks.append(&mut sink.marks.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((start, marks, end))
    })
}

/// The median microseconds of each stage. `once` answers when a request began, when its stages were
/// over, and when it was answered.
fn medians(
    mut once: impl FnMut() -> anyhow::Result<(Instant, Marks, Instant)>,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut times: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for _ in 0..WARM_UP {
        once()?;
    }
    let begin = Instant::now();
    while begin.elapsed() < DURATION {
        let (mut since, marks, end) = once()?;
        for (told, at) in marks {
            let stage = STAGES.iter().find(|(_, end)| *end == told);
            let stage = stage.map_or("instantiate", |(stage, _)| stage);
            times.entry(stage.to_owned()).or_default().push(at - since);
            since = at;
        }
        times.entry("reply".to_owned()).or_default().push(end - since);
    }
    let median = |(stage, mut times): (String, Vec<Duration>)| {
        times.sort();
        (stage, times[times.len() / 2].as_secs_f64() * 1e6)
    };
    Ok(times.into_iter().map(median).collect())
}
