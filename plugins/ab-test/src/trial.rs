//! What is remembered, observed and decided.

use berth_guardrails::{Evidence, Judgement, Since, Values, assignment};
use berth_sdk::{Evaluation, Observe, Phase, Plan, PolicyError};
use berth_statistics::{Estimate, several};
use serde::{Deserialize, Serialize};

use crate::config::{Setting, Then};
use crate::finding::{Finding, Result as Found, findings};

/// The layout of [`Trial`].
const SCHEMA: &str = "ab-test-1";

/// So many days are told apart, in milliseconds each.
const DAYS: usize = 31;
const DAY: u64 = 86_400_000;

/// A test under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Trial {
    since_ms: u64,
    /// What had been observed of each arm when it began.
    before: Vec<Values>,
    /// The same, for guardrails, of the first arm and each other.
    guarded: Vec<Evidence>,
    /// Of each full day: the effect and its variance of each arm but the first.
    days: Vec<Vec<(f64, f64)>>,
    /// What had been observed when the day began.
    day: Vec<Values>,
    /// The arm that is to stay, and why, once that is decided.
    decided: Option<(usize, String)>,
}

/// The weights of the arms under a plan.
pub(crate) fn weights(setting: &Setting, plan: &Plan) -> Result<Vec<f64>, PolicyError> {
    let trial = (!plan.data.is_empty()).then(|| plan.read::<Trial>(SCHEMA)).transpose()?;
    let decided = trial.and_then(|trial| trial.decided);
    Ok(match decided {
        Some((arm, _)) if setting.config.then == Then::Switch || setting.rollout => {
            (0..setting.arms.len()).map(|at| if at == arm { 1.0 } else { 0.0 }).collect()
        }
        _ => setting.weights.clone(),
    })
}

pub(crate) fn evaluate(
    setting: &Setting,
    observation: &impl Observe,
    plan: Option<Plan>,
) -> Result<Evaluation, PolicyError> {
    let plan = plan.filter(|plan| !plan.data.is_empty());
    let trial = plan.map(|plan| plan.read::<Trial>(SCHEMA)).transpose()?;
    let slices = setting.slices();
    let arms = 0..setting.arms.len() as u32;
    let now: Vec<Values> = arms
        .map(|arm| setting.config.metric.observed(observation, arm, &slices, Since::Beginning))
        .collect();
    let mut trial = match trial {
        Some(trial) => trial,
        None if setting.rollout && !observation.ready(1) => {
            let waiting = "the next revision is being made ready";
            let mut evaluation = Evaluation::moving(0.0, Phase::Progressing, waiting);
            evaluation.plan = Plan::empty(SCHEMA);
            return Ok(evaluation);
        }
        None => Trial {
            since_ms: observation.now_ms(),
            guarded: evidence(setting, observation),
            days: Vec::new(),
            day: now.clone(),
            before: now.clone(),
            decided: None,
        },
    };
    trial.count_day(observation.now_ms(), &now);
    let values = since(&now, &trial.before);
    let found = findings(setting, &values);
    let (phase, message) = match &trial.decided {
        Some((arm, why)) => (ended(*arm), why.clone()),
        None => trial.decide(setting, observation, &values, &found),
    };
    let mut evaluation = setting.evaluation(&trial, phase, message)?;
    evaluation.attributes.extend(attributes(setting, &trial, &values, &found));
    Ok(evaluation)
}

impl Trial {
    /// Notes a day that is over.
    fn count_day(&mut self, now_ms: u64, now: &[Values]) {
        let days = now_ms.saturating_sub(self.since_ms) / DAY;
        if (self.days.len() as u64) < days && self.days.len() < DAYS {
            let of_day = since(now, &self.day);
            if let Some((first, others)) = of_day.split_first() {
                let effects = others.iter().map(|other| other.estimate() - first.estimate());
                // What is not known has no variance.
                let known = |effect: Estimate| match effect.variance.is_finite() {
                    true => (effect.value, effect.variance),
                    false => (0.0, 0.0),
                };
                self.days.push(effects.map(known).collect());
            }
            self.day = now.to_vec();
        }
    }

