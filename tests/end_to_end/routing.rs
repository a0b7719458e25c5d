//! Which variant answers.

use std::collections::HashMap;
use std::thread;

use crate::support::files::{bare, plugin, tensors};
use crate::support::{Host, Request, onnx};

const USER: &str = "attributes = { user = { header = \"x-user-id\" } }\nunit = \"user\"\n";

fn host() -> Host {
    let host = Host::start();
    for policy in ["weighted", "targeting"] {
        host.push("plugin", policy, &plugin(policy));
    }
    host.push_model("adder", &onnx::adder(1.0));
    host.push_model("adder", &onnx::adder(2.0));
    host
}

fn split(old: u32, new: u32) -> String {
    format!(
        "name = \"split\"\ndirect = true\n{USER}routing = {{ policy = \"weighted@1\", config = {{ weights = {{ old = {old}, new = {new} }} }} }}\n{}{}",
        bare("old", "adder@1"),
        bare("new", "adder@2"),
    )
}

fn ask(user: Option<u32>) -> Request {
    let request = Request::infer("split", "x", &[1], &[0.0]);
    match user {
        Some(user) => request.header("x-user-id", &format!("user-{user}")),
        None => request,
    }
}

/// The variant of each of so many users; it is also the one whose model answered.
fn variants(host: &Host, users: u32) -> Vec<bool> {
    let part = |users: std::ops::Range<u32>| {
        let mut connection = host.connect();
        let answers = users.map(move |user| {
            let answer = connection.send(&ask(Some(user))).unwrap();
            let expected = if answer.variant() == "new" { 2.0 } else { 1.0 };
            assert_eq!(answer.output(), [expected], "{}", answer.variant());
            answer.variant() == "new"
        });
        answers.collect::<Vec<bool>>()
    };
    thread::scope(|scope| {
        let half = scope.spawn(|| part(0..users / 2));
        let rest = part(users / 2..users);
        [half.join().unwrap(), rest].concat()
    })
}

#[test]
fn shares_are_kept_and_users_stay() {
    const USERS: u32 = 3000;
    let mut host = host();
    host.apply(&split(90, 10));
    let first = variants(&host, USERS);
    let new = first.iter().filter(|&&new| new).count();
    // Five standard deviations of 3,000 draws of one in ten.
    assert!((300 - 82..=300 + 82).contains(&new), "{new} of {USERS} users");
    assert!(variants(&host, USERS) == first, "the same user always gets the same variant");
    let shown = host.json(&["endpoint", "show", "split"]);
    assert_eq!(shown["shares"], serde_json::json!([0.9, 0.1]));

    host.restart();
    assert!(variants(&host, USERS) == first, "also after a restart");
    host.apply(&split(50, 50));
    let half = variants(&host, USERS);
    let new = half.iter().filter(|&&new| new).count();
    assert!((1500 - 137..=1500 + 137).contains(&new), "{new} of {USERS} users");
    assert!(first.iter().zip(&half).all(|(before, after)| before <= after), "no user goes back");

    // Without a user each request is drawn by itself: 40 alike would be one chance in 2 to the 39.
    let mut connection = host.connect();
    let mut drawn = |user| connection.send(&ask(user)).unwrap().variant().to_owned();
    let alone: Vec<String> = (0..40).map(|_| drawn(None)).collect();
    assert!(alone.contains(&"old".into()) && alone.contains(&"new".into()), "{alone:?}");
    let one: Vec<String> = (0..40).map(|_| drawn(Some(7))).collect();
    assert!(one.iter().all(|variant| *variant == one[0]), "{one:?}");
}

#[test]
fn all_or_nothing_is_exact() {
    let host = host();
    for (old, new, expected) in [(1, 0, false), (0, 1, true)] {
        host.apply(&split(old, new));
        assert!(variants(&host, 300).iter().all(|&new| new == expected), "{old} to {new}");
    }
}

#[test]
fn a_variant_that_is_asked_for_answers_and_counts_for_nobody() {
    let host = host();
    host.apply(&split(1, 0));
    let counted = |variant: &str| {
        host.metric(&format!("berth_requests_total{{endpoint=\"split\",variant=\"{variant}\"}}"))
    };
    for _ in 0..3 {
        let request = Request::infer("split/versions/new", "x", &[1], &[0.0]);
        let answer = host.send(&request);
        assert_eq!((answer.variant(), answer.output()), ("new", vec![2.0]));
        assert_eq!(host.send(&ask(None)).variant(), "old");
    }
    assert_eq!((counted("old"), counted("new")), (3.0, 0.0));
}

