//! `berth:plugin/observing`: what a policy sees.

use std::sync::Arc;

use wasmtime::component::Resource;
use xxhash_rust::xxh3::Xxh3;

use crate::bindings::policy::berth::plugin::observing::{
    Host, HostObservation, HostSubject, Measure as WitMeasure,
};
use crate::policy::PolicyState;

/// What is known when a policy is evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// Seeds chance; equal when the decision is run again.
    pub seed: u64,
    /// The policy's configuration, a JSON object.
    pub config: String,
    /// The arms in their order.
    pub arms: Vec<Arm>,
    /// The names of the declared attributes.
    pub attributes: Vec<String>,
    /// The attribute that is the unit of assignment.
    pub unit: Option<String>,
}

/// One arm as a policy sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// Whether it is ready to answer.
    pub ready: bool,
    /// Its measures by name and slice.
    pub measures: Vec<(String, Option<String>, Measure)>,
    /// Its distributions by name and slice.
    pub distributions: Vec<(String, Option<String>, Distribution)>,
}

/// Ascending upper bounds, and how many values fell at or below each but above the one before.
pub type Distribution = Vec<(f64, u64)>;

/// How often something happened and what it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measure {
    /// How often.
    pub count: u64,
    /// The sum of the values.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_of_squares: f64,
}

/// What a router sees of a request.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The values of declared attributes.
    pub attributes: Arc<[(String, String)]>,
    /// The index in `attributes` of the unit's value, when the request has it.
    pub unit: Option<usize>,
    /// Stands for the unit where there is none: random, and recorded with the prediction.
    pub chance: u64,
}

impl Subject {
    /// The unit's value.
    pub fn unit(&self) -> Option<&str> {
        self.attributes.get(self.unit?).map(|(_, value)| value.as_str())
    }

    /// [`unit_hash`] of this subject.
    pub fn hash(&self, salt: &str) -> u64 {
        unit_hash(salt, self.unit(), self.chance)
    }

    /// Where the unit falls in 0 to 1, 1 excluded.
    pub fn position(&self, salt: &str) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.hash(salt) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A 64-bit hash (XXH3) of `salt` and the unit, or of `salt` and `chance` where there is no unit.
pub fn unit_hash(salt: &str, unit: Option<&str>, chance: u64) -> u64 {
    let mut hasher = Xxh3::new();
    // The length keeps ("a", "bc") and ("ab", "c") apart.
    hasher.update(&(salt.len() as u64).to_le_bytes());
    hasher.update(salt.as_bytes());
    match unit {
        Some(unit) => hasher.update(unit.as_bytes()),
        None => hasher.update(&chance.to_le_bytes()),
    }
    hasher.digest()
}

fn quantile(distribution: &[(f64, u64)], q: f64) -> Option<f64> {
    let total: u64 = distribution.iter().map(|&(_, count)| count).sum();
    let rank = (q.clamp(0.0, 1.0) * total as f64).ceil().max(1.0) as u64;
    let mut seen = 0;
    distribution
        .iter()
        .find(|&&(_, count)| {
            seen += count;
            seen >= rank
        })
        .map(|&(bound, _)| bound)
}

/// How many values are at most `bound`, with all of the first bucket that ends at or beyond it.
fn at_most(distribution: &[(f64, u64)], bound: f64) -> u64 {
    let mut count = 0;
    for &(end, values) in distribution {
        count += values;
        if end >= bound {
            break;
        }
    }
    count
}

impl PolicyState {
    fn arm(&self, arm: u32) -> Option<&Arm> {
        self.observation.arms.get(arm as usize)
    }
}

impl Host for PolicyState {}

impl HostObservation for PolicyState {
    fn now_ms(&mut self, _: Resource<Observation>) -> wasmtime::Result<u64> {
        self.charge(0)?;
        Ok(self.observation.now_ms)
    }

    fn seed(&mut self, _: Resource<Observation>) -> wasmtime::Result<u64> {
        self.charge(0)?;
        Ok(self.observation.seed)
    }

    fn config(&mut self, _: Resource<Observation>) -> wasmtime::Result<String> {
        self.charge(self.observation.config.len())?;
        Ok(self.observation.config.clone())
    }

    fn arms(&mut self, _: Resource<Observation>) -> wasmtime::Result<Vec<String>> {
        let names = self.observation.arms.iter().map(|arm| &arm.name);
        self.charge(names.map(|name| listed(name)).sum())?;
        Ok(self.observation.arms.iter().map(|arm| arm.name.clone()).collect())
    }

    fn attributes(&mut self, _: Resource<Observation>) -> wasmtime::Result<Vec<String>> {
        self.charge(self.observation.attributes.iter().map(|name| listed(name)).sum())?;
        Ok(self.observation.attributes.clone())
    }

    fn unit(&mut self, _: Resource<Observation>) -> wasmtime::Result<Option<String>> {
        self.charge(self.observation.unit.as_ref().map_or(0, String::len))?;
        Ok(self.observation.unit.clone())
    }

    fn ready(&mut self, _: Resource<Observation>, arm: u32) -> wasmtime::Result<bool> {
        self.charge(0)?;
        Ok(self.arm(arm).is_some_and(|arm| arm.ready))
    }

