//! Requests as they come: whose they are, what they carry, and how each arm answers them.

use std::collections::BTreeSet;

use berth_plugin::{Subject, unit_hash};
use berth_statistics::Random;

use super::behaviour::{Behaviour, Latency, Prepare, Values};
use super::chance::{Arrivals, LogNormal, Weighted, generator};
use super::span::Span;
use super::traffic::Traffic;

/// Units where the endpoint has them and the file does not say how many.
const UNITS: u32 = 10_000;

/// How long it takes to be made ready where nothing is said, or to be found not to work.
pub(super) const PREPARE: Span = Span(5_000_000);

/// What comes: where and how often, and how it is answered now.
pub(super) struct Flow {
    seed: u64,
    pub(super) arrivals: Arrivals,
    units: Option<Weighted>,
    /// Attributes with their values and how often each comes.
    attributes: Vec<(String, Vec<String>, Weighted)>,
    /// The names of processors' own numbers.
    pub(super) metrics: Vec<String>,
    /// The slices that the endpoint declares, by the indices of attribute and value; none where
    /// nothing that comes is in it.
    slices: Vec<Option<(usize, usize)>>,
    arms: Vec<Answering>,
}

/// A request.
pub(super) struct Request {
    /// The unit's number, where there are units.
    pub(super) unit: Option<u32>,
    /// The value of each attribute, by its index.
    pub(super) values: Vec<usize>,
    /// What a host would have drawn for its prediction's id.
    pub(super) chance: u64,
}

/// How an arm answers now.
struct Answering {
    /// All of it, and of slices what differs, in the order of the file.
    whole: Answers,
    slices: Vec<(usize, usize, Behaviour)>,
    /// For each set of slices that a request was in, how it is answered.
    known: Vec<(u64, Answers)>,
}

/// How requests that are alike are answered.
#[derive(Clone)]
pub(super) struct Answers {
    pub(super) error_rate: f64,
    pub(super) refused_rate: f64,
    pub(super) latency: LogNormal,
    pub(super) reward: Option<Values>,
    /// By the index of the metric.
    pub(super) metrics: Vec<Option<Values>>,
    pub(super) agreement: f64,
    pub(super) prepare: Prepare,
}

impl Answers {
    fn usual(metrics: usize) -> Self {
        Self {
            error_rate: 0.001,
            refused_rate: 0.0,
            latency: LogNormal::new(Latency { median_ms: 20.0, p99_ms: 100.0 }),
            reward: None,
            metrics: vec![None; metrics],
            agreement: 1.0,
            prepare: Prepare::Takes(PREPARE),
        }
    }

    fn become_like(&mut self, behaviour: &Behaviour, names: &[String]) {
        let Behaviour { error_rate, refused_rate, latency, reward, metrics, agreement, prepare } =
            behaviour;
        self.error_rate = error_rate.unwrap_or(self.error_rate);
        self.refused_rate = refused_rate.unwrap_or(self.refused_rate);
        self.latency = latency.map_or(self.latency, LogNormal::new);
        self.reward = reward.or(self.reward);
        self.agreement = agreement.unwrap_or(self.agreement);
        self.prepare = prepare.unwrap_or(self.prepare);
        for (at, name) in names.iter().enumerate() {
            self.metrics[at] = metrics.get(name).copied().or(self.metrics[at]);
        }
    }
}

impl Flow {
    /// As it is at the beginning, among `arms`.
    pub(super) fn new(
        traffic: &Traffic,
        arms: &[String],
        slices: &[String],
        has_unit: bool,
        seed: u64,
    ) -> Self {
        let changes = traffic.change.iter().map(|change| &change.to);
        let metrics: BTreeSet<&String> =
            traffic.arms.values().chain(changes).flat_map(|arm| arm.metrics.keys()).collect();
        let metrics: Vec<String> = metrics.into_iter().cloned().collect();
        let answering = |arm: &String| {
            let mut whole = Answers::usual(metrics.len());
            if let Some(behaviour) = traffic.arms.get(arm) {
                whole.become_like(behaviour, &metrics);
            }
            Answering { whole, slices: Vec::new(), known: Vec::new() }
        };
        let units = has_unit.then(|| {
            let mut random = generator(seed, u64::MAX - 1);
            let units = traffic.units.unwrap_or(UNITS);
            let active = |_| libm::exp(traffic.activity * random.normal());
            Weighted::new(&(0..units).map(active).collect::<Vec<f64>>())
        });
        let attributes = traffic.attributes.iter().map(|(name, values)| {
            let weights: Vec<f64> = values.values().copied().collect();
            (name.clone(), values.keys().cloned().collect(), Weighted::new(&weights))
        });
        let arms = arms.iter().map(answering).collect();
        let attributes: Vec<(String, Vec<String>, Weighted)> = attributes.collect();
        let slices = slices.iter().map(|slice| place(&attributes, slice)).collect();
        let arrivals = Arrivals::new(traffic, seed);
        Self { seed, arrivals, units, attributes, arms, metrics, slices }
    }

