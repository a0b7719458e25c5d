//! Deadlines, callers that go away, and more work than there is room for.

use berth_inference::keep_runs_here;
use berth_onnx::small::turns;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use super::*;

/// More turns than any test waits for.
const FOR_EVER: i64 = i64::MAX / 2;
/// Turns that make a model too slow for its caller's thread.
const SLOW: i64 = 200_000;

fn count(turns: i64) -> [NamedTensor; 1] {
    [named("n", DataType::Int64, &[], &turns.to_le_bytes())]
}

/// Begins a run and says how it stands.
fn begin<F: Future>(run: &mut Pin<Box<F>>) -> Poll<F::Output> {
    run.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

async fn answers(model: &Model) {
    let output = run(model, &count(3), &[]).await.unwrap();
    assert_eq!(output[0].tensor.data().as_ref(), 3i64.to_le_bytes());
}

#[tokio::test]
async fn a_deadline_ends_a_run_wherever_it_happens() {
    let Some(runtime) = runtime(1) else { return };
    for extra in [0, SLOW] {
        let model = open(&runtime, &turns(extra)).unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        for _ in 0..2 {
            assert_eq!(
                model.run(&count(FOR_EVER), &[], soon()).await,
                Err(InferenceError::Timeout)
            );
            // The thread is free again.
            answers(&model).await;
        }
        assert_eq!(model.run(&count(0), &[], Instant::now()).await, Err(InferenceError::Timeout));
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_callers_that_go_make_room() {
    let Some(runtime) = runtime(1) else { return };
    let options = BatchOptions { queue: 1, ..BatchOptions::default() };
    let opened = open_with(&runtime, &turns(SLOW), options).unwrap();
    let model = opened.in_lane(&runtime.lane());
    let input = count(FOR_EVER);
    let far = Instant::now() + Duration::from_secs(600);
    let mut runs: Vec<_> = (0..3).map(|_| Box::pin(model.run(&input, &[], far))).collect();
    let begun: Vec<_> = runs.iter_mut().map(begin).collect();
    // One thread and one place: of three that never end, at least one finds no room.
    assert_eq!(begun[0], Poll::Pending);
    assert!(begun[1..].contains(&Poll::Ready(Err(InferenceError::Overloaded))), "{begun:?}");
    assert!(
        begun
            .iter()
            .all(|run| matches!(run, Poll::Pending | Poll::Ready(Err(InferenceError::Overloaded)))),
        "{begun:?}"
    );
    drop(runs);
    // Had those not been ended, this would find the thread taken and the queue full.
    answers(&model).await;
}

#[tokio::test]
async fn a_small_model_stays_with_its_caller_until_it_is_none() {
    let Some(runtime) = runtime(1) else { return };
    let model = open(&runtime, &turns(0)).unwrap();
    let (quick, slow) = (count(0), count(SLOW));
    let far = || Instant::now() + Duration::from_secs(600);
    let stays =
        |input: &[NamedTensor]| begin(&mut Box::pin(model.run(input, &[], far()))).is_ready();
    // On a busy machine one run or another may take long; not all of them.
    assert!((0..10_000).any(|_| stays(&quick)));
    assert!((0..10).any(|_| !stays(&slow)));
}

#[tokio::test]
async fn what_is_slow_for_some_inputs_leaves_its_callers_thread() {
    let Some(runtime) = runtime(1) else { return };
    let lane = runtime.lane();
    let in_lane =
        |bytes| open_with(&runtime, bytes, BatchOptions::default()).unwrap().in_lane(&lane);
    let (model, other) = (in_lane(&turns(0)), in_lane(&turns(SLOW)));
    let far = |seconds| Instant::now() + Duration::from_secs(seconds);
    let (quick, forever) = (count(0), count(FOR_EVER));
    // Only what stays with its caller has an answer while the lane's only thread is taken.
    let stays = async |input: &[NamedTensor]| {
        let mut taken = Box::pin(other.run(&forever, &[], far(600)));
        assert_eq!(begin(&mut taken), Poll::Pending);
        while other.queue() != (0, 1) {
            tokio::task::yield_now().await;
        }
        begin(&mut Box::pin(model.run(input, &[], far(5)))).is_ready()
    };
    // The second time it takes twice as long until it is trusted again.
    for untrusted in [60, 120] {
        let mut leaves = false;
        // A run that the system interrupts just before looks slow, and then a slow one is no surprise.
        for _ in 0..5 {
            while !stays(&quick).await {
                answers(&model).await;
            }
            // It would hold its caller's thread until its time is up.
            assert!(!stays(&forever).await);
            while !stays(&quick).await {
                answers(&model).await;
            }
            // One that takes long all the same has its answer.
            assert_eq!(run(&model, &count(2 * SLOW), &[]).await.map(drop), Ok(()));
            for _ in 0..untrusted {
                answers(&model).await;
            }
            leaves = !stays(&quick).await;
            if leaves {
                break;
            }
        }
        assert!(leaves, "trusted again after {untrusted} quick runs");
    }
}

#[tokio::test]
async fn what_was_stopped_on_its_callers_thread_keeps_the_next_away_from_it() {
    let Some(runtime) = runtime(1) else { return };
    let options = BatchOptions { queue: 1, ..BatchOptions::default() };
    let opened = open_with(&runtime, &turns(0), options).unwrap();
    let (model, elsewhere) = (opened.in_lane(&runtime.lane()), opened.in_lane(&runtime.lane()));
    let far = || Instant::now() + Duration::from_secs(600);
    let (quick, forever) = (count(0), count(FOR_EVER));
    // It is trusted, and slow for this input alone; its end, after which it would be known as slow,
    // does not come.
    let mut first = Box::pin(model.run(&forever, &[], far()));
    assert_eq!(begin(&mut first), Poll::Pending);
    while model.queue() != (0, 1) {
        tokio::task::yield_now().await;
    }
    let mut second = Box::pin(model.run(&quick, &[], far()));
    assert_eq!(begin(&mut second), Poll::Pending);
    let refused = || begin(&mut Box::pin(model.run(&quick, &[], far())));
    assert_eq!(refused(), Poll::Ready(Err(InferenceError::Overloaded)));
    // Quick runs of others have it trusted again, and yet it has no room here.
    while begin(&mut Box::pin(elsewhere.run(&quick, &[], far()))).is_pending() {
        answers(&elsewhere).await;
    }
    assert_eq!(refused(), Poll::Ready(Err(InferenceError::Overloaded)));
}

#[tokio::test]
async fn a_thread_that_keeps_its_runs_waits_for_no_other() {
    let Some(runtime) = runtime(1) else { return };
    let lane = runtime.lane();
    let opened = open_with(&runtime, &turns(SLOW), BatchOptions::default()).unwrap();
    let slow = &*opened.in_lane(&lane);
    let far = || Instant::now() + Duration::from_secs(600);
    let (quick, forever) = (count(3), count(FOR_EVER));
    let mut taken = Box::pin(slow.run(&forever, &[], far()));
    assert_eq!(begin(&mut taken), Poll::Pending);
    while slow.queue() != (0, 1) {
        tokio::task::yield_now().await;
    }
    // At first it lets others have the thread.
    let at_once = || {
        let mut run = Box::pin(slow.run(&quick, &[], far()));
        assert_eq!(begin(&mut run), Poll::Pending);
        begin(&mut run).map(|answer| answer.unwrap()[0].tensor.data().to_vec())
    };
    assert_eq!(at_once(), Poll::Pending);
    let kept = thread::scope(|scope| {
        let keeps = || {
            keep_runs_here();
            let soon = Instant::now() + Duration::from_millis(20);
            let mut ends = Box::pin(slow.run(&forever, &[], soon));
            assert_eq!(begin(&mut ends), Poll::Pending);
            assert_eq!(begin(&mut ends), Poll::Ready(Err(InferenceError::Timeout)));
            at_once()
        };
        scope.spawn(keeps).join().unwrap()
    });
    assert_eq!(kept, Poll::Ready(3i64.to_le_bytes().to_vec()));
    assert_eq!(at_once(), Poll::Pending);
}
