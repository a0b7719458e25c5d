//! Traffic that moves from one revision to the next.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use berth_onnx::networks::dense;
use serde_json::Value;

use crate::support::files::{an_eight, bare, digits_endpoint, guest, plugin, tensors, variant};
use crate::support::{Answer, Host, Random, Request, Stop, onnx, until};

const USER: &str = "attributes = { user = { header = \"x-user-id\" } }\nunit = \"user\"\n";

/// A host with policies, and models that add 1, 2 and 3.
fn host() -> Host {
    let host = Host::start();
    push_policies(&host);
    for version in 1..=3 {
        host.push_model("adder", &onnx::adder(version as f32));
    }
    host
}

fn push_policies(host: &Host) {
    for policy in ["recreate", "canary", "blue-green", "rolling"] {
        host.push("plugin", policy, &plugin(policy));
    }
}

/// The endpoint `e` on a version of the adder.
fn adder(version: u32, rollout: &str) -> String {
    format!("name = \"e\"\n{USER}{rollout}\n{}", bare("main", &format!("adder@{version}")))
}

fn rollout(policy: &str, config: &str) -> String {
    format!("rollout = {{ policy = \"{policy}@1\", config = {{ {config} }} }}\n")
}

/// Guardrails that a few requests of a few users show to be kept.
const LENIENT: &str = "guardrails = { max_error_rate = 0.5, alpha = 0.1, min_requests = 5 }";

/// A canary that never has enough requests to go on.
fn held(percent: u32) -> String {
    rollout(
        "canary",
        &format!("steps = [{percent}, 100], guardrails = {{ min_requests = 1_000_000 }}"),
    )
}

fn ask(user: u32) -> Request {
    Request::infer("e", "x", &[1], &[0.0]).header("x-user-id", &format!("user-{user}"))
}

/// Applies an endpoint file whose rollout begins, and answers the next revision.
#[track_caller]
pub(crate) fn begin(host: &Host, endpoint: &str) -> String {
    let file = host.file("rollout.toml", endpoint);
    let applied = host.json(&["apply", file.to_str().unwrap()]);
    assert_eq!(applied["state"], "rolling", "{applied}");
    applied["revision"].as_str().unwrap().to_owned()
}

pub(crate) fn status(host: &Host) -> Value {
    host.json(&["rollout", "status", "e"])
}

/// Waits until the rollout is over, and answers how it ended.
#[track_caller]
pub(crate) fn outcome(host: &Host) -> String {
    let mut now = Value::Null;
    until("the rollout is over", || {
        now = status(host);
        now["state"] != "rolling"
    });
    now["order"]["outcome"].as_str().unwrap_or_else(|| panic!("{now}")).to_owned()
}

/// Waits until so many percent go to the next revision.
#[track_caller]
fn reaches(host: &Host, share: f64) {
    until("the share is reached", || status(host)["arms"][1]["share"] == share);
}

/// The reasons in the history of the endpoint, first to last.
pub(crate) fn reasons(host: &Host) -> Vec<String> {
    let history = host.json(&["endpoint", "history", "e"]);
    let entries = history.as_array().unwrap().iter().rev();
    entries.map(|entry| entry["why"].as_str().unwrap().to_owned()).collect()
}

/// The number that was added for each of so many users.
fn added(host: &Host, users: u32) -> Vec<f64> {
    let mut connection = host.connect();
    (0..users).map(|user| connection.send(&ask(user)).unwrap().output()[0]).collect()
}

/// Sends the requests of many users, over and over, from two threads, while `work` goes on. Answers
/// what came, by user in order.
fn traffic(
    host: &Host,
    request: impl Fn(u32) -> Request + Sync,
    work: impl FnOnce(),
) -> BTreeMap<u32, Vec<Answer>> {
    const USERS: u32 = 400;
    let (stop, answers) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        let stopping = Stop(&stop);
        for half in 0..2 {
            let (stop, answers, request) = (&stop, &answers, &request);
            scope.spawn(move || {
                let mut connection = host.connect();
                let mut seen: BTreeMap<u32, Vec<Answer>> = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    for user in (0..USERS).filter(|user| user % 2 == half) {
                        let answer = connection.send(&request(user)).unwrap();
                        seen.entry(user).or_default().push(answer);
                    }
                }
                answers.lock().unwrap().extend(seen);
            });
        }
        work();
        drop(stopping);
    });
    answers.into_inner().unwrap()
}

