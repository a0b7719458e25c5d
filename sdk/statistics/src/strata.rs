//! Two arms whose rates change, and whose shares follow what was observed.

use libm::{exp, log, log1p};
use serde::{Deserialize, Serialize};

use crate::{Alpha, Decision, Proportion};

/// Log odds ratios that are looked for, each in both directions: rates of 0.5 and 0.506, up to 0.5
/// and 0.96.
const LOG_ODDS: [f64; 8] = [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2];

/// Where the candidate's odds are lower, and where they are higher.
const SIGNS: [f64; 2] = [-1.0, 1.0];

/// With more terms than this, a sum gives way to a bound.
const TERMS: u64 = 4096;

/// Which of two arms has the higher rate, by times of which each has shares and rates of its own.
///
/// In each time, given how many of both arms there were and how many of all succeeded, the number of
/// the candidate's is hypergeometric where both have the same rate then, whatever that is; so shares
/// may follow what was observed before, and rates may change for both. The product over times of the
/// likelihood ratio of a common odds ratio (Fisher's noncentral hypergeometric distribution) is then
/// a martingale, and so is the mean over odds ratios: that it ever reaches 1/alpha has at most the
/// probability alpha (Ville's inequality). It is to Mantel and Haenszel's test (1959, Journal of the
/// National Cancer Institute 22:719) what a sequential probability ratio is to a test of one look.
///
/// Sums over all times would not do: when both arms come to succeed more often while the share of
/// one is higher than before, it seems better (Simpson's paradox).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Strata {
    /// ln of the likelihood ratio of each odds ratio, of those below 1 and those above.
    log_odds: [[f64; LOG_ODDS.len()]; 2],
}

/// What all times together say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stratified {
    /// The smallest alpha at which there would be a decision; 1 where nothing is known.
    pub p_value: f64,
    /// Whether the candidate's rate is the higher or the lower one.
    pub decision: Decision,
}

impl Strata {
    /// Adds what came in a time in which shares stood still. Counts that make no sense add nothing.
    pub fn add(&mut self, baseline: Proportion, candidate: Proportion) {
        let ratios = Time::new(baseline.counts(), candidate.counts()).ratios();
        for (sums, ratios) in self.log_odds.iter_mut().zip(ratios) {
            for (sum, ratio) in sums.iter_mut().zip(ratios) {
                *sum += ratio;
            }
        }
    }

    /// Which arm has the higher rate. Where `alike` of the values tell as much as one would, as they
    /// are of the same units, so many count as one.
    pub fn decide(&self, alike: f64, alpha: Alpha) -> Stratified {
        let alike = if alike > 1.0 { alike } else { 1.0 };
        let all = self.log_odds.map(|of| of.map(|sum| sum / alike));
        let most = all.iter().flatten().fold(f64::NEG_INFINITY, |most, &sum| most.max(sum));
        let [lower, higher] = all.map(|of| of.iter().map(|sum| exp(sum - most)).sum::<f64>());
        let mean = (lower + higher) / (2 * LOG_ODDS.len()) as f64;
        let p_value = exp(-most - log(mean)).min(1.0);
        let decision = match p_value <= alpha.value() {
            true if higher > lower => Decision::Higher,
            true => Decision::Lower,
            false => Decision::Undecided,
        };
        let p_value = if p_value.is_nan() { 1.0 } else { p_value };
        Stratified { p_value, decision }
    }
}

/// What came in one time.
struct Time {
    /// Of both arms.
    all: f64,
    candidate: f64,
    successes: f64,
    /// The candidate's successes.
    found: f64,
}

impl Time {
    fn new((hits, misses): (f64, f64), (found, missed): (f64, f64)) -> Self {
        let candidate = found + missed;
        Self { all: hits + misses + candidate, candidate, successes: hits + found, found }
    }

    /// ln of how much more likely it is that so many of the successes are the candidate's, given how
    /// many there are and of how many, when its odds are so many times as high, of each sign and size.
    fn ratios(&self) -> [[f64; LOG_ODDS.len()]; 2] {
        let exact = self.draws() <= TERMS as f64;
        if exact { self.exact() } else { signed(|log_odds| self.bound(log_odds)) }
    }

    /// The candidate's successes can be counted as draws of four kinds: the fewest of them.
    fn draws(&self) -> f64 {
        let Self { all, candidate, successes, .. } = *self;
        successes.min(all - successes).min(candidate).min(all - candidate)
    }

    /// By the weights of the hypergeometric distribution.
    fn exact(&self) -> [[f64; LOG_ODDS.len()]; 2] {
        let Self { all, candidate, successes, found } = *self;
        let rest = all - candidate - successes;
        let (mut k, most) = ((-rest).max(0.0), successes.min(candidate));
        let mut weight = 0.0;
        let mut plain = LogSum::default();
        let mut tilted = signed(|_| LogSum::default());
        loop {
            plain.add(weight);
            for (sums, sign) in tilted.iter_mut().zip(SIGNS) {
                for (sum, size) in sums.iter_mut().zip(LOG_ODDS) {
                    sum.add(weight + sign * size * (k - found));
                }
            }
            if k >= most {
                return tilted.map(|sums| sums.map(|sum| plain.value() - sum.value()));
            }
            weight += log((candidate - k) * (successes - k) / ((k + 1.0) * (rest + k + 1.0)));
            k += 1.0;
        }
    }

