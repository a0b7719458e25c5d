//! Components that are hard to compile or fit no interface, limits, what is kept of a trap.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::processors::faults;
use crate::support::files::{bare, guest, plugin, variant};
use crate::support::host::check_refused;
use crate::support::{Host, Request, beside, onnx, until};

/// A processor in text whose `process` is `body`.
fn in_text(body: &str) -> String {
    include_str!("support/processor.wat").replace("PROCESS", body)
}

/// A component that exports nothing of what it promises, around a module in text.
fn around(module: &str) -> String {
    format!(
        "(component (core module {module}) (instance $empty)
            (export \"berth:plugin/processing@0.1.0\" (instance $empty)))"
    )
}

/// One function of so many loops, nested or one after the other, over so many variables: every
/// variable may come from every loop.
fn tangled(loops: usize, variables: usize, nested: bool) -> String {
    let step = |at: usize| {
        let (one, other) = (at % variables, (at * 7 + 1) % variables);
        format!(
            "(local.set {other} (i32.add (local.get {one}) (local.get {other}))) (br_if 0 (local.get {one}))"
        )
    };
    let code: String = match nested {
        true => (0..loops).map(|at| format!("{} end ", step(at))).collect(),
        false => (0..loops).map(|at| format!("loop {} end ", step(at))).collect(),
    };
    let begin = if nested { "loop ".repeat(loops) } else { String::new() };
    around(&format!("(func (local {}) {begin} {code})", "i32 ".repeat(variables)))
}

/// Writes a component in text as a file to be pushed.
fn written(host: &Host, name: &str, text: &str) -> PathBuf {
    host.file(&format!("{name}.wasm"), wat::parse_str(text).unwrap())
}

#[test]
fn what_the_compiler_cannot_take_is_refused() {
    for (name, options, text, part) in [
        (
            "CPU time",
            ["--compile-cpu", "1"],
            tangled(2_000, 2_000, true),
            "make it or its largest functions smaller, or give `berth serve` a higher --compile-cpu",
        ),
        (
            "memory",
            ["--compile-memory", "100"],
            tangled(20_000, 100, false),
            "plugin bomb: compiling it took more than 100 MiB of memory",
        ),
    ] {
        let host = Host::with_healthy(&options);
        let bomb = written(&host, "bomb", &text);
        let grown = host.grown_by(|| {
            beside(&host, &Request::healthy(), |_| {
                host.refused(&["plugin", "push", "bomb", bomb.to_str().unwrap()], part);
            });
        });
        // The process that compiled had its own bound; the host has held the component.
        assert!(grown < 32 << 20, "{name}: {grown} bytes");
        host.refused(&["plugin", "show", "bomb"], "there is no plugin bomb");
        for file in fs::read_dir(host.folder().join("data/compiled")).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            assert!(file.ends_with(".cwasm"), "{name}: {file} is left behind");
        }
        assert_eq!(host.push("plugin", "weighted", &plugin("weighted")), 1, "{name}");
    }
}

#[test]
fn a_component_of_other_types_is_refused() {
    let host = Host::with_healthy(&[]);
    let whole = in_text("unreachable");
    let other = whole.replace("(result $signature)", "(result u32)");
    let other = other.replace("(result $x-signature)", "(result u32)");
    let cases = [
        ("nothing exported", around(""), "does not fit the interfaces in wit/"),
        (
            "another parameter of an import",
            around("").replacen(
                "(component ",
                "(component (import \"berth:plugin/log@0.1.0\" (instance (export \"write\" (func (param \"level\" u32))))) ",
                1,
            ),
            "does not fit the interfaces in wit/",
        ),
        (
            "a clock to sleep by",
            around("").replacen(
                "(component ",
                "(component (import \"wasi:clocks/monotonic-clock@0.2.6\" (instance)) ",
                1,
            ),
            "plugins have no clock",
        ),
    ];
    beside(&host, &Request::healthy(), |another| {
        for (name, text, part) in cases {
            let file = written(&host, "other", &text);
            let said = host.cli(&["plugin", "push", "other", file.to_str().unwrap()]);
            check_refused(name, &said, part);
            another();
        }
        // What an exported function takes and answers is seen when it is first called, by the apply.
        host.push("plugin", "other", &written(&host, "other", &other));
        host.apply_refused(
            "another result",
            &format!("name = \"e\"\n{}", variant("main", "other@1", "", "")),
            "variants.main: processor other@1: the plugin was stopped: host: expected `record` found `u32`",
        );
        another();
        host.push("plugin", "whole", &written(&host, "whole", &whole));
        host.apply(&format!("name = \"e\"\n{}", variant("main", "whole@1", "", "")));
    });
}

