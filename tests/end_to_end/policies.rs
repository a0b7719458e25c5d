//! Policies and routers that fail.

use std::collections::BTreeSet;

use crate::guests::modes;
use crate::support::files::{bare, guest, plugin};
use crate::support::{Host, Request, beside, onnx, until};

fn host() -> Host {
    let host = Host::start();
    host.push_model("adder", &onnx::adder(1.0));
    host.push("plugin", "weighted", &plugin("weighted"));
    host.apply(&routed("healthy", "weighted@1", "weights = { first = 1 }"));
    host
}

/// An endpoint of three variants under a policy.
fn routed(name: &str, policy: &str, config: &str) -> String {
    routed_among(&["first", "second", "last"], name, policy, config)
}

fn routed_among(variants: &[&str], name: &str, policy: &str, config: &str) -> String {
    let variants: String = variants.iter().map(|name| bare(name, "adder@1")).collect();
    format!(
        "name = {name:?}\nattributes = {{ user = {{ header = \"x-user-id\" }}, fault = {{ header = \"x-fault\" }} }}\nunit = \"user\"\nrouting = {{ policy = {policy:?}, config = {{ {config} }} }}\n{variants}"
    )
}

fn ask(endpoint: &str) -> Request {
    Request::infer(endpoint, "x", &[1], &[0.0])
}

#[test]
pub(crate) fn an_evaluation_that_cannot_be_followed_is_refused() {
    let host = host();
    host.push("plugin", "policy-faults", &guest("policy-faults"));
    let weights = "weights = { second = 1 }";
    let live = host.apply(&routed("e", "weighted@1", weights));
    let faults = [
        ("trap", "routing: policy policy-faults@1: the policy was stopped: unreachable"),
        ("loop", "routing: policy policy-faults@1: the policy was stopped: fuel"),
        ("memory", "routing: policy policy-faults@1: the policy was stopped: "),
        ("failed", "routing: policy policy-faults@1: the policy failed: the guest says no"),
        ("config", "routing.config.mode: refused by policy-faults@1: config is refused"),
        ("nan", "arm 0 gets weight NaN"),
        ("negative", "arm 0 gets weight -1"),
        ("huge", "the weights come to inf"),
        ("long-failed", "routing: policy policy-faults@1: the policy was stopped: host: "),
        ("zero", "the weights come to 0"),
        ("unknown-arm", "arm 3 of 3"),
        ("duplicate-arm", "arm 0 is named twice"),
        ("oversized-plan", "bytes, the most is 65536"),
    ];
    // Of these, all that follows from an evaluation is the same every time.
    let good = ["none", "impure", "seeded"];
    let known: BTreeSet<String> =
        faults.iter().map(|fault| fault.0).chain(good).map(str::to_owned).collect();
    assert_eq!(modes("policy-faults"), known, "the guest's modes, and those with a test");
    beside(&host, &ask("e"), |another| {
        for (mode, part) in faults {
            let config = format!("mode = \"{mode}\", at_once = true");
            host.apply_refused(mode, &routed("e", "policy-faults@1", &config), part);
            let answer = host.send(&ask("e"));
            assert_eq!((answer.revision(), answer.variant()), (&*live, "second"), "{mode}");
            another();
        }
        for mode in good {
            let config = format!("mode = \"{mode}\", at_once = true");
            let before = host.apply(&routed(mode, "policy-faults@1", &config));
            assert_eq!(host.send(&ask(mode)).revision(), before);
            another();
        }
    });
    let unknown = routed("e", "policy-faults@1", "mode = \"none\", tick = 1");
    host.apply_refused(
        "an unknown key",
        &unknown,
        "routing.config.tick: refused by policy-faults@1",
    );
}

