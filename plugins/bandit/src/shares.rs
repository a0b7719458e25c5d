//! What shares follow from what arms earned.

use berth_guardrails::bounds::number;
use berth_guardrails::{Judgement, LIVE, NEXT, Since, Values, rolls_out};
use berth_sdk::{Evaluation, Observe, Phase, Plan, PolicyError};
use berth_statistics::{Alpha, Decision, Posterior, Proportion, Strata, probability_best};

use crate::config::{Config, Method};
use crate::earned::Earned;

/// The layout of [`Earned`].
const SCHEMA: &str = "bandit-2";

/// Shares are told apart by a ten-thousandth, as the host draws.
const STEPS: f64 = 10_000.0;

pub(crate) fn evaluate(
    config: &Config,
    observation: &impl Observe,
    plan: Option<Plan>,
) -> Result<Evaluation, PolicyError> {
    let arms = observation.arms();
    let rollout = rolls_out(&arms);
    let plan = plan.filter(|plan| !plan.data.is_empty());
    let mut earned = match plan {
        Some(plan) => plan.read::<Earned>(SCHEMA)?,
        None => Earned::default(),
    };
    if rollout && !observation.ready(NEXT) {
        let waiting = "the next revision is being made ready";
        let mut evaluation = Evaluation::moving(0.0, Phase::Progressing, waiting);
        evaluation.plan = Plan::empty(SCHEMA);
        return Ok(evaluation);
    }
    let all: Vec<Values> = (0..arms.len() as u32)
        .map(|arm| config.metric.observed(observation, arm, &[], Since::Beginning))
        .collect();
    earned.go_on(observation.now_ms(), config.half_life_ms, &all);
    let values = earned.values(&all);
    let posteriors = posteriors(config, &values);
    let (shares, words) = shares(config, &arms, &values, &posteriors);
    let mut evaluation = Evaluation::standing(&shares);
    evaluation.message = format!("{}: {words}", said(config, &arms, &values));
    evaluation.plan = Plan::keep(SCHEMA, &earned);
    evaluation.next_tick_ms = Some(config.interval_ms);
    for (at, arm) in arms.iter().enumerate() {
        evaluation.attributes.push((format!("mean.{arm}"), values[at].mean().to_string()));
        if let Some(posterior) = posteriors.as_ref().and_then(|all| all.get(at)) {
            let [lower, upper] = bounds(config, posterior);
            let interval = format!("{} to {}", number(lower), number(upper));
            evaluation.attributes.push((format!("interval.{arm}"), interval));
        }
    }
    if rollout {
        evaluation.phase = Phase::Progressing;
        let (phase, why) = ended(config, observation, &all, &earned.strata);
        if let Some(phase) = phase {
            let share = if phase == Phase::Succeeded { 1.0 } else { 0.0 };
            let attributes = evaluation.attributes;
            evaluation = Evaluation::moving(share, phase, why);
            evaluation.attributes = attributes;
            evaluation.plan = Plan::empty(SCHEMA);
        } else if !why.is_empty() {
            evaluation.message = format!("{}; {why}", evaluation.message);
        }
    }
    Ok(evaluation)
}

/// What each arm's mean may be, the best having the most; none while that is not known of all.
fn posteriors(config: &Config, values: &[Values]) -> Option<Vec<Posterior>> {
    if values.iter().any(|values| values.count < config.min_rewards) {
        return None;
    }
    let rates: Option<Vec<Proportion>> = values.iter().map(Values::rate).collect();
    let higher = config.higher_is_better();
    match rates {
        Some(rates) => Some(
            rates
                .into_iter()
                .map(|rate| match higher {
                    true => rate,
                    false => Proportion { successes: rate.trials - rate.successes, ..rate },
                })
                .map(Posterior::of_rate)
                .collect(),
        ),
        // By their mean as soon as one arm has others than 0 and 1.
        None => {
            let all = values.iter().fold(Values::default(), |all, values| all.with(values));
            let each = values.iter().map(|values| {
                let mut estimate = values.estimate_among(&all);
                estimate.value *= if higher { 1.0 } else { -1.0 };
                Posterior::of_mean(estimate)
            });
            each.collect()
        }
    }
}

