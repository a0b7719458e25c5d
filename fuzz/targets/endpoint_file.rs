//! The endpoint file: its text, its check, and the JSON in which it goes to the host.

#![no_main]

use berth_serving::EndpointSpec;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[path = "../../host/berth/src/spec_text.rs"]
mod spec_text;

fuzz_target!(|text: &str| {
    let spec = match spec_text::parse(text) {
        Ok(spec) => spec,
        Err(problem) => {
            let line = problem.to_string();
            assert!(!line.is_empty() && !line.contains('\n'), "{line:?} is not one line");
            return;
        }
    };
    if let Err(problem) = spec.check() {
        assert!(!problem.key.is_empty() && !problem.problem.is_empty());
    }
    let json = serde_json::to_value(&spec).expect("what was read can be written");
    let routing = spec.routing.iter().map(|policy| &policy.config);
    let configs = routing.chain(spec.rollout.iter().map(|policy| &policy.config));
    for config in configs.chain(spec.variants.iter().map(|variant| &variant.config)) {
        config.values().for_each(whole);
    }
    let read: EndpointSpec = serde_json::from_value(json).expect("what was written can be read");
    assert_eq!(read, spec);
});

/// TOML says more than JSON in places. What it says must not be changed on the way.
fn whole(value: &Value) {
    match value {
        Value::Null => panic!("TOML has no null"),
        Value::Array(items) => items.iter().for_each(whole),
        Value::Object(members) => members.iter().for_each(|(key, member)| {
            assert!(!key.starts_with("$__toml"), "a date became {key}");
            whole(member);
        }),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
