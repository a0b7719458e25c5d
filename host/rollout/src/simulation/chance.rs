//! Chance from a seed, so that the same seed gives the same traffic whatever a policy decides.

use berth_statistics::Random;

use super::behaviour::{Latency, Values};
use super::span::DAY;
use super::traffic::Traffic;

/// Generators that have nothing to do with each other, by the seed and a number.
pub(super) fn generator(seed: u64, number: u64) -> Random {
    let mut mixed = Random::new(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    Random::new(mixed.bits() ^ number)
}

/// One of many by their weights, in the same time however many there are (Vose 1991, IEEE
/// Transactions on Software Engineering 17:972).
pub(super) struct Weighted {
    /// Each with the probability that it stays itself, and what it is otherwise.
    places: Vec<(f64, u32)>,
}

impl Weighted {
    /// Of weights that are not negative, and not all 0.
    pub(super) fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let part = weights.len() as f64 / total;
        let mut places: Vec<(f64, u32)> =
            (0..).zip(weights).map(|(at, w)| (w * part, at)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..places.len() as u32).partition(|&at| places[at as usize].0 < 1.0);
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            places[less as usize].1 = more;
            places[more as usize].0 -= 1.0 - places[less as usize].0;
            if places[more as usize].0 < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What is left differs from 1 by rounding alone.
        for at in small.into_iter().chain(large) {
            places[at as usize].0 = 1.0;
        }
        Self { places }
    }

    pub(super) fn draw(&self, random: &mut Random) -> usize {
        let at = random.uniform() * self.places.len() as f64;
        let place = (at as usize).min(self.places.len() - 1);
        let (stays, other) = self.places[place];
        if at - (place as f64) < stays { place } else { other as usize }
    }
}

/// When requests come: a Poisson process whose rate has a daily wave, thinned from one at the highest
/// rate (Lewis and Shedler 1979, Naval Research Logistics 26:403).
pub(super) struct Arrivals {
    /// The highest rate, and that of now but for the wave, by microsecond.
    most: f64,
    pub(super) rate: f64,
    wave: f64,
    at: f64,
    random: Random,
}

impl Arrivals {
    pub(super) fn new(traffic: &Traffic, seed: u64) -> Self {
        Self {
            most: traffic.most_per_second() / 1e6,
            rate: traffic.requests_per_second / 1e6,
            wave: traffic.wave,
            at: 0.0,
            random: generator(seed, u64::MAX),
        }
    }

    /// One that may be the next, in microseconds from the beginning, and a number that
    /// [`Arrivals::comes`] wants: whether it is one depends on the rate by then.
    pub(super) fn candidate(&mut self) -> (u64, f64) {
        self.at -= libm::log(self.random.uniform()) / self.most;
        (self.at as u64, self.random.uniform())
    }

    /// Whether a candidate is a request.
    pub(super) fn comes(&self, (at, luck): (u64, f64)) -> bool {
        let of_day = (at % DAY) as f64 / DAY as f64;
        let wave = 1.0 - self.wave * libm::cos(std::f64::consts::TAU * of_day);
        luck * self.most < self.rate * wave
    }
}

/// What a request's latency is drawn from: its logarithm's mean and standard deviation.
#[derive(Clone, Copy)]
pub(super) struct LogNormal {
    mean: f64,
    deviation: f64,
}

impl LogNormal {
    pub(super) fn new(latency: Latency) -> Self {
        let z = berth_statistics::distribution::normal_quantile(0.99);
        Self {
            mean: libm::log(latency.median_ms * 1e3),
            deviation: libm::log(latency.p99_ms / latency.median_ms) / z,
        }
    }

    /// Microseconds, at most an hour.
    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        let drawn = libm::exp(self.mean + self.deviation * random.normal());
        drawn.min(3.6e9) as u32
    }
}

/// A number of [`Values`].
pub(super) fn value(values: &Values, random: &mut Random) -> f64 {
    match values.rate {
        Some(rate) => f64::from(u8::from(random.chance(rate))),
        None => {
            let (mean, deviation) = (values.mean.unwrap_or(0.0), values.deviation.unwrap_or(0.0));
            mean + deviation * random.normal()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::span::Span;

    #[test]
    fn the_weighted_come_by_their_weights() {
        for weights in [&[1.0][..], &[1.0, 0.0], &[0.0, 3.0, 1.0], &[5.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
        {
            let drawn = Weighted::new(weights);
            let mut random = Random::new(7);
            let mut counts = vec![0.0; weights.len()];
            (0..100_000).for_each(|_| counts[drawn.draw(&mut random)] += 1e-5);
            let total: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                // Six standard errors at one half.
                assert!((count - weight / total).abs() < 0.01, "{weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn requests_come_as_often_as_is_said_and_in_a_wave() {
        for wave in [0.0, 0.8] {
            let traffic = Traffic { wave, requests_per_second: 2.0, ..Traffic::default() };
            let mut arrivals = Arrivals::new(&traffic, 1);
            let mut by_half = [0.0; 2];
            loop {
                let candidate = arrivals.candidate();
                if candidate.0 >= DAY {
                    break;
                }
                let noon = (DAY / 4..DAY * 3 / 4).contains(&candidate.0);
                by_half[usize::from(noon)] += f64::from(u8::from(arrivals.comes(candidate)));
            }
            let [night, noon] = by_half;
            let expected = 172_800.0;
            // Over the half day around noon the wave has a mean of 2 / pi of its height.
            let more = expected / 2.0 * (1.0 + wave * 2.0 / std::f64::consts::PI);
            assert!((night + noon - expected).abs() < 6.0 * expected.sqrt(), "{by_half:?}");
            assert!((noon - more).abs() < 6.0 * more.sqrt(), "{by_half:?}");
        }
    }

    #[test]
    fn latencies_have_the_quantiles_that_are_said() {
        let latency = LogNormal::new(Latency { median_ms: 20.0, p99_ms: 100.0 });
        let mut random = Random::new(3);
        let mut drawn: Vec<u32> = (0..100_000).map(|_| latency.draw(&mut random)).collect();
        drawn.sort_unstable();
        assert!((19_800..20_200).contains(&drawn[50_000]), "{}", drawn[50_000]);
        assert!((96_000..104_000).contains(&drawn[99_000]), "{}", drawn[99_000]);
        assert_eq!(Span::parse("1h").map(|span| span.0), Some(3_600_000_000));
    }

    #[test]
    fn values_have_the_mean_that_is_said() {
        let normal = Values { mean: Some(3.0), deviation: Some(0.5), ..Values::default() };
        for (values, mean) in
            [(Values { rate: Some(0.25), ..Values::default() }, 0.25), (normal, 3.0)]
        {
            let mut random = Random::new(9);
            let sum: f64 = (0..100_000).map(|_| value(&values, &mut random)).sum();
            assert!((sum / 1e5 - mean).abs() < 0.01, "{values:?}: {}", sum / 1e5);
        }
    }
}
