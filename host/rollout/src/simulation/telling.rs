//! Takes down what happens in a simulation, as it happens.

use berth_monitor::End;
use berth_plugin::Phase;
use berth_statistics::distribution::normal_quantile;
use berth_statistics::{Alpha, Moments, Proportion, fixed};

use super::story::{Changed, Decision, Lies, Point, Story, Told, seconds};

/// The most decisions that are told one by one.
const DECISIONS: usize = 1000;

/// What a share moves by at least for a decision to be told.
const MOVED: f64 = 0.01;

/// Pieces of time that are kept while it goes on; when there are more, two become one.
const PIECES: usize = 512;

/// Pieces of time that are told: at least and at most, and about so many requests in each.
const POINTS: [usize; 2] = [16, 96];
const IN_EACH: u64 = 2000;

/// Buckets of latency for each doubling from a microsecond on, and all of them.
const PER_DOUBLING: f64 = 16.0;
const BUCKETS: usize = 32 * PER_DOUBLING as usize;

/// What came to an arm, counted.
#[derive(Clone)]
pub(super) struct Tally {
    requests: u64,
    errors: u64,
    refused: u64,
    rewards: Moments,
    copies: u64,
    copy_errors: u64,
    agreement: Proportion,
    /// Empty until something is in it.
    latency: Vec<u32>,
}

impl Tally {
    const fn new() -> Self {
        let rewards = Moments { count: 0, sum: 0.0, sum_of_squares: 0.0 };
        Self {
            requests: 0,
            errors: 0,
            refused: 0,
            rewards,
            copies: 0,
            copy_errors: 0,
            agreement: Proportion { successes: 0, trials: 0 },
            latency: Vec::new(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.refused += other.refused;
        self.rewards.count += other.rewards.count;
        self.rewards.sum += other.rewards.sum;
        self.rewards.sum_of_squares += other.rewards.sum_of_squares;
        self.copies += other.copies;
        self.copy_errors += other.copy_errors;
        self.agreement.successes += other.agreement.successes;
        self.agreement.trials += other.agreement.trials;
        if self.latency.is_empty() {
            self.latency.clone_from(&other.latency);
        } else {
            self.latency.iter_mut().zip(&other.latency).for_each(|(sum, more)| *sum += more);
        }
    }

    fn timed(&self) -> u64 {
        self.latency.iter().map(|&count| u64::from(count)).sum()
    }

    /// The latency within which a part of the requests came to their end, in milliseconds.
    fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q * self.timed() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.latency.iter().position(|&count| {
            seen += u64::from(count);
            seen >= rank
        })?;
        // The middle of the bucket.
        Some(libm::exp2((bucket as f64 + 0.5) / PER_DOUBLING) / 1e3)
    }

    fn told(&self) -> Told {
        // 95 %, as is said wherever it is shown.
        let alpha = Alpha::new(0.05).ok();
        let part = |of: Proportion| {
            let interval = fixed::proportion(of, alpha.filter(|_| of.trials > 0)?);
            Some(Lies { found: of.rate(), lower: interval.lower, upper: interval.upper })
        };
        let error_rate = part(Proportion { successes: self.errors, trials: self.requests });
        let agreement = part(self.agreement);
        let p99_ms = self.quantile(0.99).and_then(|found| {
            // By the order of the values: ranks as far off as chance brings them.
            let off = normal_quantile(0.975) * (0.99 * 0.01 / self.timed() as f64).sqrt();
            let [lower, upper] = [0.99 - off, 0.99 + off].map(|q| self.quantile(q.clamp(0.0, 1.0)));
            Some(Lies { found, lower: lower?, upper: upper? })
        });
        let mean = self.rewards.estimate();
        let reward = alpha.filter(|_| self.rewards.count > 1).map(|alpha| {
            let interval = fixed::estimate(mean, alpha);
            Lies { found: mean.value, lower: interval.lower, upper: interval.upper }
        });
        let Self { requests, errors, refused, copies, copy_errors, .. } = *self;
        Told {
            requests,
            errors,
            refused,
            error_rate,
            median_ms: self.quantile(0.5),
            p99_ms,
            reward,
            rewards: self.rewards.count,
            copies,
            copy_errors,
            agreement,
        }
    }
}

/// A piece of time while it is counted.
#[derive(Clone)]
struct Piece {
    to: u64,
    shares: Vec<f64>,
    unanswered: u64,
    arms: Vec<Tally>,
}

/// Takes down what happens.
pub(super) struct Telling {
    /// How long a piece is.
    step: u64,
    pieces: Vec<Piece>,
    open: Piece,
    totals: Vec<Tally>,
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) changes: Vec<Changed>,
    decisions: Vec<Decision>,
    left_out: u64,
}

impl Telling {
    /// Of so many arms, over at most so many microseconds.
    pub(super) fn new(arms: usize, duration: u64) -> Self {
        let step = (duration / (8 * PIECES as u64)).max(100_000);
        let arms = vec![Tally::new(); arms];
        Self {
            step,
            pieces: Vec::new(),
            open: Piece { to: step, shares: Vec::new(), unanswered: 0, arms: arms.clone() },
            totals: arms,
            requests: 0,
            failures: 0,
            changes: Vec::new(),
            decisions: Vec::new(),
            left_out: 0,
        }
    }

    /// When the piece that is being counted ends.
    pub(super) fn until(&self) -> u64 {
        self.open.to
    }

