use berth_sdk::ArmState;

use super::*;

fn rules(json: &str) -> Result<Rules, ConfigError> {
    let config = berth_sdk::config::parse(json)?;
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    Rules::new(config, &list(&["a", "b", "c"]), &list(&["user", "age"]))
}

/// Attributes, and the position of the unit under the salts named.
struct Given<'a>(&'a [(&'a str, &'a str)], &'a [(&'a str, f64)]);

impl Request for Given<'_> {
    fn attribute(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
    }

    fn position(&self, salt: &str) -> f64 {
        self.1.iter().find(|(found, _)| *found == salt).map_or(0.999, |(_, position)| *position)
    }
}

fn check(rules: &Rules, request: &Given<'_>, reason: &str, shares: &[(u32, f64)]) {
    let decision = rules.decide(request);
    let actual: Vec<_> = decision.shares.iter().map(|share| (share.arm, share.weight)).collect();
    assert_eq!((decision.reason.as_str(), actual.as_slice()), (reason, shares), "{:?}", request.0);
}

#[test]
fn the_first_rule_that_applies_decides() {
    let rules = rules(
        r#"{
            "rules": [
                {"name": "own", "when": {"attribute": "user", "equals": "me"}, "arm": "c"},
                {"when": {"attribute": "user", "prefix": "test-"}, "arm": "b"},
                {"when": {"attribute": "age", "range": {"min": 18, "max": 65}}, "percentage": 20, "salt": "s",
                 "shares": {"b": 3, "c": 1}},
                {"when": {"attribute": "user", "in": ["x", "y"]}, "arm": "b"},
                {"percentage": 1, "arm": "c"}
            ],
            "default": "a"
        }"#,
    )
    .unwrap();
    check(&rules, &Given(&[("user", "me")], &[]), "own", &[(2, 1.0)]);
    check(
        &rules,
        &Given(&[("user", "test-1"), ("age", "20")], &[("s", 0.0)]),
        "rule-2",
        &[(1, 1.0)],
    );
    check(&rules, &Given(&[("age", "18")], &[("s", 0.19)]), "rule-3", &[(1, 3.0), (2, 1.0)]);
    check(&rules, &Given(&[("age", "65.0")], &[("s", 0.2)]), "default", &[(0, 1.0)]);
    check(&rules, &Given(&[("age", "65.1")], &[("s", 0.1)]), "default", &[(0, 1.0)]);
    check(&rules, &Given(&[("age", "old")], &[("s", 0.1)]), "default", &[(0, 1.0)]);
    check(&rules, &Given(&[("user", "y")], &[]), "rule-4", &[(1, 1.0)]);
    check(&rules, &Given(&[], &[("rule-5", 0.009)]), "rule-5", &[(2, 1.0)]);
    check(&rules, &Given(&[], &[]), "default", &[(0, 1.0)]);
}

#[test]
fn arms_that_rules_choose_are_ready() {
    let rules = rules(r#"{"rules": [{"percentage": 5, "arm": "c"}], "default": "a"}"#).unwrap();
    let arms: Vec<_> = rules.evaluation().arms.iter().map(|arm| (arm.weight, arm.state)).collect();
    assert_eq!(arms, [(1.0, ArmState::Ready), (0.0, ArmState::Standby), (0.0, ArmState::Ready)]);
}

#[test]
fn fallbacks_are_of_all_or_of_a_rule() {
    let rules = rules(
        r#"{
            "rules": [
                {"when": {"attribute": "user", "equals": "me"}, "arm": "b", "fallbacks": ["c", "a"]},
                {"when": {"attribute": "user", "equals": "you"}, "arm": "b"},
                {"when": {"attribute": "user", "equals": "none"}, "arm": "b", "fallbacks": []}
            ],
            "default": "b",
            "fallbacks": ["a"]
        }"#,
    )
    .unwrap();
    for (user, fallbacks) in [("me", &[2, 0][..]), ("you", &[0]), ("none", &[]), ("who", &[0])] {
        assert_eq!(rules.decide(&Given(&[("user", user)], &[])).fallbacks, fallbacks, "{user}");
    }
    let ready = rules.evaluation().arms.iter().all(|arm| arm.state == ArmState::Ready);
    assert!(ready, "what may be fallen back to is ready");
}

fn refuse(json: &str, key: &str, part: &str) {
    let error = rules(json).unwrap_err();
    assert!(error.key == key && error.message.contains(part), "{error:?}, expected {key}: {part}");
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_by_key() {
    let rule = |rule: &str| format!(r#"{{"rules": [{rule}], "default": "a"}}"#);
    refuse(r#"{"rules": []}"#, "default", "missing");
    refuse(r#"{"default": "z"}"#, "default", "the arms are a, b, c");
    refuse(&rule(r#"{"arm": "b"}"#), "rules[0]", "`when`, `percentage` or both");
    refuse(&rule(r#"{"percentage": 5}"#), "rules[0]", "`arm` or `shares`");
    refuse(&rule(r#"{"percentage": 5, "arm": "z"}"#), "rules[0].arm", "no arm `z`");
    refuse(&rule(r#"{"percentage": 101, "arm": "b"}"#), "rules[0].percentage", "0 to 100");
    refuse(&rule(r#"{"percentage": 5, "shares": {"z": 1}}"#), "rules[0].shares.z", "no arm `z`");
    refuse(&rule(r#"{"percentage": 5, "shares": {"b": -1}}"#), "rules[0].shares.b", "not negative");
    refuse(&rule(r#"{"percentage": 5, "shares": {"b": 0}}"#), "rules[0].shares", "above 0");
    refuse(
        &rule(r#"{"when": {"attribute": "sex", "equals": "f"}, "arm": "b"}"#),
        "rules[0].when.attribute",
        "but user, age",
    );
    refuse(&rule(r#"{"when": {"attribute": "age"}, "arm": "b"}"#), "rules[0].when", "one of");
    refuse(
        &rule(r#"{"when": {"attribute": "age", "range": {}}, "arm": "b"}"#),
        "rules[0].when.range",
        "`min`",
    );
    refuse(
        &rule(r#"{"when": {"attribute": "age", "range": {"min": 2, "max": 1}}, "arm": "b"}"#),
        "rules[0].when.range",
        "not above",
    );
    refuse(
        &rule(r#"{"when": {"attribute": "age", "like": "x"}, "arm": "b"}"#),
        "rules[0].when.like",
        "unknown field",
    );
    refuse(
        &rule(r#"{"when": {"attribute": "age", "equals": "1"}, "salt": "s", "arm": "b"}"#),
        "rules[0].salt",
        "needs a `percentage`",
    );
    refuse(r#"{"default": "a", "fallbacks": ["b", "z"]}"#, "fallbacks[1]", "no arm `z`");
    refuse(r#"{"default": "a", "fallbacks": ["b", "b"]}"#, "fallbacks[1]", "named twice");
    refuse(
        &rule(r#"{"percentage": 5, "arm": "b", "fallbacks": ["z"]}"#),
        "rules[0].fallbacks[0]",
        "no arm `z`",
    );
    refuse(&rule(r#"{"name": "", "percentage": 5, "arm": "b"}"#), "rules[0].name", "1 to 64");
    let many = vec![r#"{"percentage": 5, "arm": "b"}"#; 257].join(",");
    refuse(&rule(&many), "rules", "at most 256");
}
