//! What arms earned, old rewards counting less.

use berth_guardrails::Values;
use serde::{Deserialize, Serialize};

/// What is remembered where old rewards count less.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Earned {
    at_ms: u64,
    /// All that had been observed of each arm.
    seen: Vec<Values>,
    /// What still counts of it.
    counts: Vec<Weighed>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Weighed {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Earned {
    /// Goes on from what had been earned to now: what was there fades, what came since counts in
    /// full.
    pub(crate) fn go_on(&mut self, now_ms: u64, half_life_ms: u64, now: &[Values]) {
        let elapsed = now_ms.saturating_sub(self.at_ms) as f64;
        let left = (-elapsed / half_life_ms as f64).exp2();
        self.counts.resize(now.len(), Weighed::default());
        self.seen.resize(now.len(), Values::default());
        for ((counts, seen), now) in self.counts.iter_mut().zip(&mut self.seen).zip(now) {
            let new = now.since(seen);
            counts.count = counts.count * left + new.count as f64;
            counts.sum = counts.sum * left + new.sum;
            counts.squares = counts.squares * left + new.squares;
            *seen = *now;
        }
        self.at_ms = now_ms;
    }

    /// What counts of each arm; `now` tells how much of it is alike.
    pub(crate) fn values(&self, now: &[Values]) -> Vec<Values> {
        let each = self.counts.iter().zip(now).map(|(counts, now)| {
            let count = counts.count.round();
            // A count is whole, so the sums are those of as many.
            let part = if counts.count > 0.0 { count / counts.count } else { 0.0 };
            Values {
                count: count as u64,
                sum: counts.sum * part,
                squares: counts.squares * part,
                alike: now.alike,
            }
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_counts_less() {
        let values = |count, sum| Values { count, sum, squares: sum, alike: 1.0 };
        let mut earned = Earned::default();
        let mut check = |now_ms, seen: Values, expected: (u64, f64)| {
            earned.go_on(now_ms, 1000, &[seen]);
            let [found] = earned.values(&[seen])[..] else { panic!("one arm") };
            assert_eq!((found.count, found.sum), expected, "at {now_ms}");
            assert!(found.rate().is_some(), "at {now_ms}");
        };
        check(0, values(0, 0.0), (0, 0.0));
        check(500, values(800, 400.0), (800, 400.0));
        check(1500, values(800, 400.0), (400, 200.0));
        check(2500, values(1800, 400.0), (1200, 100.0));
        check(90_000, values(1800, 400.0), (0, 0.0));
    }
}
