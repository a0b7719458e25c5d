//! What a revision has to show before it takes over.

use std::fs;

use berth_onnx::networks::lookup;
use berth_tensor::DataType;
use serde_json::json;

use crate::durability::digest;
use crate::processors::faults;
use crate::rollouts::{begin, outcome};
use crate::support::files::{an_eight, bare, digits_endpoint, guest, plugin, tensors};
use crate::support::{Host, Request, onnx, until};

/// The body of an inference request of one input.
fn infer(name: &str, datatype: &str, shape: &[usize]) -> String {
    let data = vec![7; shape.iter().product()];
    let input = json!({"name": name, "datatype": datatype, "shape": shape, "data": data});
    json!({"inputs": [input]}).to_string()
}

#[test]
fn every_variant_answers_the_example_of_the_endpoint_file() {
    let host = Host::with_digits(&[]);
    host.push("plugin", "weighted", &plugin("weighted"));
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    // Takes 0, with which every model is run when it is opened, and no 7.
    host.push_model("lookup", &lookup(1, 4, &[8, 2]));
    host.file("good.json", infer("input", "FP32", &[1, 64]));
    host.file("long.json", infer("input", "FP32", &[1, 65]));
    host.file("seven.json", infer("ids", "INT64", &[1]));
    host.file("half.json", "{\"inputs\":");
    host.file("eight.png", an_eight());
    let absent = format!("sha256:{}", "0".repeat(64));
    let (picture, raw) = (digits_endpoint(2), tensors("digits", "digits@2"));
    let with = |warm_up: &str, endpoint: &str| format!("warm_up = {{ {warm_up} }}\n{endpoint}");
    let live = host.apply(&picture);
    let refused: [(&str, &str, &str, &str); 12] = [
        (
            "tensors of another shape",
            "infer = \"long.json\"",
            &raw,
            "warm_up: variant main does not answer it: input \"input\": expected shape [-1, 64], got [1, 65]",
        ),
        (
            "tensors of another shape for a processor",
            "infer = \"long.json\"",
            &picture,
            "warm_up: variant main does not answer it: input \"input\": ",
        ),
        (
            "what the model fails on",
            "infer = \"seven.json\"",
            &tensors("digits", "lookup@1"),
            "warm_up: variant main does not answer it: ONNX Runtime failed: ",
        ),
        ("no request", "infer = \"half.json\"", &raw, "warm_up.infer: malformed JSON at byte 10"),
        (
            "a body for a model",
            "invoke = \"eight.png\"",
            &raw,
            "warm_up: variant main does not answer it: it has no processor, so it takes tensors",
        ),
        (
            "no picture",
            "invoke = \"half.json\"",
            &picture,
            "warm_up: variant main does not answer it: the body is no picture",
        ),
        (
            "a processor that panics",
            "invoke = \"half.json\"",
            &faults("digits", &["panic"]),
            "warm_up: variant panic does not answer it: the plugin was stopped: unreachable",
        ),
        (
            "the second variant",
            "invoke = \"half.json\"",
            &faults("digits", &["none", "plugin"]),
            "warm_up: variant plugin does not answer it: the plugin failed: the guest says no",
        ),
        (
            "a processor that answers no tensors",
            "infer = \"good.json\"",
            &faults("digits", &["none"]),
            "where tensors were asked for",
        ),
        ("no file", "infer = \"none.json\"", &raw, "warm_up.infer: cannot open "),
        ("no blob", &format!("infer = \"{absent}\""), &raw, "warm_up: there is no blob sha256:000"),
        ("nothing", "", &raw, "warm_up: give the file of a request"),
    ];
    for (name, warm_up, endpoint, part) in refused {
        host.apply_refused(name, &with(warm_up, endpoint), part);
        let answer = host.send(&Request::invoke("digits", an_eight()));
        assert_eq!((answer.revision(), answer.label().as_str()), (&*live, "8"), "{name}");
    }
    let requests = "berth_requests_total{endpoint=\"digits\",variant=\"main\"}";
    let before = host.metric(requests);
    for (warm_up, endpoint) in [
        ("infer = \"good.json\"", &raw),
        ("infer = \"good.json\"", &picture),
        ("invoke = \"eight.png\", content_type = \"image/png\"", &picture),
    ] {
        host.apply(&with(warm_up, endpoint));
    }
    assert_eq!(host.metric(requests), before, "it is no client's");
}

