//! Bandits by seed, through thousands of requests whose rewards come late.

use std::collections::VecDeque;

use berth_sdk::{Measure, Observed, Phase, Plan, config};
use berth_statistics::Random;

use crate::config::Config;
use crate::shares::evaluate;

const LOOKS: u64 = 200;
const REQUESTS: u64 = 50;
/// Looks until a reward is known.
const LATE: usize = 5;

/// Looks every second, at rewards of 0 and 1 with these rates before and after the middle. Answers
/// the mean reward, and each arm's share at the end.
fn run(text: &str, rates: [[f64; 3]; 2], seed: u64) -> (f64, Vec<f64>) {
    let config = config::parse::<Config>(text).unwrap();
    let mut random = Random::new(seed);
    let mut observed = Observed::new(&["a", "b", "c"]);
    let mut late: VecDeque<[(u64, f64); 3]> = VecDeque::new();
    let (mut known, mut earned) = ([(0u64, 0.0); 3], 0.0);
    let mut plan: Option<Plan> = None;
    let mut shares = Vec::new();
    for look in 0..LOOKS {
        observed.now_ms = look * 1000;
        for (arm, (count, sum)) in (0..).zip(known) {
            observed.put(arm, "reward", None, Measure { count, sum, sum_of_squares: sum });
        }
        let evaluation = evaluate(&config, &observed, plan).unwrap();
        shares = evaluation.arms.iter().map(|arm| arm.weight).collect();
        plan = Some(evaluation.plan);
        let mut new = [(0, 0.0); 3];
        for _ in 0..REQUESTS {
            let at = random.uniform();
            let arm = if at < shares[0] { 0 } else { 1 + usize::from(at >= shares[0] + shares[1]) };
            let rate = rates[usize::from(look >= LOOKS / 2)][arm];
            let reward = if random.chance(rate) { 1.0 } else { 0.0 };
            new[arm].0 += 1;
            new[arm].1 += reward;
            earned += reward;
        }
        late.push_back(new);
        if late.len() > LATE {
            for (known, new) in known.iter_mut().zip(late.pop_front().unwrap()) {
                *known = (known.0 + new.0, known.1 + new.1);
            }
        }
    }
    (earned / (LOOKS * REQUESTS) as f64, shares)
}

/// Looks every ten seconds at arms each of which earns the same again and again, of as many requests
/// as its share gives it, and answers each arm's share at every look once all have had enough.
fn constant(text: &str, each: [f64; 2], seed: u64) -> Vec<f64> {
    let config = config::parse::<Config>(text).unwrap();
    let mut random = Random::new(seed);
    let mut observed = Observed::new(&["a", "b"]);
    let (mut counts, mut plan, mut shares) = ([0u64; 2], None, Vec::new());
    for look in 0..1000 {
        observed.now_ms = look * 10_000;
        for (arm, (&count, value)) in (0..).zip(counts.iter().zip(each)) {
            let (sum, sum_of_squares) = (count as f64 * value, count as f64 * value * value);
            observed.put(arm, "reward", None, Measure { count, sum, sum_of_squares });
        }
        let evaluation = evaluate(&config, &observed, plan).unwrap();
        let share = evaluation.arms[1].weight;
        plan = Some(evaluation.plan);
        if look > 20 {
            shares.push(share);
        }
        for _ in 0..20 {
            counts[usize::from(random.chance(share))] += 1;
        }
    }
    shares
}

#[test]
fn an_arm_that_always_earns_the_same_keeps_what_it_deserves() {
    let lower = r#"{"better": "lower"}"#;
    for (text, each, expected) in [
        ("{}", [0.0, 1.0], 0.95),
        (lower, [0.0, 1.0], 0.05),
        ("{}", [1.0, 0.0], 0.05),
        ("{}", [3.0, 5.0], 0.95),
        (lower, [3.0, 5.0], 0.05),
    ] {
        for seed in 0..5 {
            let shares = constant(text, each, seed);
            let off = shares.iter().find(|share| (**share - expected).abs() > 0.01);
            assert_eq!(off, None, "{text} {each:?}, seed {seed}");
        }
    }
}

/// Of several seeds, the mean reward and the mean share of each arm at the end.
fn mean(text: &str, rates: [[f64; 3]; 2]) -> (f64, [f64; 3]) {
    const SEEDS: u64 = 6;
    let (mut earned, mut shares) = (0.0, [0.0; 3]);
    for seed in 0..SEEDS {
        let (reward, last) = run(text, rates, seed);
        earned += reward / SEEDS as f64;
        for (shares, last) in shares.iter_mut().zip(last) {
            *shares += last / SEEDS as f64;
        }
    }
    (earned, shares)
}

