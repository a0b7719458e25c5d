use berth_sdk::{Measure, Observed};

use super::*;

/// Each of another unit.
const ONE: Alike = Alike { requests: 1.0, errors: 1.0, refused: 1.0, slow: 0.0 };

fn counts(requests: u64, errors: u64, slow: u64) -> Counts {
    Counts { requests, errors, slow, refused: 0, alike: ONE }
}

#[track_caller]
fn check(guardrails: &Guardrails, live: &Counts, next: &Counts, expected: &str) {
    let evidence = Evidence { whole: [*live, *next], ..Evidence::default() };
    let found = match guardrails.judge(&evidence) {
        Judgement::Pass => "pass".to_owned(),
        Judgement::Hold(why) => format!("hold: {why}"),
        Judgement::Fail(why) => format!("fail: {why}"),
    };
    assert_eq!(found, expected);
}

#[test]
fn little_data_holds_unless_it_is_plain() {
    let limits =
        Guardrails { max_error_rate: 0.02, latency_ms: Some(5.0), ..Guardrails::default() };
    let limits = Guardrails { max_slow_rate: 0.02, ..limits };
    let live = Counts::default();
    for (requests, errors, slow, expected) in [
        (0, 0, 0, "hold: 0 of 100 requests"),
        (99, 0, 0, "hold: 99 of 100 requests"),
        (100, 0, 0, "hold: 0 of 100 requests failed, at most 2 % may, which decides nothing yet"),
        (100, 2, 0, "hold: 2 of 100 requests failed, at most 2 % may, which decides nothing yet"),
        (1000, 0, 0, "pass"),
        (1000, 3, 3, "pass"),
        (2, 2, 0, "fail: 2 of 2 requests failed, at most 2 % may"),
        (1000, 60, 0, "fail: 60 of 1000 requests failed, at most 2 % may"),
        (1000, 0, 60, "fail: 60 of 1000 requests took longer than 5 ms, at most 2 % may"),
    ] {
        check(&limits, &live, &counts(requests, errors, slow), expected);
    }
}

#[test]
fn more_errors_than_the_live_revision_has_fail() {
    let limits =
        Guardrails { max_error_rate: 1.0, max_error_increase: Some(0.05), ..Guardrails::default() };
    check(&limits, &counts(2000, 200, 0), &counts(2000, 200, 0), "pass");
    check(
        &limits,
        &counts(1000, 100, 0),
        &counts(1000, 300, 0),
        "fail: 300 of 1000 requests failed and 100 of 1000 of the live revision, at most 5 % more may",
    );
    // Without a live revision to compare with, nothing is known.
    check(
        &limits,
        &Counts::default(),
        &counts(1000, 0, 0),
        "hold: 0 of 1000 requests failed and 0 of 0 of the live revision, at most 5 % more may, which decides nothing yet",
    );
}

#[test]
fn what_one_unit_does_many_times_counts_once() {
    let limits = Guardrails { max_error_rate: 0.05, ..Guardrails::default() };
    let live = Counts::default();
    // A thousand requests, of a thousand users and of ten.
    check(&limits, &live, &counts(1000, 0, 0), "pass");
    let of_ten =
        |errors| Counts { alike: Alike { requests: 100.0, ..ONE }, ..counts(1000, errors, 0) };
    let unsure = "hold: 0 of 1000 requests failed, at most 5 % may, which decides nothing yet";
    check(&limits, &live, &of_ten(0), unsure);
    // One user whose requests all fail proves nothing; nine of ten do.
    let unsure = "hold: 100 of 1000 requests failed, at most 5 % may, which decides nothing yet";
    check(&limits, &live, &of_ten(100), unsure);
    let broken = "fail: 900 of 1000 requests failed, at most 5 % may";
    check(&limits, &live, &of_ten(900), broken);
}

#[test]
fn what_nothing_can_be_held_against_is_refused() {
    let key = |guardrails: Guardrails| match guardrails.check("guardrails") {
        Ok(()) => String::new(),
        Err(error) => error.key,
    };
    let usual = Guardrails::default;
    assert_eq!(key(usual()), "");
    for (guardrails, expected) in [
        (Guardrails { max_error_rate: 1.1, ..usual() }, "guardrails.max_error_rate"),
        (Guardrails { max_slow_rate: f64::NAN, ..usual() }, "guardrails.max_slow_rate"),
        (Guardrails { max_refused_rate: Some(-0.1), ..usual() }, "guardrails.max_refused_rate"),
        (Guardrails { latency_ms: Some(0.0), ..usual() }, "guardrails.latency_ms"),
        (Guardrails { max_latency_ratio: Some(1.1), ..usual() }, "guardrails.max_latency_ratio"),
        (Guardrails { min_requests: 0, ..usual() }, "guardrails.min_requests"),
        (Guardrails { alpha: 0.0, ..usual() }, "guardrails.alpha"),
    ] {
        assert_eq!(key(guardrails), expected);
    }
}

