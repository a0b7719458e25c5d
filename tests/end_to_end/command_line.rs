//! The verbs, their output and their exit codes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::support::files::{
    an_eight, another_build, classifier, digits, digits_endpoint, guest, plugin, tensors,
};
use crate::support::host::{berth, check_refused};
use crate::support::{Host, Request, onnx, until};

#[test]
fn versions_are_numbered_and_kept() {
    let host = Host::start();
    let file = |version: u32| digits().join(format!("digits-{version}.onnx"));
    assert_eq!(host.push("model", "digits", &file(1)), 1);
    assert_eq!(host.push("model", "digits", &file(2)), 2);
    assert_eq!(host.push("model", "digits", &file(1)), 1, "the same content keeps its version");
    assert_eq!(host.push("model", "numbers", &file(2)), 1);
    let path = file(2);
    let pushed = host.ok(&["model", "push", "digits", path.to_str().unwrap()]);
    assert!(pushed.starts_with("digits@2 sha256:"), "{pushed}");

    let listed = host.json(&["model", "list"]);
    let names: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|it| format!("{}@{}", it["name"], it["version"]))
        .collect();
    assert_eq!(names, ["\"digits\"@1", "\"digits\"@2", "\"numbers\"@1"]);
    assert_eq!(listed[0]["bytes"], fs::metadata(file(1)).unwrap().len());
    assert_eq!(listed[1]["digest"], listed[2]["digest"]);
    let input = json!([{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]);
    assert_eq!(listed[0]["inputs"], input);
    assert_eq!(listed[0]["symbols"], json!({"input": ["batch", ""], "scores": ["batch", ""]}));
    assert_eq!(host.json(&["model", "show", "digits"]).as_array().unwrap().len(), 2);
    let table = host.ok(&["model", "show", "digits"]);
    let rows: Vec<&str> = table.lines().collect();
    assert!(
        rows[0].starts_with("VERSION")
            && rows[2].starts_with("digits@2")
            && rows[3] == "batching    up to 32 rows of several requests in one run"
            && rows.contains(&"producer    berth-example"),
        "{table}"
    );
    assert!(rows[1].contains("input FP32[batch,64]"), "{table}");

    assert_eq!(host.push("plugin", "weighted", &plugin("weighted")), 1);
    let build = host.file("build.wasm", another_build(&plugin("weighted"), 1));
    assert_eq!(host.push("plugin", "weighted", &build), 2);
    assert_eq!(host.push("plugin", "weighted", &plugin("weighted")), 1);
    let shown = host.json(&["plugin", "show", "weighted"]);
    assert_eq!(shown[0]["inspection"]["kind"], "policy");
    assert_eq!(shown[0]["inspection"], shown[1]["inspection"]);
    host.refused(&["model", "show", "none"], "there is no model none");
    host.refused(&["plugin", "show", "digits"], "there is no plugin digits");
}

