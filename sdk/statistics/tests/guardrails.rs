//! What a guardrail says where there is little to go by, or nothing, or no error in the baseline.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use berth_statistics::Verdict::{Broken, Holds, Inconclusive};
use berth_statistics::*;

fn alpha() -> Alpha {
    Alpha::new(0.05).unwrap()
}

fn of(successes: u64, trials: u64) -> Proportion {
    Proportion { successes, trials }
}

/// Errors of the baseline and the candidate, with a margin of half a percentage point.
fn check(baseline: Proportion, candidate: Proportion, verdict: Verdict) {
    let margin = Effect::new(0.005).unwrap();
    let found = sequential::guardrail(baseline, candidate, margin, alpha()).interval;
    assert_eq!(found.at_most(0.005), verdict, "{baseline:?} {candidate:?} {found:?}");
}

#[test]
fn error_rates_hold_or_break_by_evidence_alone() {
    // No traffic, little traffic, or counts that cannot be.
    check(of(0, 0), of(0, 0), Inconclusive);
    check(of(0, 100_000), of(0, 0), Inconclusive);
    check(of(0, 0), of(0, 100_000), Inconclusive);
    check(of(0, 100), of(0, 100), Inconclusive);
    check(of(0, 1), of(1, 1), Inconclusive);
    check(of(9, 3), of(0, 100_000), Inconclusive);
    check(of(0, 100_000), of(9, 3), Inconclusive);
    // A baseline without errors.
    check(of(0, 1_000), of(0, 1_000), Holds);
    check(of(0, 1_000), of(0, 30), Inconclusive);
    check(of(0, 40), of(13, 40), Broken);
    check(of(0, 400), of(7, 20), Broken);
    check(of(0, 9_500), of(15, 500), Broken);
    // Errors in both.
    check(of(500, 50_000), of(500, 50_000), Holds);
    check(of(500, 50_000), of(800, 50_000), Inconclusive);
    check(of(500, 50_000), of(1_000, 50_000), Broken);
    check(of(500, 50_000), of(100, 50_000), Holds);
}

#[test]
fn rare_events_are_told_by_whose_they_are() {
    let check = |stages: &[(u64, u64, f64)], decision| {
        let stage = |&(baseline, candidate, share)| Events {
            baseline,
            candidate,
            share: Share::new(share).unwrap(),
        };
        let stages: Vec<_> = stages.iter().map(stage).collect();
        assert_eq!(sequential::events(&stages, alpha()).decision, decision, "{stages:?}");
    };
    check(&[], Decision::Undecided);
    check(&[(0, 0, 0.5)], Decision::Undecided);
    check(&[(0, 6, 0.5)], Decision::Undecided);
    check(&[(0, 7, 0.5)], Decision::Higher);
    check(&[(0, 1, 0.05)], Decision::Undecided);
    check(&[(0, 2, 0.05)], Decision::Higher);
    check(&[(7, 0, 0.5)], Decision::Lower);
    check(&[(190, 10, 0.05), (100, 100, 0.5)], Decision::Undecided);
    // As many of all events as the shares of all requests, and yet too many each time.
    check(&[(150, 50, 0.05), (50, 150, 0.5)], Decision::Higher);
}

#[test]
fn floors_wait_for_evidence() {
    let check = |observed, verdict| {
        let interval = sequential::proportion(observed, alpha());
        assert_eq!(interval.at_least(0.95), verdict, "{observed:?} {interval:?}");
    };
    check(of(0, 0), Inconclusive);
    check(of(20, 20), Inconclusive);
    check(of(200, 200), Holds);
    check(of(950, 1_000), Inconclusive);
    check(of(900, 1_000), Broken);
    check(of(9, 3), Inconclusive);
}