    /// The request of this number, and what chance has still to decide of it.
    pub(super) fn request(&self, number: u64) -> (Request, Random) {
        let mut random = generator(self.seed, number);
        let unit = self.units.as_ref().map(|units| units.draw(&mut random) as u32);
        let values = |owner: &mut Random| {
            self.attributes.iter().map(|(_, _, values)| values.draw(owner)).collect()
        };
        // A unit keeps its values.
        let values = match unit {
            Some(unit) => values(&mut generator(self.seed, (1 << 40) | u64::from(unit))),
            None => values(&mut random),
        };
        let chance = random.bits();
        (Request { unit, values, chance }, random)
    }

    /// The name of a unit, of this seed alone, so that another seed draws others.
    pub(super) fn unit_name(&self, unit: u32) -> String {
        format!("{:016x}", generator(self.seed, (1 << 41) | u64::from(unit)).bits())
    }

    /// The hash by which a request's arm is drawn.
    pub(super) fn hash(&self, salt: &str, request: &Request) -> u64 {
        let name = request.unit.map(|unit| self.unit_name(unit));
        unit_hash(salt, name.as_deref(), request.chance)
    }

    /// What a router sees of a request: its attributes, the unit's under the name of `unit`.
    pub(super) fn subject(&self, request: &Request, unit: Option<&str>) -> Subject {
        let named = self.attributes.iter().zip(&request.values);
        let mut all: Vec<(String, String)> =
            named.map(|((name, values, _), &at)| (name.clone(), values[at].clone())).collect();
        let unit = unit.zip(request.unit).map(|(name, unit)| {
            all.push((name.to_owned(), self.unit_name(unit)));
            all.len() - 1
        });
        Subject { attributes: all.into(), unit, chance: request.chance }
    }

    /// The declared slices that a request is in, a bit each, the first one the lowest.
    pub(super) fn slices(&self, request: &Request) -> u16 {
        let within = |slice: &Option<(usize, usize)>| {
            slice.is_some_and(|(attribute, value)| request.values[attribute] == value)
        };
        let slices = self.slices.iter().enumerate().filter(|(_, slice)| within(slice));
        slices.fold(0, |bits, (at, _)| bits | 1 << at)
    }

    /// How an arm answers a request now.
    pub(super) fn answers(&mut self, arm: usize, request: &Request) -> &Answers {
        let Answering { whole, slices, known } = &mut self.arms[arm];
        if slices.is_empty() {
            return whole;
        }
        let holds = |(attribute, value, _): &&(usize, usize, Behaviour)| {
            request.values[*attribute] == *value
        };
        let set = (0..).zip(slices.iter()).filter(|(_, slice)| holds(slice));
        let set = set.fold(0u64, |set, (at, _)| set | 1 << at);
        let at = match known.iter().position(|(known, _)| *known == set) {
            Some(at) => at,
            None => {
                let mut answers = whole.clone();
                for (_, _, behaviour) in slices.iter().filter(holds) {
                    answers.become_like(behaviour, &self.metrics);
                }
                known.push((set, answers));
                known.len() - 1
            }
        };
        &known[at].1
    }

    /// How an arm is made ready now.
    pub(super) fn prepare(&self, arm: usize) -> Prepare {
        self.arms[arm].whole.prepare
    }

    /// From now on an arm answers like this, a slice of its requests or all.
    pub(super) fn change(&mut self, arm: usize, slice: Option<&str>, to: &Behaviour) {
        let answering = &mut self.arms[arm];
        answering.known.clear();
        match slice {
            None => answering.whole.become_like(to, &self.metrics),
            // The file was checked: a slice is of what it declares.
            Some(slice) => {
                if let Some((attribute, value)) = place(&self.attributes, slice) {
                    answering.slices.push((attribute, value, to.clone()));
                }
            }
        }
    }
}

/// The indices of attribute and value that make a slice, `ATTRIBUTE=VALUE`.
fn place(attributes: &[(String, Vec<String>, Weighted)], slice: &str) -> Option<(usize, usize)> {
    let (attribute, value) = slice.split_once('=')?;
    attributes.iter().enumerate().find_map(|(at, (name, values, _))| {
        let value = values.iter().position(|known| known == value)?;
        (name == attribute).then_some((at, value))
    })
}
