//! What the evidence says of a candidate.

use berth_guardrails::bounds::number;
use berth_sdk::Observe;
use berth_statistics::{Interval, Proportion, Verdict, sequential};

use crate::config::Setting;

/// What a candidate comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    /// Why, with the numbers.
    pub(crate) why: String,
    /// Where its agreement lies.
    pub(crate) agreement: Interval,
}

pub(crate) fn judge(setting: &Setting, observation: &impl Observe, arm: u32) -> Judged {
    let config = &setting.config;
    let measure = |name| observation.measure(arm, name, None);
    let (compared, agreed) =
        measure("agreement").map_or((0, 0.0), |found| (found.count, found.sum));
    let errors = measure("shadow-errors").map_or(0, |found| found.count);
    let timed = measure("shadow-latency-seconds").map_or(0, |found| found.count);
    let copies = compared.saturating_add(errors);
    // Copies are of the requests that the first arm answered: where it has `alike` of a unit for each
    // of them, a part of these has as much less beyond the first.
    let units = observation.measure(0, "requests-of-units", None);
    let units = units.filter(|units| units.sum > 0.0);
    let alike = units.map_or(1.0, |units| (units.sum_of_squares / units.sum).max(1.0));
    let requests = observation.measure(0, "requests", None).map_or(0, |requests| requests.count);
    let part = if requests > copies { copies as f64 / requests as f64 } else { 1.0 };
    let alike = 1.0 + part * (alike - 1.0);
    // As if all of a unit came to the same; rounded against the candidate.
    let bad = |count: u64, of: u64| {
        let trials = (of as f64 / alike) as u64;
        let successes = ((count as f64 / alike).ceil() as u64).min(trials);
        sequential::proportion(Proportion { successes, trials }, setting.alpha)
    };
    let disagreed = compared.saturating_sub(agreed.max(0.0) as u64);
    let off = bad(disagreed, compared);
    let agreement = Interval { lower: 1.0 - off.upper, upper: 1.0 - off.lower };
    let of = |part: f64, of: u64| number(if of == 0 { 0.0 } else { part / of as f64 });
    let mut findings = vec![
        (
            agreement.at_least(config.min_agreement),
            format!(
                "{} of {compared} answers agree ({} to {}), at least {} are to",
                of(agreed, compared),
                number(agreement.lower),
                number(agreement.upper),
                config.min_agreement
            ),
        ),
        (
            most(bad(errors, copies), config.max_error_rate),
            format!("{errors} of {copies} copies failed, at most {} may", config.max_error_rate),
        ),
    ];
    if let Some(ms) = config.latency_ms {
        let within = observation.at_most(arm, "shadow-latency-seconds", None, ms / 1e3);
        let slow = timed.saturating_sub(within.unwrap_or(timed));
        findings.push((
            most(bad(slow, timed), config.max_slow_rate),
            format!(
                "{slow} of {timed} copies took longer than {ms} ms, at most {} may",
                config.max_slow_rate
            ),
        ));
    }
    let first = |verdict| findings.iter().find(|(found, _)| *found == verdict);
    let (verdict, why) = if let Some((_, why)) = first(Verdict::Broken) {
        (Verdict::Broken, why.clone())
    } else if compared < config.min_compared {
        let why = format!("{compared} of {} answers are compared", config.min_compared);
        (Verdict::Inconclusive, why)
    } else if let Some((_, why)) = first(Verdict::Inconclusive) {
        (Verdict::Inconclusive, format!("{why}, which decides nothing yet"))
    } else {
        (Verdict::Holds, findings[0].1.clone())
    };
    Judged { verdict, why, agreement }
}

/// Whether a rate is at most so much; where all may, there is nothing to find out.
fn most(interval: Interval, limit: f64) -> Verdict {
    if limit >= 1.0 { Verdict::Holds } else { interval.at_most(limit) }
}

#[cfg(test)]
mod tests {
    use berth_sdk::{Measure, Observed, config};
    use berth_statistics::Random;

    use super::*;
    use crate::config::Config;

    fn setting(text: &str, observed: &Observed) -> Setting {
        Setting::new(config::parse::<Config>(text).unwrap(), observed).unwrap()
    }

