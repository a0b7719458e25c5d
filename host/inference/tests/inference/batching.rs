//! Requests that run as one, and those that must not.

use berth_inference::Batching;
use berth_onnx::encode::{graph, integer, model, node, port};
use berth_onnx::networks::perceptron;
use berth_onnx::small;
use std::sync::Arc;

use super::*;

const FLOAT: DataType = DataType::Fp32;

/// Rows that run together at most, whatever it brings.
fn asked(most: u32) -> BatchOptions {
    BatchOptions { most: Some(most), queue: 1024, ..BatchOptions::default() }
}

/// `y = f(x)` for one operator, FP32 of these shapes.
fn operator(node: berth_onnx::encode::Message, input: &[i64], output: &[i64]) -> Vec<u8> {
    model(graph(&[node], &[], &[port("x", FLOAT, input)], &[port("y", FLOAT, output)]))
}

#[test]
fn only_what_is_safe_runs_together() {
    let Some(runtime) = runtime(1) else { return };
    let softmax = |axis| integer(node("Softmax", &["x"], &["y"]), "axis", axis);
    let sum = || integer(node("ReduceSum", &["x"], &["y"]), "keepdims", 1);
    for (what, bytes, expected) in [
        ("rows by themselves", operator(softmax(1), &[-1, 4], &[-1, 4]), None),
        (
            "rows that see each other",
            operator(softmax(0), &[-1, 4], &[-1, 4]),
            Some("output \"y\" is another when two requests run together"),
        ),
        ("an output without rows", operator(sum(), &[-1, 4], &[1, 1]), Some("has 1 rows, always")),
        (
            "a fixed batch",
            operator(softmax(1), &[2, 4], &[2, 4]),
            Some("input \"x\" has 2 rows, always"),
        ),
        ("a scalar", small::turns(0), Some("has no dimensions")),
        ("strings", small::identity(DataType::Bytes, &[-1, 8]), None),
        (
            "always the same",
            model(graph(
                &[node("Relu", &["x"], &["a"]), node("Sub", &["a", "a"], &["y"])],
                &[],
                &[port("x", FLOAT, &[-1, 4])],
                &[port("y", FLOAT, &[-1, 4])],
            )),
            Some("a trial tells nothing"),
        ),
        ("halves", small::identity(DataType::Fp16, &[-1, 3]), None),
        ("numbers", small::identity(DataType::Int64, &[-1, 8]), None),
    ] {
        let opened = open_with(&runtime, &bytes, asked(8)).unwrap();
        match (opened.batching(), expected) {
            (Batching::Together { most: 8 }, None) => {}
            (Batching::Alone { why }, Some(part)) if why.contains(part) => {}
            (found, _) => panic!("{what}: {found}, expected {expected:?}"),
        }
    }
    let alone = open_with(&runtime, &perceptron(1), asked(1)).unwrap();
    assert_eq!(alone.batching().to_string(), "every request alone: so it is configured");
}

/// What one model makes of requests of so many rows each, by themselves and at once.
async fn compare(runtime: &Runtime, bytes: &[u8], requests: &[Vec<NamedTensor>], exactly: bool) {
    let alone = open_with(runtime, bytes, asked(1)).unwrap().in_lane(&runtime.lane());
    let opened = open_with(runtime, bytes, asked(64)).unwrap();
    let together = opened.in_lane(&runtime.lane());
    let mut expected = Vec::new();
    for request in requests {
        expected.push(run(&alone, request, &[]).await.unwrap());
    }
    let found = at_once(&together, requests).await;
    for (found, expected) in found.iter().zip(&expected) {
        let found = found.as_ref().unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.tensor.shape(), expected.tensor.shape());
            if exactly {
                assert_eq!(found, expected);
            } else {
                for (one, other) in values(found).zip(values(expected)) {
                    assert!((one - other).abs() <= 1e-5 + 1e-4 * other.abs(), "{one} {other}");
                }
            }
        }
    }
}

fn values(tensor: &NamedTensor) -> impl Iterator<Item = f32> {
    tensor.tensor.data().as_chunks().0.iter().map(|&it| f32::from_le_bytes(it))
}

