//! Policies on made-up traffic, by `berth simulate`.

use std::fs;
use std::path::Path;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::files::{guest, plugin};
use crate::support::host::{Said, berth, check_refused};
use crate::support::{Host, Request, onnx};

const CANARY: &str = r#"
policy = "canary@1"

[rollout.config]
steps = [10, 50, 100]
interval_ms = 600_000
guardrails = { max_error_rate = 0.02, latency_ms = 200, max_slow_rate = 0.05, min_requests = 500 }
"#;

/// An endpoint of the shop's users, with this under `[rollout]`.
fn endpoint(rollout: &str) -> String {
    format!(
        r#"
name = "shop"
attributes = {{ user = {{ header = "x-user-id" }}, segment = {{ header = "x-segment" }} }}
unit = "user"

[rollout]
{rollout}

[[variants]]
name = "main"
models = {{ default = "ranking@1" }}
"#
    )
}

fn routing(routing: &str) -> String {
    let endpoint = endpoint("").replace("[rollout]", routing);
    let other = "[[variants]]\nname = \"other\"\nmodels = { default = \"ranking@2\" }\n";
    format!("{endpoint}\n{other}")
}

/// A folder with an endpoint file and a traffic file.
fn folder(endpoint: &str, traffic: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("endpoint.toml"), endpoint).unwrap();
    fs::write(folder.path().join("traffic.toml"), traffic).unwrap();
    folder
}

fn simulate(folder: &Path, policy: &Path, more: &[&str]) -> Said {
    let policy = policy.to_str().unwrap();
    let given = ["simulate", "endpoint.toml", "--plugin", policy, "--traffic", "traffic.toml"];
    berth(&[&given, more].concat(), None, folder)
}