#[test]
fn it_earns_what_the_best_arm_earns() {
    let rates = [[0.3, 0.5, 0.4]; 2];
    for text in [r#"{"floor": 0.02}"#, r#"{"method": "epsilon-greedy", "floor": 0.02}"#] {
        let (earned, shares) = mean(text, rates);
        // Equal shares would come to 0.4, the best arm alone to 0.5.
        assert!(earned > 0.47, "{text}: {earned}");
        assert!(shares[1] > 0.85 && shares.iter().all(|&share| share >= 0.02), "{shares:?}");
    }
}

#[test]
fn what_changes_is_found_when_old_rewards_fade() {
    let rates = [[0.3, 0.5, 0.3], [0.3, 0.3, 0.5]];
    let (_, fading) = mean(r#"{"half_life_ms": 15000}"#, rates);
    let (_, lasting) = mean(r#"{"half_life_ms": 0}"#, rates);
    assert!(fading[2] > 0.7, "{fading:?}");
    assert!(fading[2] > lasting[2] + 0.1, "{fading:?} and {lasting:?}");
}

/// A rollout that looks every ten seconds, of two revisions whose rewards come late with these rates
/// before and after a third of the time. Where it ends, and the next revision's share at the end.
fn rollout(rates: [[f64; 2]; 2], text: &str, seed: u64) -> (Phase, f64) {
    const LOOKS: u64 = 120;
    let config = config::parse::<Config>(text).unwrap();
    let mut random = Random::new(seed);
    let mut observed = Observed::new(&["live", "next"]);
    let mut late: VecDeque<[(u64, f64); 2]> = VecDeque::new();
    let mut known = [(0u64, 0.0); 2];
    let (mut plan, mut share, mut phase) = (None, 0.5, Phase::Progressing);
    for look in 0..LOOKS {
        observed.now_ms = look * 10_000;
        for (arm, (count, sum)) in (0..).zip(known) {
            observed.put(arm, "reward", None, Measure { count, sum, sum_of_squares: sum });
        }
        let evaluation = evaluate(&config, &observed, plan).unwrap();
        (share, phase) = (evaluation.arms[1].weight, evaluation.phase);
        if phase != Phase::Progressing {
            break;
        }
        plan = Some(evaluation.plan);
        let mut new = [(0, 0.0); 2];
        for _ in 0..REQUESTS {
            let arm = usize::from(random.chance(share));
            let rate = rates[usize::from(look >= LOOKS / 3)][arm];
            new[arm].0 += 1;
            new[arm].1 += f64::from(u8::from(random.chance(rate)));
        }
        late.push_back(new);
        if late.len() > LATE {
            for (known, new) in known.iter_mut().zip(late.pop_front().unwrap()) {
                *known = (known.0 + new.0, known.1 + new.1);
            }
        }
    }
    (phase, share)
}

#[test]
fn what_changes_for_both_ends_no_rollout_and_favours_none() {
    const SEEDS: u64 = 100;
    for rates in [[0.05, 0.4], [0.4, 0.05]] {
        let ended = |seed: &u64| {
            let (phase, _) = rollout(rates.map(|rate| [rate; 2]), r#"{"alpha": 0.05}"#, *seed);
            phase != Phase::Progressing
        };
        let wrong = (0..SEEDS).filter(ended).count() as f64 / SEEDS as f64;
        let most = 0.05 + 3.0 * (0.05 * 0.95 / SEEDS as f64).sqrt();
        assert!(wrong <= most, "{rates:?}: {wrong} ended");
    }
    // The better one is found all the same, also by its share alone.
    for seed in 0..10 {
        let better = [[0.05, 0.1], [0.3, 0.5]];
        let (phase, _) = rollout(better, "{}", seed);
        assert_eq!(phase, Phase::Succeeded, "{seed}");
        let (_, share) = rollout(better, r#"{"alpha": 1e-300}"#, seed);
        assert!(share > 0.9, "{seed}: {share}");
    }
}

#[test]
fn the_same_is_decided_from_the_same() {
    let rates = [[0.3, 0.5, 0.4]; 2];
    let text = r#"{"half_life_ms": 15000}"#;
    assert_eq!(run(text, rates, 7), run(text, rates, 7));
}
