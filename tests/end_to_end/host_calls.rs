//! Host calls that no SDK makes: any of them, in any order, with any words as arguments.

use std::fs;
use std::path::Path;

use crate::support::files::{guest, variant};
use crate::support::{Host, Random, Request, beside, onnx};

/// The programs that the fuzzer keeps.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/host_calls");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Up to three programs after one another, with a few bytes changed.
fn mixed(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut program = Vec::new();
    for _ in 0..1 + random.below(3) {
        program.extend_from_slice(&corpus[random.below(corpus.len() as u64) as usize]);
    }
    for _ in 0..random.below(3) {
        let at = random.below(program.len() as u64) as usize;
        program[at] = random.below(256) as u8;
    }
    program
}

#[test]
pub(crate) fn no_sequence_of_host_calls_harms_the_host() {
    let host = Host::with_healthy(&["--processor-memory", "64", "--processor-cpu", "2000"]);
    host.push("plugin", "host-calls", &guest("host-calls"));
    host.push_model("adder", &onnx::adder(1.0));
    let main = variant("main", "host-calls@1", "default = \"adder@1\"", "");
    host.apply(&format!("name = \"calls\"\n{main}"));

    let good =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/host_calls/computes"));
    let good = Request::invoke("calls", good.unwrap());
    let result = [2f32, 3.0].map(f32::to_le_bytes).concat();
    let corpus = corpus();
    let mut random = Random::seeded();
    let programs: Vec<_> = (0..500).map(|_| mixed(&mut random, &corpus)).collect();
    let mut connection = host.connect();
    let (mut answered, mut stopped) = (0, 0);
    beside(&host, &Request::healthy(), |_| {
        for program in corpus.iter().chain(&programs) {
            let answer = connection.send(&Request::invoke("calls", program)).expect("an answer");
            match answer.status {
                200 => answered += 1,
                500 | 504 => stopped += 1,
                other => panic!("{other} {} for {program:?}", answer.text()),
            }
            let next = connection.send(&good).expect("the next answer");
            assert_eq!(next.status, 200, "{} after {program:?}", next.text());
            assert_eq!(next.body[4 * 60..][..8], result, "after {program:?}");
        }
    });
    assert!(answered > 20 && stopped > 20, "{answered} answered, {stopped} stopped");
    let log = host.log();
    assert!(!log.lines().any(|line| line.starts_with("thread ")), "the host panicked: {log}");
}
