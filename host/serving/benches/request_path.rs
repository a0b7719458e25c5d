//! What the host adds to a request: choosing an arm, asking a router, an instance, tensors in and
//! out of it.
//!
//! `BERTH_PLUGINS` and `BERTH_GUESTS` name the folders of components, `BERTH_BIN` the program that
//! compiles them; `cargo xtask bench` sets all three.

#![expect(clippy::expect_used, reason = "a benchmark stops at the first thing that is missing")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_plugin::engine::Engines;
use berth_plugin::observing::Arm;
use berth_plugin::{
    Bindings, Body, COMPILE_BOUNDS, Call, Compiled, EngineOptions, Observation, Policy, Processor,
    ProcessorLimits, Reports, Request, Sink, Subject,
};
use berth_serving::draw::Shares;
use berth_tensor::{DataType, Digest, NamedTensor, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

struct Silent;

impl Sink for Silent {}

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

fn observation(arms: [&str; 2], config: &str) -> Arc<Observation> {
    let arm = |name: &str| Arm { name: name.into(), ready: true, ..Arm::default() };
    Arc::new(Observation {
        config: config.into(),
        arms: arms.map(arm).into(),
        attributes: vec!["user".into()],
        unit: Some("user".into()),
        ..Observation::default()
    })
}

fn engines(folder: &Path) -> Arc<Engines> {
    let options = EngineOptions {
        cache: folder.join("compiled"),
        max_instances: 64,
        limits: ProcessorLimits::default(),
        compiler: told("BERTH_BIN"),
        compile_bounds: COMPILE_BOUNDS,
    };
    Engines::new(options).expect("the engines start")
}

fn routing(criterion: &mut Criterion, engines: &Arc<Engines>) {
    let subjects: Vec<Subject> = (0..1024).map(subject).collect();

    let shares = Shares::from_weights(&[90.0, 10.0]);
    let mut next = 0;
    criterion.bench_function("choose an arm by standing shares", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % subjects.len();
            shares.draw(subjects[next].hash("digits"))
        });
    });

    let rule =
        r#"{"rules":[{"when":{"attribute":"user","prefix":"beta-"},"arm":"new"}],"default":"old"}"#;
    let pins: Vec<String> = (0..1000).map(|user| format!("\"pinned-{user}\"")).collect();
    let pins = format!(r#"{{"pinned":{{"next":[{}]}}}}"#, pins.join(","));
    let test = r#"{"metric":"reward","effect":0.1,"where":{"user":["user-7","user-8"]}}"#;
    for (name, plugin, arms, config) in [
        ("route warm, targeting by prefix", "targeting", ["old", "new"], rule),
        ("route warm, canary with 1,000 pins", "canary", ["live", "next"], &pins),
        ("route warm, A/B test of some users", "ab-test", ["live", "next"], test),
    ] {
        let policy = compiled(engines, "BERTH_PLUGINS", plugin);
        let policy = Policy::new(engines, &policy, format!("{plugin}@1"), Arc::new(|_, _| {}));
        let policy = Arc::new(policy.expect("it links"));
        let observation = observation(arms, config);
        let evaluation = policy.evaluate(&observation, None).expect("it evaluates");
        let routers = policy
            .routers(&observation, &evaluation.plan, &Arc::default())
            .expect("it routes")
            .expect("it has a router");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                next = (next + 1) % subjects.len();
                routers.route(&subjects[next]).expect("it decides")
            });
        });
    }
}

/// What calls of processors share.
struct Rig {
    engines: Arc<Engines>,
    runtime: tokio::runtime::Runtime,
    bindings: Arc<Bindings>,
}

impl Rig {
    fn new(engines: Arc<Engines>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio starts");
        let bindings =
            Arc::new(Bindings { models: Vec::new(), assets: Vec::new(), sink: Arc::new(Silent) });
        Self { engines, runtime, bindings }
    }

    fn processor(&self, guest: &str, config: &str) -> Processor {
        let component = Arc::new(compiled(&self.engines, "BERTH_GUESTS", guest));
        let (name, limits) = (format!("{guest}@1"), ProcessorLimits::default());
        Processor::new(&self.engines, &component, name, config.into(), limits).expect("it links")
    }

    fn call(&self, request: &Arc<Request>) -> Call {
        Call {
            request: Arc::clone(request),
            bindings: Arc::clone(&self.bindings),
            deadline: Instant::now() + Duration::from_secs(60),
        }
    }

    fn fresh(&self, criterion: &mut Criterion, name: &str, processor: &Processor, body: Body) {
        let request = request(body);
        criterion.bench_function(name, |bencher| {
            bencher.to_async(&self.runtime).iter(|| async {
                processor.process(self.call(&request)).await.expect("it answers")
            });
        });
    }
}

fn request(body: Body) -> Arc<Request> {
    Arc::new(Request {
        id: "request".into(),
        prediction: "prediction".into(),
        body,
        outputs: Vec::new(),
        attributes: Vec::new(),
        trace_context: None,
        reports: Reports::default(),
    })
}

fn calls(criterion: &mut Criterion, rig: &Rig) {
    let empty = rig.processor("empty", "{}");
    let one = || Body::Bytes { content_type: None, bytes: "x".into() };
    rig.fresh(criterion, "fresh instance and an empty process", &empty, one());
    let request = request(one());
    criterion.bench_function("an empty process, the instance kept", |bencher| {
        bencher.iter_custom(|times| {
            let calls = empty.repeat(rig.call(&request), times);
            rig.runtime.block_on(calls).expect("it answers")
        });
    });
    let probe = rig.processor("probe", r#"{"mode": "copies"}"#);
    for (size, bytes) in [("64 B", 64), ("16 KiB", 16 << 10), ("600 KiB", 600 << 10)] {
        let tensor = Tensor::new(DataType::Fp32, vec![bytes as u64 / 4], vec![0; bytes]);
        let tensor = tensor.expect("the size is that of the shape");
        let body = Body::Tensors(vec![NamedTensor { name: "x".into(), tensor }]);
        let name = format!("fresh instance, a tensor of {size} in and out");
        rig.fresh(criterion, &name, &probe, body);
    }
}

fn request_path(criterion: &mut Criterion) {
    let cache = tempfile::tempdir().expect("a folder for compiled code");
    let engines = engines(cache.path());
    routing(criterion, &engines);
    calls(criterion, &Rig::new(engines));
}

criterion_group!(benches, request_path);
criterion_main!(benches);
