//! Processors that fail, and what the others see.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::json;

use crate::guests::modes;
use crate::support::files::{guest, plugin, tensors, variant};
use crate::support::{Answer, Connection, Host, Request, beside, onnx, until};

const STOPPED: &str = "the plugin was stopped; the log has it under ";
const FAILED: &str = "the plugin failed; the log has it under ";

/// What a request comes to in a mode of `processor-faults`: status, part of the message, and part
/// of what the log says.
const FAULTS: [(&str, u16, &str, &str); 38] = [
    ("none", 200, "ok", ""),
    ("trap", 500, STOPPED, "unreachable: it panicked or aborted"),
    ("panic", 500, STOPPED, "the guest panics on 1 bytes"),
    ("memory", 500, STOPPED, "memory: it asked for more than its 33554432 bytes"),
    ("refused-panic", 500, STOPPED, "unreachable: it panicked or aborted; it said: "),
    ("refused-trap", 500, STOPPED, "unreachable: it panicked or aborted"),
    ("refused-stack", 500, STOPPED, "stack: its stack overflowed"),
    ("stack", 500, STOPPED, "stack: the stack in its memory overflowed"),
    ("deep-stack", 500, STOPPED, "stack: its stack overflowed"),
    ("lifting", 500, STOPPED, "host: "),
    ("dimensions", 500, STOPPED, "host: the tensors and bodies that the host holds"),
    ("stale-handle", 500, STOPPED, "host: "),
    ("unknown-handle", 500, STOPPED, "host: unknown handle index 12345"),
    ("foreign-handle", 500, STOPPED, "host: "),
    ("tensors", 500, FAILED, "a request may hold in the host"),
    ("tensors-nn", 500, FAILED, "too-large: tensor "),
    ("graphs", 500, STOPPED, "host: "),
    ("endless", 500, FAILED, "the answer exceeds the endpoint's limit"),
    ("chatter", 200, "ok", ""),
    // Its own words do not keep its end out of the log.
    ("chatter-trap", 500, STOPPED, "unreachable: it panicked or aborted"),
    ("names", 200, "ok", ""),
    ("score", 200, "ok", ""),
    ("caller", 400, "the body is not to the guest's taste", ""),
    ("plugin", 500, FAILED, "the guest says no"),
    ("long-caller", 400, "no\u{fffd}no", ""),
    ("long-plugin", 500, FAILED, "no\u{fffd}no"),
    ("long-name", 500, FAILED, "name is at most 1024 bytes"),
    ("silent", 500, "the plugin gave no answer", "the plugin gave no answer"),
    ("twice", 500, FAILED, "the answer already carries a body"),
    ("late-head", 500, FAILED, "the plugin failed"),
    ("wrong-answer", 500, FAILED, "against its signature"),
    ("wrong-length", 500, FAILED, "invalid-argument"),
    ("wrong-length-model", 500, FAILED, "the plugin failed"),
    ("wrong-overflow", 500, FAILED, "the plugin failed"),
    ("wrong-shape", 500, FAILED, "input"),
    ("wrong-shape-model", 500, FAILED, "input"),
    ("wrong-input", 500, FAILED, "no-such-input"),
    ("wrong-output", 500, FAILED, "no-such-output"),
];

/// Modes that other tests, or the rest of the same test, are for.
const ELSEWHERE: [&str; 12] = [
    "loop",
    "poll",
    "handles",
    "refused-outputs",
    "overlong",
    "unwaited",
    "wrong-datatype",
    "create-refuse",
    "create-trap",
    "create-loop",
    "signature-trap",
    "signature-flood",
];

pub(crate) fn faults(name: &str, modes: &[&str]) -> String {
    let variants = modes.iter().map(|mode| {
        let config = format!("mode = \"{mode}\"");
        variant(mode, "processor-faults@1", "default = \"digits@2\"", &config)
    });
    let variants: Vec<String> = variants.collect();
    format!(
        "name = {name:?}\ndirect = true\nrouting = {{ policy = \"weighted@1\", config = {{ weights = {{ {} = 1 }} }} }}\n{}",
        modes[0],
        variants.concat()
    )
}