#[test]
fn what_was_live_answers_after_a_restart_though_its_example_is_gone() {
    let mut host = Host::start();
    host.push_model("adder", &onnx::adder(1.0));
    let example = infer("x", "FP32", &[2]);
    host.file("example.json", &example);
    let endpoint = tensors("adder", "adder@1");
    let live = host.apply(&format!("warm_up = {{ infer = \"example.json\" }}\n{endpoint}"));
    let answers = |host: &Host| {
        let answer = host.send(&Request::infer("adder", "x", &[1], &[1.0]));
        assert_eq!((answer.revision(), answer.output()), (&*live, vec![2.0]));
    };
    host.restart();
    answers(&host);
    assert!(!host.log().contains("not warm"), "{}", host.log());
    host.kill();
    let name = digest(&example);
    fs::remove_file(host.folder().join(format!("data/blobs/{}/{name}", &name[..2]))).unwrap();
    host.restart();
    answers(&host);
    assert!(host.log().contains(&format!("not warm: blob {name} is not in the store")));
}

#[test]
fn variants_that_are_drawn_for_the_same_request_take_the_same() {
    let host = Host::with_digits(&[]);
    host.push("plugin", "weighted", &plugin("weighted"));
    host.push("plugin", "targeting", &plugin("targeting"));
    host.push_model("any", &onnx::adder(1.0));
    host.push_model("four", &onnx::identity(DataType::Fp32, &[4]));
    host.push_model("whole", &onnx::identity(DataType::Int32, &[-1]));
    host.push_model("two", &onnx::two_inputs());
    let model = |name: &'static str| move |variant: &str| bare(variant, &format!("{name}@1"));
    let (any, four, whole, two) = (model("any"), model("four"), model("whole"), model("two"));
    let digits = model("digits");
    let classifier = |variant: &str| {
        let endpoint = digits_endpoint(1).replace("\"main\"", &format!("{variant:?}"));
        endpoint[endpoint.find("[[variants]]").unwrap()..].to_owned()
    };
    let even = "{ policy = \"weighted@1\", config = { weights = { a = 1, b = 1 } } }";
    let first = "{ policy = \"weighted@1\", config = { weights = { a = 1 } } }";
    let router = "{ policy = \"targeting@1\", config = { default = \"a\" } }";
    type Variant<'a> = &'a dyn Fn(&str) -> String;
    let cases: [(Variant, Variant, &str, Option<&str>); 10] = [
        (&any, &any, even, None),
        (&four, &any, even, None),
        (&digits, &classifier, even, None),
        (
            &any,
            &four,
            even,
            Some(
                "variants.b: four@1 takes input \"x\" as FP32 [4], any@1 as FP32 [-1], and the policy draws this variant or a for the same request",
            ),
        ),
        (&any, &whole, even, Some("whole@1 takes input \"x\" as INT32 [-1], any@1 as FP32 [-1]")),
        (&any, &two, even, Some("two@1 takes no input \"x\", and any@1 does")),
        (&two, &any, even, Some("any@1 takes no input \"a\", and two@1 does")),
        (&classifier, &digits, even, Some("digits@1 takes no bodies, and image-classifier@1 does")),
        // Nobody is given the second, or the router knows to whom.
        (&any, &whole, first, None),
        (&any, &whole, router, None),
    ];
    for (a, b, routing, part) in cases {
        let endpoint = format!("name = \"e\"\nrouting = {routing}\n{}{}", a("a"), b("b"));
        match part {
            None => drop(host.apply(&endpoint)),
            Some(part) => host.apply_refused(part, &endpoint, part),
        }
    }
}