    /// The piece has ended, with these shares.
    pub(super) fn close(&mut self, shares: Vec<f64>) {
        let next = self.open.to + self.step;
        let arms = vec![Tally::new(); self.totals.len()];
        let fresh = Piece { to: next, shares: Vec::new(), unanswered: 0, arms };
        let mut ended = std::mem::replace(&mut self.open, fresh);
        ended.shares = shares;
        for (total, arm) in self.totals.iter_mut().zip(&ended.arms) {
            total.add(arm);
        }
        self.pieces.push(ended);
        if self.pieces.len() == PIECES {
            self.pieces = joined(&self.pieces, 2);
            self.step *= 2;
            // The open piece is as long as the others are now.
            self.open.to += self.step / 2;
        }
    }

    pub(super) fn ended(&mut self, arm: usize, end: End, micros: u32) {
        let tally = &mut self.open.arms[arm];
        tally.requests += 1;
        match end {
            End::Refused => {
                tally.refused += 1;
                return;
            }
            End::Failed => tally.errors += 1,
            End::Answered => {}
        }
        if tally.latency.is_empty() {
            tally.latency = vec![0; BUCKETS];
        }
        let bucket = libm::log2(f64::from(micros.max(1))) * PER_DOUBLING;
        tally.latency[(bucket as usize).min(BUCKETS - 1)] += 1;
    }

    pub(super) fn rewarded(&mut self, arm: usize, value: f64) {
        self.open.arms[arm].rewards.add(value);
    }

    pub(super) fn copied(&mut self, arm: usize, end: End, agreed: Option<bool>) {
        let tally = &mut self.open.arms[arm];
        tally.copies += 1;
        tally.copy_errors += u64::from(end == End::Failed);
        tally.agreement.trials += u64::from(agreed.is_some());
        tally.agreement.successes += u64::from(agreed == Some(true));
    }

    pub(super) fn unanswered(&mut self) {
        self.open.unanswered += 1;
    }

    pub(super) fn decided(&mut self, at: u64, phase: Phase, shares: Vec<f64>, message: &str) {
        let same = self.decisions.last().is_some_and(|last| {
            let mut moves = last.shares.iter().zip(&shares).map(|(before, after)| before - after);
            last.phase == phase && moves.all(|by| by.abs() < MOVED)
        });
        if same || self.decisions.len() == DECISIONS {
            self.left_out += 1;
            return;
        }
        let arms = self.totals.iter().zip(&self.open.arms).map(|(total, open)| {
            let mut all = total.clone();
            all.add(open);
            all.told()
        });
        let (arms, at, message) = (arms.collect(), seconds(at), message.to_owned());
        self.decisions.push(Decision { at, phase, shares, message, arms });
    }

    /// All of it, at its end.
    pub(super) fn told(mut self, at: u64, shares: Vec<f64>, story: Story) -> Story {
        self.open.to = at;
        self.close(shares);
        let told = usize::try_from(self.requests / IN_EACH).unwrap_or(usize::MAX);
        let each = self.pieces.len().div_ceil(told.clamp(POINTS[0], POINTS[1]));
        let mut from = 0;
        let points = joined(&self.pieces, each).into_iter().map(|piece| {
            let arms = piece.arms.iter().map(Tally::told).collect();
            let begun = std::mem::replace(&mut from, piece.to);
            let Piece { to, shares, unanswered, .. } = piece;
            Point { from: seconds(begun), to: seconds(to), shares, unanswered, arms }
        });
        let points: Vec<Point> = points.collect();
        Story {
            seconds: seconds(at),
            requests: self.requests,
            failures: self.failures,
            unanswered: points.iter().map(|point| point.unanswered).sum(),
            changes: self.changes,
            decisions: self.decisions,
            left_out: self.left_out,
            totals: self.totals.iter().map(Tally::told).collect(),
            points,
            ..story
        }
    }
}

/// Every so many pieces as one.
fn joined(pieces: &[Piece], each: usize) -> Vec<Piece> {
    let joined = pieces.chunks(each.max(1)).filter_map(|chunk| {
        let (last, others) = chunk.split_last()?;
        let mut whole = last.clone();
        for piece in others {
            whole.unanswered += piece.unanswered;
            whole.arms.iter_mut().zip(&piece.arms).for_each(|(sum, more)| sum.add(more));
        }
        Some(whole)
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_when_pieces_are_joined() {
        let mut telling = Telling::new(2, 1_000_000);
        let mut clock = 0;
        for request in 0..100_000u64 {
            clock += 1000 + request % 7;
            while telling.until() <= clock {
                telling.close(vec![0.5, 0.5]);
            }
            telling.requests += 1;
            let what = if request % 100 == 0 { End::Failed } else { End::Answered };
            telling.ended(usize::from(request % 4 == 0), what, 20_000);
            telling.rewarded(1, 1.0);
        }
        let story = telling.told(clock, vec![0.0, 1.0], Story::default());
        // 100,000 requests, 2,000 each.
        assert!((25..=50).contains(&story.points.len()), "{}", story.points.len());
        let sum = |of: fn(&Told) -> u64, arm: usize| -> u64 {
            story.points.iter().map(|point| of(&point.arms[arm])).sum()
        };
        assert_eq!([0, 1].map(|arm| sum(|told| told.requests, arm)), [75_000, 25_000]);
        assert_eq!([0, 1].map(|arm| story.totals[arm].errors), [0, 1000]);
        assert_eq!((story.totals[1].rewards, sum(|told| told.rewards, 1)), (100_000, 100_000));
        let told = story.totals[1];
        let (rate, p99) = (told.error_rate.unwrap(), told.p99_ms.unwrap());
        assert!(rate.lower < 0.04 && 0.04 < rate.upper && (19.0..21.0).contains(&p99.found));
        assert!(story.points.windows(2).all(|pair| pair[0].to == pair[1].from));
    }
}
