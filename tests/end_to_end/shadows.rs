//! Copies of requests that other arms get, and how their answers compare.

use serde_json::Value;

use crate::support::files::{bare, classifier, guest, pictures, plugin, variant};
use crate::support::{Host, Request, onnx, until};

const USER: &str = "attributes = { user = { header = \"x-user-id\" } }\nunit = \"user\"\n";

fn host() -> Host {
    let host = Host::start();
    push(&host);
    host
}

fn push(host: &Host) {
    for name in ["observer", "processor-faults", "router-faults"] {
        host.push("plugin", name, &guest(name));
    }
    for version in 1..=2 {
        host.push_model("adder", &onnx::adder(version as f32));
    }
}

fn ask(user: u32) -> Request {
    Request::infer("e", "x", &[1], &[0.0]).header("x-user-id", &format!("user-{user}"))
}

/// The endpoint `e`, which compares as `compare` says.
fn endpoint(compare: &str, policy: &str, config: &str, variants: &str) -> String {
    let shadow = if compare.is_empty() {
        String::new()
    } else {
        format!("shadow = {{ compare = {compare} }}\n")
    };
    format!(
        "name = \"e\"\n{USER}{shadow}routing = {{ policy = \"{policy}@1\", config = {{ {config} }} }}\n{variants}"
    )
}

fn show(host: &Host) -> Value {
    host.json(&["shadow", "show", "e"])
}

/// What became of the copies that `variant` of `e` had: agreed, differed, failed, and of those that were
/// dropped.
fn results(host: &Host, variant: &str) -> [f64; 4] {
    let of = |result: &str| {
        let labels = format!("endpoint=\"e\",variant=\"{variant}\",result=\"{result}\"");
        host.metric(&format!("berth_shadows_total{{{labels}}}"))
    };
    let dropped = |reason: &str| {
        host.metric(&format!("berth_shadows_dropped_total{{endpoint=\"e\",reason=\"{reason}\"}}"))
    };
    [of("agreed"), of("differed"), of("failed"), dropped("queue") + dropped("load")]
}

#[test]
fn a_shadow_is_compared_and_changes_no_answer() {
    let host = host();
    let adders = bare("a", "adder@1") + &bare("b", "adder@2");
    let faulty = |mode: &str| {
        bare("a", "adder@1")
            + &variant(
                "b",
                "processor-faults@1",
                "default = \"adder@1\"",
                &format!("mode = {mode:?}"),
            )
    };
    let evaluated = (
        "observer",
        "weights = { a = 1 }, shadow = [\"b\"], tick_ms = 50, tell = [\"agreement\", \"shadow-errors\", \"shadow-latency-seconds\", \"requests\"]",
    );
    // The router draws the last arm and gives the first a copy.
    let routed = ("router-faults", "mode = \"shadows\"");
    for (compare, (policy, config), variants, live, result) in [
        ("", evaluated, &adders, "a", 1),
        ("{ tolerance = 0.6 }", evaluated, &adders, "a", 0),
        ("\"top-1\"", evaluated, &adders, "a", 1),
        ("\"exact\"", routed, &adders, "b", 1),
        ("", evaluated, &faulty("trap"), "a", 2),
        ("", evaluated, &faulty("caller"), "a", 2),
        ("", evaluated, &faulty("none"), "a", 2),
    ] {
        const REQUESTS: u32 = 40;
        let name = format!("{compare} {policy} {variants}");
        host.apply(&endpoint(compare, policy, config, variants));
        let shadow = if live == "a" { "b" } else { "a" };
        let before = results(&host, shadow);
        let served = format!("berth_requests_total{{endpoint=\"e\",variant=\"{shadow}\"}}");
        let served_before = host.metric(&served);
        let answered = host.send(&ask(0)).output();
        for user in 1..REQUESTS {
            let answer = host.send(&ask(user));
            assert_eq!((answer.status, answer.variant()), (200, live), "{name}");
            assert_eq!(answer.output(), answered, "{name}");
        }
        let mut came = [0.0; 4];
        until("every copy has come to its end", || {
            let now = results(&host, shadow);
            came = std::array::from_fn(|at| now[at] - before[at]);
            came.iter().sum::<f64>() >= f64::from(REQUESTS)
        });
        let mut expected = [0.0; 4];
        expected[3] = came[3];
        expected[result] = f64::from(REQUESTS) - came[3];
        assert_eq!(came, expected, "{name}");
        // It is no request of the shadow's.
        assert_eq!(host.metric(&served), served_before, "{name}");

        let shown = show(&host);
        let arm = &shown["arms"][0];
        let copies = expected[result];
        assert_eq!(
            (&arm["name"], arm["copies"].as_f64()),
            (&shadow.into(), Some(copies)),
            "{shown}"
        );
        let errors = if result == 2 { copies } else { 0.0 };
        assert_eq!(arm["errors"].as_f64(), Some(errors), "{shown}");
        assert_eq!(arm["compared"].as_f64(), Some(copies - errors), "{shown}");
        let examples = shown["examples"].as_array().unwrap();
        let kept = if result == 0 { 0 } else { (copies as usize).min(32) };
        assert_eq!(examples.len(), kept, "{shown}");
        if let Some(example) = examples.first() {
            let (of, distance) = (&example["variant"], example["distance"].as_f64().unwrap());
            assert_eq!((of, distance), (&shadow.into(), if result == 1 { 0.5 } else { 1e9 }));
            assert!(example["live"].as_str().unwrap().starts_with("y FP32 [1] ["), "{example}");
            let table = host.ok(&["shadow", "show", "e"]);
            assert!(table.contains(example["prediction"].as_str().unwrap()), "{table}");
        }
        if policy == "observer" {
            let (compared, agreed) = (copies - errors, if result == 0 { copies } else { 0.0 });
            let agreement = match compared {
                0.0 => "b agreement -".to_owned(),
                _ => format!("b agreement {compared} {agreed} {agreed}"),
            };
            until("the policy sees it", || {
                let shown = host.json(&["endpoint", "show", "e"]);
                let said = shown["said"]["message"].as_str().unwrap();
                [&agreement, &format!("b shadow-errors {errors}"), "b requests 0 "]
                    .iter()
                    .all(|part| said.contains(*part))
            });
        }
    }
    let none = endpoint(
        "",
        evaluated.0,
        "weights = { a = 1 }, shadow = [\"b\"], attributes = { shadow-sample = \"0\" }",
        &adders,
    );
    host.apply(&none);
    let before = results(&host, "b");
    (0..20).for_each(|user| assert_eq!(host.send(&ask(user)).status, 200));
    assert_eq!((results(&host, "b"), &show(&host)["arms"]), (before, &Value::Array(Vec::new())));
    for (compare, part) in [("{ tolerance = -1.0 }", "shadow.compare"), ("\"top-2\"", "top-2")] {
        host.apply_refused(compare, &endpoint(compare, evaluated.0, evaluated.1, &adders), part);
    }
    let sample = "weights = { a = 1 }, attributes = { shadow-sample = \"2\" }";
    let refused = endpoint("", evaluated.0, sample, &adders);
    host.apply_refused("a sample of 2", &refused, "its shadow-sample is no number of 0 to 1");
}

