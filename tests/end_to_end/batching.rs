//! Requests for one model that run as one.

use std::thread;

use berth_onnx::networks::dense;

use crate::support::files::bare;
use crate::support::{Host, Request, onnx, until};

#[test]
fn requests_at_once_run_as_one_and_are_answered_as_alone() {
    const CLIENTS: usize = 16;
    let host = Host::start();
    host.push_model("dense", &dense(3, &[64, 1024, 2048, 10]));
    let endpoint = |name: &str, most: u32| {
        format!("name = {name:?}\n[models.dense]\nmax_batch = {most}\n{}", bare("main", "dense@1"))
    };
    host.apply(&endpoint("together", 8));
    host.apply(&endpoint("alone", 1));
    let request = |endpoint: &str, client: usize| {
        let data: Vec<f32> = (0..64).map(|at| ((at * 7 + client) % 17) as f32 / 8.0).collect();
        Request::infer(endpoint, "x", &[1, 64], &data)
    };
    let round = || {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (host, request) = (&host, &request);
                scope.spawn(move || {
                    let expected = host.send(&request("alone", client)).output();
                    let mut connection = host.connect();
                    for _ in 0..20 {
                        let answer = connection.send(&request("together", client)).unwrap();
                        for (one, other) in answer.output().iter().zip(&expected) {
                            assert!((one - other).abs() <= 1e-4 * (1.0 + other.abs()), "{client}");
                        }
                    }
                });
            }
        });
    };
    until("some have run together", || {
        round();
        host.metric("berth_model_batches_total{model=\"dense@1\"}") > 0.0
    });
    let shown = host.ok(&["model", "show", "dense"]);
    assert!(shown.contains("batching    up to 32 rows of several requests in one run"), "{shown}");
}

#[test]
fn how_models_are_run_is_checked() {
    let host = Host::with_digits(&[]);
    host.push_model("turns", &onnx::turns(0));
    let file =
        |models: &str, model: &str| format!("name = \"e\"\n{models}\n{}", bare("main", model));
    for (models, model, part) in [
        ("[models.digits]\nmax_batch = 0", "digits@2", "models.digits.max_batch: give 1 to 4096"),
        ("[models.digits]\nmax_queue = 0", "digits@2", "models.digits.max_queue: give 1 to 65536"),
        (
            "[models.digits]\nmax_delay_us = 1000001",
            "digits@2",
            "models.digits.max_delay_us: give 0 to 1000000",
        ),
        ("[models.digits]\ncolour = 1", "digits@2", "colour"),
        ("[models.other]\nmax_batch = 2", "digits@2", "models.other: no variant binds a model"),
        (
            "[models.turns]\nmax_batch = 2",
            "turns@1",
            "models.turns.max_batch: requests for turns@1 cannot run together: input \"n\" has no dimensions",
        ),
    ] {
        host.apply_refused(models, &file(models, model), part);
    }
    host.apply(&file(
        "[models.digits]\nmax_batch = 16\nmax_delay_us = 200\nmax_queue = 4",
        "digits@2",
    ));
    let other = host.file("other.toml", file("[models.digits]\nmax_batch = 8", "digits@2"));
    let changes = host.ok(&["apply", other.to_str().unwrap(), "--dry-run"]);
    assert!(changes.contains("how its models are run"), "{changes}");
}