/// Sends all at once: most find the lane's only thread taken.
async fn at_once(
    model: &Arc<Model>,
    requests: &[Vec<NamedTensor>],
) -> Vec<Result<Vec<NamedTensor>, InferenceError>> {
    let tasks: Vec<_> = requests
        .iter()
        .map(|request| {
            let (model, request) = (Arc::clone(model), request.clone());
            tokio::spawn(async move { run(&model, &request, &[]).await })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

/// Pseudo-random numbers, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn floats(&mut self, count: usize) -> Vec<u8> {
        floats(&(0..count).map(|_| self.below(2001) as f32 / 1000.0 - 1.0).collect::<Vec<_>>())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn together_is_as_alone_for_any_grouping() {
    let Some(runtime) = runtime(1) else { return };
    // Large enough to be handed to a thread, so that others wait meanwhile.
    let network = berth_onnx::networks::dense(7, &[64, 1024, 1024, 10]);
    for seed in 0..12 {
        let mut chance = Chance(seed);
        let requests: Vec<_> = (0..1 + chance.below(40))
            .map(|_| {
                let rows = 1 + chance.below(5);
                let data = chance.floats(rows as usize * 64);
                vec![named("x", FLOAT, &[rows, 64], &data)]
            })
            .collect();
        compare(&runtime, &network, &requests, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_run_as_one() {
    let Some(runtime) = runtime(1) else { return };
    let network = berth_onnx::networks::dense(7, &[64, 2048, 2048, 10]);
    let opened = open_with(&runtime, &network, asked(16)).unwrap();
    let model = opened.in_lane(&runtime.lane());
    let mut chance = Chance(1);
    let request = vec![named("x", FLOAT, &[1, 64], &chance.floats(64))];
    let mut sent = 0;
    // How many find the thread taken is a matter of time; that some do is not.
    let (runs, requests) = loop {
        let requests = vec![request.clone(); 32];
        sent += requests.len();
        assert!(at_once(&model, &requests).await.iter().all(Result::is_ok));
        match opened.take_counts() {
            (0, _) => assert!(sent < 32_000, "nothing ran together"),
            counts => break counts,
        }
    };
    assert!(requests > runs && requests <= 16 * runs, "{requests} requests in {runs} runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_fails_no_other() {
    let Some(runtime) = runtime(1) else { return };
    // An index out of bounds fails the run that it is in.
    let network = berth_onnx::networks::lookup(7, 1000, &[64, 2048, 2048, 10]);
    let opened = open_with(&runtime, &network, asked(64)).unwrap();
    let model = opened.in_lane(&runtime.lane());
    let ids = |id: i64| vec![named("ids", DataType::Int64, &[1], &id.to_le_bytes())];
    let mut tries = 0;
    let mut together = 0;
    while together == 0 || tries < 5 {
        // Every other time none is bad: a run together that fails is not counted as one.
        let bad = if tries % 2 == 0 { 11 } else { 99 };
        let requests: Vec<_> = (0..20).map(|at| ids(if at == bad { 5000 } else { at })).collect();
        for (at, answer) in at_once(&model, &requests).await.iter().enumerate() {
            match answer {
                Ok(_) => assert_ne!(at, bad as usize),
                Err(error) => {
                    assert_eq!(at, bad as usize, "{error}");
                    assert!(error.to_string().contains("5000"), "{error}");
                }
            }
        }
        tries += 1;
        together += opened.take_counts().0;
        assert!(tries < 500, "nothing ran together");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_full_of_slow_runs_holds_up_no_other() {
    let Some(runtime) = runtime(2) else { return };
    let slow = open(&runtime, &small::turns(200_000)).unwrap();
    let forever = [named("n", DataType::Int64, &[], &(i64::MAX / 2).to_le_bytes())];
    let far = Instant::now() + Duration::from_secs(600);
    let held: Vec<_> = (0..50)
        .map(|_| {
            let (slow, forever) = (Arc::clone(&slow), forever.clone());
            tokio::spawn(async move { slow.run(&forever, &[], far).await })
        })
        .collect();
    while slow.queue() != (48, 2) {
        tokio::task::yield_now().await;
    }
    let network = berth_onnx::networks::dense(7, &[64, 1024, 1024, 10]);
    let other = open(&runtime, &network).unwrap();
    let request = vec![named("x", FLOAT, &[1, 64], &Chance(1).floats(64))];
    for _ in 0..20 {
        run(&other, &request, &[]).await.unwrap();
    }
    assert_eq!(slow.queue(), (48, 2));
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_nobody_wants_it_any_more() {
    let Some(runtime) = runtime(1) else { return };
    let bytes = small::turns_of_rows(200_000, "berth.batching", "together");
    let opened = open_with(&runtime, &bytes, asked(8)).unwrap();
    assert_eq!(*opened.batching(), Batching::Together { most: 8 });
    let model = opened.in_lane(&runtime.lane());
    let rows = |n: i64| vec![named("n", DataType::Int64, &[1], &n.to_le_bytes())];
    let begin = |n: i64, time: Duration| {
        let (model, input) = (Arc::clone(&model), rows(n));
        tokio::spawn(async move { model.run(&input, &[], Instant::now() + time).await })
    };
    let (forever, hour) = (i64::MAX / 2, Duration::from_secs(3600));
    // The first holds the lane's only thread until it is given up; meanwhile two wait behind it.
    let first = begin(forever, hour);
    while model.queue() != (0, 1) {
        tokio::task::yield_now().await;
    }
    let (second, third) = (begin(forever, hour), begin(forever, hour));
    while model.queue() != (2, 1) {
        tokio::task::yield_now().await;
    }
    first.abort();
    while model.queue() != (0, 1) {
        tokio::task::yield_now().await;
    }
    // Now both are in one run, which goes on for the one that is left.
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    assert!(!third.is_finished());
    assert_eq!(model.queue(), (0, 1));
    third.abort();
    // It has been stopped, or this would wait for ever.
    assert!(run(&model, &rows(3), &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_gone_leaves_nothing_in_the_queue() {
    let Some(runtime) = runtime(1) else { return };
    let model = open(&runtime, &small::turns(200_000)).unwrap();
    let begin = || {
        let model = Arc::clone(&model);
        let forever = [named("n", DataType::Int64, &[], &(i64::MAX / 2).to_le_bytes())];
        let far = Instant::now() + Duration::from_secs(600);
        tokio::spawn(async move { model.run(&forever, &[], far).await })
    };
    let first = begin();
    while model.queue() != (0, 1) {
        tokio::task::yield_now().await;
    }
    let waiting: Vec<_> = (0..8).map(|_| begin()).collect();
    while model.queue() != (8, 1) {
        tokio::task::yield_now().await;
    }
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    for task in waiting {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    // The first goes on meanwhile.
    assert_eq!(model.queue(), (0, 1));
    first.abort();
}

/// Held for more of them for so long, up to 4 rows.
fn held(runtime: &Runtime, delay: Duration) -> Arc<Opened> {
    let network = berth_onnx::networks::dense(7, &[64, 2048, 2048, 10]);
    open_with(runtime, &network, BatchOptions { delay, ..asked(4) }).unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

/// Begins a run that has so much time.
fn begin(
    model: &Arc<Model>,
    input: &[NamedTensor],
    time: Duration,
) -> tokio::task::JoinHandle<Result<Vec<NamedTensor>, InferenceError>> {
    let (model, input) = (Arc::clone(model), input.to_vec());
    tokio::spawn(async move { model.run(&input, &[], Instant::now() + time).await })
}

async fn until_queue(model: &Model, queue: (usize, usize)) {
    let begin = Instant::now();
    while model.queue() != queue {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", model.queue());
        tokio::task::yield_now().await;
    }
}

/// Begins runs with so much time while the lane's only thread is taken, so that they wait together.
async fn begin_together(
    runtime: &Runtime,
    lane: &Arc<berth_inference::Lane>,
    runs: &[(&Arc<Model>, &[NamedTensor], Duration)],
) -> Vec<tokio::task::JoinHandle<Result<Vec<NamedTensor>, InferenceError>>> {
    let slow = open_with(runtime, &small::turns(200_000), BatchOptions::default()).unwrap();
    let slow = slow.in_lane(lane);
    let forever = [named("n", DataType::Int64, &[], &(i64::MAX / 2).to_le_bytes())];
    let first = begin(&slow, &forever, HOUR);
    until_queue(&slow, (0, 1)).await;
    let mut begun = Vec::new();
    for (model, input, time) in runs {
        begun.push(begin(model, input, *time));
        until_queue(&slow, (begun.len(), 1)).await;
    }
    first.abort();
    begun
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_more_holds_up_no_other_model_and_runs_when_it_is_full() {
    let Some(runtime) = runtime(1) else { return };
    let lane = runtime.lane();
    let opened = held(&runtime, HOUR);
    let (model, other) = (opened.in_lane(&lane), held(&runtime, HOUR).in_lane(&lane));
    let row = [named("x", FLOAT, &[1, 64], &Chance(1).floats(64))];
    let runs = [(&model, &row[..], HOUR), (&model, &row[..], HOUR), (&other, &row[..], HOUR)];
    let mut begun = begin_together(&runtime, &lane, &runs).await;
    assert!(begun.pop().unwrap().await.unwrap().is_ok());
    until_queue(&model, (2, 0)).await;
    begun.extend([begin(&model, &row, HOUR), begin(&model, &row, HOUR)]);
    for run in begun {
        assert!(run.await.unwrap().is_ok());
    }
    assert_eq!(opened.take_counts(), (1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_held_for_less_than_the_time_that_it_has() {
    let Some(runtime) = runtime(1) else { return };
    let lane = runtime.lane();
    let opened = held(&runtime, HOUR);
    let model = opened.in_lane(&lane);
    let row = [named("x", FLOAT, &[1, 64], &Chance(1).floats(64))];
    for times in [[4, 3600], [3600, 4]] {
        let runs = times.map(|time| (&model, &row[..], Duration::from_secs(time)));
        for run in begin_together(&runtime, &lane, &runs).await {
            assert!(run.await.unwrap().is_ok());
        }
        assert_eq!(opened.take_counts(), (1, 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_runs_in_time_whoever_else_begins_meanwhile() {
    let Some(runtime) = runtime(1) else { return };
    let lane = runtime.lane();
    let model = held(&runtime, Duration::from_secs(2)).in_lane(&lane);
    let row = [named("x", FLOAT, &[1, 64], &Chance(1).floats(64))];
    let run = (&model, &row[..], HOUR);
    let held = begin_together(&runtime, &lane, &[run, run]).await;
    until_queue(&model, (2, 0)).await;
    // Whichever thread has set itself a time has something else to do now.
    let slow = open_with(&runtime, &small::turns(200_000), BatchOptions::default()).unwrap();
    let forever = [named("n", DataType::Int64, &[], &(i64::MAX / 2).to_le_bytes())];
    let mut others = Vec::new();
    for _ in 0..4 {
        let slow = slow.in_lane(&runtime.lane());
        others.push(begin(&slow, &forever, HOUR));
        until_queue(&slow, (0, 1)).await;
    }
    for run in held {
        assert!(run.await.unwrap().is_ok());
    }
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_lanes_hold_up_no_other_however_many_they_are() {
    let Some(runtime) = runtime(1) else { return };
    let opened = open_with(&runtime, &small::turns(200_000), BatchOptions::default()).unwrap();
    let forever = [named("n", DataType::Int64, &[], &(i64::MAX / 2).to_le_bytes())];
    let mut slow = Vec::new();
    for _ in 0..8 {
        let model = opened.in_lane(&runtime.lane());
        slow.extend([begin(&model, &forever, HOUR), begin(&model, &forever, HOUR)]);
        until_queue(&model, (1, 1)).await;
    }
    let other = opened.in_lane(&runtime.lane());
    let few = [named("n", DataType::Int64, &[], &3i64.to_le_bytes())];
    for _ in 0..5 {
        run(&other, &few, &[]).await.unwrap();
    }
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}