/// Every user is answered by the first revision, and from some request on by the second.
#[track_caller]
fn check_moves_once(answers: &BTreeMap<u32, Vec<Answer>>, revisions: [&str; 2]) {
    for (user, answers) in answers {
        let moved = answers.partition_point(|answer| answer.revision() == revisions[0]);
        for (at, answer) in answers.iter().enumerate() {
            assert_eq!(answer.status, 200, "user {user}: {}", answer.text());
            let expected = revisions[usize::from(at >= moved)];
            assert_eq!(
                answer.revision(),
                expected,
                "user {user}, request {at} of {}",
                answers.len()
            );
        }
    }
}

#[test]
fn a_canary_moves_the_example_in_steps() {
    let host = Host::with_digits(&[]);
    push_policies(&host);
    let endpoint = |version: u32, rollout: &str| {
        digits_endpoint(version)
            .replace("name = \"digits\"\n", &format!("name = \"e\"\n{USER}{rollout}"))
    };
    let first = host.apply(&endpoint(1, ""));
    let eight = an_eight();
    let request =
        |user: u32| Request::invoke("e", &eight).header("x-user-id", &format!("user-{user}"));
    let rollout =
        rollout("canary", &format!("steps = [5, 25, 50, 100], interval_ms = 100, {LENIENT}"));
    let mut next = String::new();
    let answers = traffic(&host, request, || {
        next = begin(&host, &endpoint(2, &rollout));
        assert_eq!(outcome(&host), "promoted");
    });
    check_moves_once(&answers, [&first, &next]);
    for answer in answers.values().flatten() {
        assert_eq!(answer.label() == "8", answer.revision() == next);
    }
    let reasons = reasons(&host).join("\n");
    for step in ["step 1 of 4, 5 %", "step 2 of 4, 25 %", "step 3 of 4, 50 %", "step 4 of 4, 100 %"]
    {
        assert!(reasons.contains(step), "{step} is not in\n{reasons}");
    }
    assert!(reasons.contains("[live 0.00 %: "), "{reasons}");
    let shown = host.json(&["endpoint", "show", "e"]);
    assert_eq!((&shown["live"], &shown["state"]), (&next.clone().into(), &"live".into()));
    let ended = "berth_rollouts_total{endpoint=\"e\",outcome=\"promoted\"}";
    assert_eq!(host.metric(ended), 1.0);
    // What was rolled out can be rolled back, at once.
    assert_eq!(host.json(&["endpoint", "rollback", "e"])["revision"], *first);
}

#[test]
fn the_same_users_are_in_the_canary_until_an_operator_decides() {
    const USERS: u32 = 1000;
    let mut host = host();
    host.apply(&adder(1, ""));
    begin(&host, &adder(2, &held(20)));
    reaches(&host, 0.2);
    let first = added(&host, USERS);
    let new = first.iter().filter(|&&added| added == 2.0).count();
    // Five standard deviations of 1,000 draws of one in five.
    assert!((200 - 64..=200 + 64).contains(&new), "{new} of {USERS} users");
    assert!(added(&host, USERS) == first, "the same user always gets the same revision");
    host.restart();
    assert!(added(&host, USERS) == first, "also after a crash");
    let counted = status(&host);
    assert_eq!(counted["arms"][1]["errors"], 0);

    let file = host.file("other.toml", adder(3, ""));
    host.refused(&["apply", file.to_str().unwrap()], "berth rollout abort e");
    host.refused(&["endpoint", "rollback", "e"], "berth rollout promote e");
    assert_eq!(host.json(&["rollout", "pause", "e"])["paused"], true);
    assert_eq!(host.json(&["rollout", "resume", "e"])["paused"], false);
    let ended = host.json(&["rollout", "abort", "e", "--message", "not today"]);
    assert_eq!(
        (&ended["state"], &ended["order"]["outcome"]),
        (&"failed".into(), &"aborted".into())
    );
    assert!(added(&host, USERS).iter().all(|&added| added == 1.0));
    assert!(reasons(&host).contains(&"not today".to_owned()));
    host.refused(&["rollout", "promote", "e"], "has no rollout under way");

    begin(&host, &adder(3, &held(20)));
    reaches(&host, 0.2);
    let third = added(&host, USERS);
    let both = first.iter().zip(&third).filter(|&(&a, &b)| a == 2.0 && b == 3.0).count();
    // Each rollout draws anew: of a fifth, a fifth is expected. Five standard deviations.
    assert!((40 - 31..=40 + 31).contains(&both), "{both} users are in both canaries");
    let ended = host.json(&["rollout", "promote", "e"]);
    assert_eq!((&ended["state"], &ended["order"]["outcome"]), (&"live".into(), &"promoted".into()));
    assert!(added(&host, USERS).iter().all(|&added| added == 3.0));

    begin(&host, &adder(1, &held(50)));
    host.ok(&["endpoint", "delete", "e"]);
    assert_eq!(host.send(&ask(1)).status, 404);
}

