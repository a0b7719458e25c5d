//! Rollouts by steps: what canary, rolling and blue-green have in common.

use berth_sdk::{ConfigError, Evaluation, Observe, Phase, Plan, PolicyError};
use serde::{Deserialize, Serialize};

use crate::guardrails::{Evidence, Guardrails, Judgement, percent};

/// The arm of the live revision.
pub const LIVE: u32 = 0;

/// The arm of the next revision.
pub const NEXT: u32 = 1;

/// The most steps, so that a plan stays small and its text short.
const STEPS: usize = 100;

/// The layout of [`Progress`].
const SCHEMA: &str = "steps-2";

/// How often at least to look at the guardrails, in milliseconds.
const LOOK: u64 = 10_000;

/// Whether the arms are the live revision and the next, and not variants.
pub fn rolls_out(arms: &[String]) -> bool {
    arms == ["live", "next"]
}

/// Refuses to choose among anything but the live revision and the next.
pub fn two_revisions(observation: &impl Observe) -> Result<(), ConfigError> {
    if rolls_out(&observation.arms()) {
        return Ok(());
    }
    Err(ConfigError::new("", "it moves traffic between two revisions: name it under [rollout]"))
}

/// Moves traffic to the next revision in steps, each of which lasts for a while and is left once the
/// next revision keeps to its guardrails. When it does not, all goes back.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// The next revision's share in each step, ascending, above 0; the last is 1.
    pub shares: Vec<f64>,
    /// How long each step lasts at least, in milliseconds.
    pub interval_ms: u64,
    /// What the next revision must keep to in each.
    pub guardrails: Guardrails,
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Progress {
    step: usize,
    since_ms: u64,
    /// What had been observed when the step began.
    before: Evidence,
}

/// What is seen.
struct Seen {
    now_ms: u64,
    /// Whether the next revision is.
    ready: bool,
    evidence: Evidence,
}

/// What a plan holds; none before the first step.
fn progress(plan: &Plan) -> Result<Option<Progress>, PolicyError> {
    (!plan.data.is_empty()).then(|| plan.read(SCHEMA)).transpose()
}