#[test]
fn what_is_pushed_or_applied_at_the_same_time_is_put_in_order() {
    const CLIENTS: u64 = 6;
    let host = Host::start();
    let push = |client: u64| {
        // Of three contents, so that some are the same.
        let file = host.file(&format!("{client}.onnx"), onnx::adder((client % 3) as f32));
        (client % 3, host.push("model", "m", &file))
    };
    let mut versions: Vec<(u64, u64)> = thread::scope(|scope| {
        let push = &push;
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| scope.spawn(move || push(client))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    versions.sort_unstable();
    versions.dedup();
    let mut numbers: Vec<u64> = versions.iter().map(|version| version.1).collect();
    numbers.sort_unstable();
    assert_eq!((versions.len(), numbers), (3, vec![1, 2, 3]), "{versions:?}");

    let apply = |client: u64| {
        let name = format!("{client}.toml");
        let file = host.file(&name, tensors("e", &format!("m@{}", client % 3 + 1)));
        host.json(&["apply", file.to_str().unwrap()])
    };
    thread::scope(|scope| {
        let apply = &apply;
        for client in 0..CLIENTS {
            scope.spawn(move || assert_eq!(apply(client)["state"], "live"));
        }
    });
    let shown = host.json(&["endpoint", "show", "e"]);
    let last = &host.json(&["endpoint", "history", "e"])[0];
    let answer = host.send(&Request::infer("e", "x", &[1], &[0.0]));
    assert_eq!((&shown["live"], &shown["state"]), (&last["revision"], &json!("live")));
    assert_eq!(shown["live"], answer.revision());
    let model = &shown["revision"]["variants"][0]["models"]["default"]["version"];
    let content = versions.iter().find(|version| *model == version.1).unwrap().0;
    assert_eq!(answer.output(), [content as f64]);
}

#[test]
fn aliases_point_at_versions() {
    let host = Host::with_digits(&[]);
    let best = classifier("digits", "digits@best", "");
    host.apply_refused("before it is there", &best, "there is no model digits@best");
    let label = || host.send(&Request::invoke("digits", an_eight())).label();
    for (version, is_eight) in [("1", false), ("2", true)] {
        host.ok(&["model", "alias", "digits", "best", version]);
        host.apply(&best);
        assert_eq!(label() == "8", is_eight, "version {version}");
    }
    // What is live stays what it was applied as.
    host.ok(&["model", "alias", "digits", "best", "1"]);
    assert_eq!(label(), "8");
    host.refused(&["model", "alias", "digits", "best", "3"], "there is no model digits@3");
    host.refused(&["model", "alias", "digits", "3", "1"], "3 reads as a version");
    let digest = host.json(&["model", "show", "digits"])[0]["digest"].as_str().unwrap().to_owned();
    host.apply(&classifier("digits", &format!("digits@sha256:{digest}"), ""));
    assert_ne!(label(), "8");
}

#[test]
fn components_are_inspected_without_a_host() {
    let inspect = |file: &Path, json: bool| {
        let mut arguments = vec!["plugin", "inspect", file.to_str().unwrap()];
        arguments.extend(json.then_some("--json"));
        let said = berth(&arguments, None, Path::new("/"));
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{}", said.stdout);
        said.stdout
    };
    let check = |file: &Path, expected: &[(&str, Value)]| {
        let found: Value = serde_json::from_str(&inspect(file, true)).unwrap();
        for (pointer, value) in expected {
            assert_eq!(found.pointer(pointer), Some(value), "{pointer} of {found}");
        }
    };
    check(&plugin("weighted"), &[("/kind", json!("policy")), ("/routes", json!(false))]);
    check(&plugin("targeting"), &[("/kind", json!("policy")), ("/routes", json!(true))]);
    check(
        &guest("probe"),
        &[
            ("/kind", json!("processor")),
            ("/manifest/roles", json!(["default"])),
            ("/manifest/limits", json!({"memory": 64 << 20, "cpu_ms": 1000})),
        ],
    );
    let text = inspect(&plugin("image-classifier"), false);
    for part in [
        "kind        processor",
        "roles       default",
        "assets      labels",
        "256 MiB",
        "imports     wasi:nn/tensor@",
    ] {
        assert!(text.contains(part), "{text} lacks {part:?}");
    }
    let missing = berth(&["plugin", "inspect", "none.wasm"], None, Path::new("/"));
    check_refused("missing", &missing, "cannot read none.wasm");
}

#[test]
fn endpoints_are_applied_shown_rolled_back_and_deleted() {
    let mut host = Host::with_digits(&[]);
    let apply = |version: u32, rest: &[&str]| {
        let file = host.file("digits.toml", digits_endpoint(version));
        host.cli(&[&["apply", file.to_str().unwrap()], rest].concat())
    };
    let sequence = || host.json(&["endpoint", "history", "digits"])[0]["sequence"].clone();
    let label = || host.send(&Request::invoke("digits", an_eight())).label();

    let said = apply(1, &["--dry-run"]);
    assert!(
        said.stdout.contains("endpoint digits is new")
            && said.stdout.contains("nothing was changed"),
        "{said:?}"
    );
    host.refused(&["endpoint", "show", "digits"], "there is no endpoint digits");
    assert_eq!(host.send(&Request::get("/v2/models/digits")).status, 404);

    let said = apply(1, &["--message", "the first"]);
    assert!(said.code == 0 && said.stdout.contains("is live"), "{said:?}");
    let first = host.json(&["endpoint", "show", "digits"])["live"].as_str().unwrap().to_owned();
    let before = sequence();
    let said = apply(1, &[]);
    assert!(said.code == 0 && said.stdout.contains("is live already"), "{said:?}");
    let said = apply(2, &["--dry-run"]);
    assert!(said.stdout.contains("variant main: model default digits@1 -> digits@2"), "{said:?}");
    assert!(said.stdout.contains("nothing was changed"), "{said:?}");
    let said = apply(2, &["--dry-run", "--json"]);
    let planned: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&planned["changed"], &planned["endpoint"]), (&json!(true), &json!("digits")));
    let wrong = host.file("wrong.toml", digits_endpoint(2).replace("top = 3", "top = -3"));
    host.refused(&["apply", "--dry-run", wrong.to_str().unwrap()], "variants.main.config.top");
    assert_eq!(sequence(), before, "neither the same file nor a dry run changes anything");
    assert_ne!(label(), "8");

    let said = apply(2, &["--no-wait", "--json"]);
    let applied: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, &applied["state"]), (0, &json!("preparing")));
    let second = applied["revision"].as_str().unwrap();
    assert_eq!(planned["revision"], second);
    until("it is live without being waited for", || {
        host.json(&["endpoint", "show", "digits"])["live"] == second
    });
    assert_eq!(label(), "8");

    let rolled = host.ok(&["endpoint", "rollback", "digits", "--message", "no good"]);
    assert!(rolled.contains(&format!("revision {first} is live")), "{rolled}");
    assert_ne!(label(), "8");
    host.ok(&["endpoint", "rollback", "digits", "--to", second]);
    assert_eq!(label(), "8");
    host.refused(
        &["endpoint", "rollback", "digits", "--to", "000000000000"],
        "no other revision 000000000000",
    );
    host.refused(&["endpoint", "rollback", "none"], "there is no endpoint none");

    let listed = host.json(&["endpoint", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["live"], &listed[0]["problem"]), (&json!(second), &Value::Null));
    let history = host.json(&["endpoint", "history", "digits"]);
    let steps: Vec<(&str, &str, &str)> = history
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["state"] == "live")
        .map(|step| {
            let text = |key: &str| step[key].as_str().unwrap_or_default();
            (text("revision"), text("who"), text("why"))
        })
        .collect();
    let expected = [
        (second, "tester", &*format!("rollback from {first}")),
        (&first, "tester", "no good"),
        (second, "tester", ""),
        (&first, "tester", "the first"),
    ];
    assert_eq!(steps, expected, "latest first");
    let shown = host.ok(&["endpoint", "show", "digits"]);
    assert!(shown.contains("default=digits@2") && shown.contains("image-classifier@1"), "{shown}");
    assert!(host.ok(&["endpoint", "list"]).contains(second));
    assert!(host.ok(&["endpoint", "history", "digits"]).contains("no good"));

    assert_eq!(
        host.ok(&["endpoint", "delete", "digits", "--message", "over"]),
        "digits: deleted\n"
    );
    assert_eq!(host.send(&Request::get("/v2/models/digits")).status, 404);
    host.refused(&["endpoint", "delete", "digits"], "there is no endpoint digits");
    let history = host.json(&["endpoint", "history", "digits"]);
    assert_eq!((&history[0]["state"], &history[0]["why"]), (&json!("deleted"), &json!("over")));
    assert_eq!(host.json(&["endpoint", "list"]), json!([]));
    host.restart();
    assert_eq!(host.send(&Request::get("/v2/models/digits")).status, 404);
    host.apply(&digits_endpoint(2));
    assert_eq!(host.send(&Request::invoke("digits", an_eight())).label(), "8");
}