/// Between what an arm's mean lies, with 95 % of the probability.
fn bounds(config: &Config, posterior: &Posterior) -> [f64; 2] {
    let [lower, upper] = [0.025, 0.975].map(|part| posterior.quantile(part));
    match (config.higher_is_better(), posterior) {
        (true, _) => [lower, upper],
        (false, Posterior::Beta { .. }) => [1.0 - upper, 1.0 - lower],
        (false, Posterior::Normal { .. }) => [-upper, -lower],
    }
}

/// The share of each arm, and why.
fn shares(
    config: &Config,
    arms: &[String],
    values: &[Values],
    posteriors: &Option<Vec<Posterior>>,
) -> (Vec<f64>, String) {
    let count = arms.len() as f64;
    let equal = || vec![1.0 / count; arms.len()];
    let Some(posteriors) = posteriors else {
        let few = (0..).zip(values).filter(|(_, values)| values.count < config.min_rewards);
        let few: Vec<&str> = few.map(|(at, _): (usize, _)| arms[at].as_str()).collect();
        let why = match few.is_empty() {
            true => "rewards do not differ, so nothing tells how sure they are".to_owned(),
            false => {
                format!("equal shares until {} has {} of them", few.join(", "), config.min_rewards)
            }
        };
        return (equal(), why);
    };
    let best = probability_best(posteriors);
    if best.iter().any(|part| !part.is_finite()) {
        return (equal(), "equal shares, as no probabilities come of these".into());
    }
    let (first, sure) = (0..)
        .zip(&best)
        .fold((0usize, 0.0), |most, (at, &part)| if part > most.1 { (at, part) } else { most });
    let words = format!("{} is the best with {:.1} %", arms[first], sure * 100.0);
    let shares: Vec<f64> = match config.method {
        Method::Thompson => best,
        Method::EpsilonGreedy => {
            let greedy = greedy(config, values);
            let rest = config.epsilon / count;
            let share = |at| if at == greedy { 1.0 - config.epsilon + rest } else { rest };
            (0..arms.len()).map(share).collect()
        }
    };
    (floored(&shares, config.floor), words)
}

/// The arm with the best mean, the first of equals.
fn greedy(config: &Config, values: &[Values]) -> usize {
    let sign = if config.higher_is_better() { 1.0 } else { -1.0 };
    let better = |best: usize, at: usize| sign * values[at].mean() > sign * values[best].mean();
    (1..values.len()).fold(0, |best, at| if better(best, at) { at } else { best })
}

/// Shares that are the floor at least, and that times what is left beyond.
fn floored(shares: &[f64], floor: f64) -> Vec<f64> {
    let rest = 1.0 - floor * shares.len() as f64;
    shares.iter().map(|share| ((floor + rest * share) * STEPS).round() / STEPS).collect()
}

/// Whether a rollout is over, and why; or what keeps it from ending.
fn ended(
    config: &Config,
    observation: &impl Observe,
    values: &[Values],
    strata: &Strata,
) -> (Option<Phase>, String) {
    let mut unsure = None;
    if let Some(guardrails) = &config.guardrails {
        match guardrails.judge(&guardrails.evidence(observation, [LIVE, NEXT], Since::Beginning)) {
            Judgement::Fail(why) => return (Some(Phase::Failed), why),
            Judgement::Hold(why) => unsure = Some(why),
            Judgement::Pass => {}
        }
    }
    let binary = values.iter().all(|values| values.rate().is_some());
    let Some(alpha) = Alpha::new(config.alpha).ok().filter(|_| binary) else {
        return (None, "values other than 0 and 1 end no rollout: promote or abort it".into());
    };
    let alike = values.iter().map(|values| values.alike).fold(1.0, f64::max);
    let comparison = strata.decide(alike, alpha);
    let better = match comparison.decision {
        Decision::Undecided => return (None, String::new()),
        Decision::Higher => config.higher_is_better(),
        Decision::Lower => !config.higher_is_better(),
    };
    let arms = observation.arms();
    let why = format!(
        "{}: the next revision is {} (p = {:.1e})",
        said(config, &arms, values),
        if better { "better" } else { "worse" },
        comparison.p_value
    );
    match (better, unsure) {
        (true, None) => (Some(Phase::Succeeded), why),
        (true, Some(unsure)) => (None, format!("{why}, but {unsure}")),
        (false, _) => (Some(Phase::Failed), why),
    }
}