#[test]
fn what_breaks_its_guardrails_is_rolled_back() {
    let host = host();
    host.push("plugin", "empty", &guest("empty"));
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push_model("net", &dense(1, &[64, 16, 10]));
    host.push_model("net", &dense(2, &[64, 4096, 4096, 10]));
    let endpoint =
        |variant: &str, rollout: &str| format!("name = \"e\"\n{USER}{rollout}\n{variant}");
    let faulty = |mode: &str| {
        variant("main", "processor-faults@1", "default = \"adder@1\"", &format!("mode = {mode:?}"))
    };
    let quick = |policy: &str, guardrails: &str| {
        let time = if policy == "blue-green" { "bake_ms" } else { "interval_ms" };
        rollout(
            policy,
            &format!("{time} = 100, guardrails = {{ min_requests = 20, {guardrails} }}"),
        )
    };
    let invoke = |user: u32| Request::invoke("e", "x").header("x-user-id", &format!("u-{user}"));
    let infer = |user: u32| {
        let request = Request::infer("e", "x", &[1, 64], &[0.5; 64]);
        request.header("x-user-id", &format!("u-{user}"))
    };
    let check = |good: &str,
                 bad: &str,
                 request: &(dyn Fn(u32) -> Request + Sync),
                 policy: &str,
                 guardrails: &str,
                 part: &str| {
        let live = host.apply(&endpoint(good, ""));
        let answers = traffic(&host, request, || {
            begin(&host, &endpoint(bad, &quick(policy, guardrails)));
            assert_eq!(outcome(&host), "aborted", "{policy}: {bad}");
        });
        let ended = status(&host);
        let why = ended["order"]["why"].as_str().unwrap();
        assert!(why.contains(part), "{policy}: {why:?} lacks {part:?}");
        for answer in answers.values().flatten() {
            assert!(answer.status == 200 || answer.revision() != live, "{}", answer.text());
        }
        for user in 0..100 {
            let answer = host.send(&request(user));
            assert_eq!((answer.status, answer.revision()), (200, &*live), "{policy}");
        }
        let shown = host.json(&["endpoint", "show", "e"]);
        assert_eq!((&shown["live"], &shown["state"]), (&live.into(), &"failed".into()));
    };
    let (good, failing, refusing) = (faulty("none"), faulty("plugin"), faulty("caller"));
    for policy in ["canary", "rolling", "blue-green"] {
        check(&good, &failing, &invoke, policy, "", "requests failed");
    }
    let refused = "max_refused_rate = 0.1";
    check(&good, &refusing, &invoke, "canary", refused, "refused as the caller's fault");
    let (quick_net, slow_net) = (bare("main", "net@1"), bare("main", "net@2"));
    let slow = "latency_ms = 1, max_slow_rate = 0.5";
    check(&quick_net, &slow_net, &infer, "canary", slow, "took longer than 1 ms");
}