#[test]
fn a_rollback_skips_what_never_was_live() {
    let host = Host::with_digits(&[]);
    let first = host.apply(&digits_endpoint(1));
    host.refused(&["endpoint", "rollback", "digits"], "has no earlier revision");
    host.apply(&digits_endpoint(2));
    let wrong = digits_endpoint(2).replace("top = 3", "top = -3");
    host.apply_refused("wrong", &wrong, "variants.main.config.top");
    let rolled = host.json(&["endpoint", "rollback", "digits"]);
    assert_eq!((&rolled["revision"], &rolled["state"]), (&json!(first), &json!("live")));
}

#[test]
fn failures_are_one_line_and_an_exit_code() {
    let host = Host::start();
    host.push_digits();
    let file = host.file("raw.toml", tensors("raw", "digits@1"));
    let nobody = format!("127.0.0.1:{}", free_port());
    let elsewhere: &[&[&str]] = &[
        &["model", "list"],
        &["model", "push", "m", file.to_str().unwrap()],
        &["plugin", "show", "p"],
        &["apply", file.to_str().unwrap()],
        &["endpoint", "list"],
        &["endpoint", "delete", "e"],
    ];
    for arguments in elsewhere {
        let said = host.cli(&[arguments, &["--admin", &nobody][..]].concat());
        check_refused(&arguments.join(" "), &said, "is `berth serve` running there?");
        assert!(said.stderr.contains(&nobody), "{}", said.stderr);
    }
    // The data port is no admin port, and says so in a way that can be followed.
    let said = host.cli(&["model", "list", "--admin", &host.listen.to_string()]);
    check_refused("the data port", &said, "there is no /v1/models");
    // A flag is stronger than the environment.
    let admin = host.admin.to_string();
    let said = berth(&["model", "list", "--admin", &admin], Some(&nobody), host.folder());
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    for arguments in [
        &["modle"][..],
        &["model", "push", "m"],
        &["serve"],
        &["serve", "--data", "d", "--listen", "here"],
    ] {
        let said = host.cli(arguments);
        assert!(said.code != 0 && !said.stderr.is_empty() && said.stdout.is_empty(), "{said:?}");
    }
}