#[test]
fn a_table_grows_to_its_bound_and_a_stack_without_names_has_numbers() {
    let host = Host::with_healthy(&[]);
    // It traps when it is refused more, unless its table is larger than what is granted.
    let body = "(loop (br_if 0 (i32.ne (i32.const -1)
            (table.grow 0 (ref.null func) (i32.const 1000)))))
        (loop (br_if 0 (i32.gt_u (table.size 0) (i32.const 20000))))
        unreachable";
    host.push("plugin", "table", &written(&host, "table", &in_text(body)));
    host.apply(&format!("name = \"table\"\n{}", variant("main", "table@1", "", "")));
    beside(&host, &Request::healthy(), |_| {
        let answer = host.send(&Request::invoke("table", "x"));
        answer.check_error("table", 500, "the plugin was stopped");
        let entry = host.logged(answer.header("berth-prediction").unwrap());
        assert!(entry.contains("unreachable: "), "{entry}");
        assert!(entry.contains("    at function "), "{entry}");
    });
}

#[test]
pub(crate) fn an_endpoint_has_limits_of_its_own() {
    let options =
        ["--processor-memory", "64", "--processor-cpu", "3600000", "--max-instances", "8"];
    let host = Host::with_healthy(&options);
    host.push_digits();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push("plugin", "weighted", &plugin("weighted"));
    for (limits, part) in [
        (
            "memory_mib = 65",
            "limits.memory_mib: 65 is not within 1 and the operator's maximum of 64",
        ),
        ("memory_mib = 0", "limits.memory_mib: 0 is not within 1"),
        (
            "cpu_ms = 3600001",
            "limits.cpu_ms: 3600001 is not within 1 and the operator's maximum of 3600000",
        ),
        (
            "host_mib = 257",
            "limits.host_mib: 257 is not within 1 and the operator's maximum of 256 (--processor-host)",
        ),
        ("instances = 7", "limits.instances: 7 is not within 1 and the operator's maximum of 6"),
        ("threads = 1", "threads"),
    ] {
        let endpoint = format!("limits = {{ {limits} }}\n{}", faults("e", &["none"]));
        host.apply_refused(limits, &endpoint, part);
    }
    let modes = ["none", "memory", "loop", "tensors", "lifting"];
    let limits = "limits = { memory_mib = 24, cpu_ms = 200, host_mib = 4, instances = 2 }";
    host.apply(&format!("{limits}\n{}", faults("small", &modes)));
    assert_eq!(host.json(&["endpoint", "show", "small"])["revision"]["limits"]["host_mib"], 4);
    beside(&host, &Request::healthy(), |another| {
        for (mode, status, part, logged) in [
            ("memory", 500, "was stopped", "more than its 25165824 bytes of memory"),
            ("loop", 504, "more than its 200 ms of CPU", "more than 200ms"),
            ("tensors", 500, "the plugin failed", "4194304"),
            ("lifting", 500, "was stopped", "host: "),
            ("none", 200, "", ""),
        ] {
            let answer = host.send(&Request::invoke(&format!("small/versions/{mode}"), "x"));
            if status == 200 {
                assert_eq!(answer.status, 200);
            } else {
                answer.check_error(mode, status, part);
                let entry = host.logged(answer.header("berth-prediction").unwrap());
                assert!(entry.contains(logged), "{mode}: {entry}");
            }
            another();
        }
        let used = |name: &str| {
            host.metric(&format!("berth_plugin_{name}{{plugin=\"processor-faults@1\"}}"))
        };
        let within = |name: &str, most: &str| {
            let labels = format!("plugin=\"processor-faults@1\",le=\"{most}\"");
            host.metric(&format!("berth_plugin_{name}_bucket{{{labels}}}"))
        };
        // One call for each variant by the apply, one by each request.
        assert_eq!(["cpu_seconds_count", "memory_bytes_count"].map(used), [10.0, 10.0]);
        assert!(used("cpu_seconds_sum") >= 0.2, "{}", used("cpu_seconds_sum"));
        assert!(used("host_calls_total") >= 8.0, "{}", used("host_calls_total"));
        assert_eq!(["4194304", "67108864"].map(|most| within("host_bytes", most)), [10.0, 10.0]);
        assert_eq!(["65536", "67108864"].map(|most| within("memory_bytes", most)), [0.0, 10.0]);
    });
    // Its one instance is taken, those of the others are not.
    host.apply(&format!(
        "limits = {{ instances = 1 }}\ntimeout_ms = 3600000\n{}",
        faults("single", &["loop", "none"])
    ));
    let single = |mode: &str| Request::invoke(&format!("single/versions/{mode}"), "x");
    let _taken = host.fill(&single("loop"), &single("none"));
    assert_eq!(host.send(&Request::healthy()).status, 200);
}

