//! The virtual clock: what happens next, one thing after the other.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use berth_monitor::{End, Exposed};
use berth_plugin::Share;
use berth_serving::live::counted_unit;
use berth_statistics::Random;

use super::arms::Arms;
use super::chance::value;
use super::choosing::Choosing;
use super::flow::{Answers, Flow, Request};
use super::moving::Moving;
use super::story::{Changed, Ended, seconds};
use super::traffic::{Change, Traffic};
use super::{Asked, SimulationError};

/// Requests between two words on how far it is.
const WORD: u64 = 1 << 16;

/// A rollout that is over is shown for so much longer, by its own length, and at least so many
/// microseconds.
const BEYOND: (u64, u64) = (6, 30_000_000);

/// What is decided among the arms.
pub(super) enum Course {
    Moving(Box<Moving>),
    Choosing(Box<Choosing>),
}

/// A simulation under way.
pub(super) struct Drive<'a> {
    pub(super) traffic: &'a Traffic,
    pub(super) flow: Flow,
    pub(super) asked: Asked,
    pub(super) arms: Arms,
    pub(super) names: Vec<String>,
    pub(super) course: Course,
    /// The attribute that is the unit.
    pub(super) unit: Option<String>,
    /// What is to come, the earliest first.
    queue: BinaryHeap<Reverse<Coming>>,
    /// How many were ever put into it: what comes at the same time comes in that order.
    order: u64,
}

/// Something that comes at a time.
struct Coming {
    when: u64,
    order: u64,
    at: Exposed,
    what: Happening,
}

enum Happening {
    /// A request comes to its end, with what its processor reported.
    End {
        end: End,
        latency: u32,
        values: Vec<(String, f64)>,
    },
    /// A copy does, and where it can be compared agrees or not.
    Copy {
        end: End,
        latency: u32,
        agreed: Option<bool>,
    },
    Reward(f64),
}

impl PartialEq for Coming {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Coming {}

impl PartialOrd for Coming {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Coming {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.when, self.order).cmp(&(other.when, other.order))
    }
}

impl<'a> Drive<'a> {
    pub(super) fn new(
        traffic: &'a Traffic,
        flow: Flow,
        asked: Asked,
        arms: Arms,
        names: Vec<String>,
        course: Course,
        unit: Option<String>,
    ) -> Self {
        let queue = BinaryHeap::new();
        Self { traffic, flow, asked, arms, names, course, unit, queue, order: 0 }
    }

    /// Goes through the time; answers when it ended.
    pub(super) fn run(
        &mut self,
        progress: &mut dyn FnMut(f64, u64),
    ) -> Result<u64, SimulationError> {
        let mut changes: Vec<&Change> = self.traffic.change.iter().collect();
        changes.sort_by_key(|change| Reverse(change.at));
        let duration = self.traffic.duration.0;
        let mut end = duration;
        let mut candidate = self.flow.arrivals.candidate();
        self.change_all(&mut changes, 0);
        self.round(0)?;
        loop {
            let coming = self.queue.peek().map_or(u64::MAX, |Reverse(coming)| coming.when);
            let change = changes.last().map_or(u64::MAX, |change| change.at.0);
            let (decide, close) = (self.due().min(self.arms.next()), self.asked.telling.until());
            let now = [coming, change, decide, close, candidate.0, end]
                .into_iter()
                .fold(u64::MAX, u64::min);
            if now == end {
                return Ok(end);
            }
            if now == change {
                self.change_all(&mut changes, now);
            } else if now == coming {
                if let Some(Reverse(coming)) = self.queue.pop() {
                    self.happens(coming)?;
                }
            } else if now == close {
                let shares = self.shares();
                self.asked.telling.close(shares);
            } else if now == decide {
                self.arms.advance(now);
                self.round(now)?;
            } else {
                if self.flow.arrivals.comes(candidate) {
                    if self.asked.telling.requests.is_multiple_of(WORD) {
                        progress(now as f64 / duration as f64, self.asked.telling.requests);
                    }
                    self.arrives(now);
                }
                candidate = self.flow.arrivals.candidate();
            }
            if let Some(ended) = self.ended() {
                let at = (ended.at * 1e6) as u64;
                end = duration.min(at + (at / BEYOND.0).max(BEYOND.1));
            }
        }
    }

    /// The share of each arm now.
    pub(super) fn shares(&self) -> Vec<f64> {
        match &self.course {
            Course::Moving(moving) => moving.shares(),
            Course::Choosing(choosing) => choosing.shares(),
        }
    }

    pub(super) fn ended(&self) -> Option<&Ended> {
        match &self.course {
            Course::Moving(moving) => moving.ended.as_ref(),
            Course::Choosing(_) => None,
        }
    }

    fn due(&self) -> u64 {
        match &self.course {
            Course::Moving(moving) => moving.due(self.asked.clock),
            Course::Choosing(choosing) => choosing.due(self.asked.clock),
        }
    }

    fn round(&mut self, now: u64) -> Result<(), SimulationError> {
        match &mut self.course {
            Course::Moving(moving) => {
                moving.round(now, &mut self.asked, &mut self.arms, &self.flow)
            }
            Course::Choosing(choosing) => choosing.round(now, &mut self.asked),
        }
    }