#[test]
fn what_is_done_while_an_endpoint_is_restored_is_done_to_what_was_live() {
    let mut host = Host::start();
    host.push("plugin", "canary", &plugin("canary"));
    for extra in 0..3 {
        host.push_model("turns", &onnx::turns(extra));
    }
    // Some seconds, for which it does not answer after a start.
    host.file(
        "turns.json",
        r#"{"inputs":[{"name":"n","datatype":"INT64","shape":[],"data":[9999999]}]}"#,
    );
    let file = |version: u32, rollout: &str| {
        let model = tensors("e", &format!("turns@{version}"));
        format!("timeout_ms = 100_000\nwarm_up = {{ infer = \"turns.json\" }}\n{rollout}{model}")
    };
    let history = |host: &Host| host.json(&["endpoint", "history", "e"]).as_array().unwrap().len();
    let first = host.apply(&file(1, ""));
    let live = host.apply(&file(2, ""));
    let seen = history(&host);

    let again = host.file("again.toml", file(2, ""));
    host.start_again();
    let applied = host.json(&["apply", again.to_str().unwrap()]);
    assert_eq!((&applied["changed"], &applied["revision"]), (&json!(false), &json!(live)));
    assert_eq!(history(&host), seen, "nothing was to be done");

    host.start_again();
    let rolled = host.json(&["endpoint", "rollback", "e"]);
    assert_eq!((&rolled["state"], &rolled["revision"]), (&json!("live"), &json!(first)));

    host.start_again();
    begin(&host, &file(3, "rollout = { policy = \"canary@1\", config = { steps = [50, 100] } }\n"));

    host.start_again();
    let said = host.cli(&["rollout", "abort", "e"]);
    let waits = said.stderr.contains("is being made ready since the host was started");
    assert!(said.code == 0 || waits, "{said:?}");
    if waits {
        until("it is restored", || host.cli(&["rollout", "abort", "e"]).code == 0);
    }
    assert_eq!(outcome(&host), "aborted");
    assert_eq!(host.json(&["endpoint", "show", "e"])["live"], first);
}

/// What ends the host is not tried at each of its starts: they would be all there is of it.
#[test]
fn what_is_prepared_whenever_the_host_ends_is_given_up_in_the_end() {
    let mut host = Host::with_digits(&[]);
    // Minutes.
    host.push_model("turns", &onnx::turns(0));
    host.file(
        "long.json",
        r#"{"inputs":[{"name":"n","datatype":"INT64","shape":[],"data":[999999999]}]}"#,
    );
    let long = format!(
        "timeout_ms = 600_000\nwarm_up = {{ infer = \"long.json\" }}\n{}",
        tensors("digits", "turns@1")
    );
    let live = host.apply(&digits_endpoint(2));
    let file = host.file("long.toml", long);
    let applied = host.json(&["apply", "--no-wait", file.to_str().unwrap()]);
    assert_eq!(applied["state"], "preparing", "{applied}");
    let state = |host: &Host| host.json(&["endpoint", "show", "digits"])["state"].clone();
    let mut entries = 0;
    let serves = |host: &Host| {
        let answer = host.send(&Request::invoke("digits", an_eight()));
        assert_eq!((answer.status, answer.revision()), (200, &*live), "{}", answer.text());
    };
    for _ in 0..4 {
        host.restart();
        until("it is gone on with", || {
            let history = host.json(&["endpoint", "history", "digits"]);
            history[0]["why"] == "went on after a restart" && state(&host) == "preparing" && {
                let seen = history.as_array().unwrap().len();
                std::mem::replace(&mut entries, seen) < seen
            }
        });
        serves(&host);
    }
    host.restart();
    let shown = host.json(&["endpoint", "show", "digits"]);
    assert_eq!(shown["state"], "failed");
    let problem = shown["problem"].as_str().unwrap();
    assert!(problem.contains("ended again and again while it was being prepared"), "{problem}");
    serves(&host);
    host.restart();
    assert_eq!(state(&host), "failed");
    serves(&host);
}
