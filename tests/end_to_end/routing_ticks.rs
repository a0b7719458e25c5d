//! Shares among variants that follow what is observed of them, and variants that stand in for others.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::files::{bare, guest, variant};
use crate::support::{Host, Request, onnx, until};

fn host() -> Host {
    let host = Host::start();
    for name in ["observer", "policy-faults", "processor-faults", "router-faults"] {
        host.push("plugin", name, &guest(name));
    }
    host.push_model("adder", &onnx::adder(1.0));
    host
}

/// The endpoint `e` with variants `a` and `b` of the faulty processor.
fn endpoint(policy: &str, config: &str, a: &str, b: &str) -> String {
    let of = |name: &str, config: &str| {
        variant(name, "processor-faults@1", "default = \"adder@1\"", config)
    };
    format!(
        "name = \"e\"\nattributes = {{ user = {{ header = \"x-user-id\" }}, segment = {{ header = \"x-segment\" }} }}\nunit = \"user\"\nslices = [\"segment=vip\"]\ntimeout_ms = 2000\nlimits = {{ cpu_ms = 100 }}\nrouting = {{ policy = \"{policy}@1\", config = {{ {config} }} }}\n{}{}",
        of("a", a),
        of("b", b)
    )
}

fn ask(user: u32) -> Request {
    let segment = if user.is_multiple_of(4) { "vip" } else { "other" };
    Request::invoke("e", "x")
        .header("x-user-id", &format!("user-{user}"))
        .header("x-segment", segment)
}

fn show(host: &Host) -> Value {
    host.json(&["endpoint", "show", "e"])
}

/// Waits until the policy says all of this, and answers what it said.
#[track_caller]
fn says(host: &Host, parts: &[String]) -> String {
    let mut said = String::new();
    until("the policy says so", || {
        said = show(host)["said"]["message"].as_str().unwrap_or_default().to_owned();
        parts.iter().all(|part| said.contains(part.as_str()))
    });
    said
}