/// What both arms had, in the whole and in a slice: requests, errors, and how many were slow of 10.
fn observed(slice: Option<&str>, requests: u64, errors: u64, slow: u64) -> Observed {
    let mut observed = Observed::new(&["live", "next"]);
    for arm in 0..2 {
        for slice in [None, slice] {
            for (name, count) in [("requests", requests), ("errors", errors)] {
                let sum = count as f64;
                observed.put(arm, name, slice, Measure { count, sum, sum_of_squares: sum });
            }
            let measure = Measure { count: 10, sum: 0.0, sum_of_squares: 0.0 };
            observed.put(arm, "latency-seconds", slice, measure);
            let values = (0..10).map(|at| if at < slow { 1.0 } else { 0.001 }).collect();
            observed.values.push((arm, "latency-seconds".into(), slice.map(Into::into), values));
        }
    }
    observed
}

#[test]
fn counts_are_what_was_observed() {
    let guardrails = Guardrails { latency_ms: Some(100.0), ..Guardrails::default() };
    let evidence = guardrails.evidence(&observed(None, 200, 3, 4), [0, 1], Since::Plan);
    let expected = Counts { requests: 200, errors: 3, refused: 0, slow: 4, alike: ONE };
    assert_eq!(evidence.whole, [expected; 2]);
    // What comes later is told from what came before.
    let later =
        guardrails.evidence(&observed(None, 500, 10, 4), [0, 1], Since::Plan).since(&evidence);
    let expected = Counts { requests: 300, errors: 7, refused: 0, slow: 0, alike: ONE };
    assert_eq!(later.whole, [expected; 2]);
}

#[test]
fn a_slice_has_a_floor_of_its_own() {
    let guardrails: Guardrails = serde_json::from_str(
        r#"{"max_error_rate": 1.0, "slices": [{"slice": "segment=vip", "max_error_rate": 0.05}]}"#,
    )
    .unwrap();
    guardrails.check("guardrails").unwrap();
    let check = |slice: &str, errors: u64, expected: &str| {
        let evidence =
            guardrails.evidence(&observed(Some(slice), 400, errors, 0), [0, 1], Since::Plan);
        let found = format!("{:?}", guardrails.judge(&evidence));
        assert!(found.contains(expected), "{found}");
    };
    check("segment=vip", 2, "Pass");
    check("segment=vip", 19, "Hold(\"19 of 400 requests of segment=vip failed, at most 5 % may");
    check("segment=vip", 60, "Fail(\"60 of 400 requests of segment=vip failed, at most 5 % may");
    // Of those that never came nothing is known.
    check("segment=other", 0, "Hold(\"0 of 0 requests of segment=vip failed");
}

#[test]
fn a_broken_split_passes_nothing() {
    let guardrails = Guardrails { max_error_rate: 0.5, ..Guardrails::default() };
    let judged = |errors: u64, found: u64| {
        let mut observed = observed(None, 1000, errors, 0);
        let expected = Measure { count: 1000, sum: 500.0, sum_of_squares: 250.0 };
        observed.put(1, "expected-exposures", None, expected);
        observed.count(1, "first-exposures", found);
        format!("{:?}", guardrails.judge(&guardrails.evidence(&observed, [0, 1], Since::Plan)))
    };
    assert_eq!(judged(0, 500), "Pass");
    assert!(judged(0, 900).starts_with("Hold(\"units do not fall to the arms by their shares"));
    // What is plainly broken is taken back all the same.
    assert!(judged(900, 900).starts_with("Fail("));
}