#[test]
fn slower_is_told_by_buckets() {
    let bounds = [0.25, 0.5, 1.0, 2.0];
    let check = |baseline: &[u64], candidate: &[u64], interval: (f64, f64), verdict| {
        let of = |counts| Buckets { bounds: &bounds, counts };
        let (baseline, candidate) = (of(baseline), of(candidate));
        let q = Quantile::new(0.95).unwrap();
        let sequential = sequential::quantile_ratio(&baseline, &candidate, q, alpha());
        for ratio in [sequential, fixed::quantile_ratio(&baseline, &candidate, q, alpha())] {
            assert_eq!((ratio.lower, ratio.upper), interval, "{baseline:?} {candidate:?}");
            assert_eq!(ratio.at_most(2.0), verdict, "{baseline:?} {candidate:?}");
        }
    };
    let (any, live) = ((0.0, f64::INFINITY), [0, 9_000, 1_000, 0, 0]);
    check(&live, &live, (0.5, 2.0), Holds);
    check(&live, &[9_000, 900, 100, 0, 0], (0.25, 1.0), Holds);
    check(&live, &[0, 0, 9_000, 1_000, 0], (1.0, 4.0), Inconclusive);
    check(&live, &[0, 0, 0, 9_000, 1_000], (2.0, f64::INFINITY), Inconclusive);
    check(&[9_000, 0, 0, 0, 0], &[0, 0, 9_000, 0, 0], (2.0, f64::INFINITY), Inconclusive);
    check(&[9_000, 1_000, 0, 0, 0], &[0, 0, 0, 9_000, 1_000], (4.0, f64::INFINITY), Broken);
    check(&live, &[0, 0, 0, 0, 0], any, Inconclusive);
    check(&live, &[0, 9, 1, 0, 0], (0.25, f64::INFINITY), Inconclusive);
    check(&live, &[9_000], any, Inconclusive);
}

#[test]
fn shares_are_compared_where_there_are_any() {
    let check = |stages: &[(&[u64], &[f64])], alarm: Option<bool>| {
        let stage = |&(units, shares)| Exposures { units, shares };
        let stages: Vec<_> = stages.iter().map(stage).collect();
        for p_value in [fixed::sample_ratio(&stages), sequential::sample_ratio(&stages)] {
            assert_eq!(p_value.map(|p_value| p_value < 0.001), alarm, "{stages:?} {p_value:?}");
        }
    };
    check(&[], None);
    check(&[(&[0, 0], &[1.0, 1.0])], None);
    check(&[(&[5, 5], &[1.0])], None);
    check(&[(&[5, 5], &[0.0, 0.0])], None);
    check(&[(&[5, 5], &[1.0, f64::NAN])], None);
    check(&[(&[500], &[1.0])], None);
    check(&[(&[500, 0], &[1.0, 0.0])], None);
    check(&[(&[500, 1], &[1.0, 0.0])], Some(true));
    check(&[(&[5, 15], &[1.0, 1.0])], Some(false));
    check(&[(&[0, 40], &[1.0, 1.0])], Some(true));
    check(&[(&[50_000, 51_500], &[1.0, 1.0])], Some(true));
    check(&[(&[9_500, 500], &[0.95, 0.05]), (&[5_000, 5_000], &[0.5, 0.5])], Some(false));
    check(&[(&[9_800, 200], &[0.95, 0.05]), (&[4_700, 5_300], &[0.5, 0.5])], Some(true));
}

#[test]
fn means_need_two_arms_that_vary() {
    let effect = Effect::new(0.1).unwrap();
    let arm = |count, mean: f64, spread: f64| {
        let n = count as f64;
        Moments { count, sum: n * mean, sum_of_squares: n * (mean * mean + spread * spread) }
    };
    let check = |baseline, candidate, expected| {
        let found = sequential::means(&baseline, &candidate, alpha(), effect);
        assert_eq!(found.decision, expected, "{baseline:?} {candidate:?} {found:?}");
        if expected == Decision::Undecided {
            assert_eq!(found.interval.at_most(0.05), Inconclusive);
        }
    };
    let full = arm(1_000, 1.0, 1.0);
    check(Moments::default(), full, Decision::Undecided);
    check(full, Moments::default(), Decision::Undecided);
    check(full, arm(40, 3.0, 1.0), Decision::Undecided);
    check(full, arm(60, 3.0, 1.0), Decision::Higher);
    check(arm(1_000, 1.0, 0.0), arm(1_000, 2.0, 0.0), Decision::Undecided);
    check(full, arm(1_000, f64::NAN, 1.0), Decision::Undecided);
    check(full, arm(1_000, f64::INFINITY, 1.0), Decision::Undecided);
    check(full, arm(1_000, 0.5, 1.0), Decision::Lower);
}