fn story(endpoint: &str, traffic: &str, policy: &str, seed: u32) -> Value {
    let folder = folder(endpoint, traffic);
    let seed = format!("--seed={seed}");
    let said = simulate(folder.path(), &plugin(policy), &[&seed, "--json"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

const USERS: &str = "duration = \"6h\"\nrequests_per_second = 20\nunits = 100_000\n";

#[test]
fn the_same_seed_tells_the_same_story() {
    let folder = folder(&endpoint(CANARY), USERS);
    let told = |seed: &str, name: &str| {
        let more = ["--seed", seed, "--json", "--svg", name];
        let said = simulate(folder.path(), &plugin("canary"), &more);
        assert_eq!(said.code, 0, "{}", said.stderr);
        (said.stdout, fs::read_to_string(folder.path().join(name)).unwrap())
    };
    let stories: Vec<_> = thread::scope(|scope| {
        let told = &told;
        let names = ["1.svg", "2.svg", "3.svg"];
        let runs: Vec<_> =
            names.map(|name| scope.spawn(move || told("7", name))).into_iter().collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(stories.windows(2).all(|pair| pair[0] == pair[1]));
    let other = told("8", "other.svg");
    assert!(other.0 != stories[0].0 && other.1 != stories[0].1);
    let svg = &other.1;
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    assert!(svg.contains("the guardrails have held") && !svg.contains("NaN"), "{svg}");
}

#[test]
fn an_arm_that_always_fails_is_given_nothing_back() {
    let bandit = |metric: &str| {
        routing(&format!("[routing]\npolicy = \"bandit@1\"\nconfig = {{ metric = {metric:?} }}\n"))
    };
    let errors = "[arms.main]\nerror_rate = 0.002\n[arms.other]\nerror_rate = 1.0\n";
    let rewards = "[arms.main]\nreward = { mean = 5.0, deviation = 0 }\n[arms.other]\nreward = { mean = 3.0, deviation = 0 }\n";
    for (metric, arms) in [("errors", errors), ("reward", rewards)] {
        let traffic = format!("{}{arms}", USERS.replace("6h", "4h"));
        for seed in 1..=3 {
            let story = story(&bandit(metric), &traffic, "bandit", seed);
            let points = story["points"].as_array().unwrap();
            let late = points.iter().filter(|point| point["from"].as_f64().unwrap() > 1800.0);
            let shares: Vec<f64> = late.map(|at| at["shares"][1].as_f64().unwrap()).collect();
            assert!(shares.len() > 10, "{metric}, seed {seed}: {shares:?}");
            assert!(shares.iter().all(|&share| share < 0.06), "{metric}, seed {seed}: {shares:?}");
        }
    }
}

#[test]
fn a_rollout_ends_as_the_next_revision_deserves() {
    let broken_at_once = "[arms.next]\nerror_rate = 0.1\n";
    let slow = "[arms.next]\nlatency = { median_ms = 60, p99_ms = 900 }\n";
    let broken_later = "[[change]]\nat = \"15m\"\narm = \"next\"\nto = { error_rate = 0.3 }\n";
    let for_some = "[attributes.segment]\nvip = 1\nother = 1\n\n[[change]]\nat = \"0s\"\narm = \"next\"\nslice = \"segment=vip\"\nto = { error_rate = 0.5 }\n";
    let unfit = "[arms.next]\nprepare = \"fails\"\n";
    for (policy, traffic, outcome, part, earliest) in [
        ("canary", "", "promoted", "have held", 1800.0),
        ("canary", broken_at_once, "aborted", "requests failed", 5.0),
        ("canary", slow, "aborted", "took longer than 200 ms", 5.0),
        ("canary", broken_later, "aborted", "requests failed", 900.0),
        ("canary", for_some, "aborted", "requests failed", 5.0),
        ("canary", unfit, "aborted", "cannot be prepared", 5.0),
        ("recreate", "", "promoted", "is ready", 5.0),
        ("recreate", unfit, "aborted", "cannot be prepared", 10.0),
    ] {
        let rollout = match policy {
            "canary" => CANARY.to_owned(),
            policy => format!("policy = \"{policy}@1\""),
        };
        for seed in 1..=5 {
            let case = format!("{policy} {traffic:?}, seed {seed}");
            let story = story(&endpoint(&rollout), &format!("{USERS}{traffic}"), policy, seed);
            let ended = &story["outcome"];
            assert_eq!(ended["outcome"], outcome, "{case}: {ended}");
            assert!(ended["why"].as_str().unwrap().contains(part), "{case}: {ended}");
            assert!(ended["at"].as_f64().unwrap() >= earliest, "{case}: {ended}");
            let last = story["points"].as_array().unwrap().last().unwrap();
            let shares = if outcome == "promoted" { [0.0, 1.0] } else { [1.0, 0.0] };
            assert_eq!(last["shares"], serde_json::json!(shares), "{case}");
            // Between two revisions nothing answers; else something always does.
            let unanswered = story["unanswered"].as_u64().unwrap();
            assert_eq!(unanswered > 0, policy == "recreate", "{case}: {unanswered}");
        }
    }
}

#[test]
fn an_operator_s_step_holds_back_a_policy() {
    let steps = "policy = \"blue-green@1\"\nmax_step = 0.25\nconfig = { bake_ms = 60_000 }";
    let story = story(&endpoint(steps), USERS, "blue-green", 1);
    let decisions = story["decisions"].as_array().unwrap();
    let next = |at: &Value| at["shares"][1].as_f64().unwrap();
    let rises: Vec<f64> = decisions.windows(2).map(|two| next(&two[1]) - next(&two[0])).collect();
    assert!(rises.iter().all(|rise| *rise <= 0.2501), "{rises:?}");
    assert_eq!(rises.iter().filter(|rise| **rise > 0.2).count(), 4, "{rises:?}");
}

#[test]
fn routing_is_simulated_with_its_shares_and_its_routers() {
    let weighted =
        "[routing]\npolicy = \"weighted@1\"\nconfig = { weights = { main = 3, other = 1 } }";
    let targeting = r#"[routing]
policy = "targeting@1"
config = { default = "main", rules = [{ when = { attribute = "segment", equals = "vip" }, arm = "other" }] }"#;
    let segments = "[attributes.segment]\nvip = 1\nbasic = 3\n";
    for (policy, table) in [("weighted", weighted), ("targeting", targeting)] {
        // Users alike, so that a quarter of them has a quarter of the requests.
        let traffic = format!("{USERS}activity = 0\n{segments}");
        let story = story(&routing(table), &traffic, policy, 1);
        let requests = [0, 1].map(|arm: usize| story["totals"][arm]["requests"].as_f64().unwrap());
        let part = requests[1] / (requests[0] + requests[1]);
        // Of 100,000 users, six standard errors.
        assert!((part - 0.25).abs() < 0.01, "{policy}: {part}");
        assert_eq!(
            (&story["kind"], &story["failures"]),
            (&"routing".into(), &0.into()),
            "{policy}"
        );
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let canary = endpoint(CANARY);
    let missing = |file: &str| guest("probe").with_file_name(file);
    let plain = canary.split("[rollout]").next().unwrap().to_owned()
        + "[[variants]]\nname = \"main\"\nmodels = { default = \"ranking@1\" }\n";
    for (endpoint, traffic, policy, part) in [
        (
            &canary,
            "duration = \"3 days\"",
            plugin("canary"),
            "traffic.toml: line 1: \"3 days\" is no span",
        ),
        (&canary, "\n\nunit = 3", plugin("canary"), "traffic.toml: line 3: unknown field `unit`"),
        (
            &canary,
            "[arms.new]",
            plugin("canary"),
            "traffic.toml: arms.new: the endpoint has no arm",
        ),
        (
            &canary,
            "[arms.next]\nerror_rate = 7",
            plugin("canary"),
            "traffic.toml: arms.next.error_rate: 7 is no share",
        ),
        (
            &canary,
            "[attributes]\nuser = { a = 1 }",
            plugin("canary"),
            "attributes.user: the endpoint has no attribute besides its unit",
        ),
        (&plain, "", plugin("canary"), "neither [rollout] nor [routing]"),
        (&canary, "", missing("none.wasm"), "cannot read"),
        (&canary, "", plugin("image-classifier"), "image-classifier"),
        (&canary, "", plugin("rolling"), "endpoint.toml: rollout: config key"),
    ] {
        let folder = folder(endpoint, traffic);
        let said = simulate(folder.path(), &policy, &[]);
        check_refused(traffic, &said, part);
    }
    let folder = folder(&canary, "");
    for (arguments, part) in [
        (&["simulate", "endpoint.toml"][..], "where is canary@1? Give its component with --plugin"),
        (&["simulate", "endpoint.toml", "--data", "none"], "there is no folder none"),
        (&["simulate", "none.toml"], "cannot read none.toml"),
        (
            &["simulate", "endpoint.toml", "--routing"],
            "endpoint.toml: the endpoint file has no [routing]",
        ),
    ] {
        check_refused(part, &berth(arguments, None, folder.path()), part);
    }
}

#[test]
fn the_policy_is_found_in_a_store_that_rests() {
    let host = Host::start();
    host.push("plugin", "canary", &plugin("canary"));
    let folder = folder(&endpoint(CANARY), USERS);
    let data = host.folder().join("data");
    let arguments = ["simulate", "endpoint.toml", "--data", data.to_str().unwrap(), "--json"];
    let refused = berth(&arguments, None, folder.path());
    check_refused("in use", &refused, "give the policy's component with --plugin FILE instead");
    host.kill();
    let said = berth(&arguments, None, folder.path());
    assert_eq!(said.code, 0, "{}", said.stderr);
}

#[test]
fn recorded_predictions_tell_what_another_policy_would_have_earned() {
    let host = Host::start();
    host.push_model("adder", &onnx::adder(1.0));
    host.push("plugin", "weighted", &plugin("weighted"));
    let endpoint = |weights: &str| {
        let variant = |name: &str| {
            format!("[[variants]]\nname = {name:?}\nmodels = {{ default = \"adder@1\" }}\n")
        };
        format!(
            "name = \"adder\"\nattributes = {{ user = {{ header = \"x-user\" }} }}\nunit = \"user\"\n[predictions]\n[routing]\npolicy = \"weighted@1\"\nconfig = {{ weights = {weights} }}\n{}{}{}",
            variant("plain"),
            variant("bold"),
            variant("idle")
        )
    };
    host.apply(&endpoint("{ plain = 7, bold = 3 }"));
    let mut connection = host.connect();
    let mut rewards = Vec::new();
    for user in 0..300 {
        let request =
            Request::infer("adder", "x", &[1], &[0.5]).header("x-user", &format!("u{user}"));
        let answer = connection.send(&request).unwrap();
        // A quarter on the mean, or three quarters.
        let least = if answer.variant() == "bold" { 0.5 } else { 0.0 };
        let reward = least + 0.5 * f64::from(user % 2);
        let prediction = answer.header("berth-prediction").unwrap();
        rewards.push(serde_json::json!({ "prediction": prediction, "reward": reward }));
    }
    let feedback = Value::from(rewards).to_string();
    let answer =
        host.send(&Request::post("/v2/models/adder/feedback", "application/json", feedback));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let folder = folder(&endpoint("{ plain = 1, bold = 1 }"), "");
    let log = folder.path().join("logged.jsonl");
    host.ok(&["predictions", "export", "adder", "--to", log.to_str().unwrap()]);
    let policy = plugin("weighted");
    let given = ["simulate", "endpoint.toml", "--plugin", policy.to_str().unwrap()];
    let said = berth(
        &[&given[..], &["--predictions", "logged.jsonl", "--json"]].concat(),
        None,
        folder.path(),
    );
    assert_eq!(said.code, 0, "{}", said.stderr);
    let earned: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&earned["predictions"], &earned["counted"]), (&300.into(), &300.into()));
    // What another revision answered, or what was drawn in a rollout, is left aside.
    let mut lines = fs::read_to_string(&log).unwrap();
    let others: Vec<String> = lines
        .lines()
        .take(100)
        .enumerate()
        .map(|(at, line)| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["propensity"] = 0.01.into();
            match at % 2 {
                0 => row["revision"] = "another".into(),
                _ => row["arm"] = "live".into(),
            }
            // Before all others.
            row["prediction"] = format!("{at:032x}").into();
            row.to_string() + "\n"
        })
        .collect();
    lines.push_str(&others.concat());
    fs::write(&log, lines).unwrap();
    let arguments = ["--predictions", "logged.jsonl", "--svg", "drawn.svg"];
    let said = berth(&[&given[..], &arguments].concat(), None, folder.path());
    assert_eq!(said.code, 0, "{}", said.stderr);
    for words in ["predictions  400, of which 300 were", "left aside   100, of other", "Over time"]
    {
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    }
    let drawn = fs::read_to_string(folder.path().join("drawn.svg")).unwrap();
    assert!(
        drawn.contains("mean reward: weighted@1, estimated (solid), as it was logged (dotted)")
    );
    let said = berth(
        &[&given[..], &["--predictions", "logged.jsonl", "--json"]].concat(),
        None,
        folder.path(),
    );
    let again: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&again["aside"], &again["estimates"]), (&100.into(), &earned["estimates"]));
    let points = again["story"]["points"].as_array().unwrap();
    assert!(points.iter().all(|point| point["shares"] == serde_json::json!([0.5, 0.5, 0.0])));
    let estimates = earned["estimates"].as_array().unwrap();
    for (estimate, (of, truth)) in estimates.iter().zip([
        ("weighted@1", Some(0.5)),
        ("all to plain", Some(0.25)),
        ("all to bold", Some(0.75)),
        ("all to idle", None),
    ]) {
        assert_eq!(estimate["of"], of);
        for method in ["inverse_propensity", "self_normalised", "doubly_robust"] {
            let found = estimate[method]["found"].as_f64();
            let near = |found: f64| truth.is_some_and(|truth: f64| (found - truth).abs() < 0.1);
            assert!(found.map_or(truth.is_none(), near), "{estimate}");
        }
    }
    fs::write(&log, "{\"prediction\": 3}\n").unwrap();
    let said =
        berth(&[&given[..], &["--predictions", "logged.jsonl"]].concat(), None, folder.path());
    check_refused("a wrong line", &said, "logged.jsonl: line 1 is no prediction");
}
