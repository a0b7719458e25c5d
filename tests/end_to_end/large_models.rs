//! Models of several files, and uploads that go on where they broke off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_onnx::networks::{dense, dense_beside};
use serde_json::{Value, json};

use crate::durability::{check_blobs, digest, done, files};
use crate::support::files::{tensors, told};
use crate::support::proxy::Proxy;
use crate::support::{Connection, Host, Request, until};

const UNITS: [i64; 3] = [16, 8, 4];
const WEIGHTS: &str = "weights/first.bin";

/// Writes a model with its weights beside it into a folder of the test.
fn write(host: &Host, folder: &str, seed: u64, units: &[i64]) -> PathBuf {
    let folder = host.folder().join(folder);
    let (model, weights) = dense_beside(seed, units, WEIGHTS);
    fs::create_dir_all(folder.join("weights")).unwrap();
    fs::write(folder.join(WEIGHTS), weights).unwrap();
    fs::write(folder.join("model.onnx"), model).unwrap();
    folder.join("model.onnx")
}

/// The answer of an endpoint over a perceptron of [`UNITS`].
fn answer(host: &Host, endpoint: &str) -> Vec<f64> {
    host.send(&Request::infer(endpoint, "x", &[1, 16], &[0.5; 16])).output()
}

/// Nothing that an open model was laid out in is left, nor an upload.
fn check_partial(host: &Host) {
    let left: Vec<_> = fs::read_dir(host.folder().join("data/blobs/partial")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    check_blobs(&host.folder().join("data"));
}

#[test]
fn a_model_of_several_files_is_one() {
    let mut host = Host::start();
    // What the same networks answer in one file each.
    let expected = [1, 2].map(|seed| {
        let version = host.push_model("whole", &dense(seed, &UNITS));
        host.apply(&tensors("whole", &format!("whole@{version}")));
        answer(&host, "whole")
    });
    assert_ne!(expected[0], expected[1]);
    for version in [1, 2] {
        let file = write(&host, &format!("v{version}"), version, &UNITS);
        assert_eq!(host.push("model", "big", &file), version);
        assert_eq!(host.push("model", "big", &file), version, "the same keeps its version");
        host.apply(&tensors("big", &format!("big@{version}")));
        assert_eq!(answer(&host, "big"), expected[version as usize - 1]);
        check_partial(&host);
    }
    // Their own files are the same; what is told apart are the weights.
    let shown = host.json(&["model", "show", "big"]);
    assert_eq!(shown[0]["files"]["model"], shown[1]["files"]["model"]);
    assert_ne!(shown[0]["digest"], shown[1]["digest"]);
    let (model, weights) = dense_beside(2, &UNITS, WEIGHTS);
    assert_eq!(
        shown[1]["files"],
        json!({"model": digest(&model), "data": {WEIGHTS: digest(&weights)}})
    );
    assert_eq!(shown[1]["bytes"], model.len() + weights.len());
    assert!(host.ok(&["model", "show", "big"]).contains(WEIGHTS));
    assert_eq!(host.json(&["model", "show", "whole"])[0]["files"], Value::Null);
    let resident = "berth_model_resident_bytes{model=\"big@2\"}";
    assert_eq!(host.metric(resident), (model.len() + weights.len()) as f64);

    host.ok(&["endpoint", "rollback", "big"]);
    assert_eq!(answer(&host, "big"), expected[0]);
    host.restart();
    assert_eq!(answer(&host, "big"), expected[0]);
    host.ok(&["endpoint", "rollback", "big"]);
    assert_eq!(answer(&host, "big"), expected[1]);
    check_partial(&host);
}

#[test]
fn a_broken_data_file_is_named() {
    let mut host = Host::start();
    let file = write(&host, "v1", 1, &UNITS);
    host.push("model", "big", &file);
    host.apply(&tensors("big", "big@1"));
    let expected = answer(&host, "big");
    let weights = digest(fs::read(file.with_file_name(WEIGHTS)).unwrap());
    let blob = host.folder().join(format!("data/blobs/{}/{weights}", &weights[..2]));
    for (said, content) in [("is not in the store", None), ("is corrupt", Some(b"other weights"))] {
        host.kill();
        let _ = fs::remove_file(&blob);
        if let Some(content) = content {
            fs::write(&blob, content).unwrap();
        }
        host.restart();
        let shown = host.json(&["endpoint", "show", "big"]);
        let problem = shown["problem"].as_str().unwrap();
        for part in ["model big@1: data file \"weights/first.bin\"", &weights, said] {
            assert!(problem.contains(part), "{problem:?} lacks {part:?}");
        }
        // The same content again repairs it.
        assert_eq!(host.push("model", "big", &file), 1);
        host.apply(&tensors("big", "big@1"));
        assert_eq!(answer(&host, "big"), expected, "{said}");
    }
    host.restart();
    assert_eq!(answer(&host, "big"), expected);
}

#[test]
fn a_data_file_that_was_cut_short_is_refused() {
    let host = Host::start();
    let file = write(&host, "v1", 1, &UNITS);
    let weights = file.with_file_name(WEIGHTS);
    let length = weights.metadata().unwrap().len();
    fs::File::options().write(true).open(&weights).unwrap().set_len(length - 1).unwrap();
    let part = format!(
        "has weights in the data file {WEIGHTS:?} up to byte {length}, and that file has {}: copy it again",
        length - 1
    );
    host.refused(&["model", "push", "big", file.to_str().unwrap()], &part);
}

#[test]
fn data_files_that_are_elsewhere_are_refused() {
    let host = Host::start();
    let named = |name: &str| dense_beside(1, &UNITS, name).0;
    let outside = host.file("outside.bin", dense_beside(1, &UNITS, "x").1);
    let folder = host.folder().join("m");
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(&outside, folder.join("link.bin")).unwrap();
    std::os::unix::fs::symlink(host.folder(), folder.join("way")).unwrap();
    fs::create_dir(folder.join("folder.bin")).unwrap();
    let absolute = outside.to_str().unwrap();
    let elsewhere = "a data file lies beside the model or below";
    for (name, part) in [
        ("../outside.bin", elsewhere),
        ("a/../../outside.bin", elsewhere),
        (absolute, elsewhere),
        ("*/_ORT_MEM_ADDR_/*", elsewhere),
        ("link.bin", "no file but a link or a folder"),
        ("way/outside.bin", "no file but a link or a folder"),
        ("folder.bin", "no file but a link or a folder"),
        ("missing.bin", "names the data file \"missing.bin\", which is not beside it"),
    ] {
        let model = named(name);
        let file = folder.join("model.onnx");
        fs::write(&file, &model).unwrap();
        host.refused(&["model", "push", "m", file.to_str().unwrap()], part);
        // The host looks for itself, and has nothing beside the model that came alone.
        let pushed = host.ask_admin(&Request::post("/v1/models/m", "text/plain", &model));
        let part = if part == elsewhere { part } else { "which is not beside it" };
        pushed.check_error(name, 400, part);
        check_partial(&host);
    }
    // A description that names what the model does not, or names it otherwise.
    let model = named("weights.bin");
    let put = |content: &[u8]| {
        let target = format!("/v1/uploads/{}?bytes={}", digest(content), content.len());
        done(host.ask_admin(&Request::put(&target, content)))
    };
    let described = |data: Value| {
        let body = json!({"model": digest(&model), "data": data}).to_string();
        host.ask_admin(&Request::post("/v1/models/m/files", "application/json", body))
    };
    for name in ["../w", "/w", "", "a/./b", "model.onnx", "model.onnx/w", "*/_ORT_MEM_ADDR_/*"] {
        described(json!({name: digest("w")})).check_error(name, 400, "is no name of a data file");
    }
    put(&model);
    put(b"w");
    described(json!({"other.bin": digest("w")})).check_error(
        "other",
        400,
        "which is not beside it",
    );
    described(json!(7)).check_error("no description", 422, "invalid type");
    assert_eq!(host.json(&["model", "list"]), json!([]));
    check_partial(&host);
}

#[test]
fn uploads_are_refused_with_what_is_wrong() {
    let host = Host::start();
    let content = b"what is uploaded";
    let digest = digest(content);
    let put = |query: &str, content: &[u8]| {
        host.ask_admin(&Request::put(&format!("/v1/uploads/{digest}{query}"), content))
    };
    assert_eq!(done(put("?bytes=16", &content[..4]))["bytes"], 4);
    for (name, query, sent, status, part) in [
        ("a smaller size", "?bytes=4", &content[..4], 400, "send it again"),
        ("a gap", "?offset=5&bytes=16", b"x", 409, "go on from 4"),
        ("too much", "?offset=4&bytes=16", &[7; 13], 413, "limit of 16 bytes"),
        ("too large", "?bytes=99999999999999", b"", 413, "limit of 68719476736 bytes"),
        ("no size", "", b"", 400, "missing field `bytes`"),
        ("an unknown key", "?bytes=16&size=16", b"", 400, "unknown field `size`"),
        ("other content", "?offset=4&bytes=16", &[7; 12], 400, "send it again"),
    ] {
        put(query, sent).check_error(name, status, part);
    }
    check_partial(&host);
    let none = Request::put("/v1/uploads/abc?bytes=1", b"x");
    host.ask_admin(&none).check_error("no digest", 400, "is no sha256 digest");
    // By its digest it is no model, and is gone with the refusal.
    assert_eq!(done(put("?bytes=16", content))["bytes"], 16);
    let files = json!({"model": digest}).to_string();
    let push = Request::post("/v1/models/m/files", "application/json", &files);
    host.ask_admin(&push).check_error("no model", 400, "no complete ONNX model");
    check_partial(&host);
    let missing = host.ask_admin(&push);
    assert_eq!((missing.status, &missing.json()["missing"]), (409, &json!({digest: 0})));
}

/// A real client that pushes and is not waited for.
fn push(proxy: &Proxy, file: &Path) -> Child {
    let mut berth = Command::new(told("BERTH_BIN"));
    berth.args(["model", "push", "big", file.to_str().unwrap()]);
    berth.env("BERTH_ADMIN", proxy.address.to_string());
    berth.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// How many bytes of the weights, of so many, lie in the host's folder.
fn arrived(host: &Host, weights: &str, size: u64) -> u64 {
    let file = host.folder().join(format!("data/blobs/partial/{weights}-{size}"));
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

/// More than requests have beside their bodies, in bytes.
const HEADS: u64 = 4 << 10;

#[test]
fn an_upload_goes_on_where_it_broke_off() {
    for (who, kill_host) in [("the client is killed", false), ("the host is killed", true)] {
        let mut host = Host::start();
        let file = write(&host, "large", 3, &[16, 40_000, 4]);
        let content = fs::read(file.with_file_name(WEIGHTS)).unwrap();
        let (weights, size) = (digest(&content), content.len() as u64);
        let half = Proxy::start(host.admin, size / 2);
        let mut client = push(&half, &file);
        // What the proxy lets through, but for heads and the model's own file.
        until("half of it has arrived", || arrived(&host, &weights, size) > size / 2 - HEADS);
        if kill_host {
            host.kill();
        }
        client.kill().unwrap();
        client.wait().unwrap();
        if kill_host {
            host.restart();
        }
        let held = arrived(&host, &weights, size);
        assert!(held > size / 2 - HEADS && held < size, "{who}: {held}");
        let rest = Proxy::start(host.admin, u64::MAX);
        assert!(push(&rest, &file).wait().unwrap().success(), "{who}");
        let sent = rest.sent();
        // More of what the first has sent may have been written since; no more than the proxy let through.
        assert!((size / 2..size - held + HEADS).contains(&sent), "{who}: {sent} of {size}");
        host.apply(&tensors("big", "big@1"));
        assert_eq!(answer(&host, "big").len(), 4);
        check_partial(&host);
        // What the store has is not sent at all, under whatever name.
        let again = Proxy::start(host.admin, u64::MAX);
        assert!(push(&again, &file).wait().unwrap().success(), "{who}");
        assert!(again.sent() < HEADS, "{who}: {}", again.sent());
        assert_eq!(host.push("model", "other", &file), 1);
        assert_eq!(files(&host.folder().join("data/blobs")).len(), 2);
    }
}

#[test]
fn clients_that_push_the_same_at_once_all_succeed() {
    let host = Host::start();
    let file = write(&host, "large", 3, &[16, 40_000, 4]);
    let proxy = Proxy::start(host.admin, u64::MAX);
    // One that stops half-way holds up nobody.
    let weights = fs::read(file.with_file_name(WEIGHTS)).unwrap();
    let (name, size) = (digest(&weights), weights.len() as u64);
    let target = format!("/v1/uploads/{name}?bytes={size}");
    let mut stuck = Connection::open(host.admin).unwrap();
    let request = Request::put(&target, b"").header("content-length", &size.to_string());
    stuck.begin(&request).unwrap();
    stuck.write(&weights[..1000]).unwrap();
    until("it has begun", || arrived(&host, &name, size) == 1000);
    let clients: Vec<Child> = (0..4).map(|_| push(&proxy, &file)).collect();
    for mut client in clients {
        assert!(client.wait().unwrap().success());
    }
    assert_eq!(host.json(&["model", "list"]).as_array().unwrap().len(), 1);
    stuck.write(&weights[1000..]).unwrap();
    assert_eq!(done(stuck.answer().unwrap())["bytes"], size);
    host.apply(&tensors("big", "big@1"));
    assert_eq!(answer(&host, "big").len(), 4);
    check_partial(&host);
}

#[test]
fn a_large_model_costs_the_host_its_weights_once() {
    let host = Host::start();
    // Two layers of 64 MiB each.
    let file = write(&host, "large", 4, &[16, 4096, 4096, 4096, 4]);
    let weights = fs::metadata(file.with_file_name(WEIGHTS)).unwrap().len();
    let grown = host.grown_by(|| assert_eq!(host.push("model", "big", &file), 1));
    // ONNX Runtime packs one layer after the other; of the file only that one is mapped meanwhile.
    assert!(grown < weights * 7 / 4, "{grown} of {weights}");
    // What was found good is not opened again.
    for name in ["big", "other"] {
        let grown = host.grown_by(|| assert_eq!(host.push("model", name, &file), 1));
        assert!(grown < weights / 4, "{name}: {grown} of {weights}");
    }
}
