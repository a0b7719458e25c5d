//! What a policy looks at, from the host or from a test.

use crate::{Measure, Observation};

/// What is known when a policy is evaluated, by the host's word ([`Observation`]) or a test's
/// ([`Observed`]). A policy that decides by `&impl Observe` can be tested natively: hand it the
/// observation in [`Policy::evaluate`](crate::Policy::evaluate) and a table in tests.
pub trait Observe {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    fn now_ms(&self) -> u64;
    /// A number for seeding chance.
    fn seed(&self) -> u64;
    /// The arms, in the order in which every index here counts.
    fn arms(&self) -> Vec<String>;
    /// The names of the attributes that the endpoint declares.
    fn attributes(&self) -> Vec<String>;
    /// The attribute that is the unit of assignment.
    fn unit(&self) -> Option<String>;
    /// Whether the arm is ready to answer.
    fn ready(&self, arm: u32) -> bool;
    /// A measure of an arm, in the whole or in a declared slice; none when there is nothing to
    /// report.
    fn measure(&self, arm: u32, name: &str, slice: Option<&str>) -> Option<Measure>;
    /// How many values of a measured distribution are at most `bound`; none when there is nothing
    /// to report.
    fn at_most(&self, arm: u32, name: &str, slice: Option<&str>, bound: f64) -> Option<u64>;
}

impl Observe for Observation {
    fn now_ms(&self) -> u64 {
        Self::now_ms(self)
    }

    fn seed(&self) -> u64 {
        Self::seed(self)
    }

    fn arms(&self) -> Vec<String> {
        Self::arms(self)
    }

    fn attributes(&self) -> Vec<String> {
        Self::attributes(self)
    }

    fn unit(&self) -> Option<String> {
        Self::unit(self)
    }

    fn ready(&self, arm: u32) -> bool {
        Self::ready(self, arm)
    }

    fn measure(&self, arm: u32, name: &str, slice: Option<&str>) -> Option<Measure> {
        Self::measure(self, arm, name, slice)
    }

    fn at_most(&self, arm: u32, name: &str, slice: Option<&str>, bound: f64) -> Option<u64> {
        Self::at_most(self, arm, name, slice, bound)
    }
}

/// An observation of plain values, for native tests of policies.
///
/// ```
/// use berth_sdk::{Observe, Observed};
///
/// let mut observed = Observed::new(&["live", "next"]);
/// observed.count(1, "requests", 200);
/// observed.ready[1] = false;
/// assert_eq!(observed.measure(1, "requests", None).map(|measure| measure.count), Some(200));
/// assert!(observed.measure(0, "requests", None).is_none() && !observed.ready(1));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// Seeds chance.
    pub seed: u64,
    /// The names of the arms.
    pub arms: Vec<String>,
    /// Which of them are ready.
    pub ready: Vec<bool>,
    /// The declared attributes.
    pub attributes: Vec<String>,
    /// The attribute that is the unit.
    pub unit: Option<String>,
    /// Measures by arm, name and slice.
    pub measures: Vec<(u32, String, Option<String>, Measure)>,
    /// Values of distributions by arm, name and slice.
    pub values: Vec<(u32, String, Option<String>, Vec<f64>)>,
}

impl Observed {
    /// Arms that are ready, and nothing else.
    pub fn new(arms: &[&str]) -> Self {
        Self {
            arms: arms.iter().map(|&arm| arm.to_owned()).collect(),
            ready: vec![true; arms.len()],
            ..Self::default()
        }
    }

    /// Sets what happened so often to an arm: each time it came to 1.
    pub fn count(&mut self, arm: u32, name: &str, count: u64) -> &mut Self {
        let sum = count as f64;
        self.put(arm, name, None, Measure { count, sum, sum_of_squares: sum })
    }

    /// Sets a measure of an arm, in the whole or in a slice.
    pub fn put(
        &mut self,
        arm: u32,
        name: &str,
        slice: Option<&str>,
        measure: Measure,
    ) -> &mut Self {
        let key = |known: &(u32, String, Option<String>, Measure)| {
            (known.0, known.1.as_str(), known.2.as_deref()) == (arm, name, slice)
        };
        match self.measures.iter_mut().find(|known| key(known)) {
            Some(known) => known.3 = measure,
            None => self.measures.push((arm, name.into(), slice.map(Into::into), measure)),
        }
        self
    }
}

impl Observe for Observed {
    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn arms(&self) -> Vec<String> {
        self.arms.clone()
    }

    fn attributes(&self) -> Vec<String> {
        self.attributes.clone()
    }

    fn unit(&self) -> Option<String> {
        self.unit.clone()
    }

    fn ready(&self, arm: u32) -> bool {
        self.ready.get(arm as usize).copied().unwrap_or(false)
    }

    fn measure(&self, arm: u32, name: &str, slice: Option<&str>) -> Option<Measure> {
        let key = |known: &&(u32, String, Option<String>, Measure)| {
            (known.0, known.1.as_str(), known.2.as_deref()) == (arm, name, slice)
        };
        self.measures.iter().find(key).map(|known| known.3)
    }

    fn at_most(&self, arm: u32, name: &str, slice: Option<&str>, bound: f64) -> Option<u64> {
        let key = |known: &&(u32, String, Option<String>, Vec<f64>)| {
            (known.0, known.1.as_str(), known.2.as_deref()) == (arm, name, slice)
        };
        let values = &self.values.iter().find(key)?.3;
        Some(values.iter().filter(|&&value| value <= bound).count() as u64)
    }
}
