//! Strategies on the example, with traffic of users and what the right answers were: version 2, which
//! knows all ten digits, wins over version 1, which knows eight; a third, which is wrong on three of
//! ten, is taken back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rollouts::{begin, outcome, reasons, status};
use crate::support::files::{DIGITS_CONFIG, bare, guest, pictures, plugin, variant};
use crate::support::{Answer, Connection, Host, Random, Request, Stop, onnx, until};

const ENDPOINT: &str = "name = \"e\"\nattributes = { user = { header = \"x-user-id\" }, region = { header = \"x-region\" } }\nunit = \"user\"\nslices = [\"region=eu\"]\n";

const POLICIES: [&str; 8] =
    ["canary", "rolling", "blue-green", "ab-test", "bandit", "shadow", "weighted", "targeting"];

fn host() -> Host {
    let host = Host::with_digits(&[]);
    for policy in POLICIES {
        host.push("plugin", policy, &plugin(policy));
    }
    host
}

/// A variant on a version of the example. The third is the second with three labels that are wrong.
fn digits(name: &str, version: u32) -> String {
    let labels =
        "labels = [\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"8\", \"9\", \"7\"], top = 3";
    let config = match version {
        3 => DIGITS_CONFIG.replace("top = 3", labels),
        _ => DIGITS_CONFIG.to_owned(),
    };
    let model = version.min(2);
    format!(
        "[[variants]]\nname = {name:?}\nprocessor = \"image-classifier@1\"\nmodels = {{ default = \"digits@{model}\" }}\nconfig = {config}\n"
    )
}

/// The endpoint with one more key, and its variants.
fn endpoint(key: &str, variants: &str) -> String {
    format!("{ENDPOINT}{key}\n[predictions]\n{variants}")
}

fn policy(place: &str, name: &str, config: &str) -> String {
    format!("{place} = {{ policy = \"{name}@1\", config = {{ {config} }} }}")
}

/// A user of 500, every other of them from the EU.
fn user(random: &mut Random) -> (String, &'static str) {
    let user = random.below(500);
    (format!("user-{user}"), if user.is_multiple_of(2) { "eu" } else { "us" })
}

/// Sends pictures of many users from two threads, each with what the right answers were, while `work`
/// goes on. `pause` is how long each thread waits between two requests. Answers how many requests of
/// each variant and region there were.
fn graded(
    host: &Host,
    pause: Duration,
    work: impl FnOnce(),
) -> BTreeMap<(String, &'static str), u64> {
    let (stop, pictures) = (AtomicBool::new(false), pictures());
    let counted: Mutex<BTreeMap<(String, &'static str), u64>> = Mutex::default();
    thread::scope(|scope| {
        let stopping = Stop(&stop);
        for seed in 1..=2 {
            let (stop, pictures, counted) = (&stop, &pictures, &counted);
            scope.spawn(move || {
                let mut random = Random(seed);
                let mut connection = host.connect();
                let mut said = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let (user, region) = user(&mut random);
                    let picture = &pictures[random.below(pictures.len() as u64) as usize];
                    let request = Request::invoke("e", &picture.png)
                        .header("x-user-id", &user)
                        .header("x-region", region);
                    let answer = connection.send(&request).unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let right = answer.label() == picture.label.to_string();
                    said.push(json!({
                        "prediction": answer.header("berth-prediction").unwrap(),
                        "reward": u8::from(right),
                    }));
                    let variant = answer.variant().to_owned();
                    *counted.lock().unwrap().entry((variant, region)).or_default() += 1;
                    if said.len() == 20 {
                        tell(&mut connection, &Value::Array(std::mem::take(&mut said)));
                    }
                    thread::sleep(pause);
                }
            });
        }
        work();
        drop(stopping);
    });
    counted.into_inner().unwrap()
}

