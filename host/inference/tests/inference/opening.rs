//! What opens, what is refused, and in which words.

use berth_onnx::encode::*;
use berth_onnx::networks::{dense, dense_beside, perceptron};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

fn check_library(path: &Path, parts: &[&str]) {
    let error = Runtime::load(Some(path), RuntimeOptions::default()).unwrap_err().to_string();
    assert!(!error.contains('\n') && parts.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn a_library_that_will_not_do_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    check_library(&file("none.so"), &["no ONNX Runtime at", "none.so", "ORT_DYLIB_PATH"]);
    check_library(folder.path(), &["no ONNX Runtime at", folder.path().to_str().unwrap()]);
    std::fs::write(file("text.so"), "text ".repeat(1000)).unwrap();
    if let Some(runtime) = std::env::var_os("ORT_DYLIB_PATH") {
        let whole = std::fs::read(runtime).unwrap();
        std::fs::write(file("half.so"), &whole[..whole.len() / 2]).unwrap();
        check_library(&file("half.so"), &["does not load", "half.so", "bytes and lacks"]);
    }
    check_library(
        &file("text.so"),
        &["does not load", "text.so", "invalid ELF header", "ORT_DYLIB_PATH"],
    );
    check_library(
        &library(folder.path(), "other", "#[unsafe(no_mangle)] pub extern \"C\" fn other() {}"),
        &["other.so", "not ONNX Runtime"],
    );
    check_library(&library(folder.path(), "empty", EMPTY), &["empty.so", "not ONNX Runtime"]);
    check_library(&library(folder.path(), "bare", BARE), &["bare.so", "not ONNX Runtime"]);
    check_library(&library(folder.path(), "mute", MUTE), &["mute.so", "not ONNX Runtime"]);
    let made = Command::new("mkfifo").arg(file("pipe.so")).status().unwrap();
    assert!(made.success());
    check_library(&file("pipe.so"), &["does not load", "pipe.so", "it is not a file"]);
    let mut foreign = std::fs::read(file("empty.so")).unwrap();
    // The processor, as ELF numbers them: one that nobody builds for.
    foreign[18..20].copy_from_slice(&[0xfe, 0xfe]);
    std::fs::write(file("foreign.so"), foreign).unwrap();
    check_library(&file("foreign.so"), &["does not load", "foreign.so", "another processor"]);
    check_library(
        &library(folder.path(), "old", OLD),
        &["old.so", "1.10.0", "too old", "install 1.22"],
    );
}

/// Answers no API at all.
const EMPTY: &str =
    "#[unsafe(no_mangle)] pub extern \"C\" fn OrtGetApiBase() -> *const u8 { std::ptr::null() }";

/// Answers one with no functions.
const BARE: &str = r#"
static BASE: [usize; 2] = [0, 0];
#[unsafe(no_mangle)] pub extern "C" fn OrtGetApiBase() -> *const [usize; 2] { &BASE }
"#;

/// Has no version.
const MUTE: &str = r#"
#[repr(C)] pub struct Base(extern "C" fn(u32) -> *const u8, extern "C" fn() -> *const u8);
extern "C" fn api(_: u32) -> *const u8 { std::ptr::null() }
extern "C" fn version() -> *const u8 { std::ptr::null() }
static BASE: Base = Base(api, version);
#[unsafe(no_mangle)] pub extern "C" fn OrtGetApiBase() -> *const Base { &BASE }
"#;

/// Answers as a version of ONNX Runtime does that lacks the API asked for.
const OLD: &str = r#"
#[repr(C)] pub struct Base(extern "C" fn(u32) -> *const u8, extern "C" fn() -> *const u8);
extern "C" fn api(_: u32) -> *const u8 { std::ptr::null() }
extern "C" fn version() -> *const u8 { c"1.10.0".as_ptr().cast() }
static BASE: Base = Base(api, version);
#[unsafe(no_mangle)] pub extern "C" fn OrtGetApiBase() -> *const Base { &BASE }
"#;

fn library(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (source_file, file) =
        (folder.join(name).with_extension("rs"), folder.join(name).with_extension("so"));
    std::fs::write(&source_file, source).unwrap();
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let arguments = ["--edition=2024", "--crate-type=cdylib", "-Anon_snake_case", "-o"];
    assert!(
        Command::new(compiler)
            .args(arguments)
            .arg(&file)
            .arg(&source_file)
            .status()
            .unwrap()
            .success()
    );
    file
}

#[test]
fn one_process_keeps_one_library() {
    let Some(first) = runtime(1) else { return };
    assert!(first.version().starts_with("1."), "{}", first.version());
    assert!(first.library().is_file());
    let copy = tempfile::tempdir().unwrap().keep().join("libonnxruntime.so");
    std::fs::copy(first.library(), &copy).unwrap();
    check_library(
        &copy,
        &["cannot take", copy.to_str().unwrap(), first.library().to_str().unwrap()],
    );
    std::fs::remove_dir_all(copy.parent().unwrap()).unwrap();
    assert_eq!(runtime(1).unwrap().library(), first.library());
}

fn check(runtime: &Runtime, bytes: &[u8], parts: &[&str]) {
    let error = open(runtime, bytes).unwrap_err().to_string();
    let expected = ["model tested@1", "model.onnx"];
    assert!(
        !error.contains('\n') && expected.iter().chain(parts).all(|part| error.contains(part)),
        "{parts:?}: {error}"
    );
}

#[test]
fn a_model_that_does_not_open_is_named_with_its_file() {
    let Some(runtime) = runtime(1) else { return };
    let missing = runtime
        .open("tested@1", Path::new("/nowhere/model.onnx"), &ModelOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("tested@1") && missing.contains("/nowhere/model.onnx cannot be read"),
        "{missing}"
    );
    let folder =
        runtime.open("tested@1", Path::new("/"), &ModelOptions::default()).unwrap_err().to_string();
    assert!(folder.contains("it is not a file"), "{folder}");

    let whole = perceptron(1);
    check(&runtime, b"", &["no complete ONNX model"]);
    check(&runtime, b"not a model, whatever its name says", &["no complete ONNX model"]);
    for length in [10, whole.len() / 2, whole.len() - 1] {
        check(&runtime, &whole[..length], &["no complete ONNX model"]);
    }

    let float = || tensor(1, Some(&[1]));
    let one_node = |operator: &str, from: Message, to: Message| {
        model(graph(&[node(operator, &["x"], &["y"])], &[], &[value("x", from)], &[value("y", to)]))
    };
    check(&runtime, &one_node("Teleport", float(), float()), &["cannot run", "Teleport"]);
    let numbers = || tensor(7, Some(&[1]));
    check(
        &runtime,
        &one_node("Relu", tensor(8, Some(&[1])), tensor(8, Some(&[1]))),
        &["cannot run", "Relu"],
    );
    check(
        &runtime,
        &one_node("SequenceConstruct", numbers(), sequence(numbers())),
        &["output \"y\" of type sequence of INT64", "only tensors"],
    );
    check(
        &runtime,
        &one_node("SequenceLength", sequence(float()), tensor(7, Some(&[]))),
        &["input \"x\" of type sequence of FP32"],
    );
    let optional = || Message::default().bytes(9, Message::default().bytes(1, float()));
    check(
        &runtime,
        &one_node("Identity", optional(), optional()),
        &["input \"x\" of type optional FP32"],
    );
    // A type that `ort` takes for a tensor's.
    let sparse = || Message::default().bytes(8, Message::default().number(1, 1));
    let spare_input = |ty| {
        model(graph(
            &[node("Identity", &["x"], &["y"])],
            &[],
            &[value("x", float()), value("z", ty)],
            &[value("y", float())],
        ))
    };
    check(&runtime, &spare_input(sparse()), &["input \"z\" of type sparse FP32"]);
    check(&runtime, &spare_input(tensor(INT4, Some(&[1]))), &["input \"z\" of type INT4"]);
    let complex = || tensor(COMPLEX64, Some(&[1]));
    check(&runtime, &one_node("Identity", complex(), complex()), &["cannot run", "complex64"]);
}

#[tokio::test]
async fn weights_may_lie_beside_the_model() {
    let Some(runtime) = runtime(1) else { return };
    let (units, name) = ([16, 8, 4], "weights/first.bin");
    let (bytes, weights) = dense_beside(5, &units, name);
    let folder = tempfile::tempdir().unwrap();
    let [file, beside] = ["model.onnx", name].map(|name| folder.path().join(name));
    std::fs::write(&file, &bytes).unwrap();
    let opened = || runtime.open("tested@1", &file, &ModelOptions::default());
    let refused = |part: &str| {
        let error = opened().err().unwrap().to_string();
        let parts = ["model tested@1", "model.onnx", name, part];
        assert!(parts.iter().all(|part| error.contains(part)), "{part}: {error}");
    };
    refused("which is not beside it");
    std::fs::create_dir_all(&beside).unwrap();
    refused("no file but a link or a folder");
    std::fs::remove_dir(&beside).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::write(&elsewhere, &weights).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &beside).unwrap();
    refused("no file but a link or a folder");
    std::fs::remove_file(&beside).unwrap();
    std::fs::rename(elsewhere, &beside).unwrap();

    let opened = opened().unwrap();
    assert_eq!(opened.resident_bytes(), (bytes.len() + weights.len()) as u64);
    // Once it is open, nobody looks for them any more.
    std::fs::remove_dir_all(folder.path()).unwrap();
    let same = open(&runtime, &dense(5, &units)).unwrap();
    let x = named("x", DataType::Fp32, &[1, 16], &floats(&[0.5; 16]));
    let [alone, beside] = [same, opened.in_lane(&runtime.lane())];
    assert_eq!(
        run(&alone, std::slice::from_ref(&x), &[]).await.unwrap(),
        run(&beside, &[x], &[]).await.unwrap()
    );

    // Weights that end early, and such as are not of their tensor's size.
    let folder = tempfile::tempdir().unwrap();
    let sized = |held: usize, offset: usize, length: usize| {
        let file = folder.path().join("model.onnx");
        let weights = external("w", DataType::Fp32, &[4], ("w.bin", offset, length));
        let port = |name| port(name, DataType::Fp32, &[4]);
        let add = [node("Add", &["x", "w"], &["y"])];
        std::fs::write(&file, model(graph(&add, &[weights], &[port("x")], &[port("y")]))).unwrap();
        std::fs::write(folder.path().join("w.bin"), vec![0; held]).unwrap();
        let opened = runtime.open("tested@1", &file, &ModelOptions::default());
        opened.err().map(|error| error.to_string())
    };
    let short = "weights in the data file \"w.bin\" up to byte 24, and that file has 20";
    let size = "no complete ONNX model; export or copy it again";
    for (held, offset, length, part) in [
        (24, 8, 16, None),
        (20, 8, 16, Some(short)),
        (64, 0, 32, Some(size)),
        (64, 0, 8, Some(size)),
    ] {
        let error = sized(held, offset, length);
        let said =
            error.as_deref().is_some_and(|error| part.is_some_and(|part| error.contains(part)));
        assert!(said || (error.is_none() && part.is_none()), "{held} {offset} {length}: {error:?}");
    }

    // What is larger than any model, and takes no room here.
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.onnx");
    std::fs::File::create(&large).unwrap().set_len(1 << 31).unwrap();
    let error = runtime.open("tested@1", &large, &ModelOptions::default()).err().unwrap();
    assert!(error.to_string().contains("large.onnx is larger than 2 GiB"), "{error}");
}