#[test]
pub(crate) fn variants_have_shares_by_what_is_observed_of_them() {
    let mut host = host();
    let tell = "tell = [\"requests\", \"requests@segment=vip\", \"metric:score\", \"metric:score@segment=vip\", \"metric:score-of-units\", \"metric:score-counts-of-units\", \"metric:score-by-counts-of-units\", \"requests-of-units\", \"first-exposures\", \"shadow-errors\", \"reward\"]";
    let config = format!(
        "tick_ms = 50, weights = {{ a = 1, b = 1 }}, best = \"metric:score\", least = 60, {tell}"
    );
    let scored = |score: f64| format!("mode = \"score\", score = {score}");
    host.apply(&endpoint("observer", &config, &scored(0.25), &scored(0.5)));
    // Until each variant has its 60 requests, both have a share; each user has two.
    let mut requests: BTreeMap<String, [u32; 2]> = BTreeMap::new();
    let mut connection = host.connect();
    for user in 0..100 {
        let mut variants =
            [0, 1].map(|_| connection.send(&ask(user)).unwrap().variant().to_owned());
        variants.sort();
        if variants[0] != variants[1] {
            // The policy has decided in between.
            break;
        }
        let counted = requests.entry(variants[0].clone()).or_default();
        counted[0] += 2;
        counted[1] += if user.is_multiple_of(4) { 2 } else { 0 };
        if requests.values().filter(|[all, _]| *all == 60).count() == 2 {
            break;
        }
    }
    for user in 100..1000 {
        if show(&host)["shares"][1] == 1.0 {
            break;
        }
        connection.send(&ask(user)).unwrap();
    }
    until("the better variant has all", || show(&host)["shares"] == serde_json::json!([0.0, 1.0]));
    assert!(requests.len() == 2, "{requests:?}");
    for user in 0..20 {
        assert_eq!(host.send(&ask(user)).variant(), "b");
    }
    assert_eq!(host.metric("berth_routing_share{endpoint=\"e\",variant=\"b\"}"), 1.0);
    let history = host.json(&["endpoint", "history", "e"]);
    let decided = &history[0];
    let why = decided["why"].as_str().unwrap();
    assert!(why.contains("b 100.00 %: ") && why.contains("a 0.00 %: "), "{why}");
    assert_eq!((&decided["who"], &decided["state"]), (&"observer@1".into(), &"live".into()));

    // What is observed is told by arm, slice and unit.
    let shown = show(&host);
    let count = |arm: usize| shown["observed"][arm]["requests"].as_u64().unwrap();
    let (a, b) = (count(0), count(1));
    let said = says(&host, &[format!("a requests {a} "), format!("b metric:score {b} ")]);
    let told = |part: &str| -> Vec<f64> {
        let found = said.split("; ").find_map(|told| told.strip_prefix(part));
        let numbers = found.unwrap_or_else(|| panic!("{part} is not in {said}"));
        numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    let score = told("b metric:score ");
    assert_eq!(score, [b as f64, b as f64 * 0.5, b as f64 * 0.25]);
    assert_eq!(told("a metric:score "), [a as f64, a as f64 * 0.25, a as f64 * 0.0625]);
    let vip = told("a requests@segment=vip ")[0];
    assert!(vip > 0.0 && vip < a as f64 / 2.0, "{said}");
    assert_eq!(told("a metric:score@segment=vip ")[1], vip * 0.25);
    let units = told("a metric:score-of-units ");
    let counts = told("a metric:score-counts-of-units ");
    let products = told("a metric:score-by-counts-of-units ");
    let requests_of_units = told("a requests-of-units ");
    assert_eq!(counts, requests_of_units);
    assert_eq!(counts[1], a as f64);
    assert_eq!((units[0], units[1]), (counts[0], a as f64 * 0.25));
    assert_eq!((products[0], products[1]), (counts[0], counts[2] * 0.25));
    let first = told("a first-exposures ")[0];
    assert_eq!(first, counts[0], "nobody had been on the other before");
    assert!(said.contains("a shadow-errors -") && said.contains("a reward -"), "{said}");

    // What was decided and what it was decided on outlive the host.
    host.restart();
    for user in 0..20 {
        assert_eq!(host.send(&ask(user)).variant(), "b");
    }
    let again = show(&host);
    assert_eq!(again["shares"], serde_json::json!([0.0, 1.0]));
    assert!(again["observed"][0]["requests"].as_u64().unwrap() >= 60, "{again}");
    // A revision that goes live anew begins anew.
    let config = "weights = { a = 1 }";
    host.apply(&endpoint("observer", config, &scored(0.25), &scored(0.5)));
    assert_eq!(show(&host)["observed"][1]["requests"], 0);
    host.ok(&["endpoint", "rollback", "e"]);
    assert_eq!(show(&host)["shares"], serde_json::json!([0.5, 0.5]));
    host.restart();
    assert_eq!(show(&host)["observed"][1]["requests"], 0);
}

#[test]
fn a_policy_that_fails_is_not_asked_any_more() {
    let host = host();
    let good = "mode = \"none\"";
    let apply = |mode: &str| {
        let config = format!("mode = {mode:?}, tick_ms = 50");
        host.apply(&endpoint("policy-faults", &config, good, good));
    };
    let failures = |reason: &str| {
        let labels = format!("endpoint=\"e\",policy=\"policy-faults@1\",reason=\"{reason}\"");
        host.metric(&format!("berth_policy_failures_total{{{labels}}}"))
    };
    let quarantined = || host.metric("berth_policy_quarantined{endpoint=\"e\"}");
    for (mode, reason) in
        [("trap", "unreachable"), ("nan", "wrong"), ("failed", "failed"), ("config", "config")]
    {
        let before = failures(reason);
        apply(mode);
        until("it is not asked any more", || show(&host)["quarantined"] == true);
        assert_eq!((failures(reason) - before, quarantined()), (3.0, 1.0), "{mode}");
        assert!(host.ok(&["endpoint", "show", "e"]).contains("in quarantine"));
        // Its last weights serve.
        let variants = (0..60).map(|user| {
            let answer = host.send(&ask(user));
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.variant().to_owned()
        });
        let first = variants.filter(|variant| variant == "a").count();
        assert!((10..=50).contains(&first), "{first} of 60 on the first variant");
        assert_eq!(failures(reason) - before, 3.0, "{mode}: asked again");
    }
    // Late is no fault.
    let before = failures("fuel");
    apply("loop");
    until("it was late more often than it may fail", || failures("fuel") >= before + 4.0);
    assert_eq!((show(&host)["quarantined"].clone(), quarantined()), (false.into(), 0.0));
    apply("none");
    assert_eq!(show(&host)["quarantined"], false);
}

#[test]
fn another_variant_answers_where_the_drawn_one_cannot() {
    let host = host();
    let fallback = "weights = { a = 1 }, attributes = { \"fallback.a\" = \"a, b\" }";
    for (mode, status, by, reason) in [
        ("none", 200, "a", None),
        ("plugin", 200, "b", Some("failed")),
        ("trap", 200, "b", Some("failed")),
        ("silent", 200, "b", Some("failed")),
        // Its CPU time is used up and the request's time is not.
        ("loop", 200, "b", Some("cpu")),
        ("caller", 400, "a", None),
    ] {
        let revision = host.apply(&endpoint(
            "observer",
            fallback,
            &format!("mode = {mode:?}"),
            "mode = \"none\"",
        ));
        let counted = |reason: &str| {
            let labels = format!("endpoint=\"e\",variant=\"a\",to=\"b\",reason=\"{reason}\"");
            host.metric(&format!("berth_fallbacks_total{{{labels}}}"))
        };
        let before = reason.map(counted);
        for user in 0..3 {
            let answer = host.send(&ask(user));
            let came = (answer.status, answer.variant(), answer.revision());
            assert_eq!(came, (status, by, &*revision), "{mode}: {}", answer.text());
        }
        assert_eq!(reason.map(counted), before.map(|before| before + 3.0), "{mode}");
        // Each is judged by what was drawn: who stands in has no requests of its own.
        let observed = &show(&host)["observed"];
        let errors = if reason.is_some() { 3 } else { 0 };
        assert_eq!((&observed[0]["requests"], &observed[0]["errors"]), (&3.into(), &errors.into()));
        assert_eq!(observed[1]["requests"], 0, "{mode}");
    }
    // All of them fail: the last one's answer counts.
    let failing = "mode = \"plugin\"";
    host.apply(&endpoint("observer", fallback, failing, failing));
    let answer = host.send(&ask(1));
    assert_eq!((answer.status, answer.variant()), (500, "b"));
    // A router says so for each request.
    host.apply(&endpoint("router-faults", "mode = \"fallbacks\"", "mode = \"none\"", failing));
    let answer = host.send(&ask(1));
    assert_eq!((answer.status, answer.variant()), (200, "a"));
    // Where nothing runs for want of time, nobody stands in.
    let slow = endpoint("observer", fallback, "mode = \"poll\"", "mode = \"none\"")
        .replace("timeout_ms = 2000", "timeout_ms = 50")
        .replace("cpu_ms = 100", "cpu_ms = 1000");
    host.apply(&slow);
    let answer = host.send(&ask(1));
    assert_eq!((answer.status, answer.variant()), (504, "a"));
    for (config, part) in [
        ("weights = { a = 1 }, attributes = { \"fallback.a\" = \"c\" }", "a fallback of \"c\""),
        ("weights = { a = 1 }, attributes = { \"fallback.c\" = \"a\" }", "a fallback of \"c\""),
    ] {
        host.apply_refused(config, &endpoint("observer", config, failing, failing), part);
    }
    host.apply_refused(
        "an unknown slice",
        &format!("slices = [\"colour=red\"]\nname = \"s\"\n{}", bare("main", "adder@1")),
        "slices: \"colour=red\" is of an attribute that is not declared",
    );
}
