//! Change after change under load leaves nothing behind.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::files::tensors;
use berth_onnx::networks::dense;

use serde_json::json;

use crate::support::{Host, Request, beside, onnx, until};

/// Swaps before the first look, and between it and the last.
const FIRST: usize = 16;
const SWAPS: usize = 48;
/// Versions, each of a model of its own. By the time that one is back, it was let go of.
const VERSIONS: usize = 16;
/// What was replaced is let go of within a second, where nothing is kept warm.
const LET_GO: Duration = Duration::from_millis(2500);

/// What a host holds.
const HELD: [&str; 5] = ["threads", "tokio's threads", "files", "mappings", "resident KiB"];

/// How much of it, in that order.
fn holds(host: &Host) -> [u64; 5] {
    let folder = format!("/proc/{}", host.process());
    let list = |name: &str| fs::read_dir(format!("{folder}/{name}")).unwrap().map(Result::unwrap);
    // A thread that ends meanwhile has no name.
    let named = list("task").map(|task| fs::read_to_string(task.path().join("comm")));
    let pools = ["tokio-rt-worker", "control"];
    let (pooled, own): (Vec<_>, Vec<_>) =
        named.flatten().partition(|name| pools.contains(&name.trim()));
    let status = fs::read_to_string(format!("{folder}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.trim().trim_end_matches(" kB").parse().unwrap();
    let maps = fs::read_to_string(format!("{folder}/maps")).unwrap().lines().count();
    let counts = [own.len(), pooled.len(), list("fd").count(), maps].map(|count| count as u64);
    let [own, pooled, files, maps] = counts;
    [own, pooled, files, maps, resident]
}

/// Of models of 8 MiB, one after the other, so that each is loaded.
#[test]
fn swaps_under_load_leave_nothing_behind() {
    let host = Host::start_with(&["--bake", "0"]);
    for seed in 1..=VERSIONS {
        host.push_model("dense", &dense(seed as u64, &[64, 1024, 2048, 10]));
    }
    host.apply(&tensors("dense", "dense@1"));
    let request = Request::infer("dense", "x", &[1, 64], &[0.5; 64]);
    let mut replaced = [None::<Instant>; VERSIONS];
    let mut at = 0;
    let mut swap = |times: usize| {
        for _ in 0..times {
            let next = (at + 1) % VERSIONS;
            if let Some(since) = replaced[next] {
                thread::sleep(LET_GO.saturating_sub(since.elapsed()));
            }
            host.apply(&tensors("dense", &format!("dense@{}", next + 1)));
            replaced[at] = Some(Instant::now());
            at = next;
        }
        thread::sleep(LET_GO);
    };
    beside(&host, &request, |go_on| {
        swap(FIRST);
        let before = holds(&host);
        swap(SWAPS);
        go_on();
        // Of threads of its own and of files nothing is more than before, once the last connection of a
        // command is closed. Tokio keeps as many threads as were ever blocked at once, be it two more
        // than before, and each has a stack and may have a heap, of two mappings each. An allocator
        // keeps what it keeps, a tenth of what is there and the 8 MiB that a host lets it: two swaps
        // that leave their model behind are more than that.
        let room = [0, 2, 0, 16, before[4] / 10 + (8 << 10)];
        let most: Vec<u64> = before.iter().zip(room).map(|(held, room)| held + room).collect();
        let mut now = before;
        let flat = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(100));
            now = holds(&host);
            now.iter().zip(&most).all(|(held, most)| held <= most)
        });
        eprintln!("{HELD:?}: {before:?}, after {SWAPS} swaps {now:?}");
        assert!(flat, "more is held than {most:?}");
    });
}

/// One request that takes 600 MB within the model, which ONNX Runtime keeps for the next.
#[test]
fn what_one_request_took_within_a_model_is_given_back() {
    let host = Host::start();
    host.push_model("sums", &onnx::sum_of_zeros());
    host.apply(&tensors("sums", "sums@1"));
    let sum = |count: u64| {
        let input = json!({"name": "n", "datatype": "INT64", "shape": [1], "data": [count]});
        let body = json!({"inputs": [input]}).to_string();
        let answer = host.send(&Request::post("/v2/models/sums/infer", "application/json", body));
        assert_eq!(answer.output(), [0.0]);
    };
    sum(1);
    let resident = || holds(&host)[4];
    let before = resident();
    let taken = host.grown_by(|| sum(150_000_000));
    assert!(taken > 500 << 20, "{taken} bytes");
    until("it is given back", || resident() < before + (100 << 10));
}
