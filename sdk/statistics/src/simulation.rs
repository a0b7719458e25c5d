//! What the methods promise, kept by 10,000 runs from a seed: false alarms while looking all the
//! time, power, coverage.

use crate::likelihood::{log_likelihood, log_mixture};
use crate::{
    Alpha, Buckets, Decision, Design, Effect, Estimate, Events, Exposures, Moments, OffPolicy,
    Posterior, Power, Proportion, Quantile, Random, Ratio, Share, Strata, Verdict, fixed,
    probability_best, sequential, several,
};

const RUNS: u64 = 10_000;

fn alpha() -> Alpha {
    Alpha::new(0.05).unwrap()
}

/// How often something happens in 10,000 runs.
fn frequency(run: impl Fn(&mut Random) -> bool) -> f64 {
    let mut seeds = Random::new(20_260_101);
    (0..RUNS).filter(|_| run(&mut Random::new(seeds.bits()))).count() as f64 / RUNS as f64
}

/// False alarms in at most alpha plus three standard errors of the runs.
fn alarms(what: &str, run: impl Fn(&mut Random) -> bool) {
    let alpha = alpha().value();
    let found = frequency(run);
    eprintln!("{what}: {found} false alarms");
    let most = alpha + 3.0 * (alpha * (1.0 - alpha) / RUNS as f64).sqrt();
    assert!(found <= most, "{what}: {found} false alarms, {most} at most");
}

/// Power within three points of the design's.
fn power(what: &str, run: impl Fn(&mut Random) -> bool) {
    let found = frequency(run);
    eprintln!("{what}: power {found}");
    assert!((found - 0.8).abs() <= 0.03, "{what}: power {found}");
}

fn design(share: f64) -> Design {
    let (power, share) = (Power::new(0.8).unwrap(), Share::new(share).unwrap());
    Design { alpha: alpha(), power, share }
}

/// Whether a look at two arms, after each unit until there are so many, ever decides.
fn means_decide(
    random: &mut Random,
    units: u64,
    share: impl Fn(u64) -> f64,
    effect: f64,
    value: impl Fn(&mut Random, bool) -> f64,
) -> bool {
    let (mut before, mut after) = (Moments::default(), Moments::default());
    let effect = Effect::new(effect).unwrap();
    (0..units).any(|unit| {
        let candidate = random.chance(share(unit));
        let arm = if candidate { &mut after } else { &mut before };
        arm.add(value(random, candidate));
        sequential::means(&before, &after, alpha(), effect).decision != Decision::Undecided
    })
}

#[test]
fn means_give_few_false_alarms_at_any_time() {
    let even = |_| 0.5;
    alarms("normal", |random| means_decide(random, 2_000, even, 0.2, |random, _| random.normal()));
    let skewed = |random: &mut Random, _| libm::exp(random.normal());
    alarms("log-normal", |random| means_decide(random, 2_000, even, 0.4, skewed));
    let ramp = |unit| if unit < 1_000 { 0.05 } else { 0.5 };
    alarms("ramp", |random| means_decide(random, 2_000, ramp, 0.2, |random, _| random.normal()));
}

#[test]
fn means_have_the_designed_power() {
    let effect = Effect::new(0.3).unwrap();
    for share in [0.5, 0.2] {
        let units = design(share).means(1.0, effect).unwrap();
        power("fixed means", |random| {
            let (mut before, mut after) = (Moments::default(), Moments::default());
            let candidates = (units as f64 * share).round() as u64;
            (0..units - candidates).for_each(|_| before.add(random.normal()));
            (0..candidates).for_each(|_| after.add(0.3 + random.normal()));
            fixed::means(&before, &after, alpha()).decision == Decision::Higher
        });
        let units = design(share).sequential_means(1.0, effect).unwrap();
        power("sequential means", |random| {
            means_decide(
                random,
                units,
                |_| share,
                0.3,
                |random, candidate| random.normal() + if candidate { 0.3 } else { 0.0 },
            )
        });
    }
}

/// Whether a look at two rates, after each unit, ever decides.
fn rates_decide(random: &mut Random, units: u64, rates: (f64, f64), effect: f64) -> bool {
    let (mut before, mut after) = (Proportion::default(), Proportion::default());
    let effect = Effect::new(effect).unwrap();
    (0..units).any(|_| {
        let candidate = random.chance(0.5);
        let (arm, rate) = if candidate { (&mut after, rates.1) } else { (&mut before, rates.0) };
        arm.trials += 1;
        arm.successes += u64::from(random.chance(rate));
        let compared = sequential::proportions(before, after, alpha(), effect);
        compared.decision != Decision::Undecided
    })
}

