//! What comes of inferences that run as one, group by group, without threads.

use std::path::Path;
use std::sync::atomic::Ordering;

use berth_onnx::networks::lookup;
use berth_tensor::DataType;
use tokio::sync::oneshot::{self, Receiver};

use super::*;
use crate::deadline::Answer;
use crate::{BatchOptions, Batching, ModelOptions, Runtime, RuntimeOptions};

/// A runtime, or none where there is no library to test with.
pub(crate) fn runtime() -> Option<Runtime> {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        assert!(std::env::var_os("CI").is_none(), "ORT_DYLIB_PATH is not set");
        eprintln!("skipped: ORT_DYLIB_PATH names no ONNX Runtime to test with");
        return None;
    }
    Some(Runtime::load(None, RuntimeOptions { each: 1, trials: None }).unwrap())
}

/// A model of which up to so many rows run together.
pub(crate) fn open(runtime: &Runtime, file: &Path, most: u32) -> Arc<Opened> {
    let batch = BatchOptions { most: Some(most), ..BatchOptions::default() };
    let options = ModelOptions { batch, ..ModelOptions::default() };
    runtime.open("tested@1", file, &options).unwrap()
}

/// A request for all outputs of a model that has one input, and where its answer comes.
pub(crate) fn entry(
    opened: &Arc<Opened>,
    input: &Tensor,
    due: Instant,
) -> (Entry, Receiver<Answer>) {
    let (reply, answer) = oneshot::channel();
    let outputs = (0..opened.outputs().len()).collect();
    let entry = Entry {
        ticket: Ticket::new(Some(reply), None),
        opened: Arc::clone(opened),
        plan: Plan { inputs: smallvec![0], outputs },
        tensors: vec![input.clone()],
        due,
    };
    (entry, answer)
}

/// What requests come to that run as one.
fn run_as_one(opened: &Arc<Opened>, inputs: &[&Tensor]) -> Vec<Answer> {
    let (entries, answers): (Vec<_>, Vec<_>) =
        inputs.iter().map(|input| entry(opened, input, Instant::now())).unzip();
    run(entries);
    answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect()
}

/// Pseudo-random numbers, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

#[test]
fn digits_come_to_exactly_the_same_in_any_group() {
    let Some(runtime) = runtime() else { return };
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits");
    for file in ["digits-1.onnx", "digits-2.onnx"] {
        let opened = open(&runtime, &examples.join(file), 64);
        assert_eq!(*opened.batching(), Batching::Together { most: 64 });
        for seed in 0..200 {
            let mut chance = Chance(seed);
            // Pixels as the example has them, or numbers of any size.
            let number = |chance: &mut Chance| match seed % 2 {
                0 => chance.below(17) as f32 / 16.0,
                _ => (chance.below(2001) as f32 - 1000.0) / 7.0,
            };
            let mut requests: Vec<Tensor> = (0..1 + chance.below(24))
                .map(|_| {
                    let rows = 1 + chance.below(5);
                    let data: Vec<u8> =
                        (0..64 * rows).flat_map(|_| number(&mut chance).to_le_bytes()).collect();
                    Tensor::new(DataType::Fp32, vec![rows as u64, 64], data).unwrap()
                })
                .collect();
            let alone: Vec<_> = requests.iter().map(|it| run_as_one(&opened, &[it])).collect();
            let mut at = 0;
            while !requests.is_empty() {
                let group = 1 + chance.below(requests.len());
                let others = requests.split_off(group);
                let group: Vec<_> = requests.iter().collect();
                for (found, expected) in run_as_one(&opened, &group).iter().zip(&alone[at..]) {
                    assert!(found.is_ok());
                    assert_eq!(found, &expected[0], "{file}, seed {seed}, {} in one", group.len());
                }
                at += group.len();
                requests = others;
            }
        }
    }
}

#[test]
fn what_cannot_be_run_is_found_by_halves() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    // An index out of bounds fails the run that it is in.
    std::fs::write(&file, lookup(7, 100, &[8, 8])).unwrap();
    let opened = open(&runtime, &file, 64);
    let row = |id: i64| Tensor::new(DataType::Int64, vec![1], id.to_le_bytes().to_vec()).unwrap();
    // How many at once, which of them are bad, how many runs fail of those with several, and how
    // many of those answer how many.
    for (count, bad, failed, answered) in [
        (16, vec![], 0, (1, 16)),
        (16, vec![0], 4, (3, 14)),
        (16, vec![6], 4, (3, 14)),
        (16, vec![15], 4, (3, 14)),
        (16, vec![0, 1], 4, (3, 14)),
        (16, vec![0, 15], 7, (4, 12)),
        (16, (0..16).collect(), 15, (0, 0)),
        (7, vec![3], 3, (2, 5)),
        (2, vec![1], 1, (0, 0)),
    ] {
        let rows: Vec<_> =
            (0..count).map(|at| row(if bad.contains(&at) { 5000 } else { at })).collect();
        let answers = run_as_one(&opened, &rows.iter().collect::<Vec<_>>());
        let wrong = (0..).zip(&answers).filter(|(_, answer)| answer.is_err());
        assert_eq!(wrong.map(|(at, _)| at).collect::<Vec<_>>(), bad, "{count}");
        let counts = (opened.failed.swap(0, Ordering::Relaxed), opened.take_counts());
        assert_eq!(counts, (failed, answered), "{count} of which {bad:?} are bad");
    }
}