#[test]
fn a_model_describes_itself() {
    let Some(runtime) = runtime(1) else { return };
    let model = open(&runtime, &perceptron(1)).unwrap();
    assert_eq!(model.name(), "tested@1");
    let ports = |types: &[berth_tensor::TensorType]| {
        types.iter().map(|ty| (ty.name.clone(), ty.datatype, ty.shape.clone())).collect::<Vec<_>>()
    };
    assert_eq!(ports(model.inputs()), [("x".to_owned(), DataType::Fp32, vec![-1, 64])]);
    assert_eq!(ports(model.outputs()), [("y".to_owned(), DataType::Fp32, vec![-1, 10])]);
    let properties: Vec<_> =
        model.properties().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        properties,
        [("opset", "19"), ("producer", "berth"), ("graph", "graph"), ("metadata.task", "testing")]
    );
    for (key, value, expected) in [
        // Not what the host says of it.
        ("opset", "99", Some(("metadata.opset", "99".to_owned()))),
        ("k", "a\n\u{1b}[31mb", Some(("metadata.k", "a\u{fffd}\u{fffd}[31mb".to_owned()))),
        ("k", &*"v".repeat(5000), Some(("metadata.k", "v".repeat(1024) + "…"))),
        ("k", "", None),
        ("", "v", None),
    ] {
        let identity = graph(
            &[node("Identity", &["x"], &["y"])],
            &[],
            &[port("x", DataType::Fp32, &[1])],
            &[port("y", DataType::Fp32, &[1])],
        );
        let model = open(&runtime, &model_with(identity, key, value)).unwrap();
        let [opset, rest @ ..] = model.properties() else { panic!("no properties") };
        assert_eq!(opset, &("opset".to_owned(), "19".to_owned()));
        let own = rest.iter().find(|(key, _)| key != "producer" && key != "graph");
        let own = own.map(|(key, value)| (key.as_str(), value.clone()));
        assert_eq!(own, expected, "{key:?} = {value:?}");
    }
    let symbols: Vec<_> = model
        .symbols()
        .iter()
        .map(|(name, symbols)| (name.as_str(), symbols.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(symbols, [("x", vec!["n0", ""]), ("y", vec!["n0", ""])]);
    assert_eq!(model.resident_bytes(), perceptron(1).len() as u64);
}

#[test]
fn models_bring_no_threads() {
    let Some(runtime) = runtime(2) else { return };
    // Those of other tests come and go.
    let known = ["berth-", "tokio", "batching", "opening", "providers", "running", "stopping"];
    let others = || threads("") - known.into_iter().map(threads).sum::<usize>();
    let before = others();
    let models: Vec<_> = (0..8).map(|_| open(&runtime, &perceptron(1)).unwrap()).collect();
    // A thread has no name yet when it starts, so that one more or less says nothing; each model would
    // bring one at least.
    assert!(others() < before + models.len() / 2, "{} models", models.len());
}