#[test]
fn the_next_revision_is_compared_before_it_has_a_request() {
    let mut host = Host::with_digits(&[]);
    push(&host);
    host.push("plugin", "weighted", &plugin("weighted"));
    let endpoint = |version: u32, rollout: &str| {
        let classifier = classifier("e", &format!("digits@{version}"), "");
        classifier.replacen(
            '\n',
            &format!("\n{USER}{rollout}shadow = {{ compare = \"top-1\" }}\n"),
            1,
        )
    };
    let live = host.apply(&endpoint(1, ""));
    let rollout = "rollout = { policy = \"observer@1\", config = { tick_ms = 50, weights = { live = 1 }, shadow = [\"next\"], tell = [\"agreement\", \"requests\"] } }\n";
    let file = host.file("rollout.toml", endpoint(2, rollout));
    assert_eq!(host.json(&["apply", file.to_str().unwrap()])["state"], "rolling");
    let status = |host: &Host| host.json(&["rollout", "status", "e"]);
    until("the next revision is ready", || status(&host)["arms"][1]["status"] == "ready");
    // Its policy is asked again once it is, and wants it to be a shadow.
    let pictures = pictures();
    let labels = |host: &Host| -> Vec<String> {
        let ask = |png: &Vec<u8>| host.send(&Request::invoke("e", png)).label();
        pictures.iter().map(|picture| ask(&picture.png)).collect()
    };
    let first = labels(&host);
    let mut shown = Value::Null;
    until("every copy has come to its end", || {
        shown = show(&host);
        let compared = shown["arms"][0]["compared"].as_u64().unwrap_or(0);
        compared + shown["dropped"].as_u64().unwrap() >= pictures.len() as u64
    });
    let dropped = shown["dropped"].as_u64().unwrap();
    let agreed = shown["arms"][0]["agreed"].as_u64().unwrap();
    until("the policy sees it", || {
        let said = status(&host)["message"].as_str().unwrap_or_default().to_owned();
        let compared = pictures.len() as u64 - dropped;
        said.contains(&format!("next agreement {compared} {agreed} "))
            && said.contains("next requests 0 ")
    });
    // What was compared outlives the host.
    host.ok(&["rollout", "pause", "e"]);
    host.restart();
    assert_eq!(show(&host)["arms"][0]["agreed"], agreed);
    assert_eq!(host.json(&["endpoint", "show", "e"])["live"], live);
    assert_eq!(host.json(&["rollout", "promote", "e"])["state"], "live");
    assert_eq!(show(&host)["arms"][0]["agreed"], agreed);
    let same = first.iter().zip(labels(&host)).filter(|(first, second)| **first == *second).count();
    assert!(
        agreed + dropped >= same as u64 && agreed <= same as u64,
        "{agreed} of {same}: {shown}"
    );
    assert!(same < pictures.len(), "{same} are answered the same");
}

#[test]
fn shadows_give_way_to_requests() {
    let host = Host::start_with(&["--max-requests", "4", "--processor-cpu", "60000"]);
    push(&host);
    let adders = bare("a", "adder@1") + &bare("b", "adder@2");
    let config = "weights = { a = 1 }, shadow = [\"b\"]";
    host.apply(&endpoint("", "observer", config, &adders));
    let busy = variant("main", "processor-faults@1", "default = \"adder@1\"", "mode = \"loop\"");
    host.apply(&format!("name = \"busy\"\ntimeout_ms = 60000\n{busy}"));
    // Half of what may be under way is.
    let mut held: Vec<_> = (0..2).map(|_| host.connect()).collect();
    for connection in &mut held {
        connection.start(&Request::invoke("busy", "x")).unwrap();
    }
    until("requests have waited for room in vain", || {
        assert_eq!(host.send(&ask(1)).output(), [1.0]);
        results(&host, "b")[3] >= 1.0
    });
    assert!(show(&host)["dropped"].as_u64().unwrap() >= 1);
}