#[test]
fn a_host_that_cannot_start_says_why() {
    let host = Host::start();
    let data = host.folder().join("data");
    let (data, other) = (data.to_str().unwrap(), host.folder().join("other"));
    let other = other.to_str().unwrap();
    let file = host.file("file", "");
    let taken = host.listen.to_string();
    let check = |name: &str, arguments: &[&str], part: &str| {
        let any = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let mut all = vec!["serve"];
        all.extend(any.chunks(2).filter(|pair| !arguments.contains(&pair[0])).flatten());
        all.extend(arguments);
        check_refused(name, &host.cli(&all), part);
    };
    check("a folder in use", &["--data", data], "is in use by another host");
    check("a port in use", &["--data", other, "--listen", &taken], "--listen");
    check("an admin port in use", &["--data", other, "--admin", &taken], "--admin");
    check("a file as folder", &["--data", file.to_str().unwrap()], "file");
    check("no ONNX Runtime", &["--data", other, "--onnxruntime", "/none.so"], "/none.so");
    check("no library", &["--data", other, "--onnxruntime", file.to_str().unwrap()], "file");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn the_help_names_every_verb() {
    let help = berth(&["--help"], None, Path::new("/")).stdout;
    let verbs: BTreeMap<&str, bool> = ["serve", "model", "plugin", "apply", "endpoint"]
        .map(|verb| (verb, help.contains(&format!("  {verb} "))))
        .into();
    assert!(verbs.values().all(|&named| named), "{verbs:?}");
    assert!(berth(&["--version"], None, Path::new("/")).stdout.starts_with("berth "));
}

#[test]
fn output_that_nobody_takes_is_no_panic() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(crate::support::files::told("BERTH_BIN"));
    let said =
        command.args(["plugin", "inspect"]).arg(plugin("weighted")).stdout(full).output().unwrap();
    let stderr = String::from_utf8(said.stderr).unwrap();
    assert_eq!((said.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.starts_with("berth: the output cannot be written"), "{stderr}");
}