#[test]
pub(crate) fn the_last_shares_serve_where_a_router_fails() {
    let mut host = host();
    host.push("plugin", "router-faults", &guest("router-faults"));
    // By the reason under which the failure is counted; none where there is no failure.
    let faults = [
        ("none", None),
        ("trap", Some("unreachable")),
        ("loop", Some("fuel")),
        ("memory", Some("fuel")),
        ("nan", Some("wrong")),
        ("negative", Some("wrong")),
        ("huge", Some("wrong")),
        ("empty", Some("wrong")),
        ("wrong-arm", Some("wrong")),
        ("wrong-others", Some("wrong")),
        ("flood", Some("fuel")),
        ("long-reason", Some("fuel")),
        ("long-salt", Some("fuel")),
        ("many-reasons", None),
        ("fallbacks", None),
        ("shadows", None),
    ];
    let refused = [
        ("create-trap", "the policy was stopped: unreachable"),
        ("create-refuse", "routing.config.mode: refused by router-faults@1"),
    ];
    let known: BTreeSet<String> = faults
        .iter()
        .map(|fault| fault.0)
        .chain(refused.iter().map(|fault| fault.0))
        .chain(["impure"])
        .map(str::to_owned)
        .collect();
    assert_eq!(modes("router-faults"), known, "the guest's modes, and those with a test");

    let failures = |host: &Host, endpoint: &str, reason: &str| {
        let labels =
            format!("endpoint=\"{endpoint}\",policy=\"router-faults@1\",reason=\"{reason}\"");
        host.metric(&format!("berth_policy_failures_total{{{labels}}}"))
    };
    beside(&host, &ask("healthy"), |another| {
        for (mode, reason) in faults {
            let config = format!("mode = \"{mode}\", attribute = \"fault\"");
            host.apply(&routed(mode, "router-faults@1", &config));
            let mut connection = host.connect();
            for round in 0..5 {
                let answer = connection.send(&ask(mode)).unwrap();
                assert_eq!(
                    (answer.status, answer.variant()),
                    (200, "last"),
                    "{mode}, without the fault"
                );
                let answer = connection.send(&ask(mode).header("x-fault", "yes")).unwrap();
                let expected = if reason.is_some() { "first" } else { "last" };
                assert_eq!(
                    (answer.status, answer.variant()),
                    (200, expected),
                    "{mode}, round {round}"
                );
            }
            if let Some(reason) = reason {
                assert_eq!(failures(&host, mode, reason), 5.0, "{mode}");
            }
            another();
        }
        let live = host.apply(&routed("e", "router-faults@1", "mode = \"none\""));
        for (mode, part) in refused {
            let config = format!("mode = \"{mode}\"");
            host.apply_refused(mode, &routed("e", "router-faults@1", &config), part);
            assert_eq!(host.send(&ask("e")).revision(), live, "{mode}");
            another();
        }
    });
    // Sixteen faults in a row are one too many; lateness is none.
    for (mode, reason, quarantined) in
        [("nan", "wrong", true), ("wrong-arm", "wrong", true), ("loop", "fuel", false)]
    {
        let before = failures(&host, mode, reason);
        assert_eq!(host.send(&ask(mode)).variant(), "last", "{mode}, without the fault");
        for _ in 0..20 {
            let answer = host.send(&ask(mode).header("x-fault", "yes"));
            assert_eq!((answer.status, answer.variant()), (200, "first"), "{mode}");
        }
        let counted = if quarantined { 16.0 } else { 20.0 };
        assert_eq!(failures(&host, mode, reason), before + counted, "{mode}");
        let expected = if quarantined { "first" } else { "last" };
        assert_eq!(host.send(&ask(mode)).variant(), expected, "{mode}");
        assert_eq!(host.json(&["endpoint", "show", mode])["quarantined"], quarantined, "{mode}");
        assert_eq!(in_quarantine(&host, mode), f64::from(u8::from(quarantined)), "{mode}");
    }
    host.restart();
    assert_eq!(host.send(&ask("trap").header("x-fault", "yes")).variant(), "first");
    assert_eq!(failures(&host, "trap", "unreachable"), 1.0);
}

#[test]
fn a_router_that_is_not_pure_is_found_out() {
    let host = host();
    host.push("plugin", "router-faults", &guest("router-faults"));
    beside(&host, &ask("healthy"), |another| {
        // The guest goes round its arms, so that a sample at a fixed stride could miss it.
        for arms in [&["first", "last"][..], &["first", "second", "last"]] {
            host.apply(&routed_among(arms, "e", "router-faults@1", "mode = \"impure\""));
            let mut connection = host.connect();
            let failures = |reason: &str| {
                let labels =
                    format!("endpoint=\"e\",policy=\"router-faults@1\",reason=\"{reason}\"");
                host.metric(&format!("berth_policy_failures_total{{{labels}}}"))
            };
            let quarantined = || host.json(&["endpoint", "show", "e"])["quarantined"].clone();
            assert_eq!(quarantined(), false);
            let before = failures("impure");
            let mut seen = BTreeSet::new();
            // One decision in 1,024 is made again, and at least half of those come out differently.
            for _ in 0..60_000 / 100 {
                for _ in 0..100 {
                    seen.insert(connection.send(&ask("e")).unwrap().variant().to_owned());
                }
                if failures("impure") > before {
                    break;
                }
            }
            assert_eq!(seen.len(), arms.len(), "{seen:?}");
            assert!(failures("impure") > before, "{arms:?}: not found out");
            assert_eq!(quarantined(), true);
            assert!(host.ok(&["endpoint", "show", "e"]).contains("in quarantine"));
            let found = failures("quarantined");
            for _ in 0..50 {
                let answer = connection.send(&ask("e")).unwrap();
                assert_eq!((answer.status, answer.variant()), (200, "first"));
            }
            assert_eq!(failures("quarantined"), found + 50.0);
            another();
        }
    });
    // The next revision starts anew.
    host.apply(&routed("e", "router-faults@1", "mode = \"none\""));
    assert_eq!(host.json(&["endpoint", "show", "e"])["quarantined"], false);
    until("the quarantine is over", || in_quarantine(&host, "e") == 0.0);
}