    /// So many answers compared, agreeing, failing, slow of 1,000, and alike in a unit.
    fn observed(compared: u64, agreed: u64, errors: u64, slow: usize, alike: f64) -> Observed {
        let mut observed = Observed::new(&["live", "next"]);
        let sum = agreed as f64;
        let agreement = Measure { count: compared, sum, sum_of_squares: sum };
        let latency = Measure { count: 1000, sum: 0.0, sum_of_squares: 0.0 };
        let units = Measure { count: 9, sum: 1000.0, sum_of_squares: 1000.0 * alike };
        observed
            .put(1, "agreement", None, agreement)
            .put(1, "shadow-latency-seconds", None, latency)
            .put(0, "requests-of-units", None, units)
            .count(1, "shadow-errors", errors);
        let values = (0..1000).map(|at| if at < slow { 1.0 } else { 0.001 }).collect();
        observed.values.push((1, "shadow-latency-seconds".into(), None, values));
        observed
    }

    #[test]
    fn a_candidate_passes_and_fails_by_evidence() {
        let text = r#"{"min_agreement": 0.9, "min_compared": 500, "latency_ms": 100, "max_slow_rate": 0.05, "max_error_rate": 0.05}"#;
        let check = |observed: Observed, verdict, part: &str| {
            let judged = judge(&setting(text, &observed), &observed, 1);
            assert_eq!(judged.verdict, verdict, "{}", judged.why);
            assert!(judged.why.contains(part), "{}", judged.why);
        };
        let (holds, broken, unsure) = (Verdict::Holds, Verdict::Broken, Verdict::Inconclusive);
        check(Observed::new(&["live", "next"]), unsure, "0 of 500 answers are compared");
        check(observed(499, 499, 0, 0, 1.0), unsure, "499 of 500 answers are compared");
        check(observed(1000, 990, 0, 0, 1.0), holds, "0.99 of 1000 answers agree (0.9");
        check(observed(1000, 910, 0, 0, 1.0), unsure, "which decides nothing yet");
        check(observed(1000, 667, 0, 0, 1.0), broken, "0.667 of 1000 answers agree");
        check(observed(10, 0, 0, 0, 1.0), broken, "0 of 10 answers agree");
        check(observed(1000, 990, 200, 0, 1.0), broken, "200 of 1200 copies failed");
        check(observed(1000, 990, 50, 0, 1.0), unsure, "50 of 1050 copies failed");
        check(observed(0, 0, 30, 0, 1.0), broken, "30 of 30 copies failed");
        check(observed(1000, 990, 0, 150, 1.0), broken, "took longer than 100 ms");
        // Of ten units each of which sent a hundred.
        check(observed(1000, 990, 0, 0, 100.0), unsure, "which decides nothing yet");
        // The same, of a hundred times as many requests: few of a unit had a copy.
        let mut sampled = observed(1000, 990, 0, 0, 100.0);
        sampled.count(0, "requests", 100_000);
        check(sampled, holds, "0.99 of 1000 answers agree");
        // All of them agree.
        check(observed(1000, 1000, 0, 0, 1.0), holds, "1 of 1000");
    }

    #[test]
    fn looking_often_passes_and_fails_no_more_by_mistake() {
        const RUNS: u64 = 400;
        let text = r#"{"min_agreement": 0.9, "min_compared": 50, "alpha": 0.05}"#;
        let at_the_edge = |wrong: Verdict| {
            let mut random = Random::new(3);
            let mistaken = (0..RUNS).filter(|_| {
                let mut agreed = 0;
                (1..=40).any(|look| {
                    agreed += (0..50).filter(|_| random.chance(0.9)).count() as u64;
                    let observed = observed(look * 50, agreed, 0, 0, 1.0);
                    judge(&setting(text, &observed), &observed, 1).verdict == wrong
                })
            });
            mistaken.count() as f64 / RUNS as f64
        };
        // What agrees exactly as often as it is to is no less and hardly more. Alpha and three
        // standard errors.
        for wrong in [Verdict::Holds, Verdict::Broken] {
            let part = at_the_edge(wrong);
            assert!(part <= 0.05 + 3.0 * (0.05 * 0.95 / RUNS as f64).sqrt(), "{wrong:?}: {part}");
        }
    }
}
