//! Sequences of host calls, `wasi:nn` above all, made by the guest `host-calls` in its sandbox
//! against a real model. Whatever a guest does, the host does not panic, holds no more than it
//! grants, and answers the next request.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use berth_inference::{ModelOptions, Runtime, RuntimeOptions};
use berth_plugin::{
    Bindings, Body, BoundModel, COMPILE_BOUNDS, Call, EngineOptions, Engines, Processor,
    ProcessorLimits, Reply, Request, Sink, Usage,
};
use berth_tensor::Digest;
use libfuzzer_sys::fuzz_target;

/// The bytes that the host may hold for a call.
const HOST_BYTES: u64 = 1 << 20;

/// The most that a call may add to the heap: what it may hold, and what a host call needs for as
/// long as it takes.
const HEAP: usize = 16 << 20;

/// Computes `x + 1` of [1, 2] and copies the result's data to word 60.
const GOOD: &[u8] = include_bytes!("../corpus/host_calls/computes");

#[global_allocator]
static COUNTED: Counted = Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and how much it has given.
struct Counted;

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

struct Bounded;

impl Sink for Bounded {
    fn used(&self, usage: &Usage) {
        assert!(usage.host_bytes <= HOST_BYTES, "the host held {} bytes", usage.host_bytes);
    }
}

struct Host {
    tokio: tokio::runtime::Runtime,
    processor: Processor,
    bindings: Arc<Bindings>,
}

fn told(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run cargo xtask fuzz"))
        .into()
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let limits =
        ProcessorLimits { memory: 64 << 20, cpu: Duration::from_secs(5), host_bytes: HOST_BYTES };
    let cache = folder.path().join("compiled");
    let engines = Engines::new(EngineOptions {
        cache,
        max_instances: 4,
        limits,
        compiler: told("BERTH_BIN"),
        compile_bounds: COMPILE_BOUNDS,
    });
    let engines = engines.expect("the engines start");
    let guest = std::fs::read(told("BERTH_GUESTS").join("host-calls.wasm")).expect("the guest");
    let compiled = engines.compile(&Digest::of(&guest), &guest).expect("the guest compiles");
    let name = "host-calls@1".to_owned();
    let processor = Processor::new(&engines, &Arc::new(compiled), name, "{}".into(), limits);
    let file = folder.path().join("adder.onnx");
    std::fs::write(&file, berth_onnx::small::adder(1.0)).expect("the model is written");
    let runtime =
        Runtime::load(None, RuntimeOptions { each: 1, trials: None }).expect("ONNX Runtime loads");
    let opened = runtime.open("adder@1", &file, &ModelOptions::default());
    let model = opened.expect("the model opens").in_lane(&runtime.lane());
    let bound = BoundModel { role: "default".into(), name: "adder@1".into(), model };
    let bindings = Bindings { models: vec![bound], assets: Vec::new(), sink: Arc::new(Bounded) };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Host {
        tokio: tokio.expect("tokio starts"),
        processor: processor.expect("it links"),
        bindings: Arc::new(bindings),
    }
});

impl Host {
    /// Runs a program; its answer, if any.
    fn run(&self, program: &[u8]) -> Option<Reply> {
        let request = Request {
            id: "request".into(),
            prediction: "prediction".into(),
            body: Body::Bytes { content_type: None, bytes: program.to_vec().into() },
            outputs: Vec::new(),
            attributes: Vec::new(),
            trace_context: None,
        };
        let call = Call {
            request: Arc::new(request),
            bindings: Arc::clone(&self.bindings),
            deadline: Instant::now() + Duration::from_secs(600),
        };
        let before = HELD.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let answer = self.tokio.block_on(self.processor.process(call));
        let added = PEAK.load(Ordering::Relaxed) - before;
        assert!(added <= HEAP, "the heap grew by {added} bytes");
        answer.ok()
    }
}

fuzz_target!(|program: &[u8]| {
    HOST.run(program);
    let answer = HOST.run(GOOD).expect("the next request is answered");
    let memory = answer.parts.concat();
    let result = [2f32, 3.0].map(f32::to_le_bytes).concat();
    assert_eq!(memory[4 * 60..][..8], result, "the next request is answered wrong");
});