    /// No larger, and quicker where there are many: as if the fewest draws were made with replacement,
    /// which makes the mean of what they are raised to larger (Hoeffding 1963, Journal of the American
    /// Statistical Association 58:13).
    fn bound(&self, log_odds: f64) -> f64 {
        let Self { all, candidate, successes, found } = *self;
        let draws = self.draws();
        let of = |part: f64, log_odds: f64| draws * log1p(part / all * (exp(log_odds) - 1.0));
        let mean = if draws == successes {
            of(candidate, log_odds)
        } else if draws == candidate {
            of(successes, log_odds)
        } else if draws == all - successes {
            log_odds * candidate + of(candidate, -log_odds)
        } else {
            log_odds * successes + of(successes, -log_odds)
        };
        log_odds * found - mean
    }
}

/// Of each sign and size of log odds.
fn signed<T>(of: impl Fn(f64) -> T) -> [[T; LOG_ODDS.len()]; 2] {
    SIGNS.map(|sign| LOG_ODDS.map(|size| of(sign * size)))
}

/// ln of a sum of exponentials.
struct LogSum {
    most: f64,
    sum: f64,
}

impl Default for LogSum {
    fn default() -> Self {
        Self { most: f64::NEG_INFINITY, sum: 0.0 }
    }
}

impl LogSum {
    fn add(&mut self, log: f64) {
        if log > self.most {
            self.sum = self.sum * exp(self.most - log) + 1.0;
            self.most = log;
        } else {
            self.sum += exp(log - self.most);
        }
    }

    fn value(&self) -> f64 {
        self.most + log(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(before: (f64, f64), after: (f64, f64)) -> Time {
        Time::new(before, after)
    }

    #[test]
    fn a_ratio_is_that_of_fishers_noncentral_distribution() {
        // By its definition in exact fractions, with odds of e^0.8 and e^-0.4.
        for (before, after, [higher, lower]) in [
            ((3.0, 7.0), (6.0, 4.0), [0.785985509648, -0.704032456381]),
            ((50.0, 150.0), (40.0, 60.0), [3.391335127776, -5.100779113203]),
            ((0.0, 20.0), (3.0, 2.0), [1.761561061527, -0.992859121620]),
            ((90.0, 10.0), (9.0, 1.0), [-0.220639216052, -0.072084633839]),
        ] {
            let [lowers, highers] = time(before, after).ratios();
            for (found, expected) in [(highers[5], higher), (lowers[4], lower)] {
                assert!((found - expected).abs() < 1e-9, "{before:?} {after:?}: {found}");
            }
        }
        // Where all succeed, or one arm has none, nothing is told.
        for (before, after) in [((5.0, 0.0), (9.0, 0.0)), ((0.0, 0.0), (9.0, 3.0))] {
            let ratios = time(before, after).ratios();
            assert!(ratios.iter().flatten().all(|ratio| ratio.abs() < 1e-9), "{ratios:?}");
        }
    }

    #[test]
    fn a_bound_is_no_larger_and_close_where_draws_are_few() {
        for (before, after) in [
            ((20.0, 980.0), (60.0, 940.0)),
            ((980.0, 20.0), (940.0, 60.0)),
            ((400.0, 600.0), (35.0, 15.0)),
            ((35.0, 15.0), (400.0, 600.0)),
        ] {
            let time = time(before, after);
            let exact = time.exact();
            let bound = signed(|log_odds| time.bound(log_odds));
            for (exact, bound) in exact.iter().flatten().zip(bound.iter().flatten()) {
                assert!(*bound <= exact + 1e-9, "{before:?} {after:?}: {exact} {bound}");
            }
            let [exact, bound] =
                [exact, bound].map(|all| all.into_iter().flatten().fold(0.0, f64::max));
            assert!(bound > 0.9 * exact, "{before:?} {after:?}: {exact} {bound}");
        }
    }

    #[test]
    fn times_add_up_and_what_makes_no_sense_adds_nothing() {
        let rate = |successes, trials| Proportion { successes, trials };
        let alpha = Alpha::new(0.01).unwrap();
        let decided = |times: u64, live, next, alike| {
            let mut strata = Strata::default();
            (0..times).for_each(|_| strata.add(live, next));
            strata.decide(alike, alpha).decision
        };
        let (worse, better) = (rate(10, 50), rate(30, 50));
        for (times, live, next, alike, expected) in [
            (0, worse, better, 1.0, Decision::Undecided),
            (1, worse, worse, 1.0, Decision::Undecided),
            (3, worse, better, 1.0, Decision::Higher),
            (3, better, worse, 1.0, Decision::Lower),
            // Of few units that send many, three times tell nothing.
            (3, worse, better, 10.0, Decision::Undecided),
            (30, worse, rate(60, 50), 1.0, Decision::Undecided),
            // A common rise while the share rises: by the sums 0.3 and 0.51.
            (1, rate(90, 300), rate(30, 100), 1.0, Decision::Undecided),
        ] {
            assert_eq!(decided(times, live, next, alike), expected, "{times} {live:?} {next:?}");
        }
        let mut strata = Strata::default();
        for (live, next) in [(rate(50, 1000), rate(50, 1000)), (rate(40, 100), rate(760, 1900))] {
            strata.add(live, next);
        }
        assert!(strata.decide(1.0, alpha).p_value > 0.5, "{strata:?}");
    }
}