    fn measure(
        &mut self,
        _: Resource<Observation>,
        arm: u32,
        name: String,
        slice: Option<String>,
    ) -> wasmtime::Result<Option<WitMeasure>> {
        let measures = self.arm(arm).map_or(0, |arm| arm.measures.len());
        self.charge(searched(&name, slice.as_ref(), measures))?;
        let found = self.arm(arm).and_then(|arm| {
            arm.measures.iter().find(|(known, part, _)| *known == name && *part == slice)
        });
        Ok(found.map(|(_, _, measure)| WitMeasure {
            count: measure.count,
            sum: measure.sum,
            sum_of_squares: measure.sum_of_squares,
        }))
    }

    fn quantile(
        &mut self,
        _: Resource<Observation>,
        arm: u32,
        name: String,
        slice: Option<String>,
        q: f64,
    ) -> wasmtime::Result<Option<f64>> {
        let distributions = self.arm(arm).map_or(0, |arm| arm.distributions.len());
        self.charge(searched(&name, slice.as_ref(), distributions))?;
        let found = self.arm(arm).and_then(|arm| {
            arm.distributions.iter().find(|(known, part, _)| *known == name && *part == slice)
        });
        let Some((_, _, distribution)) = found else { return Ok(None) };
        let (quantile, bounds) = (quantile(distribution, q), distribution.len());
        self.charge(bounds * size_of::<(f64, u64)>())?;
        Ok(quantile)
    }

    fn at_most(
        &mut self,
        _: Resource<Observation>,
        arm: u32,
        name: String,
        slice: Option<String>,
        bound: f64,
    ) -> wasmtime::Result<Option<u64>> {
        let distributions = self.arm(arm).map_or(0, |arm| arm.distributions.len());
        self.charge(searched(&name, slice.as_ref(), distributions))?;
        let found = self.arm(arm).and_then(|arm| {
            arm.distributions.iter().find(|(known, part, _)| *known == name && *part == slice)
        });
        let Some((_, _, distribution)) = found else { return Ok(None) };
        let (count, bounds) = (at_most(distribution, bound), distribution.len());
        self.charge(bounds * size_of::<(f64, u64)>())?;
        Ok(Some(count))
    }

    fn drop(&mut self, _: Resource<Observation>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl HostSubject for PolicyState {
    fn attribute(
        &mut self,
        _: Resource<Subject>,
        name: String,
    ) -> wasmtime::Result<Option<String>> {
        let found = self.subject.attributes.iter().find(|(known, _)| *known == name);
        let value = found.map(|(_, value)| value.clone());
        self.charge(name.len() + value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    fn unit(&mut self, _: Resource<Subject>) -> wasmtime::Result<Option<String>> {
        self.charge(self.subject.unit().map_or(0, str::len))?;
        Ok(self.subject.unit().map(str::to_owned))
    }

    fn position(&mut self, _: Resource<Subject>, salt: String) -> wasmtime::Result<f64> {
        self.charge(salt.len() + self.subject.unit().map_or(0, str::len))?;
        Ok(self.subject.position(&salt))
    }

    fn drop(&mut self, _: Resource<Subject>) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// The bytes of a text in a list, its place there included.
fn listed(text: &str) -> usize {
    size_of::<String>() + text.len()
}

/// The bytes that a search by name and slice among so many goes through.
fn searched(name: &str, slice: Option<&String>, among: usize) -> usize {
    name.len() + slice.map_or(0, String::len) + among * size_of::<(String, Option<String>)>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(user: &str) -> Subject {
        let attributes = vec![("user".to_owned(), user.to_owned())];
        Subject { attributes: attributes.into(), unit: Some(0), chance: 7 }
    }

    #[test]
    fn a_unit_keeps_its_position_and_salts_are_independent() {
        let positions = |salt: &str| -> Vec<f64> {
            (0..10_000).map(|user| subject(&user.to_string()).position(salt)).collect()
        };
        let (first, second) = (positions("a"), positions("b"));
        assert_eq!(first, positions("a"));
        let mean = first.iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let both = first.iter().zip(&second).filter(|(a, b)| **a < 0.5 && **b < 0.5).count();
        assert!((2300..2700).contains(&both), "{both}");
    }

    #[test]
    fn quantiles_are_bounds_that_hold_enough() {
        let distribution = [(1.0, 5), (2.0, 4), (3.0, 1)];
        for (q, expected) in
            [(0.0, 1.0), (0.5, 1.0), (0.51, 2.0), (0.9, 2.0), (0.91, 3.0), (1.0, 3.0)]
        {
            assert_eq!(quantile(&distribution, q), Some(expected), "{q}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_bucket_of_a_bound_counts_in_favour() {
        let distribution = [(1.0, 5), (2.0, 4), (3.0, 1)];
        for (bound, expected) in [(0.5, 5), (1.0, 5), (1.5, 9), (2.0, 9), (2.1, 10), (9.0, 10)] {
            assert_eq!(at_most(&distribution, bound), expected, "{bound}");
        }
    }
}