    fn decide(
        &mut self,
        setting: &Setting,
        observation: &impl Observe,
        values: &[Values],
        found: &[Finding],
    ) -> (Phase, String) {
        let mut unsure = None;
        for (at, (guarded, before)) in
            evidence(setting, observation).iter().zip(&self.guarded).enumerate()
        {
            let Some(guardrails) = &setting.config.guardrails else { break };
            match guardrails.judge(&guarded.since(before)) {
                Judgement::Fail(why) => {
                    let why = format!("{} breaks its guardrails: {why}", setting.arms[at + 1]);
                    return self.end(setting, 0, why);
                }
                Judgement::Hold(why) => unsure = unsure.or(Some(why)),
                Judgement::Pass => {}
            }
        }
        if let Some(why) = assignment::mismatch(assigned(setting, observation)) {
            return (Phase::Holding, why);
        }
        let words = |arm: usize| found[arm - 1].words(setting, arm, values);
        let every = || (1..setting.arms.len()).map(words).collect::<Vec<_>>().join("; ");
        let lasts_ms = observation.now_ms().saturating_sub(self.since_ms);
        let late = setting.config.max_ms.is_some_and(|most| lasts_ms >= most);
        let open = found.iter().any(|finding| finding.result == Found::Undecided);
        if lasts_ms < setting.config.min_ms || (open && !late) {
            let nothing = values.iter().any(|values| values.count == 0);
            let phase = if nothing { Phase::Holding } else { Phase::Progressing };
            return (phase, every());
        }
        let sign = setting.sign();
        let won = (1..).zip(found).filter(|(_, finding)| finding.result == Found::Wins);
        let best = won.max_by(|(_, a), (_, b)| (sign * a.effect).total_cmp(&(sign * b.effect)));
        match (best, unsure) {
            (Some((arm, _)), None) => self.end(setting, arm, words(arm)),
            (Some(_), Some(why)) => (Phase::Holding, format!("{}, but {why}", every())),
            (None, _) if open => {
                self.end(setting, 0, format!("time is over without a decision: {}", every()))
            }
            (None, _) => self.end(setting, 0, every()),
        }
    }

    /// Settles that an arm is to stay.
    fn end(&mut self, setting: &Setting, arm: usize, why: String) -> (Phase, String) {
        let why = match setting.rollout {
            true => why,
            false => format!("{} is to stay: {why}", setting.arms[arm]),
        };
        self.decided = Some((arm, why.clone()));
        (ended(arm), why)
    }
}

/// Where a rollout stands once it is settled which arm is to stay.
fn ended(arm: usize) -> Phase {
    if arm == 0 { Phase::Failed } else { Phase::Succeeded }
}

impl Setting {
    fn evaluation(
        &self,
        trial: &Trial,
        phase: Phase,
        message: String,
    ) -> Result<Evaluation, PolicyError> {
        let plan = Plan::keep(SCHEMA, trial);
        let mut evaluation = Evaluation::standing(&weights(self, &plan)?);
        // A routing policy stays steady: its arms are there as long as the revision is.
        evaluation.phase = if self.rollout { phase } else { Phase::Steady };
        evaluation.plan = plan;
        evaluation.message = message;
        evaluation.next_tick_ms = Some(self.config.interval_ms);
        if self.only.is_none() {
            // Its router would only draw from the weights.
            evaluation.attributes.push(("router".into(), "idle".into()));
        }
        Ok(evaluation)
    }
}

/// What guardrails look at, of the first arm and each other.
fn evidence(setting: &Setting, observation: &impl Observe) -> Vec<Evidence> {
    let Some(guardrails) = &setting.config.guardrails else { return Vec::new() };
    let others = 1..setting.arms.len() as u32;
    others.map(|arm| guardrails.evidence(observation, [0, arm], Since::Beginning)).collect()
}

/// How likely units fell to the arms as they did.
fn assigned(setting: &Setting, observation: &impl Observe) -> Option<f64> {
    if setting.rollout {
        // The next revision had no share before it was ready.
        return assignment::by_expectation(observation, 1);
    }
    // Only units that chance assigned are told.
    assignment::by_shares(observation, &setting.weights)
}

fn since(now: &[Values], before: &[Values]) -> Vec<Values> {
    let none = Values::default();
    let each = now.iter().enumerate();
    each.map(|(at, now)| now.since(before.get(at).unwrap_or(&none))).collect()
}