/// Whoever has hung up was not answered, and a revision that never answers has no other requests.
#[test]
fn a_revision_that_lets_clients_wait_in_vain_is_rolled_back() {
    let host = host();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    let endpoint = |mode: &str, rollout: &str| {
        let mode = format!("mode = {mode:?}");
        let main = variant("main", "processor-faults@1", "default = \"adder@1\"", &mode);
        format!("name = \"e\"\ntimeout_ms = 3600000\n[predictions]\n{rollout}\n{main}")
    };
    host.apply(&endpoint("none", ""));
    let canary = "steps = [50, 100], interval_ms = 100, guardrails = { min_requests = 5 }";
    let config = format!("[rollout]\npolicy = \"canary@1\"\nconfig = {{ {canary} }}");
    begin(&host, &endpoint("poll", &config));
    let mut waiting = Vec::new();
    until("the rollout is over", || {
        // Those of the last round are hung up.
        waiting.clear();
        waiting.extend((0..8).map(|_| {
            let mut connection = host.connect();
            connection.start(&Request::invoke("e", "x")).unwrap();
            connection
        }));
        status(&host)["state"] != "rolling"
    });
    let why = status(&host)["order"]["why"].clone();
    assert!(why.as_str().unwrap().contains("requests failed"), "{why}");
    let gone = "berth_request_errors_total{endpoint=\"e\",variant=\"main\",reason=\"gone\"}";
    assert!(host.metric(gone) > 0.0);
    until("they are recorded", || {
        host.ok(&["predictions", "query", "e", "--format", "json"]).contains("\"gone\"")
    });
}

