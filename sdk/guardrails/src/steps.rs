//! Rollouts by steps: what canary, rolling and blue-green have in common.

use berth_sdk::{ConfigError, Evaluation, Observe, Phase, Plan, PolicyError};
use serde::{Deserialize, Serialize};

use crate::evidence::Since;
use crate::guardrails::{Evidence, Guardrails, Judgement, percent};

/// The arm of the live revision.
pub const LIVE: u32 = 0;

/// The arm of the next revision.
pub const NEXT: u32 = 1;

/// The most steps, so that a plan stays small and its text short.
const STEPS: usize = 100;

/// The layout of [`Progress`].
const SCHEMA: &str = "steps-3";

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
    /// What the live revision had before, in a step in which it has no share: in the last one in
    /// which it did, or before the first.
    live: Option<Evidence>,
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
        self.guardrails.check("guardrails")?;
        match self.guardrails.without_margin().filter(|_| self.switches()) {
            None => Ok(()),
            Some(name) => Err(ConfigError::new(
                format!("guardrails.{name}"),
                "a switch of all traffic is compared with what the live revision had before, which never shows a difference of 0: give a margin above 0, or use a policy with steps",
            )),
        }
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
            evidence: self.guardrails.evidence(observation, [LIVE, NEXT], Since::Plan),
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
            let compared = self.switches() && self.guardrails.compare();
            let missing = compared.then(|| self.guardrails.too_little(&seen.evidence)).flatten();
            if let Some(found) = missing {
                let why = format!("waiting for what to compare with: {found}");
                let mut evaluation = Evaluation::moving(0.0, Phase::Progressing, why);
                evaluation.plan = Plan::empty(SCHEMA);
                evaluation.next_tick_ms = Some(self.look());
                return evaluation;
            }
            return self.step(0, seen, &seen.evidence);
        };
        // A newer configuration may have fewer steps.
        progress.step = progress.step.min(self.shares.len() - 1);
        let (step, steps) = (progress.step + 1, self.shares.len());
        let came = seen.evidence.since(&progress.before);
        let judged = self.guardrails.judge(&match &progress.live {
            Some(live) => came.after(live, !self.switches()),
            None => came.clone(),
        });
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
                    return self.step(step, seen, &came);
                }
                (Phase::Succeeded, "the guardrails have held".to_owned())
            }
            Judgement::Pass => (Phase::Progressing, "the guardrails hold".to_owned()),
        };
        self.at(progress, phase, &why)
    }

    /// Whether the live revision has no share as soon as the next one has some.
    fn switches(&self) -> bool {
        self.shares[0] >= 1.0
    }

    /// How often to look.
    fn look(&self) -> u64 {
        (self.interval_ms / 10).min(LOOK)
    }

    /// Begins a step, with what `came` in the one before.
    fn step(&self, step: usize, seen: &Seen, came: &Evidence) -> Evaluation {
        let progress = Progress {
            step,
            since_ms: seen.now_ms,
            before: seen.evidence.clone(),
            live: (self.shares[step] >= 1.0).then(|| came.clone()),
        };
        let why = if step == 0 { "the next revision is ready" } else { "the guardrails have held" };
        self.at(progress, Phase::Progressing, why)
    }

    fn at(&self, progress: Progress, phase: Phase, why: &str) -> Evaluation {
        let share = self.shares[progress.step];
        let (step, steps) = (progress.step + 1, self.shares.len());
        let message = format!("step {step} of {steps}, {} %: {why}", percent(share));
        let mut evaluation = Evaluation::moving(share, phase, message);
        evaluation.plan = Plan::keep(SCHEMA, &progress);
        evaluation.next_tick_ms = Some(self.look());
        evaluation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Values;
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

    /// Guardrails that compare, and a look at both: requests and failures of the live revision and
    /// of the next, rewards of each, of which a part are 1.
    fn comparing(shares: &[f64]) -> Steps {
        let guardrails = serde_json::from_str(
            r#"{"max_error_rate": 0.5, "min_requests": 10, "max_error_increase": 0.1,
                "bounds": [{"metric": "reward", "max_fall": 0.1}]}"#,
        );
        Steps { shares: shares.to_vec(), interval_ms: 1000, guardrails: guardrails.unwrap() }
    }

    fn both(now_ms: u64, of: [(u64, u64, f64); 2]) -> Seen {
        let counts =
            of.map(|(requests, errors, _)| Counts { requests, errors, ..Counts::default() });
        let values = of.map(|(count, _, part)| {
            let sum = (count as f64 * part).round();
            Values { count, sum, squares: sum, alike: 1.0 }
        });
        let evidence = Evidence { whole: counts, bounds: vec![values], ..Evidence::default() };
        Seen { now_ms, ready: true, evidence }
    }

    /// A time, what both have had, and what is expected of share, phase and message.
    type Look<'a> = (u64, [(u64, u64, f64); 2], f64, Phase, &'a str);

    #[track_caller]
    fn check_both(shares: &[f64], story: &[Look<'_>]) {
        let mut progress = None;
        for (at, (now_ms, of, share, phase, part)) in story.iter().enumerate() {
            let evaluation = comparing(shares).decide(progress, &both(*now_ms, *of));
            let Evaluation { arms, message, plan, .. } = &evaluation;
            assert_eq!((arms[1].weight, evaluation.phase), (*share, *phase), "{at}: {message}");
            assert!(message.contains(part), "{at}: {message}");
            progress = (!plan.data.is_empty()).then(|| plan.read(SCHEMA).unwrap());
        }
    }

    #[test]
    fn without_a_live_share_the_next_is_compared_with_what_was_before() {
        let (none, two) = ((0, 0, 0.0), (2000, 20, 0.5));
        let go_on = Phase::Progressing;
        let begun = (0, [none, none], 0.5, go_on, "step 1");
        let last = (1000, [two, two], 1.0, go_on, "step 2 of 2, 100 %: the guardrails have held");
        // The live revision has nothing more, the next has 50 more and then 2000.
        check_both(
            &[0.5, 1.0],
            &[
                begun,
                last,
                (1500, [two, (2050, 20, 0.5)], 1.0, go_on, "which decides nothing yet"),
                (2500, [two, (2050, 20, 0.5)], 1.0, Phase::Holding, "of the live revision before"),
                (3000, [two, (4000, 40, 0.5)], 1.0, Phase::Succeeded, "have held"),
            ],
        );
        // Too little for the margin, but as much as beside each other, and nothing is broken.
        let less = (2600, [two, (4100, 40, 0.49)], 1.0, Phase::Succeeded, "have held");
        check_both(&[0.5, 1.0], &[begun, last, less]);
        check_both(&[0.5, 1.0], &[begun, last, (1100, [two, two], 1.0, go_on, "0 of 10 requests")]);
        let why = "0.325 in 4000 and 0.5 in 2000 of the live revision before";
        let worse = (1100, [two, (6000, 20, 0.3833)], 0.0, Phase::Failed, why);
        check_both(&[0.5, 1.0], &[begun, last, worse]);
        let failing = (
            1100,
            [two, (3000, 520, 0.5)],
            0.0,
            Phase::Failed,
            "500 of 1000 requests failed and 20 of 2000 of the live revision before",
        );
        check_both(&[0.5, 1.0], &[begun, last, failing]);
        // One switch: first as much of the live revision as a comparison takes.
        let wait = |now_ms, live, part| (now_ms, [live, none], 0.0, go_on, part);
        let (few, many) = ((300, 3, 0.5), (9000, 90, 0.5));
        let switched = (9000, [many, none], 1.0, go_on, "step 1 of 1, 100 %");
        check_both(
            &[1.0],
            &[
                wait(0, none, "waiting for what to compare with: 0 requests of the live revision"),
                wait(
                    1000,
                    few,
                    "300 values of reward of the live revision so far, which tell as much as 300 units with one each; it takes about",
                ),
                switched,
                (9500, [many, (20, 0, 0.5)], 1.0, go_on, "of the live revision before"),
                (10_000, [many, (5000, 50, 0.5)], 1.0, Phase::Succeeded, "have held"),
            ],
        );
        let worse = (9500, [many, (5000, 50, 0.3)], 0.0, Phase::Failed, "0.5 in 9000 of the live");
        check_both(&[1.0], &[switched, worse]);
    }

    #[test]
    fn a_switch_needs_a_margin() {
        for (shares, text, key) in [
            (&[1.0][..], r#"{"max_error_increase": 0.01}"#, ""),
            (&[0.5, 1.0], r#"{"max_error_increase": 0.0}"#, ""),
            (&[1.0], r#"{"max_error_increase": 0.0}"#, "guardrails.max_error_increase"),
            (
                &[1.0],
                r#"{"bounds": [{"metric": "reward", "max_fall": 0.0, "effect": 0.1}]}"#,
                "guardrails.bounds[0]",
            ),
        ] {
            let guardrails = serde_json::from_str(text).unwrap();
            let steps = Steps { shares: shares.to_vec(), guardrails, ..steps() };
            let found = steps.check("steps").err().map_or(String::new(), |error| error.key);
            assert_eq!(found, key, "{text}");
        }
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
