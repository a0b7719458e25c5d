//! What was observed of an arm, as policies see it.

use berth_monitor::{Lately, Observed, Sum, Tally, ValueMoments};
use berth_plugin::Measure;
use berth_plugin::observing::Arm;

/// An arm with the measures and distributions of what was `observed` of it.
pub fn arm(name: String, ready: bool, observed: &Observed) -> Arm {
    let mut arm = Arm { name, ready, ..Arm::default() };
    tally(&mut arm, None, &observed.whole);
    for (name, observed) in &observed.slices {
        tally(&mut arm, Some(name), observed);
    }
    let units = &observed.units;
    let mut over_units = |name: String, units: u64, sum: f64, sum_of_squares: f64| {
        arm.measures.push((name, None, Measure { count: units, sum, sum_of_squares }));
    };
    let first = units.first as f64;
    over_units("first-exposures".to_owned(), units.first, first, first);
    let Sum { count, sum, squares } = units.expected;
    if count > 0 {
        over_units("expected-exposures".to_owned(), count, sum, squares);
    }
    for (name, sum, sum_of_squares) in [
        ("requests-of-units", units.requests, units.requests_squares),
        ("errors-of-units", units.errors, units.errors_squares),
        ("errors-by-requests-of-units", units.errors_requests, 0.0),
    ] {
        over_units(name.to_owned(), units.units, sum, sum_of_squares);
    }
    for (name, Sum { count, sum, squares }) in [
        ("most-requests-of-a-unit", Sum::of(units.most as f64)),
        ("errors-of-failing-units", units.failing),
        ("refused-of-units", units.refused),
    ] {
        over_units(name.to_owned(), count, sum, squares);
    }
    for (name, moments) in &units.values {
        let ValueMoments { units, sums, sums_squares, counts, counts_squares, sums_counts } =
            *moments;
        over_units(format!("{name}-of-units"), units, sums, sums_squares);
        over_units(format!("{name}-counts-of-units"), units, counts, counts_squares);
        over_units(format!("{name}-by-counts-of-units"), units, sums_counts, 0.0);
    }
    for (slice, lately) in &observed.lately {
        since_plan(&mut arm, slice.as_ref(), lately);
    }
    let shadow = &observed.shadow;
    if shadow.requests > 0 {
        arm.measures.push(("shadow-errors".to_owned(), None, times(shadow.errors)));
        latency(&mut arm, "shadow-latency-seconds", None, shadow);
    }
    arm
}

/// What units have done since the plan changed.
fn since_plan(arm: &mut Arm, slice: Option<&String>, lately: &Lately) {
    let mut put = |name: &str, Sum { count, sum, squares }: Sum| {
        let measure = Measure { count, sum, sum_of_squares: squares };
        arm.measures.push((format!("since-plan:{name}"), slice.cloned(), measure));
    };
    put("requests-of-units", lately.requests);
    put("most-requests-of-a-unit", Sum::of(lately.most as f64));
    put("errors-of-units", lately.errors);
    put("refused-of-units", lately.refused);
    for (name, moments) in &lately.values {
        let ValueMoments { units: count, sums, sums_squares, counts, counts_squares, sums_counts } =
            *moments;
        put(&format!("{name}-of-units"), Sum { count, sum: sums, squares: sums_squares });
        put(
            &format!("{name}-counts-of-units"),
            Sum { count, sum: counts, squares: counts_squares },
        );
        put(&format!("{name}-by-counts-of-units"), Sum { count, sum: sums_counts, squares: 0.0 });
    }
}

fn tally(arm: &mut Arm, slice: Option<&String>, tally: &Tally) {
    for (name, count) in
        [("requests", tally.requests), ("errors", tally.errors), ("refused", tally.refused)]
    {
        arm.measures.push((name.to_owned(), slice.cloned(), times(count)));
    }
    latency(arm, "latency-seconds", slice, tally);
    for (name, sum) in &tally.values {
        let measure = Measure { count: sum.count, sum: sum.sum, sum_of_squares: sum.squares };
        arm.measures.push((name.clone(), slice.cloned(), measure));
    }
}

fn latency(arm: &mut Arm, name: &str, slice: Option<&String>, tally: &Tally) {
    let measure = Measure {
        count: tally.requests - tally.refused.min(tally.requests),
        sum: tally.latency_sum,
        sum_of_squares: tally.latency_squares,
    };
    arm.measures.push((name.to_owned(), slice.cloned(), measure));
    arm.distributions.push((name.to_owned(), slice.cloned(), tally.latencies().collect()));
}

/// Something that was or was not, so many times.
fn times(count: u64) -> Measure {
    let sum = count as f64;
    Measure { count, sum, sum_of_squares: sum }
}
