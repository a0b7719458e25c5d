//! The ONNX project's own tests of operators, through the inference crate and through HTTP, beside
//! what Python's onnxruntime makes of them.
//!
//! - [`cases`]: the cases, and what counts as the same
//! - [`json`]: tensors in requests and answers

mod cases;
mod json;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_inference::{ModelOptions, OpenError, Providers, Runtime, RuntimeOptions};
use serde::Serialize;
use serde_json::json;

use self::cases::{Case, Cases, Outcome};
use crate::support::files::{plugin, told};
use crate::support::{Connection, Host, Request};

/// Variants of an endpoint at most.
const VARIANTS: usize = 64;

/// What came of a case, as `cargo xtask conformance` reads it.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    /// What of its values Berth does not serve: a datatype, or a kind of value.
    unserved: Option<&'a str>,
    /// A datatype of its values that has no JSON form.
    beyond_json: Option<&'a str>,
    python: &'a Option<Outcome>,
    library: &'a Outcome,
    http: &'a Outcome,
}

#[test]
fn what_passes_in_python_passes_here() {
    let folder = told("BERTH_CASES");
    let cases = Cases::read(&folder);
    let runtime = Runtime::load(None, RuntimeOptions::default()).unwrap();
    if runtime.version() != cases.onnxruntime {
        let versions = (runtime.version(), &cases.onnxruntime);
        eprintln!("skipped: the library is {}, Python's package {}", versions.0, versions.1);
        return;
    }
    let start = Instant::now();
    let said = |what: &str| eprintln!("{what} after {:.1?}", start.elapsed());
    let library = through_library(&cases, &runtime, &ModelOptions::default());
    said("through the crate");
    let http = through_http(&cases, said);
    said("through HTTP");
    let mut wrong = Vec::new();
    let mut lines = Vec::new();
    for ((case, library), http) in cases.cases.iter().zip(&library).zip(&http) {
        for (way, problem) in problems(case, library, http) {
            wrong.push(format!("{} {way}: {problem}", case.name));
        }
        lines.push(Line {
            name: &case.name,
            unserved: case.unserved(),
            beyond_json: case.beyond_json(),
            python: &case.python,
            library,
            http,
        });
    }
    let file = BufWriter::new(File::create(folder.join("results.json")).unwrap());
    let (onnx, onnxruntime) = (&cases.onnx, &cases.onnxruntime);
    let results = json!({ "onnx": onnx, "onnxruntime": onnxruntime, "cases": lines });
    serde_json::to_writer(file, &results).unwrap();
    assert!(lines.len() > 1500, "{} cases", lines.len());
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_passes_in_python_passes_on_a_gpu() {
    let Some(provider) = std::env::var("BERTH_TEST_PROVIDER").ok() else {
        eprintln!("skipped: cargo xtask gpu-check runs it, where a GPU is");
        return;
    };
    let cases = Cases::read(&told("BERTH_CASES"));
    let runtime = Runtime::load(None, RuntimeOptions::default()).unwrap();
    // With as many digits as the CPU has.
    let exact = BTreeMap::from([("use_tf32".to_owned(), "0".to_owned())]);
    let named = [(provider, exact), ("cpu".to_owned(), BTreeMap::new())];
    let providers = Providers::new(named).unwrap();
    let options = ModelOptions { providers, ..ModelOptions::default() };
    let outcomes = through_library(&cases, &runtime, &options);
    let python = |case: &Case| case.python.as_ref().is_some_and(Outcome::passed);
    let due = || cases.cases.iter().zip(&outcomes).filter(|(case, _)| python(case));
    let wrong: Vec<_> = due()
        .filter(|(_, outcome)| !outcome.passed())
        .map(|(case, outcome)| format!("{}: {outcome:?}", case.name))
        .collect();
    eprintln!("{} of {} pass", due().count() - wrong.len(), due().count());
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong with what came of a case.
fn problems(case: &Case, library: &Outcome, http: &Outcome) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    let python = case.python.as_ref().is_some_and(Outcome::passed);
    let named = |outcome: &Outcome, name: &str| match outcome {
        Outcome::Unsupported(reason) => reason.to_lowercase().contains(&name.to_lowercase()),
        _ => false,
    };
    let opened = !matches!(library, Outcome::Unsupported(_));
    if python && !library.passed() {
        problems.push(("through the crate", format!("{library:?}, and Python passes")));
    }
    if let Some(name) = case.unserved().filter(|_| opened) {
        problems.push(("through the crate", format!("{library:?}, with a {name}")));
    }
    match case.beyond_json().filter(|_| opened) {
        Some(name) if !named(http, name) => {
            problems.push(("through HTTP", format!("{http:?} does not name {name}")));
        }
        None if std::mem::discriminant(http) != std::mem::discriminant(library) => {
            problems.push(("through HTTP", format!("{http:?}, but {library:?} through the crate")));
        }
        _ => {}
    }
    problems
}

fn through_library(cases: &Cases, runtime: &Runtime, options: &ModelOptions) -> Vec<Outcome> {
    let waiting = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let lane = runtime.lane();
    let outcome = |case: &Case| {
        let opened = runtime.open(&case.name, &cases.model(case), options);
        let model = match opened {
            Ok(opened) => opened.in_lane(&lane),
            Err(OpenError::PortType { port, found, .. }) => {
                return Outcome::Unsupported(format!("{port} of type {found}"));
            }
            Err(OpenError::Unsupported { problem, .. }) => return Outcome::Unsupported(problem),
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        if let Some(name) = case.unserved() {
            return Outcome::Failed(format!("a model with {name} opened"));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        match waiting.block_on(model.run(&cases.inputs(case), &[], deadline)) {
            Ok(outputs) => compared(cases.difference(case, &outputs)),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    };
    cases.cases.iter().map(outcome).collect()
}

fn compared(difference: Result<(), String>) -> Outcome {
    match difference {
        Ok(()) => Outcome::Passed(String::new()),
        Err(problem) => Outcome::Failed(problem),
    }
}

fn through_http(cases: &Cases, said: impl Fn(&str)) -> Vec<Outcome> {
    let host = Host::start();
    host.push("plugin", "weighted", &plugin("weighted"));
    let outcomes: Vec<Mutex<Option<Outcome>>> =
        cases.cases.iter().map(|_| Mutex::new(None)).collect();
    let settle = |index: usize, outcome| *outcomes[index].lock().unwrap() = Some(outcome);
    let versions: Vec<Mutex<Option<u64>>> = cases.cases.iter().map(|_| Mutex::new(None)).collect();
    several(
        cases.cases.len(),
        || Connection::open(host.admin).unwrap(),
        |admin, index| {
            let model = fs::read(cases.model(&cases.cases[index])).unwrap();
            let target = format!("/v1/models/cases-{}", index / VARIANTS);
            let push = Request::post(&target, "application/octet-stream", model);
            let answer = admin.send(&push).unwrap();
            match answer.status {
                200 => *versions[index].lock().unwrap() = answer.json()["version"].as_u64(),
                400 => settle(index, Outcome::Unsupported(message(&answer.json()))),
                _ => settle(index, Outcome::Failed(answer.text())),
            }
        },
    );
    said("pushed");
    let pushed: Vec<(usize, u64)> = versions
        .iter()
        .enumerate()
        .filter_map(|(index, version)| Some((index, (*version.lock().unwrap())?)))
        .collect();
    for (number, part) in pushed.chunks(VARIANTS).enumerate() {
        let variants: Vec<_> = part
            .iter()
            .map(|(index, version)| {
                let model = format!("cases-{}@{version}", index / VARIANTS);
                json!({ "name": format!("v{index}"), "models": { "default": model } })
            })
            .collect();
        let weights = json!({ variants[0]["name"].as_str().unwrap(): 1 });
        let endpoint = json!({
            "name": format!("cases-{number}"),
            "direct": true,
            "routing": { "policy": "weighted@1", "config": { "weights": weights } },
            "variants": variants,
        });
        let apply = Request::post("/v1/endpoints", "application/json", endpoint.to_string());
        let answer = host.ask_admin(&apply);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    said("applied");
    several(
        pushed.len(),
        || host.connect(),
        |connection, at| {
            let index = pushed[at].0;
            let case = &cases.cases[index];
            let target = format!("/v2/models/cases-{}/versions/v{index}/infer", at / VARIANTS);
            let body = json::request(&cases.inputs(case));
            let answer =
                connection.send(&Request::post(&target, "application/json", body)).unwrap();
            let outcome = match (answer.status, case.beyond_json()) {
                (200, _) => compared(
                    json::outputs(&answer.text())
                        .and_then(|outputs| cases.difference(case, &outputs)),
                ),
                (400 | 500, Some(_)) => Outcome::Unsupported(message(&answer.json())),
                _ => Outcome::Failed(answer.text()),
            };
            settle(index, outcome);
        },
    );
    outcomes.into_iter().map(|outcome| outcome.into_inner().unwrap().unwrap()).collect()
}

fn message(body: &serde_json::Value) -> String {
    body["error"].as_str().unwrap_or_default().to_owned()
}

/// Does `one` for each index below `count`, on a few threads with something of their own.
fn several<T>(count: usize, own: impl Fn() -> T + Sync, one: impl Fn(&mut T, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut own = own();
                while let Some(index) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < count)
                {
                    one(&mut own, index);
                }
            });
        }
    });
}
