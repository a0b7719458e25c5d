//! What is remembered and decided.

use berth_guardrails::bounds::number;
use berth_sdk::{ArmState, Evaluation, Observe, Phase, Plan, PolicyError};
use berth_statistics::Verdict;
use serde::{Deserialize, Serialize};

use crate::config::{Setting, Then};
use crate::judgement::{Judged, judge};

/// The layout of [`Standing`].
const SCHEMA: &str = "shadow-1";

/// Where candidates stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Standing {
    since_ms: u64,
    /// The candidate that has passed, and why.
    passed: Option<(u32, String)>,
    /// Those that have failed, and why: they get no more copies.
    failed: Vec<(u32, String)>,
}

fn read(plan: &Plan) -> Result<Option<Standing>, PolicyError> {
    (!plan.data.is_empty()).then(|| plan.read(SCHEMA)).transpose()
}

/// The arm that answers, and those that get copies, under a plan.
fn arms(setting: &Setting, plan: &Plan) -> Result<(u32, Vec<u32>), PolicyError> {
    let Some(standing) = read(plan)? else { return Ok((0, setting.candidates.clone())) };
    let switched = setting.rollout || setting.config.then == Then::Switch;
    if let Some((arm, _)) = standing.passed
        && switched
    {
        return Ok((arm, Vec::new()));
    }
    let left = |arm: &&u32| !standing.failed.iter().any(|(failed, _)| failed == *arm);
    Ok((0, setting.candidates.iter().filter(left).copied().collect()))
}

pub(crate) fn evaluate(
    setting: &Setting,
    observation: &impl Observe,
    plan: Option<Plan>,
) -> Result<Evaluation, PolicyError> {
    if setting.rollout && !observation.ready(1) {
        let waiting = "the next revision is being made ready";
        let mut evaluation = Evaluation::moving(0.0, Phase::Progressing, waiting);
        evaluation.plan = plan.unwrap_or_else(|| Plan::empty(SCHEMA));
        return Ok(evaluation);
    }
    let mut standing = match plan.map(|plan| read(&plan)).transpose()?.flatten() {
        Some(standing) => standing,
        None => Standing { since_ms: observation.now_ms(), passed: None, failed: Vec::new() },
    };
    let judged: Vec<(u32, Judged)> = setting
        .candidates
        .iter()
        .map(|&candidate| (candidate, judge(setting, observation, candidate)))
        .collect();
    standing.settle(setting, observation.now_ms(), &judged);
    standing.evaluation(setting, &judged)
}

impl Standing {
    fn settle(&mut self, setting: &Setting, now_ms: u64, judged: &[(u32, Judged)]) {
        let lasts_ms = now_ms.saturating_sub(self.since_ms);
        for (arm, judged) in judged {
            let settled = self.passed.as_ref().is_some_and(|(passed, _)| passed == arm)
                || self.failed.iter().any(|(failed, _)| failed == arm);
            match judged.verdict {
                Verdict::Broken if !settled => self.failed.push((*arm, judged.why.clone())),
                Verdict::Holds if !settled && lasts_ms >= setting.config.min_ms => {
                    self.passed.get_or_insert_with(|| (*arm, judged.why.clone()));
                }
                Verdict::Holds | Verdict::Broken | Verdict::Inconclusive => {}
            }
        }
    }

    fn evaluation(
        &self,
        setting: &Setting,
        judged: &[(u32, Judged)],
    ) -> Result<Evaluation, PolicyError> {
        let plan = Plan::keep(SCHEMA, self);
        let (answers, shadows) = arms(setting, &plan)?;
        let weights: Vec<f64> =
            (0..setting.arms.len() as u32).map(|arm| f64::from(u8::from(arm == answers))).collect();
        let mut evaluation = Evaluation::standing(&weights);
        for arm in &mut evaluation.arms {
            arm.shadow = shadows.contains(&arm.arm);
            if arm.shadow || setting.rollout {
                arm.state = ArmState::Ready;
            }
        }
        evaluation.phase = match (&self.passed, self.failed.is_empty()) {
            _ if !setting.rollout => Phase::Steady,
            (Some(_), _) => Phase::Succeeded,
            (None, false) => Phase::Failed,
            (None, true) => Phase::Progressing,
        };
        evaluation.message = self.message(setting, judged);
        evaluation.next_tick_ms = Some(setting.config.interval_ms);
        evaluation.plan = plan;
        for (arm, Judged { agreement, .. }) in judged {
            let name = &setting.arms[*arm as usize];
            let interval = format!("{} to {}", number(agreement.lower), number(agreement.upper));
            evaluation.attributes.push((format!("agreement.{name}"), interval));
        }
        if setting.config.share < 1.0 {
            let share = setting.config.share.to_string();
            evaluation.attributes.push(("shadow-sample".into(), share));
        }
        Ok(evaluation)
    }