#[test]
fn rates_give_few_false_alarms_at_any_time() {
    for (rate, effect) in [(0.5, 0.1), (0.02, 0.02)] {
        alarms("rates", |random| rates_decide(random, 2_000, (rate, rate), effect));
    }
}

#[test]
fn rare_errors_at_the_margin_are_rarely_taken_for_evidence() {
    for (rate, margin, share) in [(0.0, 0.02, 0.1), (0.01, 0.01, 0.1)] {
        alarms("margin of rare errors", |random| {
            let (mut before, mut after) = (Proportion::default(), Proportion::default());
            let effect = Effect::new(margin).unwrap();
            (0..2_000).any(|_| {
                let candidate = random.chance(share);
                let arm = if candidate { &mut after } else { &mut before };
                arm.trials += 1;
                let rate = if candidate { rate + margin } else { rate };
                arm.successes += u64::from(random.chance(rate));
                let compared = sequential::proportions(before, after, alpha(), effect);
                compared.interval.at_most(margin) != Verdict::Inconclusive
            })
        });
    }
}

#[test]
fn a_ramp_through_good_and_bad_hours_gives_few_false_alarms() {
    // As the share grows, everything becomes worse for both.
    let run = |random: &mut Random, pooled: bool| {
        let effect = Effect::new(0.2).unwrap();
        let mut stages = [[Moments::default(); 2]; 3];
        (0..1_500).any(|unit| {
            let stage = unit / 500;
            let share = [0.1, 0.3, 0.5][stage];
            let arm = &mut stages[stage][usize::from(random.chance(share))];
            arm.add(random.normal() + [0.0, 0.5, 1.0][stage]);
            let differences = stages.map(|[before, after]| after.estimate() - before.estimate());
            let compared = if pooled {
                sequential::difference(several::pooled(&differences), alpha(), effect)
            } else {
                let sum = |arm: usize| {
                    let mut sum = Moments::default();
                    for stage in &stages {
                        sum.count += stage[arm].count;
                        sum.sum += stage[arm].sum;
                        sum.sum_of_squares += stage[arm].sum_of_squares;
                    }
                    sum
                };
                sequential::means(&sum(0), &sum(1), alpha(), effect)
            };
            compared.decision != Decision::Undecided
        })
    };
    alarms("pooled", |random| run(random, true));
    assert!(frequency(|random| run(random, false)) > 0.5);
}

#[test]
fn rates_have_the_designed_power() {
    let units = design(0.5).proportions(0.10, 0.14).unwrap();
    let draw = |random: &mut Random, rate| Proportion {
        successes: (0..units / 2).filter(|_| random.chance(rate)).count() as u64,
        trials: units / 2,
    };
    power("fixed rates", |random| {
        let (before, after) = (draw(random, 0.10), draw(random, 0.14));
        fixed::proportions(before, after, alpha()).decision == Decision::Higher
    });
    let units = design(0.5).sequential_proportions(0.10, 0.14).unwrap();
    power("sequential rates", |random| rates_decide(random, units, (0.10, 0.14), 0.04));
}

#[test]
fn units_that_come_again_give_few_false_alarms_unless_requests_are_taken_for_units() {
    const UNITS: usize = 200;
    let effect = Effect::new(0.1).unwrap();
    // Each unit stays on its arm and fails by a rate of its own.
    let run = |random: &mut Random, by_unit: bool| {
        let rates: Vec<f64> = (0..UNITS).map(|_| random.beta(1.0, 2.0)).collect();
        let mut seen = vec![(0.0, 0.0); UNITS];
        let mut units = [Ratio::default(), Ratio::default()];
        let mut requests = [Proportion::default(), Proportion::default()];
        (0..2_000).any(|_| {
            let unit = (random.uniform() * UNITS as f64) as usize;
            let error = random.chance(rates[unit]);
            let (before, arm) = (seen[unit], unit % 2);
            let (errors, count) = &mut seen[unit];
            *errors += f64::from(u8::from(error));
            *count += 1.0;
            let mut with = units[arm];
            with.add(*errors, *count);
            let mut without = Ratio::default();
            if before.1 > 0.0 {
                without.add(before.0, before.1);
            }
            units[arm] = Ratio {
                units: with.units - without.units,
                numerator: with.numerator - without.numerator,
                denominator: with.denominator - without.denominator,
                numerator_squares: with.numerator_squares - without.numerator_squares,
                denominator_squares: with.denominator_squares - without.denominator_squares,
                products: with.products - without.products,
            };
            requests[arm].trials += 1;
            requests[arm].successes += u64::from(error);
            let [before, after] = if by_unit {
                units.map(|arm| arm.estimate())
            } else {
                requests.map(|arm| arm.estimate())
            };
            let compared = sequential::difference(after - before, alpha(), effect);
            compared.decision != Decision::Undecided
        })
    };
    alarms("units that come again", |random| run(random, true));
    let found = frequency(|random| run(random, false));
    assert!(found > 0.15, "{found}");
}