#[test]
fn rules_choose_by_attributes() {
    let host = host();
    let rules = r#"
[attributes]
user = { header = "x-user-id" }
country = { header = "x-country" }
age = { query = "age" }
tier = { parameter = "tier" }

[routing]
policy = "targeting@1"

[routing.config]
default = "rest"

[[routing.config.rules]]
when = { attribute = "country", equals = "at" }
arm = "a"

[[routing.config.rules]]
when = { attribute = "country", in = ["de", "ch"] }
arm = "b"

[[routing.config.rules]]
when = { attribute = "user", prefix = "test-" }
arm = "c"

[[routing.config.rules]]
when = { attribute = "age", range = { min = 18, max = 65 } }
arm = "d"

[[routing.config.rules]]
when = { attribute = "tier", equals = "3" }
arm = "e"

[[routing.config.rules]]
when = { attribute = "user", equals = "split" }
percentage = 0
arm = "a"
"#;
    let variants: String =
        ["rest", "a", "b", "c", "d", "e"].map(|name| bare(name, "adder@1")).concat();
    host.apply(&format!("name = \"rules\"\nunit = \"user\"\n{rules}\n{variants}"));
    let check = |headers: &[(&str, &str)], query: &str, parameters: &str, expected: &str| {
        let body = format!(
            r#"{{"parameters":{{{parameters}}},"inputs":[{{"name":"x","datatype":"FP32","shape":[1],"data":[0]}}]}}"#
        );
        let target = format!("/v2/models/rules/infer{query}");
        let request = headers
            .iter()
            .fold(Request::post(&target, "application/json", body), |request, (name, value)| {
                request.header(name, value)
            });
        let answer = host.send(&request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.variant(), expected, "{headers:?} {query} {parameters}");
    };
    check(&[], "", "", "rest");
    check(&[("x-country", "at")], "", "", "a");
    check(&[("x-country", "AT")], "", "", "rest");
    check(&[("X-Country", "at"), ("x-user-id", "test-1")], "", "", "a");
    check(&[("x-country", "de")], "", "", "b");
    check(&[("x-country", "ch")], "", "", "b");
    check(&[("x-country", "fr"), ("x-user-id", "test-1")], "", "", "c");
    check(&[("x-user-id", "attest-1")], "", "", "rest");
    check(&[], "?age=18", "", "d");
    check(&[], "?age=65", "", "d");
    check(&[], "?age=65.5", "", "rest");
    check(&[], "?age=old", "", "rest");
    check(&[], "?age=", "", "rest");
    check(&[], "?other=20", "", "rest");
    check(&[], "", r#""tier":3"#, "e");
    check(&[], "", r#""tier":"3""#, "e");
    check(&[], "", r#""tier":4"#, "rest");
    check(&[("x-user-id", "split")], "", "", "rest");
}

#[test]
fn rules_take_a_part_of_the_users() {
    let host = host();
    host.apply(&format!(
        "name = \"split\"\n{USER}routing = {{ policy = \"targeting@1\", config = {{ default = \"old\", rules = [{{ percentage = 30, arm = \"new\" }}] }} }}\n{}{}",
        bare("old", "adder@1"),
        bare("new", "adder@2"),
    ));
    let first = variants(&host, 1000);
    let new = first.iter().filter(|&&new| new).count();
    // Five standard deviations of 1,000 draws of three in ten.
    assert!((300 - 73..=300 + 73).contains(&new), "{new} of 1000 users");
    assert!(variants(&host, 1000) == first, "the same user always gets the same variant");
}

#[test]
fn metrics_tell_what_happened() {
    let host = host();
    host.apply(&split(1, 1));
    host.apply(&tensors("plain", "adder@1"));
    let mut seen: HashMap<String, f64> = HashMap::new();
    for user in 0..30 {
        *seen.entry(host.send(&ask(Some(user))).variant().to_owned()).or_default() += 1.0;
    }
    for (variant, count) in &seen {
        let labels = format!("endpoint=\"split\",variant=\"{variant}\"");
        assert_eq!(host.metric(&format!("berth_requests_total{{{labels}}}")), *count);
        let latency = "berth_request_duration_seconds";
        assert_eq!(host.metric(&format!("{latency}_count{{{labels}}}")), *count);
        assert_eq!(host.metric(&format!("{latency}_bucket{{{labels},le=\"+Inf\"}}")), *count);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let wrong = Request::infer("plain", "z", &[1], &[0.0]);
    assert_eq!(host.send(&wrong).status, 400);
    let labels = "endpoint=\"plain\",variant=\"main\"";
    assert_eq!(host.metric(&format!("berth_requests_total{{{labels}}}")), 1.0);
    let errors = format!("berth_request_errors_total{{{labels},reason=\"invalid\"}}");
    assert_eq!(host.metric(&errors), 1.0);
    let compiled = "berth_plugin_compile_seconds_count{plugin=\"weighted@1\"}";
    assert_eq!(host.metric(compiled), 1.0);
    let resident = "berth_model_resident_bytes{model=\"adder@2\"}";
    assert_eq!(host.metric(resident), onnx::adder(2.0).len() as f64);
    host.apply(&split(1, 0).replace("adder@2", "adder@1"));
    assert_eq!(host.metric(resident), 0.0, "no live revision keeps it open");
}
