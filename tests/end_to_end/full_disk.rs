//! No room for what is pushed and applied.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::durability::{check_blobs, digest, done, files};
use crate::support::files::{guest, tensors};
use crate::support::{Host, Request, onnx};

/// How much room there is for a case, in bytes.
struct Room {
    /// To which files may grow.
    size: u64,
    /// That are left of the disk.
    free: u64,
}

/// First there is no room at all, then enough for the blob and not for what comes after it.
/// `limit` makes the room as small as that, or large again.
fn check(mut host: Host, data: &Path, limit: impl Fn(&Host, Option<&Room>)) {
    host.push_model("live", &onnx::adder(9.0));
    host.apply(&tensors("live", "live@1"));
    let component = fs::read(guest("empty")).unwrap();
    let (model, code) = (onnx::adder(1.0), component.len() as u64);
    let log = fs::metadata(data.join("berth.sqlite-wal")).unwrap().len();
    assert!(log > model.len() as u64);
    let kept = |host: &Host| {
        let versions = ["models", "plugins"]
            .map(|kind| done(host.ask_admin(&Request::get(&format!("/v1/{kind}")))));
        (versions, done(host.ask_admin(&Request::get("/v1/endpoints"))))
    };
    let before = kept(&host);
    let spec = json!({"name": "live", "timeout_ms": 7, "variants": [
        {"name": "main", "models": {"default": "live@1"}},
    ]});
    let apply = Request::post("/v1/endpoints", "application/json", spec.to_string());
    let post = |target: &str, content: &[u8]| Request::post(target, "text/plain", content);
    let room = |size, free| Room { size, free };
    let labels = b"what is uploaded";
    let digest = digest(labels);
    let put = Request::put(&format!("/v1/uploads/{digest}?bytes={}", labels.len()), labels);
    let cases = [
        ("a blob", room(0, 0), post("/v1/models/new", &model), "blobs/partial/"),
        ("an upload", room(0, 0), put, "blobs/partial/"),
        ("an asset", room(0, 0), post("/v1/assets", b"labels"), "blobs/partial/"),
        ("the log", room(log, PAGE), post("/v1/models/new", &model), "cannot commit to "),
        ("a revision", room(log, 0), apply, "cannot commit to "),
        ("a component", room(PAGE, PAGE), post("/v1/plugins/new", &component), "blobs/partial/"),
        ("its code", room(code, code + PAGE), post("/v1/plugins/new", &component), "plugin new: "),
    ];
    for (name, room, request, part) in &cases {
        limit(&host, Some(room));
        host.ask_admin(request).check_error(name, 500, part);
        assert_eq!(host.send(&Request::infer("live", "x", &[1], &[0.0])).output(), [9.0]);
        assert_eq!(kept(&host), before, "{name}");
        limit(&host, None);
        check_blobs(data);
        assert_eq!(files(&data.join("blobs/partial")).len(), 0, "{name}");
    }
    for (.., request, _) in &cases {
        done(host.ask_admin(request));
    }
    let after = kept(&host);
    assert_ne!(after, before);
    host.restart();
    assert_eq!(kept(&host), after);
    check_blobs(data);
}

/// What a disk gives out at once, in bytes.
const PAGE: u64 = 4096;

#[test]
fn files_that_cannot_grow_refuse_the_push_and_the_rest_goes_on() {
    let host = Host::start();
    let data = host.folder().join("data");
    check(host, &data, |host, room| {
        host.limit_files(&room.map_or("unlimited".into(), |room| room.size.to_string()));
    });
}

#[test]
fn a_full_disk_refuses_the_push_and_the_rest_goes_on() {
    let Some((host, disk)) = Host::start_on_small_disk("a full disk") else { return };
    check(host, &disk.folder(), |_, room| disk.fill(room.map(|room| room.free)));
}
