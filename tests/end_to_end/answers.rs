//! What every answer carries.

use std::collections::HashSet;

use crate::support::files::{an_eight, digits_endpoint, guest, tensors, variant};
use crate::support::{Answer, Host, Request};

/// The four headers of an answer that an endpoint gave.
#[track_caller]
fn check(answer: &Answer, status: u16, revision: &str, variant: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.revision(), revision);
    assert_eq!(answer.variant(), variant);
    let prediction = answer.header("berth-prediction").unwrap_or_default();
    let digits = prediction.bytes().all(|c| c.is_ascii_hexdigit());
    assert!(prediction.len() == 32 && digits, "berth-prediction: {prediction:?}");
    assert!(!answer.header("x-request-id").unwrap_or_default().is_empty());
}

#[test]
fn every_answer_tells_who_gave_it() {
    let host = Host::with_digits(&[]);
    host.push("plugin", "probe", &guest("probe"));
    let digits = host.apply(&digits_endpoint(2));
    let raw = host.apply(&tensors("raw", "digits@2"));
    let probe = host.apply(&format!(
        "name = \"probe\"\n{}",
        variant("seen", "probe@1", "default = \"digits@2\"", "mode = \"tensors\"")
    ));
    assert_eq!(HashSet::from([&digits, &raw, &probe]).len(), 3);

    let eight = Request::invoke("digits", an_eight());
    check(&host.send(&eight), 200, &digits, "main");
    check(&host.send(&Request::invoke("digits", "no picture")), 400, &digits, "main");
    check(&host.send(&Request::infer("raw", "input", &[1, 64], &[0.0; 64])), 200, &raw, "main");
    check(&host.send(&Request::infer("raw", "input", &[1, 2], &[0.0; 2])), 400, &raw, "main");
    // Refused before a variant was chosen: it is the only one.
    let malformed = Request::post("/v2/models/raw/infer", "application/json", "{");
    check(&host.send(&malformed), 400, &raw, "main");
    let direct = Request::infer("raw/versions/main", "input", &[1, 64], &[0.0; 64]);
    check(&host.send(&direct), 403, &raw, "main");
    check(&host.send(&Request::infer("probe", "x", &[1], &[0.0])), 200, &probe, "seen");
}

#[test]
fn request_ids_are_echoed_or_made() {
    let host = Host::start();
    let long = "i".repeat(128);
    let made: HashSet<String> = [
        (Request::get("/v2"), None),
        (Request::get("/v2").header("x-request-id", "mine-1"), Some("mine-1")),
        (Request::get("/nowhere").header("X-Request-ID", "mine 2"), Some("mine 2")),
        (Request::post("/v2", "text/plain", "").header("x-request-id", &long), Some(&*long)),
        (Request::get("/v2/models/none").header("x-request-id", &format!("{long}i")), None),
        (Request::get("/v2").header("x-request-id", ""), None),
        (Request::get("/v2").header("x-request-id", "g\u{fc}nther"), None),
    ]
    .into_iter()
    .filter_map(|(request, echoed): (Request, Option<&str>)| {
        let answer = host.send(&request);
        let id = answer.header("x-request-id").expect("an id").to_owned();
        match echoed {
            Some(echoed) => {
                assert_eq!(id, echoed);
                None
            }
            None => Some(id),
        }
    })
    .collect();
    assert_eq!(made.len(), 4, "made ids differ: {made:?}");
    assert!(made.iter().all(|id| id.len() == 32), "{made:?}");
    let admin = host.ask_admin(&Request::get("/v1/models").header("x-request-id", "mine-3"));
    assert_eq!(admin.header("x-request-id"), Some("mine-3"));
}

#[test]
fn predictions_sort_by_time() {
    let mut host = Host::with_digits(&[]);
    host.apply(&tensors("raw", "digits@2"));
    let request = Request::infer("raw", "input", &[1, 64], &[0.0; 64]);
    let mut predictions = Vec::new();
    for _ in 0..2 {
        let mut connection = host.connect();
        for _ in 0..200 {
            let answer = connection.send(&request).unwrap();
            predictions.push(answer.header("berth-prediction").unwrap().to_owned());
        }
        host.restart();
    }
    assert!(predictions.is_sorted_by(|one, next| one < next), "{predictions:?}");
}

#[test]
pub(crate) fn the_request_reaches_the_processor_as_it_was_sent() {
    let host = Host::with_digits(&[]);
    host.push("plugin", "probe", &guest("probe"));
    let seen = variant("main", "probe@1", "default = \"digits@2\"", "mode = \"request\"");
    host.apply(&format!(
        "name = \"seen\"\nattributes = {{ user = {{ header = \"x-user-id\" }}, trial = {{ query = \"trial\" }} }}\n{seen}"
    ));
    let parts = variant("main", "probe@1", "default = \"digits@2\"", "mode = \"parts\"");
    host.apply(&format!("name = \"parts\"\n{parts}"));

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = host.send(
        &Request::post("/v2/models/seen/invoke?trial=b%20c&other=1", "text/x-note", "h\u{e9}")
            .header("x-user-id", "ada")
            .header("x-secret", "not declared")
            .header("x-request-id", "mine")
            .header("traceparent", trace),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json();
    assert_eq!(seen["id"], "mine");
    assert_eq!(seen["prediction"], answer.header("berth-prediction").unwrap());
    assert_eq!(seen["content_type"], "text/x-note");
    assert_eq!((&seen["body_size"], &seen["body"]), (&3.into(), &"h\u{e9}".into()));
    assert_eq!(seen["attributes"], serde_json::json!({"trial": "b c", "user": "ada"}));
    assert_eq!(seen["trace_context"], trace);
    let remaining = seen["remaining_us"].as_u64().unwrap();
    assert!((1..=30_000_000).contains(&remaining), "{remaining}");

    let answer = host.send(&Request::post("/v2/models/parts/invoke", "a/b", "abcdef"));
    assert_eq!((answer.text().as_str(), answer.header("berth-parts")), ("abcdef", Some("6")));
}
