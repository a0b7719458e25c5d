//! Whose turn it is, step by step, without threads.

use std::path::Path;

use berth_onnx::encode::{graph, model_with, node, port};
use berth_onnx::small;
use berth_tensor::{DataType, Tensor};
use tokio::sync::oneshot::Receiver;

use super::*;
use crate::Runtime;
use crate::batch::tests::{entry, open, runtime};
use crate::deadline::Answer;
use crate::runtime::Lanes;

/// The steps of one test.
struct Steps {
    state: State,
    begin: Instant,
    lanes: Vec<Arc<Share>>,
    models: Vec<Arc<Opened>>,
    /// Who waits for an answer.
    answers: Vec<Receiver<Answer>>,
}

/// Seconds from the beginning.
type At = u64;

enum Step {
    /// In a lane, for one of the models, so many columns, held until then.
    Submit(usize, usize, u64, At),
    /// Then these begin, as so many in a lane; or nothing until some time, or at all.
    Begins(At, usize, usize),
    Until(At, At),
    Nothing(At),
    /// A run in a lane ends.
    Ends(usize),
    /// So many lanes are known.
    Known(usize),
}

use Step::*;

impl Steps {
    /// In which so many runs of a lane go on at once.
    fn new(runtime: &Runtime, folder: &Path, each: usize) -> Self {
        let file = folder.join("model.onnx");
        let port = |name| port(name, DataType::Fp32, &[-1, -1]);
        let identity = graph(&[node("Identity", &["x"], &["y"])], &[], &[port("x")], &[port("y")]);
        std::fs::write(&file, model_with(identity, "berth.batching", "together")).unwrap();
        let models = [1, 4, 4].map(|most| open(runtime, &file, most)).into();
        // Among lanes alike, the first is next.
        let lane = |number| Arc::new(Share { number, used: AtomicU64::new(number) });
        Self {
            state: State::new(each),
            begin: Instant::now(),
            lanes: (0..8).map(lane).collect(),
            models,
            answers: Vec::new(),
        }
    }

    fn at(&self, at: At) -> Instant {
        self.begin + Duration::from_secs(at)
    }

    fn take(&mut self, step: Step) {
        match step {
            Submit(lane, model, columns, due) => {
                let data = vec![0; 4 * columns as usize];
                let input = Tensor::new(DataType::Fp32, vec![1, columns], data).unwrap();
                let (entry, answer) = entry(&self.models[model], &input, self.at(due));
                self.state.submit(&self.lanes[lane], entry).unwrap();
                self.answers.push(answer);
            }
            Begins(at, lane, count) => match self.state.next(self.at(at)) {
                Next::Run(found, entries) => {
                    assert_eq!((found.number, entries.len()), (lane as u64, count));
                }
                _ => panic!("nothing begins"),
            },
            Until(at, due) => match self.state.next(self.at(at)) {
                Next::At(found) => assert_eq!(found, self.at(due)),
                _ => panic!("it does not wait until then"),
            },
            Nothing(at) => assert!(matches!(self.state.next(self.at(at)), Next::Wait)),
            Ends(lane) => self.state.finished(&self.lanes[lane], Duration::from_secs(1)),
            Known(count) => assert_eq!(self.state.busy.len(), count),
        }
    }
}

fn check(each: usize, steps: impl IntoIterator<Item = Step>) {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut state = Steps::new(&runtime, folder.path(), each);
    steps.into_iter().for_each(|step| state.take(step));
}