fn tell(connection: &mut Connection, said: &Value) {
    let target = "/v2/models/e/feedback";
    let answer =
        connection.send(&Request::post(target, "application/json", said.to_string())).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// What the routing policy said last, and the shares.
fn said(host: &Host) -> (String, Vec<f64>) {
    let shown = host.json(&["endpoint", "show", "e"]);
    let shares = shown["shares"].as_array().unwrap();
    (
        shown["said"]["message"].as_str().unwrap_or_default().to_owned(),
        shares.iter().map(|share| share.as_f64().unwrap()).collect(),
    )
}

/// Rolls version 2 out over version 1, which is to end with its promotion, and then version 3 over
/// version 2, which is to be aborted for the reason that has `part`. `configs` are those of the two.
#[track_caller]
fn check_rollouts(name: &str, configs: [&str; 2], pause: Duration, part: &str) {
    let host = host();
    let shadow = "shadow = { compare = \"top-1\" }\n";
    let version = |version: u32, config: &str| {
        let rollout = policy("rollout", name, config);
        endpoint(&format!("{shadow}{rollout}"), &digits("main", version))
    };
    host.apply(&endpoint(shadow, &digits("main", 1)));
    let mut second = String::new();
    graded(&host, pause, || {
        second = begin(&host, &version(2, configs[0]));
        assert_eq!(outcome(&host), "promoted", "{name}: {}", status(&host)["order"]["why"]);
        begin(&host, &version(3, configs[1]));
        assert_eq!(outcome(&host), "aborted", "{name}: {}", status(&host)["order"]["why"]);
    });
    let ended = status(&host);
    let why = ended["order"]["why"].as_str().unwrap();
    assert!(why.contains(part), "{name}: {why:?} lacks {part:?}");
    let shown = host.json(&["endpoint", "show", "e"]);
    assert_eq!((&shown["live"], &shown["state"]), (&second.into(), &"failed".into()), "{name}");
}

const NO_PAUSE: Duration = Duration::ZERO;

/// At least 85 of 100 are right: version 2 has 98, version 3 has 69.
const LEARNT: &str = "guardrails = { max_error_rate = 0.2, min_requests = 20, alpha = 0.05, bounds = [{ metric = \"reward\", min = 0.85 }] }";

#[test]
fn steps_go_on_by_rewards() {
    for (name, config) in [
        ("canary", "steps = [30, 100], interval_ms = 100"),
        ("rolling", "steps = 2, interval_ms = 100"),
        ("blue-green", "bake_ms = 100"),
    ] {
        let config = format!("{config}, {LEARNT}");
        check_rollouts(name, [&config, &config], NO_PAUSE, "reward is 0.");
    }
}

#[test]
fn an_ab_test_decides_a_rollout() {
    let config = "metric = \"reward\", effect = 0.1, interval_ms = 100";
    check_rollouts("ab-test", [config, config], NO_PAUSE, "next is not better");
}

#[test]
fn a_bandit_decides_a_rollout() {
    let config = "interval_ms = 100";
    check_rollouts("bandit", [config, config], NO_PAUSE, "the next revision is worse");
}

#[test]
fn a_shadow_takes_over_when_it_agrees() {
    let config = |least: f64| {
        format!(
            "min_agreement = {least}, min_compared = 100, max_error_rate = 0.1, alpha = 0.05, interval_ms = 100"
        )
    };
    // Version 1 agrees with version 2 on about 80 of 100, version 3 on about 70.
    let configs = [config(0.6), config(0.9)];
    let pause = Duration::from_millis(4);
    check_rollouts("shadow", [&configs[0], &configs[1]], pause, "answers agree");
}

#[test]
fn an_ab_test_gives_a_variant_all_of_a_region() {
    let host = host();
    let config =
        "metric = \"reward\", effect = 0.1, interval_ms = 100, where = { region = [\"eu\"] }";
    let routing = policy("routing", "ab-test", config);
    let variants = digits("first", 1) + &digits("second", 2);
    host.apply(&endpoint(&routing, &variants));
    let counted = graded(&host, NO_PAUSE, || {
        until("the test decides", || said(&host).1 == [0.0, 1.0]);
    });
    // Whoever is not in the test stays.
    assert!(!counted.contains_key(&("second".to_owned(), "us")), "{counted:?}");
    let of_eu = |variant: &str| counted.get(&(variant.to_owned(), "eu")).copied().unwrap_or(0);
    assert!(of_eu("first") > 50 && of_eu("second") > 50, "{counted:?}");
    let message = said(&host).0;
    assert!(message.starts_with("second is to stay: reward of second: 0.9"), "{message}");
    let history = reasons(&host).join("\n");
    assert!(history.contains(&message), "{message:?} is not in\n{history}");
    // Also after the decision.
    let counted = graded(&host, NO_PAUSE, || thread::sleep(Duration::from_millis(100)));
    let keys: Vec<(&str, &str)> = counted.keys().map(|(name, region)| (&**name, *region)).collect();
    assert_eq!(keys, [("first", "us"), ("second", "eu")]);
}

#[test]
fn a_bandit_gives_most_to_the_best() {
    let mut host = host();
    let variants = digits("third", 3) + &digits("first", 1) + &digits("second", 2);
    for config in [
        "interval_ms = 100",
        "interval_ms = 100, method = \"epsilon-greedy\", half_life_ms = 60000",
    ] {
        host.apply(&endpoint(&policy("routing", "bandit", config), &variants));
        graded(&host, NO_PAUSE, || {
            until("the best has most", || said(&host).1[2] > 0.8);
        });
        let (message, shares) = said(&host);
        assert!(message.contains("second is the best"), "{message}");
        assert!(shares.iter().all(|&share| share >= 0.03), "{shares:?}");
    }
    // What was decided outlives the host.
    let before = said(&host).1;
    host.restart();
    let after = said(&host).1;
    assert!((after[2] - before[2]).abs() < 0.1, "{before:?}, then {after:?}");
}

#[test]
fn a_slice_has_a_guardrail_of_its_own() {
    let host = host();
    let guardrails = "guardrails = { max_error_rate = 1.0, min_requests = 20, alpha = 0.05, bounds = [{ metric = \"reward\", slice = \"region=eu\", min = 0.85 }] }";
    let config = format!("steps = [50, 100], interval_ms = 100, {guardrails}");
    host.apply(&endpoint("", &digits("main", 2)));
    graded(&host, NO_PAUSE, || {
        begin(&host, &endpoint(&policy("rollout", "canary", &config), &digits("main", 3)));
        assert_eq!(outcome(&host), "aborted");
    });
    let ended = status(&host);
    let why = ended["order"]["why"].as_str().unwrap();
    assert!(why.contains("reward of region=eu is 0."), "{why}");
}

#[test]
fn pinned_users_are_where_they_are_pinned() {
    let mut host = host();
    for version in 1..=2 {
        host.push_model("adder", &onnx::adder(version as f32));
    }
    let adder = |version: u32, key: &str| {
        format!("{ENDPOINT}{key}\n{}", bare("main", &format!("adder@{version}")))
    };
    host.apply(&adder(1, ""));
    let pinned = "pinned = { next = [\"u-1\", \"u-2\"], live = [\"u-3\", \"u-4\"] }";
    let held = "guardrails = { min_requests = 1_000_000 }";
    let asked = |host: &Host, users: std::ops::Range<u32>| -> Vec<f64> {
        let mut connection = host.connect();
        let ask = |user: u32| {
            Request::infer("e", "x", &[1], &[0.0]).header("x-user-id", &format!("u-{user}"))
        };
        users.map(|user| connection.send(&ask(user)).unwrap().output()[0]).collect()
    };
    for (step, others) in [(1, 0), (30, 90), (90, 270)] {
        let config = format!("steps = [{step}, 100], {pinned}, {held}");
        begin(&host, &adder(2, &policy("rollout", "canary", &config)));
        let share = f64::from(step) / 100.0;
        until("the share is reached", || status(&host)["arms"][1]["share"] == share);
        until("pins are heeded", || asked(&host, 1..5) == [2.0, 2.0, 1.0, 1.0]);
        let new = asked(&host, 5..305).iter().filter(|&&added| added == 2.0).count();
        // Five standard deviations of 300 draws.
        let off = 5.0 * (300.0 * share * (1.0 - share)).sqrt();
        assert!((new as f64 - f64::from(others)).abs() <= off + 3.0, "{step} %: {new}");
        // A crash changes nothing of it.
        if step == 30 {
            host.restart();
            until("pins are heeded again", || asked(&host, 1..5) == [2.0, 2.0, 1.0, 1.0]);
        }
        host.json(&["rollout", "abort", "e", "--message", "enough"]);
        assert!(asked(&host, 1..50).iter().all(|&added| added == 1.0));
    }
    // What the operator allows at most holds for pinned users too.
    let config = format!("steps = [100], {pinned}, {held}");
    let capped =
        policy("rollout", "canary", &config).replace("config =", "max_step = 0.0001, config =");
    begin(&host, &adder(2, &capped));
    until("some are allowed", || status(&host)["arms"][1]["share"].as_f64() > Some(0.0));
    let new = asked(&host, 1..300).iter().filter(|&&added| added == 2.0).count();
    assert!(new < 100, "{new} of 300 users at a share of hardly any");
}

#[test]
fn others_stand_in_for_what_fails() {
    let host = host();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push_model("adder", &onnx::adder(1.0));
    let faulty = |name: &str, mode: &str| {
        let mode = format!("mode = {mode:?}");
        variant(name, "processor-faults@1", "default = \"adder@1\"", &mode)
    };
    let variants = faulty("a", "plugin") + &faulty("b", "none");
    let check = |name: &str, config: &str, expected: (u16, &str)| {
        let routing = policy("routing", name, config);
        host.apply(&format!("{ENDPOINT}{routing}\n{variants}"));
        let answer: Answer = host.send(&Request::invoke("e", "x").header("x-user-id", "ada"));
        assert_eq!((answer.status, answer.variant()), expected, "{config}: {}", answer.text());
    };
    check("weighted", "weights = { a = 1 }", (500, "a"));
    check("weighted", "weights = { a = 1 }, fallbacks = [\"a\", \"b\"]", (200, "b"));
    check("targeting", "default = \"a\"", (500, "a"));
    check("targeting", "default = \"a\", fallbacks = [\"b\"]", (200, "b"));
    let rule = "rules = [{ when = { attribute = \"user\", equals = \"ada\" }, arm = \"a\", fallbacks = [\"b\"] }]";
    check("targeting", &format!("default = \"a\", {rule}"), (200, "b"));
}