    fn change_all(&mut self, changes: &mut Vec<&Change>, now: u64) {
        while let Some(change) = changes.pop_if(|change| change.at.0 <= now) {
            let Change { arm, slice, to, requests_per_second, .. } = change;
            for at in 0..self.names.len() {
                if arm.as_ref().is_none_or(|arm| *arm == self.names[at]) {
                    self.flow.change(at, slice.as_deref(), to);
                }
            }
            if let Some(rate) = requests_per_second {
                self.flow.arrivals.rate = rate / 1e6;
            }
            if now > 0 {
                self.asked
                    .telling
                    .changes
                    .push(Changed { at: seconds(now), what: change.to_string() });
            }
        }
    }

    fn arrives(&mut self, now: u64) {
        let (request, mut random) = self.flow.request(self.asked.telling.requests);
        self.asked.telling.requests += 1;
        let salt = match &self.course {
            Course::Moving(moving) => moving.salt(),
            Course::Choosing(choosing) => choosing.salt(),
        };
        let hash = self.flow.hash(salt, &request);
        let subject = || self.flow.subject(&request, self.unit.as_deref());
        let (drawn, shadows) = match &self.course {
            Course::Moving(moving) => {
                let copies = if self.arms.ready(1) { moving.shadow() } else { 0.0 };
                let drawn = moving.draw(hash, subject, &self.arms, &mut self.asked.telling);
                (drawn, vec![Share { arm: 1, weight: copies }])
            }
            Course::Choosing(choosing) => {
                let (shares, shadows) = choosing.shares_for(subject, &mut self.asked);
                (Some(shares.draw(hash)), shadows)
            }
        };
        let Some((arm, propensity)) = drawn else {
            self.asked.telling.unanswered();
            return;
        };
        let unit = request.unit.map(|unit| counted_unit(&self.flow.unit_name(unit)));
        let propensity = Some(propensity);
        let at = Exposed { arm, slices: self.flow.slices(&request), unit, propensity };
        let (ends, end) = self.answer(now, at, &request, &mut random);
        for shadow in shadows {
            if shadow.arm != arm && shadow.weight > 0.0 && random.chance(shadow.weight) {
                let at = Exposed { arm: shadow.arm, ..at };
                self.copy(ends, at, end == End::Answered, &request, &mut random);
            }
        }
    }

    /// An arm answers; when that will have come to its end, and to which.
    fn answer(
        &mut self,
        now: u64,
        at: Exposed,
        request: &Request,
        random: &mut Random,
    ) -> (u64, End) {
        let answers = self.flow.answers(at.arm, request);
        let (end, latency) = ending(answers, random);
        let answered = end == End::Answered;
        let reward = answers.reward.filter(|_| answered);
        let values = answers.metrics.iter().enumerate().filter(|_| answered);
        let values: Vec<(usize, f64)> =
            values.filter_map(|(at, values)| Some((at, value(values.as_ref()?, random)))).collect();
        let ends = now + u64::from(latency);
        if let Some(reward) = reward {
            let after = reward.after.unwrap_or_default();
            self.put(ends + after.0, at, Happening::Reward(value(&reward, random)));
        }
        self.arms.hold(at.arm);
        let values = values.into_iter().map(|(at, it)| (self.flow.metrics[at].clone(), it));
        let values = values.collect();
        self.put(ends, at, Happening::End { end, latency, values });
        (ends, end)
    }

    /// An arm gets a copy once the answer is there; `comparable` where that is one.
    fn copy(
        &mut self,
        now: u64,
        at: Exposed,
        comparable: bool,
        request: &Request,
        random: &mut Random,
    ) {
        let answers = self.flow.answers(at.arm, request);
        let (end, latency) = ending(answers, random);
        let agrees = random.chance(answers.agreement);
        let agreed = (comparable && end == End::Answered).then_some(agrees);
        self.put(now + u64::from(latency), at, Happening::Copy { end, latency, agreed });
    }

    fn put(&mut self, when: u64, at: Exposed, what: Happening) {
        self.order += 1;
        // What comes after the end is not seen.
        if when < self.traffic.duration.0 {
            self.queue.push(Reverse(Coming { when, order: self.order, at, what }));
        }
    }

    fn happens(&mut self, coming: Coming) -> Result<(), SimulationError> {
        let Coming { when, at, what, .. } = coming;
        let Asked { watched, telling, .. } = &mut self.asked;
        match what {
            Happening::End { end, latency, values } => {
                watched.ended(at, end, Duration::from_micros(latency.into()), &values);
                telling.ended(at.arm, end, latency);
                if self.arms.release(at.arm) {
                    self.round(when)?;
                }
            }
            Happening::Copy { end, latency, agreed } => {
                watched.copied(at, end, Duration::from_micros(latency.into()), agreed);
                telling.copied(at.arm, end, agreed);
            }
            Happening::Reward(value) => {
                watched.rewarded(at, value);
                telling.rewarded(at.arm, value);
            }
        }
        Ok(())
    }
}

/// How an arm comes to its end, and after how many microseconds.
fn ending(answers: &Answers, random: &mut Random) -> (End, u32) {
    let (luck, latency) = (random.uniform(), answers.latency.draw(random));
    let end = match luck {
        luck if luck < answers.error_rate => End::Failed,
        luck if luck < answers.error_rate + answers.refused_rate => End::Refused,
        _ => End::Answered,
    };
    (end, latency)
}
