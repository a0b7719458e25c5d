//! What follows from an evaluation, within the operator's bounds. Plain values in and out.

use berth_monitor::Observed;
use berth_plugin::{Evaluation, Phase, PolicyError};
use berth_serving::documents::{Order, Outcome, Pinned, Rollout};
use berth_serving::rolling::ARMS;

use crate::pace::FAILURES;

/// When to evaluate again where a share is on its way by the operator's steps, in milliseconds.
const CAPPED: u64 = 1000;

/// The most bytes of a policy's message that are kept.
const MESSAGE: usize = 500;

/// What is kept of a rollout after an evaluation, and whether it was decided anything: another share,
/// state, plan or phase. Words alone decide nothing. Where the policy's router is `quarantined`, what
/// came to the arms is not what it had asked for, and it can only go back.
pub fn after(rollout: &Rollout, evaluation: &Evaluation, quarantined: bool) -> Option<Rollout> {
    let mut next = rollout.clone();
    next.share = within(rollout.share, asked(evaluation), rollout.max_step);
    let outcome = match evaluation.phase {
        Phase::Succeeded if next.share >= 1.0 => Some(Outcome::Promoted),
        Phase::Failed => Some(Outcome::Aborted),
        _ => None,
    };
    next.quarantined = quarantined;
    if quarantined && next.share >= rollout.share && outcome != Some(Outcome::Aborted) {
        next.share = rollout.share;
        return (next != *rollout).then_some(next);
    }
    next.order = outcome.map(|outcome| Order {
        outcome,
        who: rollout.policy.policy.to_string(),
        why: message(evaluation).to_owned(),
    });
    if rollout.evaluation.as_ref().is_none_or(|before| differs(before, evaluation)) {
        next.evaluation = Some(evaluation.clone());
    }
    (next != *rollout).then_some(next)
}

/// The share of the next revision that an evaluation asks for.
fn asked(evaluation: &Evaluation) -> f64 {
    match evaluation.phase {
        Phase::Succeeded => 1.0,
        Phase::Failed => 0.0,
        Phase::Steady | Phase::Progressing | Phase::Holding => {
            let weights = evaluation.weights(ARMS.len());
            weights[1] / weights.iter().sum::<f64>()
        }
    }
}

/// The share of the next revision that is in force when `asked` is asked for: it rises by at most
/// `most`, and falls at once.
fn within(now: f64, asked: f64, most: Option<f64>) -> f64 {
    match most {
        // Steps that add up to the whole do so exactly.
        Some(most) if asked > now + most => ((now + most) * 1e9).round() / 1e9,
        _ => asked,
    }
}

/// When a policy that has evaluated so wants to evaluate again with this `share` in force, in
/// milliseconds. Without a wish of its own, when something changes, or soon where it has not yet got
/// what it asks for.
pub fn wish(evaluation: &Evaluation, share: f64) -> Option<u64> {
    let capped = asked(evaluation) > share;
    evaluation.next_tick_ms.or(capped.then_some(CAPPED))
}

/// Whether an evaluation decides anything but words.
pub fn differs(before: &Evaluation, after: &Evaluation) -> bool {
    (&before.arms, &before.plan, before.phase) != (&after.arms, &after.plan, after.phase)
}

/// Why, with the numbers that it was decided on: of each arm its name, its share and what was observed.
pub fn reason<'a>(words: &str, arms: impl Iterator<Item = (&'a str, f64, &'a Observed)>) -> String {
    let numbers = arms.map(|(name, share, Observed { whole, .. })| {
        let latency =
            |q: f64| whole.quantile(q).map_or("no time".into(), |s| format!("{:.2} ms", s * 1e3));
        let rewards = whole.values.get("reward").map_or_else(String::new, |reward| {
            let mean = reward.sum / reward.count as f64;
            format!(", {} rewards of {mean:.4} on average", reward.count)
        });
        format!(
            "{name} {:.2} %: {} requests, {} errors, {} refused, half in {}, 99 % in {}{rewards}",
            share * 100.0,
            whole.requests,
            whole.errors,
            whole.refused,
            latency(0.5),
            latency(0.99),
        )
    });
    format!("{words} [{}]", numbers.collect::<Vec<_>>().join("; "))
}

/// Why a policy is not asked any more after [`FAILURES`].
pub(crate) fn not_asked_any_more(policy: &Pinned, error: &PolicyError) -> String {
    format!("{policy} is not asked any more after {FAILURES} failures: {}", first_line(error))
}

/// Why what a policy said before still stands.
pub(crate) fn gives_nothing(policy: &Pinned, error: &PolicyError) -> String {
    let late = if error.is_late() { "is late, and what it said before stands" } else { "failed" };
    format!("{policy} {late}: {}", first_line(error))
}

/// The stack of a trap follows; the log has it.
fn first_line(error: &PolicyError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// An evaluation's message, cut short.
pub fn message(evaluation: &Evaluation) -> &str {
    let message = &evaluation.message;
    &message[..message.floor_char_boundary(MESSAGE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_rises_by_steps_and_falls_at_once() {
        for (now, asked, most, expected) in [
            (0.0, 1.0, None, 1.0),
            (0.0, 1.0, Some(0.25), 0.25),
            (0.25, 0.3, Some(0.25), 0.3),
            (0.9, 1.0, Some(0.1), 1.0),
            (0.9, 0.0, Some(0.1), 0.0),
            (0.5, 0.5, Some(0.1), 0.5),
        ] {
            assert_eq!(within(now, asked, most), expected, "{now} {asked} {most:?}");
        }
        let mut share = 0.0;
        for _ in 0..10 {
            share = within(share, 1.0, Some(0.1));
        }
        assert_eq!(share, 1.0);
    }
}
