//! The walk: what it finds, what it refuses, what it reads.

use std::io::Cursor;

use berth_onnx::encode::{Message, constant, external, graph, model, node, subgraph};
use berth_tensor::DataType;

use super::*;

const FP32: DataType = DataType::Fp32;

fn beside(name: &str) -> Message {
    external("w", FP32, &[1], (name, 0, 4))
}

fn with(constants: &[Message]) -> Vec<u8> {
    model(graph(&[], constants, &[], &[]))
}

fn check(what: &str, model: &[u8], expected: Result<&[&str], &str>) {
    match (named(Cursor::new(model)), expected) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{what}");
        }
        (Err(error), Err(part)) => {
            let error = error.to_string();
            assert!(error.contains(part), "{what}: {error}");
        }
        (found, _) => panic!("{what}: {found:?}"),
    }
}

#[test]
fn names_are_found_wherever_a_tensor_may_be() {
    check("none", &with(&[constant("w", FP32, &[1], &[0; 4])]), Ok(&[]));
    check("two", &with(&[beside("b"), beside("a/c"), beside("./b")]), Ok(&["a/c", "b"]));
    let attribute = |field, held: Message| {
        let held = Message::default().bytes(1, "value").bytes(field, held);
        node("Constant", &[], &["w"]).bytes(5, held)
    };
    let sparse = || Message::default().bytes(1, beside("in sparse"));
    let inner = graph(&[attribute(10, beside("in a list"))], &[beside("in a graph")], &[], &[]);
    let nodes = [
        attribute(5, beside("in an attribute")),
        subgraph(node("If", &["c"], &["y"]), "then_branch", &inner),
        attribute(11, graph(&[attribute(22, sparse())], &[], &[], &[])),
    ];
    let names = ["in a graph", "in a list", "in an attribute", "in sparse"];
    check("everywhere", &model(graph(&nodes, &[], &[], &[])), Ok(&names));
    let function = Message::default().bytes(1, "f").bytes(7, attribute(5, beside("there")));
    check("a function", Message::default().bytes(25, function).as_ref(), Ok(&["there"]));
    // Groups and fixed numbers, which ONNX knows none of, are passed over.
    let mut strange = vec![0x53, 0x53, 0x0d, 1, 2, 3, 4, 0x54, 0x54, 0x59, 1, 2, 3, 4, 5, 6, 7, 8];
    strange.extend(with(&[beside("w")]));
    check("unknown fields", &strange, Ok(&["w"]));
    // Cut off, it is the runtime's to refuse.
    let whole = with(&[beside("first"), beside("second")]);
    check("cut off", &whole[..whole.len() / 2], Ok(&[]));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let long = "n".repeat(NAME_LENGTH as usize + 1);
    for name in [
        "../w",
        "a/../../w",
        "a/../w",
        "/etc/passwd",
        "",
        ".",
        "..",
        "*/_ORT_MEM_ADDR_/*",
        "a\0b",
        &long,
    ] {
        check(name, &with(&[beside(name)]), Err("a data file lies beside the model"));
        // Not even where it would not be looked at.
        let inline = beside(name).number(14, 0);
        check(name, &with(&[inline]), Err("a data file lies beside the model"));
    }
    check("inline after all", &with(&[beside("w").number(14, 0)]), Ok(&[]));
    let many = |count| (0..count).map(|number| beside(&number.to_string())).collect::<Vec<_>>();
    assert_eq!(named(Cursor::new(with(&many(MOST)))).unwrap().len(), MOST);
    check("many", &with(&many(MOST + 1)), Err("more than 1000 files"));
}

/// Counts what is read of a file.
struct Counted(Cursor<Vec<u8>>, u64);

impl Read for &mut Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1 += read as u64;
        Ok(read)
    }
}

impl Seek for &mut Counted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn weights_are_not_read() {
    let weights = constant("w", FP32, &[1 << 20], &vec![0; 4 << 20]);
    let mut file = Counted(Cursor::new(with(&[weights, beside("w")])), 0);
    assert_eq!(named(&mut file).unwrap().len(), 1);
    assert!(file.1 < 64 << 10, "{} bytes were read", file.1);
}

/// SplitMix64.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) as usize
}

#[test]
fn whatever_the_bytes_the_walk_ends_with_plain_names() {
    let good = with(&[beside("a/b"), beside("../c"), constant("n", FP32, &[1], &[0; 4])]);
    let mut state = 7;
    for round in 0..50_000 {
        let mut bytes: Vec<u8> = match round % 2 {
            0 => good.clone(),
            _ => (0..random(&mut state) % 300).map(|_| random(&mut state) as u8).collect(),
        };
        for _ in 0..random(&mut state) % 8 {
            let length = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(random(&mut state) % length) {
                *byte = random(&mut state) as u8;
            }
        }
        let length = bytes.len() as u64;
        let mut file = Counted(Cursor::new(bytes), 0);
        let found = named(&mut file).unwrap_or_default();
        assert!(found.keys().all(|name| plain_name(name).as_ref() == Some(name)), "{found:?}");
        assert!(file.1 <= length, "{} of {length} bytes were read", file.1);
    }
    // Messages in each other, deeper than any reader goes.
    let mut deep = graph(&[], &[beside("w")], &[], &[]);
    for _ in 0..2000 {
        deep = graph(&[subgraph(node("If", &[], &[]), "then_branch", &deep)], &[], &[], &[]);
    }
    check("deep", &model(deep), Ok(&[]));
}