#[test]
pub(crate) fn a_failure_is_one_requests_failure() {
    let known: BTreeSet<String> =
        FAULTS.iter().map(|fault| fault.0).chain(ELSEWHERE).map(str::to_owned).collect();
    assert_eq!(modes("processor-faults"), known, "the guest's modes, and those with a test");

    let host = Host::with_healthy(&["--processor-memory", "32", "--processor-cpu", "1000"]);
    host.push_digits();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push("plugin", "weighted", &plugin("weighted"));
    let listed: Vec<&str> = FAULTS.iter().map(|fault| fault.0).collect();
    host.apply(&faults(
        "faults",
        &[&listed[..], &["handles", "wrong-datatype", "loop", "poll"]].concat(),
    ));
    host.apply(&format!("timeout_ms = 300\n{}", faults("short", &["loop", "poll"])));

    beside(&host, &Request::healthy(), |another| {
        let invoke = |endpoint: &str, mode: &str| {
            host.send(&Request::invoke(&format!("{endpoint}/versions/{mode}"), "x"))
        };
        let infer = |mode: &str| {
            host.send(&Request::infer(&format!("faults/versions/{mode}"), "x", &[1], &[0.0]))
        };
        let check = |mode: &str, answer: Answer, status, part: &str, logged: &str| {
            assert_eq!(answer.variant(), mode);
            if status == 200 {
                assert_eq!((answer.status, answer.text().as_str()), (200, part), "{mode}");
            } else {
                answer.check_error(mode, status, part);
                assert!(answer.body.len() < 5 << 10, "{mode}: {} bytes", answer.body.len());
            }
            if !logged.is_empty() {
                let prediction = answer.header("berth-prediction").unwrap();
                let entry = host.logged(prediction);
                assert!(entry.contains(logged), "{mode}: {entry:?} lacks {logged:?}");
                assert!(entry.len() < 6 << 10, "{mode}: {} bytes", entry.len());
            }
            another();
        };
        for (mode, status, part, logged) in FAULTS {
            check(mode, invoke("faults", mode), status, part, logged);
        }
        check("handles", infer("handles"), 500, STOPPED, "host: ");
        check("wrong-datatype", invoke("faults", "wrong-datatype"), 500, FAILED, "input");
        // Its time is up before its share of a core is, and the other way round.
        for mode in ["loop", "poll"] {
            check(mode, invoke("short", mode), 504, "no answer within 300 ms", "took too long");
            let cpu = ("more than its 1000 ms of CPU", "more than 1s of CPU time");
            check(mode, invoke("faults", mode), 504, cpu.0, cpu.1);
        }
        check("none", infer("none"), 500, FAILED, "where tensors were asked for");
    });

    let traps = |kind| {
        let labels = format!("plugin=\"processor-faults@1\",kind=\"{kind}\"");
        host.metric(&format!("berth_plugin_traps_total{{{labels}}}"))
    };
    let counts = ["unreachable", "memory", "stack", "trap", "host", "cpu"].map(traps);
    assert_eq!(counts, [5.0, 1.0, 3.0, 0.0, 7.0, 2.0]);
    let dropped = |mode| {
        let labels =
            format!("endpoint=\"faults\",variant=\"{mode}\",plugin=\"processor-faults@1\"");
        host.metric(&format!("berth_plugin_dropped_total{{{labels}}}"))
    };
    assert!(dropped("chatter") > 90_000.0, "{} lines", dropped("chatter"));
    assert_eq!(dropped("names"), 10_000.0 - 64.0);
}

#[test]
pub(crate) fn a_processor_that_cannot_be_made_is_refused() {
    let host = Host::with_healthy(&["--processor-cpu", "500"]);
    host.push_digits();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push("plugin", "weighted", &plugin("weighted"));
    let live = host.apply(&faults("e", &["none"]));
    beside(&host, &Request::healthy(), |another| {
        for (mode, part) in [
            (
                "create-refuse",
                "variants.create-refuse.config.mode: refused by processor-faults@1: create-refuse is refused",
            ),
            (
                "create-trap",
                "variants.create-trap: processor processor-faults@1: the plugin was stopped",
            ),
            (
                "create-loop",
                "variants.create-loop: processor processor-faults@1: the plugin used more than 500ms of CPU time",
            ),
            (
                "signature-trap",
                "variants.signature-trap: processor processor-faults@1: the plugin was stopped",
            ),
            (
                "signature-flood",
                "variants.signature-flood: processor processor-faults@1: the plugin failed: its signature has more than 1024 entries",
            ),
        ] {
            host.apply_refused(mode, &faults("e", &[mode]), part);
            let answer = host.send(&Request::invoke("e", "x"));
            assert_eq!((answer.revision(), answer.text().as_str()), (&*live, "ok"), "{mode}");
            another();
        }
    });
    // Where it trapped is for operators; of a list, one line.
    host.apply_refused("never live", &faults("never", &["create-trap"]), "the plugin was stopped");
    let answer = host.send(&Request::invoke("never", "x"));
    answer.check_error("never live", 503, "no revision that answers");
    let shown = host.json(&["endpoint", "show", "never"]);
    assert!(shown["problem"].as_str().unwrap().contains("\n    at "), "{shown}");
    for (arguments, lines) in
        [(&["endpoint", "list"][..], 4), (&["endpoint", "history", "never"], 3)]
    {
        let table = host.ok(arguments);
        assert_eq!(table.lines().count(), lines, "{table}");
    }
}