#[test]
fn outputs_beyond_what_a_call_may_hold_are_refused() {
    const LIMIT: u64 = 1 << 20;
    let host = Host::with_healthy(&[]);
    host.push("plugin", "probe", &guest("probe"));
    host.push_model("zeros", &onnx::zeros());
    let zeros = |mode: &str, count: u64| {
        let input = json!({"name": "n", "datatype": "INT64", "shape": [1], "data": [count]});
        let body = json!({"inputs": [input]}).to_string();
        host.send(&Request::post(&format!("/v2/models/{mode}/infer"), "application/json", body))
    };
    beside(&host, &Request::healthy(), |another| {
        for mode in ["graph", "model"] {
            let main =
                variant("main", "probe@1", "default = \"zeros@1\"", &format!("mode = {mode:?}"));
            host.apply(&format!("name = {mode:?}\nlimits = {{ host_mib = 1 }}\n{main}"));
            let answer = zeros(mode, LIMIT / 4 + 1);
            answer.check_error(mode, 500, "the plugin failed");
            let entry = host.logged(answer.header("berth-prediction").unwrap());
            assert!(entry.contains(&format!("{LIMIT} bytes")), "{mode}: {entry}");
            another();
            assert_eq!(zeros(mode, 1000).output(), [0.0; 1000], "{mode}");
        }
    });
    let held = |most: &str| {
        host.metric(&format!("berth_plugin_host_bytes_bucket{{plugin=\"probe@1\",le=\"{most}\"}}"))
    };
    // Two calls by requests and one by the apply, of each mode.
    assert_eq!(["1048576", "+Inf"].map(held), [6.0, 6.0]);
}

/// More often than there are handles for a request, of which a refusal takes none.
#[test]
fn outputs_that_are_refused_leave_no_handles_behind() {
    let host = Host::start();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push_model("mixed", &onnx::with_truth());
    let mode = "mode = \"refused-outputs\"";
    host.apply(&format!(
        "name = \"e\"\n{}",
        variant("main", "processor-faults@1", "default = \"mixed@1\"", mode)
    ));
    let answer = host.send(&Request::invoke("e", "x"));
    assert_eq!((answer.status, &*answer.text()), (200, "ok"));
}

/// The guest's own function, into which the compiler drew what fails.
const PLACE: &str = "    at berth:plugin/processing@0.1.0#[method]processor.process";

#[test]
pub(crate) fn a_trap_is_logged_whole_once() {
    let host = Host::with_healthy(&[]);
    host.push_digits();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push("plugin", "weighted", &plugin("weighted"));
    host.apply(&faults("e", &["panic", "trap"]));
    let digest = host.digest("processor-faults");
    beside(&host, &Request::healthy(), |_| {
        let mut ids = Vec::new();
        for mode in ["panic", "trap"] {
            let mut connection = host.connect();
            for _ in 0..20 {
                let request = Request::invoke(&format!("e/versions/{mode}"), "x");
                let answer = connection.send(&request).unwrap();
                let id = answer.header("berth-prediction").unwrap().to_owned();
                answer.check_error(mode, 500, &format!("the log has it under {id}"));
                ids.push((mode, id));
            }
        }
        for (at, (mode, id)) in ids.iter().enumerate() {
            let entry = host.logged(id);
            let first = at % 20 == 0;
            assert!(entry.contains("plugin=\"processor-faults@1\""), "{mode} {at}: {entry}");
            assert!(entry.contains(&digest), "{mode} {at}: {entry} lacks {digest}");
            assert_eq!(entry.contains(PLACE), first, "{mode} {at}: {entry}");
            assert_eq!(entry.contains("times where prediction="), !first, "{mode} {at}: {entry}");
            let said = first && *mode == "panic";
            assert_eq!(entry.contains("the guest panics on 1 bytes"), said, "{mode} {at}: {entry}");
        }
    });
}