#[test]
fn threads_are_started_for_lanes_that_find_none_and_go_again() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, small::turns(0)).unwrap();
    let opened = open(&runtime, &file, 1);
    let forever = (i64::MAX / 2).to_le_bytes().to_vec();
    let forever = Tensor::new(DataType::Int64, Vec::new(), forever).unwrap();
    let lanes = runtime.lanes(&Device::default()).unwrap();
    let Lanes { executor, deadlines } = &*lanes;
    let until_there_are = |threads: std::ops::RangeInclusive<usize>| {
        while !threads.contains(&lock(&executor.shared.state).threads) {
            std::thread::yield_now();
        }
    };
    for _ in 0..2 {
        until_there_are(2..=2);
        let begin = |_| {
            let (entry, _) = entry(&opened, &forever, Instant::now());
            let far = Instant::now() + Duration::from_secs(3600);
            let watched = deadlines.watch(far, Arc::clone(&entry.ticket));
            executor.submit(&executor.share(), entry).unwrap();
            watched
        };
        let runs: Vec<_> = (0..8).map(begin).collect();
        // One looks out for more, and two that ran into each other may have started one each.
        until_there_are(9..=10);
        drop(runs);
    }
    until_there_are(2..=2);
}

/// The models: of one every request runs alone, of the others up to 4 together.
const ALONE: usize = 0;
const ONE: usize = 1;
const OTHER: usize = 2;

fn alone(lane: usize) -> Step {
    Submit(lane, ALONE, 1, 0)
}

fn begins(lane: usize) -> Step {
    Begins(0, lane, 1)
}

#[test]
fn any_number_of_slow_lanes_holds_up_no_other() {
    let slow = (0..6).flat_map(|lane| [alone(lane), alone(lane)]);
    let begin = (0..6).map(begins).chain([Nothing(0)]);
    let other = [alone(7), begins(7), Nothing(0), Ends(3), begins(3), Nothing(0)];
    check(1, slow.chain(begin).chain(other));
}

#[test]
fn what_no_lane_has_a_right_to_is_shared() {
    let steps = [
        vec![alone(0), alone(0), alone(0), alone(1), alone(1), alone(1)],
        vec![begins(0), begins(1), begins(0), begins(1), Nothing(0)],
        // Four are under way: from here on each begins the first of its own.
        vec![alone(2), alone(2), begins(2), Nothing(0), alone(3), begins(3), Nothing(0)],
        vec![Ends(0), Nothing(0), Ends(0), begins(0), Nothing(0)],
        // Three: one more, of the lane that has had less time.
        vec![Ends(1), Nothing(0), Ends(3), begins(2), Nothing(0)],
        vec![Ends(1), begins(1), Nothing(0)],
    ];
    check(2, steps.into_iter().flatten());
}

#[test]
fn lanes_at_rest_are_not_kept() {
    let steps = [
        vec![alone(0), alone(1), alone(1), Known(2), begins(0), begins(1), Known(2)],
        // While the other has more to do.
        vec![Ends(0), Known(1), Ends(1), Known(1), begins(1), Ends(1), Known(0)],
    ];
    check(1, steps.into_iter().flatten());
}

#[test]
fn what_is_held_for_more_holds_up_nothing_else() {
    let one = |due| Submit(0, ONE, 1, due);
    let other = |due| Submit(0, OTHER, 1, due);
    for steps in [
        // Nothing is held alone, nor when no more would fit.
        vec![one(10), begins(0), Nothing(0)],
        vec![one(10), one(10), one(10), one(10), Begins(0, 0, 4)],
        // Until the first of them is due, which need not be the one that came first.
        vec![one(10), one(11), Until(0, 10), Until(9, 10), Begins(10, 0, 2)],
        vec![one(10), one(11), Until(0, 10), one(3), Until(0, 3), Begins(3, 0, 3)],
        // Another model of the lane.
        vec![one(10), one(10), other(10), begins(0), Until(0, 10)],
        vec![one(10), one(10), other(7), other(8), Until(0, 7), Begins(7, 0, 2), Until(7, 10)],
        // What does not fit is behind, and has its time as well.
        vec![one(10), one(10), Submit(0, ONE, 2, 4), Until(0, 4), Begins(4, 0, 2), begins(0)],
        // Another lane.
        vec![one(10), one(10), alone(1), begins(1), Until(0, 10)],
        vec![one(10), one(10), Submit(1, ONE, 1, 7), Submit(1, ONE, 1, 7), Until(0, 7)],
    ] {
        check(4, steps);
    }
}