#[test]
fn exact_counts_give_few_false_alarms_at_any_time() {
    let most = -libm::log(alpha().value());
    alarms("one rate", |random| {
        let (mut successes, mut failures) = (0.0, 0.0);
        (0..2_000).any(|_| {
            if random.chance(0.03) {
                successes += 1.0
            } else {
                failures += 1.0
            }
            let counts = (successes, failures);
            log_mixture(counts) - log_likelihood(counts, 0.03) >= most
        })
    });
    // As much worse as the margin allows, a share that follows what was observed, and rates that
    // come and go for both.
    alarms("margin", |random| {
        let (mut before, mut after) = (Proportion::default(), Proportion::default());
        (0..1_000).any(|unit| {
            let share = if after.successes > before.successes { 0.2 } else { 0.5 };
            let usual = 0.01 + 0.01 * f64::from(unit / 100 % 2);
            let (arm, rate) = if random.chance(share) {
                (&mut after, usual + 0.02)
            } else {
                (&mut before, usual)
            };
            arm.trials += 1;
            arm.successes += u64::from(random.chance(rate));
            // Where nothing succeeds, nothing is excluded that was not before.
            unit % 4 == 0 && sequential::difference_log_odds(before, after, 0.02) >= most
        })
    });
    alarms("events", |random| {
        let share = |share| Events { baseline: 0, candidate: 0, share: Share::new(share).unwrap() };
        let mut stages = [share(0.05), share(0.5)];
        (0..1_000).any(|event| {
            let stage = &mut stages[usize::from(event >= 300)];
            if random.chance(stage.share.value()) {
                stage.candidate += 1;
            } else {
                stage.baseline += 1;
            }
            sequential::events_log_odds(&stages, 0.0) >= most
        })
    });
}

/// Looks at two arms in times of 30, with a share that follows what was observed, and rates that
/// change for both in the middle. What is found by times, and at the end by the sums.
fn strata_decide(random: &mut Random, rates: [f64; 2], odds: f64) -> [Decision; 2] {
    let mut strata = Strata::default();
    let mut sums = [Proportion::default(); 2];
    let mut found = Decision::Undecided;
    for time in 0..40 {
        let rate = rates[usize::from(time >= 20)];
        let better = odds * rate / (1.0 - rate + odds * rate);
        let share = if sums[1].rate() > sums[0].rate() { 0.9 } else { 0.1 };
        let mut new = [Proportion::default(); 2];
        for _ in 0..30 {
            let candidate = random.chance(share);
            let arm = &mut new[usize::from(candidate)];
            arm.trials += 1;
            arm.successes += u64::from(random.chance(if candidate { better } else { rate }));
        }
        strata.add(new[0], new[1]);
        for (sum, new) in sums.iter_mut().zip(new) {
            sum.trials += new.trials;
            sum.successes += new.successes;
        }
        if found == Decision::Undecided {
            found = strata.decide(1.0, alpha()).decision;
        }
    }
    [found, sequential::proportions_exact(sums[0], sums[1], alpha()).decision]
}

#[test]
fn strata_give_few_false_alarms_where_sums_give_many() {
    for rates in [[0.05, 0.4], [0.3, 0.3], [0.6, 0.2]] {
        alarms("strata", |random| strata_decide(random, rates, 1.0)[0] != Decision::Undecided);
    }
    let mut random = Random::new(1);
    let mut by_sums = (0..200).map(|_| strata_decide(&mut random, [0.05, 0.4], 1.0)[1]);
    let wrong = by_sums.by_ref().filter(|&found| found != Decision::Undecided).count();
    assert!(wrong > 50, "{wrong}");
    // What differs is found, and never the other way.
    let mut found = (0..200).map(|_| strata_decide(&mut random, [0.1, 0.3], 4.0)[0]);
    let higher = found.by_ref().filter(|&found| found == Decision::Higher).count();
    assert!(higher > 190, "{higher}");
}

