//! What arms earned, by times that are compared each by itself, old ones counting less.

use berth_guardrails::Values;
use berth_statistics::Strata;
use serde::{Deserialize, Serialize};

/// So many rewards of each arm make a time that says something of all of them.
const LEAST: u64 = 5;

/// With so many in all, a time ends also where an arm has fewer: it has hardly a share.
const MOST: u64 = 2000;

/// What is remembered.
///
/// Shares follow what was earned, and what is usual changes: of sums over all of the time, the arm
/// that had most of the good hours would look best. So each arm's mean in a time counts as much as
/// the others' of the same time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Earned {
    at_ms: u64,
    /// All that had been observed of each arm.
    seen: Vec<Values>,
    /// What came to each in the time that is not over.
    open: Vec<Values>,
    /// What came to each in those that are.
    arms: Vec<Weighed>,
    /// Which of two earns more, by what came between looks.
    pub(crate) strata: Strata,
}

/// Sums over times, each with the weight of that time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Weighed {
    weight: f64,
    means: f64,
    mean_squares: f64,
    /// Of weight² by count, which the error of the mean is made of.
    spread: f64,
}

impl Earned {
    /// Goes on from what had been earned to now: what was there fades, unless its half-life is 0,
    /// what came since counts in full.
    pub(crate) fn go_on(&mut self, now_ms: u64, half_life_ms: u64, now: &[Values]) {
        let elapsed = now_ms.saturating_sub(self.at_ms) as f64;
        let left = if half_life_ms == 0 { 1.0 } else { (-elapsed / half_life_ms as f64).exp2() };
        self.at_ms = now_ms;
        self.seen.resize(now.len(), Values::default());
        self.open.resize(now.len(), Values::default());
        self.arms.resize(now.len(), Weighed::default());
        for arm in &mut self.arms {
            arm.weight *= left;
            arm.means *= left;
            arm.mean_squares *= left;
            arm.spread *= left;
        }
        let came: Vec<Values> =
            now.iter().zip(&self.seen).map(|(now, seen)| now.since(seen)).collect();
        if let [live, next] = &came[..] {
            let plain = |values: &Values| Values { alike: 1.0, ..*values }.rate();
            if let (Some(live), Some(next)) = (plain(live), plain(next)) {
                self.strata.add(live, next);
            }
        }
        for (open, came) in self.open.iter_mut().zip(&came) {
            *open = open.with(came);
        }
        self.seen = now.to_vec();
        self.close();
    }

    /// Ends the time, when it says something.
    fn close(&mut self) {
        let enough = |open: &Values| open.count >= LEAST;
        let all: u64 = self.open.iter().map(|open| open.count).sum();
        if all < MOST && !self.open.iter().all(enough) {
            return;
        }
        let parts =
            self.open.iter().filter(|open| enough(open)).map(|open| 1.0 / open.count as f64);
        let weight = 1.0 / parts.sum::<f64>();
        for (arm, open) in self.arms.iter_mut().zip(&self.open).filter(|(_, open)| enough(open)) {
            let count = open.count as f64;
            arm.weight += weight;
            arm.means += weight * open.sum / count;
            arm.mean_squares += weight * open.squares / count;
            arm.spread += weight * weight / count;
        }
        self.open.fill(Values::default());
    }

    /// What counts of each arm: as many values as tell as much, and what they come to; `now` tells how
    /// much of it is alike.
    pub(crate) fn values(&self, now: &[Values]) -> Vec<Values> {
        let each = self.arms.iter().zip(now).map(|(arm, now)| {
            let count = (arm.weight * arm.weight / arm.spread).round();
            if count.is_nan() || count < 1.0 {
                return Values { alike: now.alike, ..Values::default() };
            }
            let times = count / arm.weight;
            let (sum, squares) = (arm.means * times, arm.mean_squares * times);
            Values { count: count as u64, sum, squares, alike: now.alike }
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: u64, sum: f64) -> Values {
        Values { count, sum, squares: sum, alike: 1.0 }
    }

    #[test]
    fn what_is_old_counts_less() {
        let mut earned = Earned::default();
        let mut check = |now_ms, seen: Values, expected: (u64, f64)| {
            earned.go_on(now_ms, 1000, &[seen]);
            let [found] = earned.values(&[seen])[..] else { panic!("one arm") };
            assert_eq!((found.count, found.sum.round()), expected, "at {now_ms}");
            assert!(found.rate().is_some(), "at {now_ms}");
        };
        check(500, values(800, 400.0), (800, 400.0));
        check(1500, values(800, 400.0), (400, 200.0));
        check(2500, values(1800, 400.0), (1200, 100.0));
        check(90_000, values(1800, 400.0), (0, 0.0));
    }

    #[test]
    fn arms_are_compared_time_by_time() {
        let mut earned = Earned::default();
        // Both earn 0.1 while they have as many, and 0.5 once the second has most.
        let mut sums = [values(0, 0.0); 2];
        for (at, (counts, rate)) in [([500, 500], 0.1), ([100, 900], 0.5)].into_iter().enumerate() {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum = sum.with(&values(count, count as f64 * rate));
            }
            earned.go_on(at as u64, 0, &sums);
        }
        let [first, second] = earned.values(&sums)[..] else { panic!("two arms") };
        assert!(sums[1].mean() - sums[0].mean() > 0.19);
        assert!((first.mean() - second.mean()).abs() < 1e-9, "{first:?} {second:?}");
        assert!(first.count > 400 && second.count > 700, "{first:?} {second:?}");
    }

    #[test]
    fn a_time_waits_for_all_that_have_a_share() {
        let mut earned = Earned::default();
        let counted = |earned: &mut Earned, counts: [u64; 2]| {
            let now = counts.map(|count| values(count, 0.0));
            earned.go_on(0, 0, &now);
            [0, 1].map(|arm| earned.values(&now)[arm].count)
        };
        assert_eq!(counted(&mut earned, [100, 4]), [0, 0]);
        assert_eq!(counted(&mut earned, [200, 5]), [200, 5]);
        assert_eq!(counted(&mut earned, [2100, 5]), [200, 5]);
        let [first, second] = counted(&mut earned, [2300, 5]);
        assert!(first > 2000 && second == 5, "{first}");
    }
}