    fn message(&self, setting: &Setting, judged: &[(u32, Judged)]) -> String {
        let each = judged.iter().map(|(arm, judged)| {
            let name = &setting.arms[*arm as usize];
            let passed = self.passed.iter().find(|(passed, _)| passed == arm);
            let failed = self.failed.iter().find(|(failed, _)| failed == arm);
            match (passed, failed) {
                (Some((_, why)), _) => format!("{name} passes: {why}"),
                (_, Some((_, why))) => format!("{name} fails: {why}"),
                _ => format!("{name}: {}", judged.why),
            }
        });
        each.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use berth_sdk::{Measure, Observed, config};

    use super::*;
    use crate::config::Config;

    const TEXT: &str = r#"{"min_agreement": 0.9, "min_compared": 100"#;

    /// A time, what agreed of a thousand answers of each candidate (none: no answers), and what is
    /// expected of the weights, the shadows, the phase and the message.
    type Look<'a> = (u64, &'a [Option<u64>], &'a [f64], &'a [u32], Phase, &'a str);

    /// Looks again and again.
    #[track_caller]
    fn check(rest: &str, names: &[&str], story: &[Look<'_>]) {
        let mut observed = Observed::new(names);
        let mut plan = None;
        let text = format!("{TEXT}{rest}}}");
        for (at, (now_ms, agreed, weights, shadows, phase, part)) in story.iter().enumerate() {
            observed.now_ms = *now_ms;
            for (arm, agreed) in (1..).zip(*agreed) {
                let Some(agreed) = agreed else { continue };
                let sum = *agreed as f64;
                let measure = Measure { count: 1000, sum, sum_of_squares: sum };
                observed.put(arm, "agreement", None, measure);
            }
            let config = config::parse::<Config>(&text).unwrap();
            let setting = Setting::new(config, &observed).unwrap();
            let evaluation = evaluate(&setting, &observed, plan).unwrap();
            let message = &evaluation.message;
            let found: Vec<f64> = evaluation.arms.iter().map(|arm| arm.weight).collect();
            let copied = evaluation.arms.iter().filter(|arm| arm.shadow).map(|arm| arm.arm);
            let copied: Vec<u32> = copied.collect();
            assert_eq!((&found[..], &copied[..]), (*weights, *shadows), "{at}: {message}");
            assert_eq!(evaluation.phase, *phase, "{at}: {message}");
            assert!(message.contains(part), "{at}: {message}");
            assert_eq!(arms(&setting, &evaluation.plan).unwrap().1, *shadows);
            plan = Some(evaluation.plan);
        }
    }

    const TWO: [&str; 2] = ["live", "next"];
    const THREE: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn the_next_revision_takes_over_when_it_agrees() {
        let first = (0, &[None][..], &[1.0, 0.0][..], &[1][..], Phase::Progressing, "0 of 100");
        let passed = "next passes: 0.99 of 1000 answers agree";
        check(
            r#", "min_ms": 500"#,
            &TWO,
            &[
                first,
                (499, &[Some(990)], &[1.0, 0.0], &[1], Phase::Progressing, "0.99 of 1000"),
                (500, &[Some(990)], &[0.0, 1.0], &[], Phase::Succeeded, passed),
                (600, &[Some(600)], &[0.0, 1.0], &[], Phase::Succeeded, passed),
            ],
        );
        let failed = "next fails: 0.6 of 1000 answers agree";
        check("", &TWO, &[first, (1, &[Some(600)], &[1.0, 0.0], &[], Phase::Failed, failed)]);
        check(
            "",
            &TWO,
            &[first, (1, &[Some(905)], &[1.0, 0.0], &[1], Phase::Progressing, "nothing yet")],
        );
    }

    #[test]
    fn variants_are_compared_and_switched_to_where_that_is_wanted() {
        let steady = Phase::Steady;
        let first = (0, &[None, None][..], &[1.0, 0.0, 0.0][..], &[1, 2][..], steady, "0 of 100");
        let seen = &[Some(600), Some(990)][..];
        let both = "b fails: 0.6 of 1000";
        check("", &THREE, &[first, (1, seen, &[1.0, 0.0, 0.0], &[2], steady, both)]);
        let switch = r#", "then": "switch""#;
        let passed = "c passes: 0.99 of 1000";
        check(switch, &THREE, &[first, (1, seen, &[0.0, 0.0, 1.0], &[], steady, passed)]);
        let only = r#", "candidates": ["c"]"#;
        check(only, &THREE, &[(0, seen, &[1.0, 0.0, 0.0], &[2], steady, passed)]);
    }

    #[test]
    fn a_sample_is_said() {
        for (share, expected) in [(1.0, None), (0.1, Some("0.1"))] {
            let config = Config { share, ..Config::default() };
            let mut observed = Observed::new(&TWO);
            let setting = Setting::new(config, &observed).unwrap();
            let evaluation = evaluate(&setting, &observed, None).unwrap();
            let said = evaluation.attributes.iter().find(|(name, _)| name == "shadow-sample");
            assert_eq!(said.map(|(_, share)| share.as_str()), expected);
            observed.ready[1] = false;
            let evaluation = evaluate(&setting, &observed, None).unwrap();
            assert!(evaluation.arms.iter().all(|arm| !arm.shadow));
        }
    }
}