#[test]
fn shares_give_few_false_alarms_and_mismatches_are_found() {
    let shares = [0.6, 0.3, 0.1];
    let units = |random: &mut Random, shares: &[f64; 3]| {
        let place = random.uniform();
        if place < shares[0] { 0 } else { 1 + usize::from(place >= shares[0] + shares[1]) }
    };
    alarms("shares", |random| {
        let mut counts = [0; 3];
        (0..500).any(|_| {
            counts[units(random, &shares)] += 1;
            let stages = [Exposures { units: &counts, shares: &shares }];
            sequential::sample_ratio(&stages).unwrap() <= alpha().value()
        })
    });
    alarms("shares at one look", |random| {
        let mut counts = [0; 3];
        (0..500).for_each(|_| counts[units(random, &shares)] += 1);
        let stages = [Exposures { units: &counts, shares: &shares }];
        fixed::sample_ratio(&stages).unwrap() <= alpha().value()
    });
}

#[test]
fn quantiles_are_covered_at_any_time() {
    // The quantile is the second bound; that it is above it, or at most the first, is wrong.
    let bounds = [0.9 - 1e-9, 0.9];
    let of = Quantile::new(0.9).unwrap();
    alarms("quantile", |random| {
        let mut counts = [0; 3];
        (0..2_000).any(|_| {
            let value = random.uniform();
            counts[bounds.iter().filter(|&&bound| value > bound).count()] += 1;
            let buckets = Buckets { bounds: &bounds, counts: &counts };
            let interval = sequential::quantile(&buckets, of, alpha());
            interval.lower >= 0.9 || interval.upper < 0.9
        })
    });
}

#[test]
fn one_look_gives_few_false_alarms() {
    let draw = |random: &mut Random, rate| Proportion {
        successes: (0..400).filter(|_| random.chance(rate)).count() as u64,
        trials: 400,
    };
    alarms("score test", |random| {
        let (before, after) = (draw(random, 0.2), draw(random, 0.2));
        fixed::proportions(before, after, alpha()).p_value <= alpha().value()
    });
    let normal = |random: &mut Random, units, spread: f64| {
        let mut moments = Moments::default();
        (0..units).for_each(|_| moments.add(spread * random.normal()));
        moments
    };
    alarms("Welch's t", |random| {
        let (before, after) = (normal(random, 15, 1.0), normal(random, 60, 3.0));
        fixed::means(&before, &after, alpha()).p_value <= alpha().value()
    });
    alarms("Holm", |random| {
        let before = normal(random, 200, 1.0);
        let p_values = [(); 4].map(|()| {
            let after = normal(random, 200, 1.0);
            fixed::means(&before, &after, alpha()).p_value
        });
        several::holm(&p_values).into_iter().any(|p_value| p_value <= alpha().value())
    });
    alarms("stability", |random| {
        let days = [(); 7].map(|()| {
            let after = normal(random, 100, 1.0).estimate();
            after - normal(random, 100, 1.0).estimate()
        });
        several::stability(&days).unwrap().p_value <= alpha().value()
    });
}

#[test]
fn other_policies_are_valued_as_they_would_have_been() {
    // The logged policy takes the first arm of two in a tenth of cases, the other one in a half;
    // the arms earn 0.3 and 0.1.
    let value = |logged: &OffPolicy, estimate: fn(&OffPolicy) -> Estimate| {
        !fixed::estimate(estimate(logged), alpha()).contains(0.2)
    };
    for estimate in [OffPolicy::weighted, OffPolicy::self_normalised] {
        alarms("off-policy", |random| {
            let mut logged = OffPolicy::default();
            for _ in 0..2_000 {
                let first = random.chance(0.1);
                let (propensity, rate) = if first { (0.1, 0.3) } else { (0.9, 0.1) };
                logged.add(propensity, 0.5, f64::from(u8::from(random.chance(rate))));
            }
            value(&logged, estimate)
        });
    }
}

#[test]
fn draws_are_distributed_as_they_should_be() {
    let arms = [
        Posterior::Beta { a: 0.5, b: 2.0 },
        Posterior::Beta { a: 30.0, b: 200.0 },
        Posterior::Normal { mean: 1.0, deviation: 0.5 },
    ];
    for arm in arms {
        let mut random = Random::new(1);
        for part in [0.01, 0.25, 0.5, 0.9] {
            let limit = arm.quantile(part);
            let found = (0..100_000).filter(|_| arm.draw(&mut random) <= limit).count() as f64;
            let off = (found / 100_000.0 - part) / (part * (1.0 - part) / 100_000.0).sqrt();
            assert!(off.abs() < 4.0, "{arm:?} below {limit}: {found}");
        }
    }
    let arms = [Posterior::Beta { a: 11.0, b: 91.0 }, Posterior::Beta { a: 16.0, b: 86.0 }];
    let first = frequency(|random| arms[0].draw(random) > arms[1].draw(random));
    assert!((first - probability_best(&arms)[0]).abs() < 0.015, "{first}");
}