impl Steps {
    /// Refuses steps that lead nowhere. `key` is where the configuration has them.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        if self.shares.is_empty() || self.shares.len() > STEPS {
            return Err(ConfigError::new(key, format!("give 1 to {STEPS} steps")));
        }
        let mut last = 0.0;
        for &share in &self.shares {
            if !(share > last && share <= 1.0) {
                let message = "give percentages above 0 that rise up to 100";
                return Err(ConfigError::new(key, message));
            }
            last = share;
        }
        if last < 1.0 {
            return Err(ConfigError::new(key, "the last step is 100: give it"));
        }
        self.guardrails.check("guardrails")
    }

    /// Decides on the next revision's share.
    pub fn evaluate(
        &self,
        observation: &impl Observe,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        two_revisions(observation)?;
        let seen = Seen {
            now_ms: observation.now_ms(),
            ready: observation.ready(NEXT),
            evidence: self.guardrails.evidence(observation, [LIVE, NEXT]),
        };
        let progress = plan.map(|plan| progress(&plan)).transpose()?.flatten();
        Ok(self.decide(progress, &seen))
    }

    /// The next revision's share under a plan.
    pub fn share(&self, plan: &Plan) -> Result<f64, PolicyError> {
        let last = self.shares.len().saturating_sub(1);
        let progress = progress(plan)?;
        let share = progress.and_then(|progress| self.shares.get(progress.step.min(last)).copied());
        Ok(share.unwrap_or(0.0))
    }

    fn decide(&self, progress: Option<Progress>, seen: &Seen) -> Evaluation {
        let Some(mut progress) = progress else {
            if !seen.ready {
                let waiting = "the next revision is being made ready";
                let mut evaluation = Evaluation::moving(0.0, Phase::Progressing, waiting);
                evaluation.plan = Plan::empty(SCHEMA);
                return evaluation;
            }
            return self.step(0, seen);
        };
        // A newer configuration may have fewer steps.
        progress.step = progress.step.min(self.shares.len() - 1);
        let (step, steps) = (progress.step + 1, self.shares.len());
        let judged = self.guardrails.judge(&seen.evidence.since(&progress.before));
        let lasts_ms = seen.now_ms.saturating_sub(progress.since_ms);
        let (phase, why) = match judged {
            Judgement::Fail(why) => {
                let message = format!("step {step} of {steps}: {why}");
                return Evaluation::moving(0.0, Phase::Failed, message);
            }
            _ if !seen.ready => {
                (Phase::Holding, "the next revision is being made ready again".to_owned())
            }
            Judgement::Hold(why) if lasts_ms >= self.interval_ms => (Phase::Holding, why),
            Judgement::Hold(why) => (Phase::Progressing, why),
            Judgement::Pass if lasts_ms >= self.interval_ms => {
                if step < steps {
                    return self.step(step, seen);
                }
                (Phase::Succeeded, "the guardrails have held".to_owned())
            }
            Judgement::Pass => (Phase::Progressing, "the guardrails hold".to_owned()),
        };
        self.at(progress, phase, &why)
    }

    /// Begins a step.
    fn step(&self, step: usize, seen: &Seen) -> Evaluation {
        let progress = Progress { step, since_ms: seen.now_ms, before: seen.evidence.clone() };
        let why = if step == 0 { "the next revision is ready" } else { "the guardrails have held" };
        self.at(progress, Phase::Progressing, why)
    }

    fn at(&self, progress: Progress, phase: Phase, why: &str) -> Evaluation {
        let share = self.shares[progress.step];
        let (step, steps) = (progress.step + 1, self.shares.len());
        let message = format!("step {step} of {steps}, {} %: {why}", percent(share));
        let mut evaluation = Evaluation::moving(share, phase, message);
        evaluation.plan = Plan::keep(SCHEMA, &progress);
        evaluation.next_tick_ms = Some((self.interval_ms / 10).min(LOOK));
        evaluation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guardrails::Counts;

    fn steps() -> Steps {
        Steps {
            shares: vec![0.05, 0.5, 1.0],
            interval_ms: 1000,
            guardrails: Guardrails {
                max_error_rate: 0.5,
                min_requests: 10,
                alpha: 0.1,
                ..Guardrails::default()
            },
        }
    }

    fn seen(now_ms: u64, ready: bool, requests: u64, errors: u64) -> Seen {
        let next = Counts { requests, errors, ..Counts::default() };
        let evidence = Evidence { whole: [Counts::default(), next], ..Evidence::default() };
        Seen { now_ms, ready, evidence }
    }

    /// Goes through what is seen, one after the other: share, phase, and a part of the message.
    #[track_caller]
    fn check(story: &[(Seen, f64, Phase, &str)]) {
        let mut progress = None;
        for (at, (seen, share, phase, part)) in story.iter().enumerate() {
            let evaluation = steps().decide(progress, seen);
            let Evaluation { arms, message, plan, .. } = &evaluation;
            assert_eq!((arms[1].weight, evaluation.phase), (*share, *phase), "{at}: {message}");
            assert!(message.contains(part), "{at}: {message}");
            progress = (!plan.data.is_empty()).then(|| plan.read(SCHEMA).unwrap());
        }
    }

    #[test]
    fn it_goes_on_when_time_and_guardrails_allow() {
        check(&[
            (seen(0, false, 0, 0), 0.0, Phase::Progressing, "made ready"),
            (seen(500, true, 0, 0), 0.05, Phase::Progressing, "step 1 of 3, 5 %"),
            (seen(900, true, 50, 0), 0.05, Phase::Progressing, "the guardrails hold"),
            (seen(1500, true, 50, 1), 0.5, Phase::Progressing, "step 2 of 3, 50 %"),
            (seen(2400, true, 55, 1), 0.5, Phase::Progressing, "5 of 10 requests"),
            (seen(2500, true, 59, 1), 0.5, Phase::Holding, "9 of 10 requests"),
            (seen(9500, false, 60, 1), 0.5, Phase::Holding, "made ready again"),
            (seen(9600, true, 60, 1), 1.0, Phase::Progressing, "step 3 of 3, 100 %"),
            (seen(10600, true, 90, 1), 1.0, Phase::Succeeded, "have held"),
        ]);
    }

    #[test]
    fn it_goes_back_when_guardrails_break() {
        check(&[
            (seen(0, true, 0, 0), 0.05, Phase::Progressing, "step 1 of 3"),
            (seen(1, true, 9, 9), 0.0, Phase::Failed, "step 1 of 3: 9 of 9 requests failed"),
        ]);
        // What was counted in the steps before does not count.
        check(&[
            (seen(0, true, 100, 90), 0.05, Phase::Progressing, "step 1 of 3"),
            (seen(1000, true, 120, 91), 0.5, Phase::Progressing, "step 2 of 3"),
            (seen(1001, true, 130, 101), 0.0, Phase::Failed, "10 of 10 requests failed"),
        ]);
    }

    #[test]
    fn a_plan_tells_its_share() {
        let share = |plan: &Plan| steps().share(plan).unwrap();
        assert_eq!(share(&Plan::empty("standing")), 0.0);
        let first = steps().decide(None, &seen(0, true, 0, 0));
        assert_eq!(share(&first.plan), 0.05);
        let second = steps().decide(progress(&first.plan).unwrap(), &seen(1000, true, 50, 0));
        assert_eq!(share(&second.plan), 0.5);
        assert!(steps().share(&Plan::keep("steps-1", &0)).is_err());
    }

    #[test]
    fn steps_lead_to_the_whole() {
        for (shares, fits) in [
            (&[1.0][..], true),
            (&[0.05, 1.0], true),
            (&[], false),
            (&[0.5], false),
            (&[0.5, 0.5, 1.0], false),
            (&[0.0, 1.0], false),
            (&[0.5, 1.5], false),
        ] {
            let steps = Steps { shares: shares.to_vec(), ..steps() };
            assert_eq!(steps.check("steps").is_ok(), fits, "{shares:?}");
        }
    }
}