#[test]
fn one_unit_breaks_nothing_whatever_it_did_before_and_among_whom() {
    let guardrails: Guardrails = serde_json::from_str(
        r#"{"max_error_rate": 0.01, "max_refused_rate": 0.2, "latency_ms": 100, "max_slow_rate": 0.01,
            "slices": [{"slice": "segment=vip", "max_refused_rate": 0.2}]}"#,
    )
    .unwrap();
    // Requests since the plan changed of units that have one each, and of one that has many, in the
    // whole or in a slice, with what became of those.
    let fails = |ones: u64, many: u64, slice: Option<&str>, name: &str| {
        let mut observed = Observed::new(&["live", "next"]);
        let before = guardrails.evidence(&observed, [0, 1], Since::Plan);
        let (a, b) = (ones as f64, many as f64);
        let measure = |count, sum, sum_of_squares| Measure { count, sum, sum_of_squares };
        let of_one = measure(1, b, b * b);
        let parts: &[Option<&str>] = if slice.is_some() { &[None, slice] } else { &[None] };
        for &part in parts {
            let units = measure(ones + 1, a + b, a + b * b);
            observed
                .put(1, "requests", part, measure(ones + many, a + b, a + b))
                .put(1, "latency-seconds", part, measure(ones + many, 0.0, 0.0))
                .put(1, "since-plan:requests-of-units", part, units)
                .put(1, "since-plan:most-requests-of-a-unit", part, measure(1, b, b * b));
            let slow = if name == "slow" { many } else { 0 };
            let times = (0..ones + many).map(|at| if at < slow { 1.0 } else { 0.001 });
            let times = (1, "latency-seconds".into(), part.map(Into::into), times.collect());
            observed.values.push(times);
            if name != "slow" {
                let of_units = format!("since-plan:{name}-of-units");
                observed.put(1, name, part, measure(many, b, b)).put(1, &of_units, part, of_one);
            }
        }
        let evidence = guardrails.evidence(&observed, [0, 1], Since::Plan).since(&before);
        let judged = guardrails.judge(&evidence);
        assert!(!matches!(judged, Judgement::Fail(_)), "{ones} {name}: {judged:?}");
    };
    for ones in [0, 50, 2000, 20_000] {
        for name in ["errors", "refused", "slow"] {
            fails(ones, 600, None, name);
        }
        fails(ones, 60, Some("segment=vip"), "refused");
    }
}

/// The same of what looks at all since the beginning, where a unit that comes again and again is in
/// no sample.
#[test]
fn one_unit_breaks_nothing_since_the_beginning_either() {
    let guardrails: Guardrails =
        serde_json::from_str(r#"{"max_error_rate": 0.01, "max_refused_rate": 0.02}"#).unwrap();
    let measure = |count, sum: f64, sum_of_squares| Measure { count, sum, sum_of_squares };
    for (name, of_units) in [("errors", "errors-of-failing-units"), ("refused", "refused-of-units")]
    {
        for (told, expected) in [(true, "Hold"), (false, "Fail")] {
            let mut observed = Observed::new(&["live", "next"]);
            observed
                .count(1, "requests", 42_000)
                .count(1, name, 2000)
                .put(1, "requests-of-units", None, measure(4000, 4000.0, 4000.0))
                .put(1, "errors-of-units", None, measure(4000, 0.0, 0.0));
            if told {
                observed.put(1, of_units, None, measure(1, 2000.0, 4e6));
            }
            let evidence = guardrails.evidence(&observed, [0, 1], Since::Beginning);
            let judged = format!("{:?}", guardrails.judge(&evidence));
            assert!(judged.starts_with(expected), "{name}, {told}: {judged}");
        }
    }
}

#[test]
fn a_slower_revision_is_told_by_the_time_that_most_take() {
    let guardrails = Guardrails { max_latency_ratio: Some(1.5), ..Guardrails::default() };
    let check = |requests: u64, alike: f64, slower: f64, expected: &str| {
        let mut observed = Observed::new(&["live", "next"]);
        for (arm, times) in [(0, 1.0), (1, slower)] {
            let each = (0..requests).map(|at| times * 0.01 * (1.0 + at as f64 / requests as f64));
            observed.values.push((arm, "latency-seconds".into(), None, each.collect()));
            observed.count(arm, "latency-seconds", requests).count(arm, "requests", requests);
            let sum = requests as f64;
            let units = Measure { count: 9, sum, sum_of_squares: sum * alike };
            observed.put(arm, "since-plan:requests-of-units", None, units);
        }
        let before = Evidence::default();
        let evidence = guardrails.evidence(&observed, [0, 1], Since::Plan).since(&before);
        let judged = format!("{:?}", guardrails.judge(&evidence));
        assert!(judged.starts_with(expected), "{requests} {slower}: {judged}");
    };
    check(2000, 1.0, 1.0, "Pass");
    check(2000, 1.0, 1.1, "Pass");
    check(2000, 1.0, 3.0, "Fail(\"95 % of the requests took at most");
    check(100, 1.0, 1.1, "Hold");
    check(2000, 100.0, 3.0, "Hold");
}