/// What is found, for people and for whoever draws it.
fn attributes(
    setting: &Setting,
    trial: &Trial,
    values: &[Values],
    found: &[Finding],
) -> Vec<(String, String)> {
    let mut attributes = Vec::new();
    for (arm, values) in setting.arms.iter().zip(values) {
        attributes.push((format!("mean.{arm}"), values.mean().to_string()));
    }
    for (at, (arm, finding)) in setting.arms[1..].iter().zip(found).enumerate() {
        let decision = match finding.result {
            Found::Wins => "wins",
            Found::Loses => "loses",
            Found::Undecided => "undecided",
        };
        attributes.push((format!("effect.{arm}"), finding.effect.to_string()));
        attributes.push((format!("interval.{arm}"), finding.bounds()));
        attributes.push((format!("p.{arm}"), finding.p_value.to_string()));
        attributes.push((format!("decision.{arm}"), decision.into()));
        let days: Vec<Estimate> = trial
            .days
            .iter()
            .filter_map(|day| day.get(at))
            .map(|&(value, variance)| Estimate { value, variance, units: 1 })
            .collect();
        if let Some(stability) = several::stability(&days) {
            attributes.push((format!("p-of-equal-days.{arm}"), stability.p_value.to_string()));
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use berth_sdk::{Measure, Observed, config};

    use super::*;
    use crate::config::Config;

    fn setting(text: &str, observed: &Observed) -> Setting {
        Setting::new(config::parse::<Config>(text).unwrap(), observed).unwrap()
    }

    /// So many rewards of an arm, of which a part are 1.
    fn rewards(observed: &mut Observed, arm: u32, count: u64, part: f64) {
        let sum = (count as f64 * part).round();
        observed.put(arm, "reward", None, Measure { count, sum, sum_of_squares: sum });
    }

    /// A time, the rewards of each arm, and what is expected of weights, phase and message.
    type Look<'a> = (u64, &'a [(u64, f64)], &'a [f64], Phase, &'a str);

    /// Looks again and again.
    #[track_caller]
    fn check(text: &str, arms: &[&str], story: &[Look<'_>]) {
        let mut observed = Observed::new(arms);
        let mut plan = None;
        for (at, (now_ms, of_arms, weights, phase, part)) in story.iter().enumerate() {
            observed.now_ms = *now_ms;
            for (arm, (count, part)) in (0..).zip(*of_arms) {
                rewards(&mut observed, arm, *count, *part);
            }
            let evaluation = evaluate(&setting(text, &observed), &observed, plan).unwrap();
            let found: Vec<f64> = evaluation.arms.iter().map(|arm| arm.weight).collect();
            let message = &evaluation.message;
            assert_eq!((&found[..], evaluation.phase), (*weights, *phase), "{at}: {message}");
            assert!(message.contains(part), "{at}: {message}");
            plan = Some(evaluation.plan);
        }
    }

    const REWARD: &str = r#"{"metric": "reward", "effect": 0.05}"#;
    const TWO: [&str; 2] = ["live", "next"];

    #[test]
    fn a_rollout_ends_with_the_better_one() {
        let even = &[1.0, 1.0][..];
        check(
            REWARD,
            &TWO,
            &[
                (0, &[(0, 0.0), (0, 0.0)], even, Phase::Holding, "live: nothing"),
                (1, &[(40, 0.5), (40, 0.9)], even, Phase::Progressing, "may be better or not"),
                (
                    2,
                    &[(800, 0.5), (800, 0.6)],
                    &[0.0, 1.0],
                    Phase::Succeeded,
                    "reward of next: 0.6 in 800, live: 0.5 in 800, by 0.1 (",
                ),
                (3, &[(900, 0.5), (900, 0.1)], &[0.0, 1.0], Phase::Succeeded, "next is better"),
            ],
        );
        let begun = (0, &[(0, 0.0), (0, 0.0)][..], even, Phase::Holding, "nothing");
        for (part, why) in [(0.4, "next is not better"), (0.5, "next is not better")] {
            let seen = [(90_000, 0.5), (90_000, part)];
            check(REWARD, &TWO, &[begun, (1, &seen, &[1.0, 0.0], Phase::Failed, why)]);
        }
        let lower = r#"{"metric": "reward", "effect": 0.05, "better": "lower"}"#;
        let seen = [(800, 0.6), (800, 0.5)];
        check(lower, &TWO, &[begun, (1, &seen, &[0.0, 1.0], Phase::Succeeded, "is better")]);
    }

    #[test]
    fn what_is_not_worse_may_be_enough() {
        let text = r#"{"metric": "reward", "effect": 0.05, "aim": "not-worse"}"#;
        let begun = (0, &[(0, 0.0), (0, 0.0)][..], &[1.0, 1.0][..], Phase::Holding, "nothing");
        let seen = [(9000, 0.5), (9000, 0.5)];
        check(text, &TWO, &[begun, (1, &seen, &[0.0, 1.0], Phase::Succeeded, "is not worse")]);
        let seen = [(9000, 0.5), (9000, 0.4)];
        check(text, &TWO, &[begun, (1, &seen, &[1.0, 0.0], Phase::Failed, "is not better")]);
    }

    #[test]
    fn a_fixed_test_looks_once() {
        let text = r#"{"metric": "reward", "effect": 0.05, "method": "fixed"}"#;
        let even = &[1.0, 1.0][..];
        let begun = (0, &[(0, 0.0), (0, 0.0)][..], even, Phase::Holding, "nothing");
        // 1,562 units in each arm are the design's: (1.96 + 0.8416)² · 2 · 0.25 / 0.05².
        let early = [(1500, 0.5), (1500, 0.9)];
        let due = [(1600, 0.5), (1600, 0.55)];
        check(
            text,
            &TWO,
            &[
                begun,
                (1, &[(500, 0.5), (500, 0.7)], even, Phase::Progressing, "% of the evidence"),
                (2, &due, &[0.0, 1.0], Phase::Succeeded, "is better"),
            ],
        );
        let same = [(1600, 0.5), (1600, 0.52)];
        check(text, &TWO, &[begun, (1, &same, &[1.0, 0.0], Phase::Failed, "is not better")]);
        // What differs less is known sooner.
        check(text, &TWO, &[begun, (1, &early, &[0.0, 1.0], Phase::Succeeded, "is better")]);
    }

    #[test]
    fn variants_stay_or_give_way() {
        let three = ["a", "b", "c"];
        let even = &[1.0, 1.0, 1.0][..];
        let begun = (0, &[(0, 0.0), (0, 0.0), (0, 0.0)][..], even, Phase::Steady, "nothing");
        let seen = [(5000, 0.5), (5000, 0.6), (5000, 0.7)];
        let won = "c is to stay: reward of c: 0.7";
        check(REWARD, &three, &[begun, (1, &seen, &[0.0, 0.0, 1.0], Phase::Steady, won)]);
        let held = r#"{"metric": "reward", "effect": 0.05, "then": "hold"}"#;
        check(held, &three, &[begun, (1, &seen, even, Phase::Steady, won)]);
        let none = [(90_000, 0.5), (90_000, 0.4), (90_000, 0.5)];
        check(
            REWARD,
            &three,
            &[begun, (1, &none, &[1.0, 0.0, 0.0], Phase::Steady, "a is to stay")],
        );
    }

    #[test]
    fn several_arms_take_more_evidence() {
        let text = r#"{"metric": "reward", "effect": 0.05, "method": "fixed"}"#;
        // z is 2.09 and p is 0.037: enough where there is one to compare with, not where there are two.
        let (same, better) = ((2000, 0.5), (2000, 0.533));
        let none = (0, 0.0);
        let steady = Phase::Steady;
        let begun = (0, &[none, none][..], &[1.0, 1.0][..], steady, "nothing");
        let seen = &[same, better][..];
        check(text, &["a", "b"], &[begun, (1, seen, &[0.0, 1.0], steady, "b is to stay")]);
        let begun = (0, &[none, none, none][..], &[1.0, 1.0, 1.0][..], steady, "nothing");
        let seen = &[same, better, same][..];
        check(
            text,
            &["a", "b", "c"],
            &[begun, (1, seen, &[1.0, 0.0, 0.0], steady, "a is to stay")],
        );
    }

    #[test]
    fn time_bounds_it() {
        let text = r#"{"metric": "reward", "effect": 0.05, "min_ms": 100, "max_ms": 200}"#;
        let even = &[1.0, 1.0][..];
        let begun = (0, &[(0, 0.0), (0, 0.0)][..], even, Phase::Holding, "nothing");
        let seen = [(800, 0.5), (800, 0.6)];
        check(
            text,
            &TWO,
            &[
                begun,
                (99, &seen, even, Phase::Progressing, "is better"),
                (100, &seen, &[0.0, 1.0], Phase::Succeeded, "is better"),
            ],
        );
        let seen = [(80, 0.5), (80, 0.5)];
        check(
            text,
            &TWO,
            &[begun, (200, &seen, &[1.0, 0.0], Phase::Failed, "time is over without a decision")],
        );
    }

    #[test]
    fn a_broken_split_decides_nothing_and_guardrails_end_it() {
        let text = r#"{"metric": "reward", "effect": 0.05, "guardrails": {"max_error_rate": 0.1}}"#;
        let mut observed = Observed::new(&["a", "b"]);
        let first = evaluate(&setting(text, &observed), &observed, None).unwrap().plan;
        for arm in 0..2 {
            rewards(&mut observed, arm, 2000, 0.5 + f64::from(arm) / 5.0);
            observed.count(arm, "requests", 2000).count(arm, "first-exposures", 2000);
        }
        observed.count(1, "first-exposures", 1500);
        let evaluated = |observed: &Observed| {
            let evaluation =
                evaluate(&setting(text, observed), observed, Some(first.clone())).unwrap();
            (evaluation.arms[1].weight, evaluation.message)
        };
        let (weight, message) = evaluated(&observed);
        assert_eq!(weight, 1.0, "{message}");
        assert!(message.starts_with("units do not fall to the arms"), "{message}");
        observed.count(1, "first-exposures", 2010);
        assert_eq!(evaluated(&observed).1.split(':').next(), Some("b is to stay"));
        observed.count(1, "errors", 600);
        let (weight, message) = evaluated(&observed);
        assert_eq!(weight, 0.0, "{message}");
        assert!(message.starts_with("a is to stay: b breaks its guardrails: 600 of"), "{message}");
    }

    #[test]
    fn days_are_told_apart() {
        let mut observed = Observed::new(&TWO);
        let text = r#"{"metric": "reward", "effect": 0.001, "max_ms": 900000000000}"#;
        let mut plan = None;
        let mut last = Vec::new();
        let mut sums = [0.0; 2];
        for day in 0..=3u64 {
            observed.now_ms = day * DAY;
            for (arm, sum) in (0..).zip(&mut sums) {
                // The second arm is better on one day and worse on the next.
                let better = if day % 2 == 0 { 0.1 } else { -0.1 };
                *sum += if day > 0 { 1000.0 * (0.5 + f64::from(arm) * better) } else { 0.0 };
                let measure = Measure { count: 1000 * day, sum: *sum, sum_of_squares: *sum };
                observed.put(arm, "reward", None, measure);
            }
            let evaluation = evaluate(&setting(text, &observed), &observed, plan).unwrap();
            last = evaluation.attributes;
            plan = Some(evaluation.plan);
        }
        let stability = last.iter().find(|(name, _)| name == "p-of-equal-days.next").unwrap();
        assert!(stability.1.parse::<f64>().unwrap() < 1e-6, "{stability:?}");
    }

    #[test]
    fn only_those_in_the_test_count() {
        let text = r#"{"metric": "reward", "effect": 0.05, "where": {"region": ["eu", "uk"]}}"#;
        let mut observed = Observed::new(&["a", "b"]);
        observed.attributes = vec!["region".into()];
        let first = evaluate(&setting(text, &observed), &observed, None).unwrap();
        assert!(!first.attributes.contains(&("router".into(), "idle".into())));
        for arm in 0..2 {
            rewards(&mut observed, arm, 90_000, 0.5);
            for slice in ["region=eu", "region=uk"] {
                let sum = 500.0 + 100.0 * f64::from(arm);
                let measure = Measure { count: 1000, sum, sum_of_squares: sum };
                observed.put(arm, "reward", Some(slice), measure);
            }
        }
        let setting = setting(text, &observed);
        let evaluation = evaluate(&setting, &observed, Some(first.plan)).unwrap();
        assert!(evaluation.message.contains("b: 0.6 in 2000"), "{}", evaluation.message);
        assert_eq!(weights(&setting, &evaluation.plan).unwrap(), [0.0, 1.0]);
    }
}
