//! What goes on while a model is tried, and what is known of one that never answers.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::onnx as small;

use crate::support::files::{tensors, told};
use crate::support::host::{check_refused, new_folder};
use crate::support::{Host, Request, until};

/// Trials that are under way.
fn trials(host: &Host) -> usize {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split(' ').nth(2)?.parse::<u32>().ok()?;
        let command = fs::read_to_string(format!("/proc/{name}/cmdline")).ok()?;
        (parent == host.process() && command.contains("try-model")).then_some(())
    });
    processes.count()
}

/// Seconds of CPU time that the host has taken.
fn worked(host: &Host) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", host.process())).unwrap();
    let times: Vec<_> = stat.rsplit(')').next().unwrap().split(' ').skip(12).take(2).collect();
    times.iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>() / 100
}

fn endpoint(version: u32) -> String {
    tensors("e", &format!("adder@{version}"))
}

fn ask() -> Request {
    Request::infer("e", "x", &[1], &[1.0])
}

#[test]
fn a_trial_holds_up_nobody_and_ends_with_who_wants_it() {
    let host = Host::start();
    for number in [1.0, 2.0] {
        host.push_model("adder", &small::adder(number));
    }
    let slow = host.file("slow.onnx", small::slow_to_open());
    let mut berth = Command::new(told("BERTH_BIN"));
    berth.args(["model", "push", "slow", slow.to_str().unwrap()]);
    berth.env("BERTH_ADMIN", host.admin.to_string()).stdin(Stdio::null());
    let mut pushing = berth.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the slow model is tried", || trials(&host) == 1);
    assert_eq!(
        host.push_model("other", &small::adder(1.0)),
        1,
        "what is known is pushed beside it"
    );
    for version in [1, 2] {
        host.apply(&endpoint(version));
        assert_eq!(host.send(&ask()).output(), [1.0 + f64::from(version)]);
    }
    host.ok(&["endpoint", "rollback", "e"]);
    assert_eq!(host.send(&ask()).output(), [2.0]);
    assert_eq!(trials(&host), 1, "it is still tried: {}", host.log());
    pushing.kill().unwrap();
    pushing.wait().unwrap();
    until("the trial ends", || trials(&host) == 0);
    host.refused(&["model", "show", "slow"], "there is no model slow");
}

#[test]
fn what_never_answers_is_known_from_its_trial() {
    let mut host = Host::start();
    for number in [1.0, 2.0] {
        host.push_model("adder", &small::adder(number));
    }
    let endless = small::turns_of_rows(i64::MAX / 2, "none", "");
    let file = host.file("endless.onnx", &endless);
    let pushed = host.ok(&["model", "push", "endless", file.to_str().unwrap()]);
    let why = "a run of one row took longer than 30 s";
    assert!(pushed.contains(&format!("warning: {why}")), "{pushed}");
    let shown = host.ok(&["model", "show", "endless"]);
    assert!(
        shown.contains(&format!("every request alone: it could not be tried: {why}")),
        "{shown}"
    );
    let asked = tensors("a", "endless@1");
    host.apply(&asked);
    host.apply(&endpoint(1));
    let after = |host: &mut Host| {
        host.restart();
        assert_eq!(host.send(&ask()).output(), [2.0]);
        assert!(worked(host) < 20, "it is not run again: {}", host.log());
    };
    after(&mut host);
    // One that is tried again, for another number of rows, holds up neither what is applied beside it
    // nor its own endpoint.
    let file = host.file("a.toml", format!("{asked}[models.endless]\nmax_batch = 4\n"));
    host.ok(&["apply", file.to_str().unwrap(), "--no-wait"]);
    until("it is tried", || trials(&host) == 1);
    host.apply(&endpoint(2));
    host.apply(&endpoint(1));
    let before = host.json(&["endpoint", "show", "a"])["live"].clone();
    host.ok(&["endpoint", "rollback", "a"]);
    let now = host.json(&["endpoint", "show", "a"]);
    assert_eq!((&now["state"], &now["live"]), (&"live".into(), &before), "{now}");
    until("the trial of what was given up ends", || trials(&host) == 0);
    // Nothing waits for it, and nothing that waited for it comes after what gave it up.
    let first = host.apply(&tensors("a", "adder@1"));
    gives_up(&host, file.to_str().unwrap(), &["endpoint", "rollback", "a"]);
    let now = host.json(&["endpoint", "show", "a"]);
    assert_eq!((&now["state"], &now["live"]), (&"live".into(), &first.into()), "{now}");
    gives_up(&host, file.to_str().unwrap(), &["endpoint", "delete", "a"]);
    host.refused(&["endpoint", "show", "a"], "there is no endpoint a");
    host.ok(&["apply", file.to_str().unwrap(), "--no-wait"]);
    until("it is tried", || trials(&host) == 1);
    host.ok(&["endpoint", "delete", "a"]);
    host.apply(&tensors("a", "adder@1"));
    until("its trial ends", || trials(&host) == 0);
    after(&mut host);
}

/// Applies to `a`, beside `adder@1`, what is tried for long, and another that waits for it, and has a
/// command give up both.
fn gives_up(host: &Host, slow: &str, command: &[&str]) {
    let variant = json!({"name": "main", "models": {"default": "adder@2"}});
    let spec = json!({"name": "a", "variants": [variant]}).to_string();
    let apply = Request::post("/v1/endpoints", "application/json", &spec);
    until("what waits is given up", || {
        host.apply(&tensors("a", "adder@1"));
        host.ok(&["apply", slow, "--no-wait"]);
        until("it is tried", || trials(host) == 1);
        let mut waiting = host.connect_admin();
        waiting.begin(&apply).unwrap();
        waiting.write(spec.as_bytes()).unwrap();
        host.ok(command);
        let answer = waiting.answer().unwrap();
        until("the trial ends", || trials(host) == 0);
        // On a busy system it may have come only after the command, and is live.
        answer.status == 409 && answer.text().contains("was given up before it was live")
    });
}

#[test]
fn a_library_that_was_exchanged_is_no_fault_of_a_model() {
    let folder = new_folder();
    let library = folder.path().join("libonnxruntime.so");
    fs::copy(told("ORT_DYLIB_PATH"), &library).unwrap();
    let host = Host::start_with(&["--onnxruntime", library.to_str().unwrap()]);
    let model = |number| host.file("adder.onnx", small::adder(number));
    let push = |number: f32| host.cli(&["model", "push", "adder", model(number).to_str().unwrap()]);
    assert!(push(1.0).code == 0);
    // As an upgrade puts it there: what is loaded stays as it is.
    let other = host.file("other.so", "no library");
    fs::rename(other, &library).unwrap();
    check_refused("another", &push(2.0), "start the host anew");
    check_refused("another", &push(2.0), "is not the ONNX Runtime");
    // What is known needs no trial.
    host.ok(&["model", "push", "again", model(1.0).to_str().unwrap()]);
    assert_eq!(host.json(&["model", "list"]).as_array().unwrap().len(), 2);
}