fn in_quarantine(host: &Host, endpoint: &str) -> f64 {
    host.metric(&format!("berth_policy_quarantined{{endpoint={endpoint:?}}}"))
}

/// What came to the arms is not what the policy had asked for, so that nothing follows from it.
#[test]
fn a_rollout_whose_router_is_in_quarantine_goes_no_further() {
    let host = host();
    host.push("plugin", "router-faults", &guest("router-faults"));
    let endpoint = |version: u32, rollout: &str| {
        format!(
            "name = \"r\"\nattributes = {{ fault = {{ header = \"x-fault\" }} }}\n{rollout}{}",
            bare("main", &format!("adder@{version}"))
        )
    };
    host.push_model("adder", &onnx::adder(2.0));
    let ask = || Request::infer("r", "x", &[1], &[0.0]);
    for (faults, state) in [(false, "live"), (true, "rolling")] {
        host.apply(&endpoint(1, ""));
        let rollout = "rollout = { policy = \"router-faults@1\", config = { mode = \"nan\", attribute = \"fault\", promote_after = 60 } }\n";
        let file = host.file("next.toml", endpoint(2, rollout));
        assert_eq!(host.json(&["apply", file.to_str().unwrap()])["state"], "rolling");
        let status = || host.json(&["rollout", "status", "r"]);
        until("both answer", || {
            let arms = &status()["arms"];
            arms[1]["share"] == 0.5 && arms[1]["status"] == "ready"
        });
        for _ in 0..20 {
            let ask = if faults { ask().header("x-fault", "yes") } else { ask() };
            assert_eq!(host.send(&ask).status, 200);
        }
        assert_eq!(in_quarantine(&host, "r"), f64::from(u8::from(faults)));
        for _ in 0..60 {
            assert_eq!(host.send(&ask()).status, 200);
        }
        // Several ticks.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let now = status();
        assert_eq!(now["state"], state, "{now}");
        if faults {
            assert!(now["problem"].as_str().unwrap().contains("in quarantine"), "{now}");
            assert_eq!(now["arms"][1]["share"], 0.5);
            host.ok(&["rollout", "abort", "r"]);
            until("the quarantine is over", || in_quarantine(&host, "r") == 0.0);
        }
    }
}

#[test]
fn a_routers_trap_is_logged_whole_once() {
    let host = host();
    host.push("plugin", "router-faults", &guest("router-faults"));
    let digest = host.digest("router-faults");
    // The next revision of an endpoint has nothing new to tell.
    for (endpoint, attribute, wholes) in [("one", "", 1), ("other", "", 1), ("one", "fault", 0)] {
        let config = match attribute {
            "" => "mode = \"trap\"".to_owned(),
            name => format!("mode = \"trap\", attribute = {name:?}"),
        };
        host.apply(&routed(endpoint, "router-faults@1", &config));
        let before = host.log().len();
        let mut connection = host.connect();
        for _ in 0..20 {
            let request = ask(endpoint).header("x-fault", "yes");
            assert_eq!(connection.send(&request).unwrap().variant(), "first");
        }
        let mut entries = host.entries(before);
        entries.retain(|entry| entry.contains("the last shares serve"));
        // Of twenty, those whose number is a power of two.
        assert_eq!(entries.len(), 5, "{endpoint}: {entries:#?}");
        for (at, entry) in entries.into_iter().enumerate() {
            for part in ["policy=\"router-faults@1\"", &*digest, "prediction=", "unreachable: "] {
                assert!(entry.contains(part), "{endpoint}: {entry} lacks {part}");
            }
            assert_eq!(entry.contains("    at "), at < wholes, "{endpoint}: {entry}");
            assert_eq!(entry.contains("times where prediction="), at >= wholes, "{entry}");
        }
    }
}