#[test]
fn it_is_watched_and_drawn_by_what_the_body_says() {
    let host = host();
    let user = "attributes = { user = { parameter = \"user\" } }\nunit = \"user\"\n";
    let endpoint = |version| adder(version, "").replace(USER, user);
    let first = host.apply(&endpoint(1));
    let request = |user: u32| {
        let inputs = r#"[{"name":"x","datatype":"FP32","shape":[1],"data":[0]}]"#;
        let body = format!(r#"{{"parameters":{{"user":{user}}},"inputs":{inputs}}}"#);
        Request::post("/v2/models/e/infer", "application/json", body)
    };
    let rolling = rollout("rolling", &format!("steps = 4, interval_ms = 100, {LENIENT}"));
    let (mut next, mut seen) = (String::new(), String::new());
    let answers = traffic(&host, request, || {
        next = begin(&host, &format!("{rolling}{}", endpoint(2)));
        seen = host.ok(&["rollout", "watch", "e"]);
    });
    check_moves_once(&answers, [&first, &next]);
    let last = &seen[seen.rfind("endpoint ").unwrap()..];
    let parts = ["policy     rolling@1 ", "state      promoted", "have held", "100.00 %"];
    for part in parts.into_iter().chain(["ERROR RATE %", "0 (0 to ", "95 % probability"]) {
        assert!(last.contains(part), "{part:?} is not in\n{last}");
    }
}

#[test]
fn recreate_frees_the_old_before_the_new() {
    let host = host();
    let first = host.apply(&adder(1, ""));
    let request = ask(1);
    let resident = |version| format!("berth_model_resident_bytes{{model=\"adder@{version}\"}}");
    // A request that is under way holds the old revision.
    let mut under_way = host.connect();
    under_way.begin(&request).unwrap();
    begin(&host, &adder(2, &rollout("recreate", "")));
    until("the old revision is stopped", || host.send(&request).status == 503);
    let between = host.send(&request);
    between.check_error("in between", 503, "between two revisions");
    assert_eq!(between.header("retry-after"), Some("1"));
    until("it is leaving", || status(&host)["arms"][0]["status"] == "leaving");
    for _ in 0..10 {
        let arms = &status(&host)["arms"];
        assert_eq!(
            (&arms[0]["status"], &arms[1]["status"]),
            (&"leaving".into(), &"stopped".into())
        );
        assert_eq!(host.metric(&resident(2)), 0.0);
        thread::sleep(Duration::from_millis(10));
    }
    let answer = under_way.end(&request).unwrap();
    assert_eq!((answer.output(), answer.revision()), (vec![1.0], &*first));
    assert_eq!(outcome(&host), "promoted");
    assert_eq!(host.send(&request).output(), [2.0]);
    assert_eq!(host.metric(&resident(1)), 0.0);
    assert!(host.metric(&resident(2)) > 0.0);
}

#[test]
fn a_failed_start_reopens_the_old() {
    let host = host();
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    let live = host.apply(&adder(1, ""));
    let broken =
        variant("main", "processor-faults@1", "default = \"adder@2\"", "mode = \"create-trap\"");
    for policy in ["recreate", "canary", "blue-green"] {
        let rollout = rollout(policy, "");
        begin(&host, &format!("name = \"e\"\n{USER}{rollout}\n{broken}"));
        assert_eq!(outcome(&host), "aborted");
        let ended = status(&host);
        let why = ended["order"]["why"].as_str().unwrap();
        assert!(why.contains("the next revision cannot be prepared: "), "{why}");
        let answer = host.send(&ask(1));
        assert_eq!((answer.output(), answer.revision()), (vec![1.0], &*live), "{policy}");
    }
}

#[test]
fn a_step_is_no_larger_than_the_operator_allows() {
    let host = host();
    host.apply(&adder(1, ""));
    let rollout = rollout("blue-green", &format!("bake_ms = 100, {LENIENT}"));
    let capped = rollout.replace("rollout = {", "rollout = { max_step = 0.25,");
    traffic(&host, ask, || {
        begin(&host, &adder(2, &capped));
        assert_eq!(outcome(&host), "promoted");
    });
    let reasons = reasons(&host);
    let share = |why: &String| {
        let (_, rest) = why.split_once("; next ")?;
        rest.split_once(" %")?.0.parse::<f64>().ok()
    };
    let mut shares: Vec<f64> = reasons.iter().filter_map(share).collect();
    shares.dedup();
    assert_eq!(shares, [0.0, 25.0, 50.0, 75.0, 100.0], "{reasons:?}");
    let wrong = capped.replace("0.25", "1.5");
    host.apply_refused(
        "a step of more than all",
        &adder(3, &wrong),
        "rollout.max_step: 1.5 is not",
    );
}

#[test]
fn a_rollout_goes_on_after_a_crash() {
    let mut random = Random::seeded();
    let mut host = host();
    let mut live = host.apply(&adder(1, ""));
    let steps = format!("steps = [30, 60, 100], interval_ms = 50, {LENIENT}");
    let mut version = 1;
    for policy in ["canary", "recreate", "canary"] {
        version = version % 3 + 1;
        let config = if policy == "canary" { &*steps } else { "" };
        let next = begin(&host, &adder(version, &rollout(policy, config)));
        let mut all: BTreeMap<u32, Vec<Answer>> = BTreeMap::new();
        // Of users, each of whom asks over and over. What the host's end cuts off is not counted.
        while status(&host)["state"] == "rolling" {
            let mut connection = host.connect();
            // Mostly for longer than a step's interval: a host that never decides gives up.
            let until = Instant::now() + Duration::from_millis(random.below(200));
            while Instant::now() < until {
                let user = random.below(200) as u32;
                let answer = connection.send(&ask(user)).unwrap();
                if answer.status != 503 {
                    all.entry(user).or_default().push(answer);
                }
            }
            host.restart();
        }
        assert_eq!(outcome(&host), "promoted", "{policy}");
        check_moves_once(&all, [&live, &next]);
        assert_eq!(host.send(&ask(1)).revision(), next);
        live = next;
    }
}

#[test]
fn the_live_revision_answers_while_the_next_is_made_ready_again() {
    let mut host = host();
    let live = host.apply(&adder(1, ""));
    host.push_model("turns", &onnx::turns(0));
    // Minutes.
    host.file(
        "long.json",
        r#"{"inputs":[{"name":"n","datatype":"INT64","shape":[],"data":[999999999]}]}"#,
    );
    let long = "timeout_ms = 600_000\nwarm_up = { infer = \"long.json\" }\n";
    let model = bare("main", "turns@1");
    begin(&host, &format!("name = \"e\"\n{long}{USER}{}{model}", held(50)));
    let statuses = |host: &Host| {
        let arms = status(host)["arms"].clone();
        [0, 1].map(|arm| arms[arm]["status"].as_str().unwrap().to_owned())
    };
    until("the next is made ready", || statuses(&host) == ["ready", "preparing"]);
    host.restart();
    assert_eq!(host.send(&ask(1)).revision(), live);
    assert_eq!(statuses(&host), ["ready", "preparing"]);
    host.ok(&["rollout", "abort", "e"]);
    assert_eq!(outcome(&host), "aborted");
    assert_eq!(host.send(&ask(1)).revision(), live);
}

#[test]
fn a_rollout_that_the_host_never_survives_is_given_up() {
    let mut host = host();
    let live = host.apply(&adder(1, ""));
    begin(&host, &adder(2, &held(50)));
    until("both answer", || status(&host)["arms"][1]["share"] == 0.5);
    for _ in 0..33 {
        assert_eq!(status(&host)["state"], "rolling");
        host.kill();
        host.restart();
    }
    assert_eq!(outcome(&host), "aborted");
    let why = status(&host)["order"]["why"].clone();
    assert!(why.as_str().unwrap().starts_with("the host has ended again and again"), "{why}");
    for user in 0..20 {
        assert_eq!(host.send(&ask(user)).revision(), live);
    }
}

#[test]
fn revisions_that_take_other_inputs_are_told() {
    let host = host();
    host.push_model("two", &onnx::two_inputs());
    let live = host.apply(&adder(1, ""));
    let two = |rollout: &str| format!("name = \"e\"\n{USER}{rollout}\n{}", bare("main", "two@1"));
    let part = "two@1 takes no input \"x\", and adder@1 does";
    for policy in ["canary", "blue-green"] {
        begin(&host, &two(&rollout(policy, "")));
        assert_eq!(outcome(&host), "aborted", "{policy}");
        let why = status(&host)["order"]["why"].as_str().unwrap().to_owned();
        assert!(why.contains(part) && why.contains("without [rollout]"), "{why}");
        assert_eq!(host.send(&ask(1)).revision(), live);
    }
    // One that all requests go to at once may, and whoever applies it is told.
    let file = host.file("two.toml", two(""));
    for dry in [&["--dry-run"][..], &[]] {
        let arguments = [&["apply", file.to_str().unwrap()], dry].concat();
        let changes = host.json(&arguments)["changes"].to_string();
        assert!(changes.contains("clients: two@1 takes no input"), "{changes}");
    }
    assert_eq!(host.send(&ask(1)).status, 400);
}

#[test]
pub(crate) fn a_policy_that_fails_leaves_the_live_revision() {
    let host = host();
    host.push("plugin", "policy-faults", &guest("policy-faults"));
    let live = host.apply(&adder(1, ""));
    let faulty = |mode: &str| rollout("policy-faults", &format!("mode = {mode:?}, tick_ms = 50"));
    for (mode, part) in [
        ("trap", "unreachable"),
        ("failed", "the guest says no"),
        ("nan", "arm 0 gets weight NaN"),
        ("unknown-arm", "arm 2 of 2"),
        ("oversized-plan", "the most is 65536"),
    ] {
        begin(&host, &adder(2, &faulty(mode)));
        assert_eq!(outcome(&host), "aborted", "{mode}");
        let ended = status(&host);
        let why = ended["order"]["why"].as_str().unwrap();
        assert!(why.contains("not asked any more after 3 failures") && why.contains(part), "{why}");
        for user in 0..20 {
            assert_eq!(host.send(&ask(user)).revision(), live, "{mode}");
        }
    }
    // Late is no fault: the shares of the last evaluation stand.
    begin(&host, &adder(2, &faulty("loop")));
    let late =
        "berth_policy_failures_total{endpoint=\"e\",policy=\"policy-faults@1\",reason=\"fuel\"}";
    until("it was late more often than it may fail", || host.metric(late) >= 4.0);
    let now = status(&host);
    assert_eq!((&now["state"], &now["arms"][1]["share"]), (&"rolling".into(), &0.5.into()));
    assert_eq!(host.json(&["rollout", "abort", "e"])["order"]["outcome"], "aborted");
    // What cannot begin is refused, and changes nothing.
    let at_once = rollout("policy-faults", "mode = \"failed\", at_once = true");
    host.apply_refused("it says no", &adder(2, &at_once), "rollout: policy policy-faults@1: ");
    host.apply_refused(
        "no step",
        &adder(2, &rollout("canary", "steps = []")),
        "rollout.config.steps: refused by canary@1",
    );
    host.apply_refused(
        "a key",
        &adder(2, &rollout("canary", "steps = [100], pace = 1")),
        "rollout.config.pace: ",
    );
    let new = tensors("new", "adder@1");
    host.apply_refused(
        "a new one",
        &format!("{}{new}", rollout("canary", "steps = []")),
        "rollout.config.steps",
    );
    host.refused(&["rollout", "status", "new"], "there is no endpoint new");
    assert_eq!(host.send(&ask(1)).revision(), live);
}