#[test]
pub(crate) fn a_processor_reaches_what_its_variant_binds_and_nothing_else() {
    let host = Host::start();
    host.push_digits();
    host.push("plugin", "probe", &guest("probe"));
    host.file("words.txt", "hello");
    let probe = |name: &str, role: &str, rest: &str| {
        let config = format!("mode = \"{name}\", role = \"{role}\"");
        let variant = variant("main", "probe@1", "default = \"digits@2\"", &config);
        host.apply(&format!("name = {name:?}\n{variant}{rest}\n"));
        host.send(&Request::invoke(name, "x")).json()
    };
    let bound = probe("bind", "default", "");
    assert_eq!(bound["roles"], json!(["default"]));
    assert_eq!((&bound["load_by_name"], &bound["open"]), (&json!("granted"), &json!("granted")));
    let unbound = probe("bind", "other", "");
    for (key, part) in [
        ("load_by_name", "security: no model is bound to the role \"other\"; bound are: default"),
        ("load", "security: plugins bring no models of their own"),
        ("open", "no model is bound to the role \"other\""),
        ("asset", "other"),
    ] {
        let outcome = unbound[key].as_str().unwrap();
        assert!(outcome.contains(part), "{key}: {outcome:?} lacks {part:?}");
    }
    let assets = probe("assets", "default", "assets = { words = \"words.txt\" }");
    let digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(assets, json!({"words": {"digest": digest, "size": 5, "content": "hello"}}));

    // The model answers the same through a processor as without one.
    host.apply(&tensors("raw", "digits@2"));
    let input: Vec<f32> = (0..64).map(|at| (at % 17) as f32).collect();
    let expected = host.send(&Request::infer("raw", "input", &[1, 64], &input)).output();
    for mode in ["graph", "model"] {
        let config = format!("mode = \"{mode}\"");
        let variant = variant("main", "probe@1", "default = \"digits@2\"", &config);
        host.apply(&format!("name = {mode:?}\n{variant}"));
        let answer = host.send(&Request::infer(mode, "input", &[1, 64], &input));
        assert_eq!(answer.output(), expected, "{mode}");
    }
}

/// The options that give the host one instance, which may run for ever.
pub(crate) const ONE_INSTANCE: [&str; 4] = ["--max-instances", "1", "--processor-cpu", "3600000"];

/// Connections of which one has a request that holds the only instance of a host with `healthy` and
/// never ends.
pub(crate) fn take_the_instance(host: &Host) -> Vec<Connection> {
    host.push_model("m", &onnx::adder(1.0));
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    let forever = variant("main", "processor-faults@1", "default = \"m@1\"", "mode = \"loop\"");
    host.apply(&format!("name = \"forever\"\ntimeout_ms = 3600000\n{forever}"));
    assert_eq!(host.send(&Request::healthy()).status, 200);
    host.fill(&Request::invoke("forever", "x"), &Request::healthy())
}

#[test]
fn a_client_that_goes_away_frees_its_instance() {
    let host = Host::with_healthy(&ONE_INSTANCE);
    let taken = take_the_instance(&host);
    host.send(&Request::healthy()).check_error("meanwhile", 503, "overloaded");
    drop(taken);
    until("the instance is free", || host.send(&Request::healthy()).status == 200);
}

/// The ticks that each of the host's threads for models has worked.
fn worked(host: &Host) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.process())).unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let worked = stats.filter_map(|stat| {
        // The number, the name in brackets, then from the third on by spaces; the 14th is the time.
        let (thread, rest) = stat.split_once(" (berth-infer) ")?;
        Some((thread.to_owned(), rest.split(' ').nth(11)?.parse().ok()?))
    });
    worked.collect()
}

#[test]
pub(crate) fn a_processor_runs_two_models_at_once() {
    let host = Host::start_with(&["--max-runs", "2"]);
    host.push("plugin", "every-model", &guest("every-model"));
    let roles = ["first", "second"].map(|role| {
        let extra = role.len() as i64;
        host.push_model(role, &onnx::turns(extra));
        format!("{role} = \"{role}@1\"")
    });
    let main = variant("main", "every-model@1", &roles.join(", "), "");
    host.apply(&format!("name = \"both\"\ntimeout_ms = 3600000\n{main}"));
    let turns = |turns: i64| {
        let n = json!({"name": "n", "datatype": "INT64", "shape": [], "data": [turns]});
        let body = json!({"inputs": [n]}).to_string();
        Request::post("/v2/models/both/infer", "application/json", body)
    };
    let answer = host.send(&turns(3)).json();
    for role in ["first", "second"] {
        let outputs = answer["outputs"].as_array().unwrap();
        let output = outputs.iter().find(|output| output["name"] == format!("{role}.y")).unwrap();
        assert_eq!(output["data"], json!([3]), "{role}");
    }
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: what threads work is seen on Linux alone");
        return;
    }
    // Neither ever ends, so that one that waited for the other would not begin.
    let before = worked(&host);
    let mut endless = host.connect();
    endless.start(&turns(i64::MAX / 2)).unwrap();
    until("two threads work for one request", || {
        let now = worked(&host);
        let more =
            |(thread, ticks): &(&String, &u64)| **ticks > before.get(*thread).unwrap_or(&0) + 5;
        now.iter().filter(more).count() == 2
    });
}