#[test]
fn a_trap_at_an_apply_is_logged_whole_once() {
    let host = Host::start();
    host.push_digits();
    host.push("plugin", "weighted", &plugin("weighted"));
    for name in ["processor-faults", "policy-faults"] {
        host.push("plugin", name, &guest(name));
    }
    let policy = format!(
        "name = \"e\"\nrouting = {{ policy = \"policy-faults@1\", config = {{ mode = \"trap\", at_once = true }} }}\n{}",
        bare("main", "digits@1")
    );
    for (name, endpoint) in
        [("processor-faults", faults("e", &["signature-trap"])), ("policy-faults", policy)]
    {
        let digest = host.digest(name);
        for round in 0..3 {
            let before = host.log().len();
            host.apply_refused(name, &endpoint, "was stopped: unreachable: ");
            let entries = host.entries(before);
            let stacks = entries.iter().filter(|entry| entry.contains("    at ")).count();
            assert_eq!(stacks, usize::from(round == 0), "{name}: {entries:#?}");
            let entry = entries.iter().find(|entry| entry.contains("not ready: ")).unwrap();
            for part in [&*format!("plugin=\"{name}@1\""), &*digest, "revision="] {
                assert!(entry.contains(part), "{name}: {entry} lacks {part}");
            }
            let later = entry.contains(&format!("{round} times where revision="));
            assert_eq!(later, round > 0, "{name}: {entry}");
        }
    }
    let trapped = "berth_plugin_traps_total{plugin=\"processor-faults@1\",kind=\"unreachable\"}";
    assert_eq!(host.metric(trapped), 3.0);
}

#[test]
fn bytes_that_make_no_tensor_are_not_copied() {
    let host = Host::with_healthy(&["--processor-memory", "200"]);
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push_model("adder", &onnx::adder(1.0));
    let main =
        variant("main", "processor-faults@1", "default = \"adder@1\"", "mode = \"overlong\"");
    host.apply(&format!("name = \"overlong\"\n{main}"));
    beside(&host, &Request::healthy(), |_| {
        let grown = host.grown_by(|| {
            let answer = host.send(&Request::invoke("overlong", "x"));
            answer.check_error("overlong", 500, "the plugin failed");
            let entry = host.logged(answer.header("berth-prediction").unwrap());
            assert!(entry.contains("takes 4 bytes, got 134217728"), "{entry}");
        });
        // The guest itself has 128 MiB of them.
        assert!(grown < 192 << 20, "{grown} bytes");
    });
}

/// What a model answers is held for the guest from the end of the run on, waited for or not.
#[test]
fn what_was_not_waited_for_is_on_the_account() {
    let host = Host::with_healthy(&["--processor-host", "4"]);
    host.push_model("wide", &onnx::wide((1 << 20) / 4));
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    let main = variant("main", "processor-faults@1", "default = \"wide@1\"", "mode = \"unwaited\"");
    host.apply(&format!("name = \"unwaited\"\n{main}"));
    beside(&host, &Request::healthy(), |_| {
        let answer = host.send(&Request::invoke("unwaited", "x"));
        answer.check_error("too much", 500, "the plugin failed");
        let entry = host.logged(answer.header("berth-prediction").unwrap());
        assert!(entry.contains("4194304 bytes"), "{entry}");
    });
}

/// What a call used is counted also when its client does not wait for the end.
#[test]
fn a_call_whose_client_goes_away_is_counted() {
    let host = Host::with_healthy(&[]);
    host.push_digits();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push("plugin", "weighted", &plugin("weighted"));
    let endpoint = faults("e", &["poll", "none"]);
    host.apply(&format!("limits = {{ instances = 1 }}\ntimeout_ms = 3600000\n{endpoint}"));
    let used =
        |name: &str| host.metric(&format!("berth_plugin_{name}{{plugin=\"processor-faults@1\"}}"));
    assert_eq!(used("cpu_seconds_count"), 2.0, "by the apply");
    let (calls, cpu) = (used("host_calls_total"), used("cpu_seconds_sum"));
    let mode = |mode: &str| Request::invoke(&format!("e/versions/{mode}"), "x");
    let client = host.fill(&mode("poll"), &mode("none"));
    let before = used("cpu_seconds_count");
    drop(client);
    until("it is counted", || used("cpu_seconds_count") == before + 1.0);
    assert!(used("host_calls_total") > calls && used("cpu_seconds_sum") > cpu);
    assert!(used("memory_bytes_count") == before + 1.0 && used("host_bytes_count") == before + 1.0);
}
