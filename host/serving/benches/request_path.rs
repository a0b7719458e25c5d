//! What the host adds to a request: choosing an arm, asking a router, a fresh instance.
//!
//! `BERTH_PLUGINS` and `BERTH_GUESTS` name the folders of components, `BERTH_BIN` the program that
//! compiles them; `cargo xtask bench` sets all three.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is missing")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_plugin::engine::Engines;
use berth_plugin::observing::Arm;
use berth_plugin::{
    Bindings, Body, Call, CompileLimits, Compiled, EngineOptions, Level, Observation, Policy,
    Processor, ProcessorLimits, Request, Sink, Subject,
};
use berth_serving::draw::Shares;
use berth_tensor::Digest;
use criterion::{Criterion, criterion_group, criterion_main};

struct Silent;

impl Sink for Silent {
    fn enabled(&self, _: Level) -> bool {
        false
    }
    fn log(&self, _: Level, _: &str) {}
    fn count(&self, _: &str, _: u64) {}
    fn observe(&self, _: &str, _: f64) {}
    fn dropped(&self) {}
}

fn told(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(value) => value.into(),
        None => panic!("{variable} is not set: run cargo xtask bench"),
    }
}

fn compiled(engines: &Engines, variable: &str, name: &str) -> Compiled {
    let bytes =
        std::fs::read(told(variable).join(format!("{name}.wasm"))).expect("the component is built");
    engines.compile(&Digest::of(&bytes), &bytes).expect("it compiles")
}

fn subject(user: u64) -> Subject {
    Subject {
        attributes: vec![("user".into(), format!("user-{user}"))].into(),
        unit: Some(0),
        chance: user,
    }
}

fn observation(config: &str) -> Arc<Observation> {
    let arm = |name: &str| Arm { name: name.into(), ready: true, ..Arm::default() };
    Arc::new(Observation {
        config: config.into(),
        arms: vec![arm("old"), arm("new")],
        attributes: vec!["user".into()],
        unit: Some("user".into()),
        ..Observation::default()
    })
}

fn request_path(criterion: &mut Criterion) {
    let cache = tempfile::tempdir().expect("a folder for compiled code");
    let options = EngineOptions {
        cache: cache.path().join("compiled"),
        max_instances: 64,
        limits: ProcessorLimits::default(),
        compiler: told("BERTH_BIN"),
        compile_limits: CompileLimits::default(),
    };
    let engines = Engines::new(options).expect("the engines start");
    let subjects: Vec<Subject> = (0..1024).map(subject).collect();

    let shares = Shares::from_weights(&[90.0, 10.0]);
    let mut next = 0;
    criterion.bench_function("choose an arm by standing shares", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % subjects.len();
            shares.draw(subjects[next].hash("digits"))
        });
    });

    let policy = compiled(&engines, "BERTH_PLUGINS", "targeting");
    let policy = Policy::new(&engines, &policy, "targeting@1".into(), Arc::new(|_, _| {}))
        .expect("it links");
    let observation = observation(
        r#"{"rules":[{"when":{"attribute":"user","prefix":"beta-"},"arm":"new"}],"default":"old"}"#,
    );
    let policy = Arc::new(policy);
    let evaluation = policy.evaluate(&observation, None).expect("it evaluates");
    let routers = policy
        .routers(&observation, &evaluation.plan)
        .expect("it routes")
        .expect("it has a router");
    criterion.bench_function("route warm, targeting by prefix", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % subjects.len();
            routers.route(&subjects[next]).expect("it decides")
        });
    });

    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio starts");
    let empty = compiled(&engines, "BERTH_GUESTS", "empty");
    let limits = ProcessorLimits::default();
    let processor =
        Processor::new(&engines, &Arc::new(empty), "empty@1".into(), "{}".into(), limits)
            .expect("it links");
    let bindings =
        Arc::new(Bindings { models: Vec::new(), assets: Vec::new(), sink: Arc::new(Silent) });
    let request = Arc::new(Request {
        id: "request".into(),
        prediction: "prediction".into(),
        body: Body::Bytes { content_type: None, bytes: "x".into() },
        outputs: Vec::new(),
        attributes: Vec::new(),
        trace_context: None,
    });
    criterion.bench_function("fresh instance and an empty process", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let call = Call {
                request: Arc::clone(&request),
                bindings: Arc::clone(&bindings),
                deadline: Instant::now() + Duration::from_secs(1),
            };
            processor.process(call).await.0.expect("it answers")
        });
    });
}

criterion_group!(benches, request_path);
criterion_main!(benches);
