//! When a policy is asked next, and when it is not asked any more: the same for rollouts and routing.

use std::time::{Duration, Instant};

use berth_plugin::PolicyError;

/// The shortest and the longest time to the next evaluation.
const TICK: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(3600)];

/// By so much the shortest time grows with each decision that was committed, so that a policy that
/// changes its mind without end fills the store more and more slowly.
const BY_DECISION: Duration = Duration::from_millis(5);

/// How soon to ask again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Failures in a row, lateness left out, after which a policy is not asked any more.
pub(crate) const FAILURES: u32 = 3;

/// When a policy is asked.
pub(crate) struct Pace {
    /// When it is asked next.
    pub(crate) due: Instant,
    /// Its failures in a row.
    failures: u32,
    decisions: u32,
}

impl Pace {
    /// Asked first at a time.
    pub(crate) fn new(due: Instant) -> Self {
        Self { due, failures: 0, decisions: 0 }
    }

    /// It has evaluated `now`, and wants to be asked again after so many milliseconds; `decided` where
    /// something was committed.
    pub(crate) fn evaluated(&mut self, now: Instant, wish: Option<u64>, decided: bool) {
        self.failures = 0;
        self.decisions += u32::from(decided);
        self.due = now + tick(wish, self.decisions);
    }

    /// It has given nothing `now`. Whether that was once too often.
    pub(crate) fn failed(&mut self, now: Instant, error: &PolicyError, wish: Option<u64>) -> bool {
        self.failures += u32::from(!error.is_late());
        self.due = now + tick(wish, self.decisions).min(RETRY);
        self.failures >= FAILURES
    }
}

/// The time to the next evaluation of a policy that wants it after so many milliseconds, after so many
/// decisions.
pub(crate) fn tick(wish: Option<u64>, decisions: u32) -> Duration {
    let [least, most] = TICK;
    let least = least.max(BY_DECISION * decisions).min(most);
    wish.map_or(most, |wish| Duration::from_millis(wish).clamp(least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_bounds_that_grow_with_decisions() {
        for (wish, decisions, expected) in [
            (None, 0, 3_600_000),
            (Some(0), 0, 50),
            (Some(70), 0, 70),
            (Some(0), 100, 500),
            (Some(u64::MAX), 0, 3_600_000),
            (Some(0), u32::MAX, 3_600_000),
        ] {
            let expected = Duration::from_millis(expected);
            assert_eq!(tick(wish, decisions), expected, "{wish:?} after {decisions}");
        }
    }
}