/// Whether a guardrail of a margin ever decides, at 10 looks.
fn guardrail_decides(random: &mut Random, units: u64, rates: (f64, f64), margin: f64) -> bool {
    let (mut before, mut after) = (Proportion::default(), Proportion::default());
    let effect = Effect::new(margin).unwrap();
    (1..=10).any(|_| {
        for _ in 0..units / 10 {
            let candidate = random.chance(0.5);
            let (arm, rate) =
                if candidate { (&mut after, rates.1) } else { (&mut before, rates.0) };
            arm.trials += 1;
            arm.successes += u64::from(random.chance(rate));
        }
        let compared = sequential::guardrail(before, after, effect, alpha());
        compared.interval.at_most(margin) != Verdict::Inconclusive
    })
}

#[test]
fn guardrails_give_few_false_alarms_and_have_the_designed_power() {
    // Exactly at the margin it neither holds nor is it broken.
    alarms("guardrail", |random| guardrail_decides(random, 1_000, (0.05, 0.10), 0.05));
    let margin = Effect::new(0.05).unwrap();
    let units = design(0.5).sequential_not_worse(0.1, margin).unwrap();
    power("sequential non-inferiority", |random| {
        let (mut before, mut after) = (Proportion::default(), Proportion::default());
        (0..units).any(|_| {
            let arm = if random.chance(0.5) { &mut after } else { &mut before };
            arm.trials += 1;
            arm.successes += u64::from(random.chance(0.1));
            // The quicker of its two tests first.
            let tuned = sequential::proportions(before, after, alpha().among(2), margin);
            tuned.interval.at_most(0.05) == Verdict::Holds && {
                let both = sequential::guardrail(before, after, margin, alpha());
                both.interval.at_most(0.05) == Verdict::Holds
            }
        })
    });
    let units = design(0.5).not_worse(0.1, margin).unwrap();
    power("fixed non-inferiority", |random| {
        let draw = |random: &mut Random| Proportion {
            successes: (0..units / 2).filter(|_| random.chance(0.1)).count() as u64,
            trials: units / 2,
        };
        let (before, after) = (draw(random), draw(random));
        fixed::proportions(before, after, alpha()).interval.at_most(0.05) == Verdict::Holds
    });
}

#[test]
fn ratios_of_events_and_of_quantiles_give_few_false_alarms_at_any_time() {
    // Twice as frequent in the second stage, for both.
    alarms("ratio of events", |random| {
        let share = |share| Events { baseline: 0, candidate: 0, share: Share::new(share).unwrap() };
        let mut stages = [share(0.05), share(0.5)];
        (0..20).any(|look| {
            for _ in 0..20 {
                let stage = &mut stages[usize::from(look >= 8)];
                if random.chance(stage.share.value()) {
                    stage.candidate += 1;
                } else {
                    stage.baseline += 1;
                }
            }
            sequential::events(&stages, alpha()).decision != Decision::Undecided
        })
    });
    let bounds: Vec<f64> = (-12..=12).map(|at| libm::exp(f64::from(at) / 4.0)).collect();
    let of = Quantile::new(0.9).unwrap();
    let excluded = |random: &mut Random, times: f64| {
        let mut counts = [vec![0; bounds.len() + 1], vec![0; bounds.len() + 1]];
        (0..30).any(|_| {
            for _ in 0..50 {
                let candidate = random.chance(0.5);
                let value = libm::exp(random.normal()) * if candidate { times } else { 1.0 };
                let bucket = bounds.partition_point(|&bound| bound < value);
                counts[usize::from(candidate)][bucket] += 1;
            }
            let [before, after] = &counts;
            let [before, after] = [before, after].map(|counts| Buckets { bounds: &bounds, counts });
            !sequential::quantile_ratio(&before, &after, of, alpha()).contains(1.0)
        })
    };
    alarms("ratio of quantiles", |random| excluded(random, 1.0));
    assert!(frequency(|random| excluded(random, 3.0)) > 0.95);
}