/// What arms earned, in words.
fn said(config: &Config, arms: &[String], values: &[Values]) -> String {
    let each = arms.iter().zip(values).map(|(arm, values)| match values.count {
        0 => format!("{arm} nothing"),
        count => format!("{arm} {} in {count}", number(values.mean())),
    });
    format!("{} of {}", config.metric.name(), each.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use berth_sdk::{Measure, Observed, config};

    use super::*;

    /// Rewards of each arm as count, sum and sum of squares, and what is expected of the shares and
    /// the message.
    #[track_caller]
    fn check(text: &str, arms: &[&str], earned: &[(u64, f64, f64)], expected: &[f64], part: &str) {
        let config = config::parse::<Config>(text).unwrap();
        let mut observed = Observed::new(arms);
        config.check(&observed).unwrap();
        for (arm, &(count, sum, sum_of_squares)) in (0..).zip(earned) {
            observed.put(arm, "reward", None, Measure { count, sum, sum_of_squares });
            observed.count(arm, "requests", count);
            observed.put(arm, "errors", None, Measure { count: 0, sum, sum_of_squares });
        }
        let evaluation = evaluate(&config, &observed, None).unwrap();
        let shares: Vec<f64> = evaluation.arms.iter().map(|arm| arm.weight).collect();
        for (share, expected) in shares.iter().zip(expected) {
            let message = &evaluation.message;
            assert!((share - expected).abs() < 0.002, "{shares:?}, not {expected}: {message}");
        }
        assert!(evaluation.message.contains(part), "{}", evaluation.message);
    }

    const THREE: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn shares_follow_what_was_earned() {
        let of = |count, sum| (count, sum, sum);
        let third = &[1.0 / 3.0; 3];
        let none = [of(0, 0.0); 3];
        check("{}", &THREE, &none, third, "equal shares until a, b, c has 20 of them");
        let few = [of(500, 250.0), of(19, 19.0), of(500, 250.0)];
        check("{}", &THREE, &few, third, "equal shares until b has 20");
        let plain = [of(500, 250.0), of(500, 350.0), of(500, 250.0)];
        check("{}", &THREE, &plain, &[0.05, 0.9, 0.05], "b is the best with 100.0 %");
        let same = [of(500, 250.0); 3];
        check("{}", &THREE, &same, third, "reward of a 0.5 in 500, b 0.5 in 500");
        check(r#"{"floor": 0}"#, &THREE, &plain, &[0.0, 1.0, 0.0], "");
        let lower = r#"{"better": "lower"}"#;
        let down = [of(500, 250.0), of(500, 150.0), of(500, 250.0)];
        check(lower, &THREE, &down, &[0.05, 0.9, 0.05], "");
        let greedy = r#"{"method": "epsilon-greedy", "epsilon": 0.3, "floor": 0}"#;
        check(greedy, &THREE, &plain, &[0.1, 0.8, 0.1], "");
        // The first of equals.
        check(greedy, &THREE, &same, &[0.8, 0.1, 0.1], "");
        // P(Beta(31, 71) < Beta(41, 61)) and the rest, from the difference's normal approximation to
        // two digits.
        let two = [of(100, 30.0), of(100, 40.0)];
        check(r#"{"floor": 0}"#, &["a", "b"], &two, &[0.07, 0.93], "");
    }

    #[test]
    fn rewards_of_any_size_count_by_their_mean() {
        // Means 10 and 10.5 with deviation 5 over 400: the difference is 1.41 standard errors.
        let of = |mean: f64| (400, 400.0 * mean, 400.0 * mean * mean + 399.0 * 25.0);
        check(r#"{"floor": 0}"#, &["a", "b"], &[of(10.0), of(10.5)], &[0.0786, 0.9214], "");
        let lower = r#"{"floor": 0, "better": "lower"}"#;
        check(lower, &["a", "b"], &[of(10.0), of(10.5)], &[0.9214, 0.0786], "");
        let same = (400, 280.0, 196.0);
        check("{}", &["a", "b"], &[same, same], &[0.5, 0.5], "do not differ");
        // Each arm earns the same again and again, but not what the others earn.
        let always = |value: f64| (100, 100.0 * value, 100.0 * value * value);
        let of = [always(3.0), always(4.0), always(5.0)];
        check("{}", &THREE, &of, &[0.05, 0.05, 0.9], "c is the best with 100.0 %");
        check(lower, &["a", "b"], &[always(3.0), always(5.0)], &[1.0, 0.0], "a is the best");
    }

    #[test]
    fn a_rollout_ends_when_it_is_plain() {
        let rollout = |text: &str, earned: [(u64, f64); 2], errors: u64| {
            let config = config::parse::<Config>(text).unwrap();
            let mut observed = Observed::new(&["live", "next"]);
            for (arm, (count, sum)) in (0..).zip(earned) {
                // Up to as many, each is 0 or 1; beyond, they are 0 or 2.
                let sum_of_squares = if sum > count as f64 { 2.0 * sum } else { sum };
                observed.put(arm, "reward", None, Measure { count, sum, sum_of_squares });
                observed.count(arm, "requests", 1000);
            }
            observed.count(1, "errors", errors);
            let evaluation = evaluate(&config, &observed, None).unwrap();
            (evaluation.phase, evaluation.arms[1].weight, evaluation.message)
        };
        let check = |text, earned, errors, phase, share: f64, part: &str| {
            let found = rollout(text, earned, errors);
            assert_eq!((found.0, found.1), (phase, share), "{}", found.2);
            assert!(found.2.contains(part), "{}", found.2);
        };
        let guarded = r#"{"guardrails": {"max_error_rate": 0.1}}"#;
        let (better, worse) = ([(1000, 500.0), (1000, 700.0)], [(1000, 700.0), (1000, 500.0)]);
        check("{}", better, 0, Phase::Succeeded, 1.0, "the next revision is better (p = ");
        check("{}", worse, 0, Phase::Failed, 0.0, "the next revision is worse (p = ");
        check("{}", [(0, 0.0), (0, 0.0)], 0, Phase::Progressing, 0.5, "equal shares until");
        check(guarded, better, 0, Phase::Succeeded, 1.0, "better");
        check(guarded, better, 300, Phase::Failed, 0.0, "300 of 1000 requests failed");
        check(guarded, better, 95, Phase::Progressing, 0.95, "but 95 of 1000 requests failed");
        // Rewards of any size.
        let (phase, share, message) = rollout("{}", [(1000, 500.0), (1000, 1700.0)], 0);
        assert_eq!((phase, share > 0.9), (Phase::Progressing, true), "{message}");
        assert!(message.contains("promote or abort it"), "{message}");
        let mut observed = Observed::new(&["live", "next"]);
        observed.ready[1] = false;
        let evaluation = evaluate(&Config::default(), &observed, None).unwrap();
        assert_eq!((evaluation.phase, evaluation.arms[1].weight), (Phase::Progressing, 0.0));
    }
}
