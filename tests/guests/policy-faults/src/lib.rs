//! Policy that fails in the way its configuration asks for: `{"mode": …}`, see [`Mode`].
//!
//! The first evaluation, without a plan, gives all arms the same weight, so that the policy passes
//! the checks before a revision is live; the fault shows from the second on. With
//! `"at_once": true` it shows at once. `tick_ms` is when the next evaluation is asked for.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_sdk::{ConfigError, Evaluation, Observation, Plan, Policy, PolicyError};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    mode: Mode,
    #[serde(default)]
    at_once: bool,
    #[serde(default = "default_tick")]
    tick_ms: u64,
}

fn default_tick() -> u64 {
    100
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Behaves.
    None,
    /// Traps.
    Trap,
    /// Never comes back.
    Loop,
    /// Allocates without end.
    Memory,
    /// Says that it failed.
    Failed,
    /// Says that it failed in 8 MiB.
    LongFailed,
    /// Refuses its configuration.
    Config,
    /// A weight that is not a number.
    Nan,
    /// A weight below 0.
    Negative,
    /// Weights whose sum is beyond all numbers.
    Huge,
    /// No weight above 0.
    Zero,
    /// An arm beyond the last.
    UnknownArm,
    /// The first arm twice.
    DuplicateArm,
    /// A plan of more than 64 KiB.
    OversizedPlan,
    /// Weights that follow from how often this instance was called: 1 as long as each evaluation
    /// has an instance of its own.
    Impure,
    /// Weights that follow from the standard library's random seed, which the host holds still: pure.
    Seeded,
}

struct Faults;

impl Policy for Faults {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        plan: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        let arms = observation.arms().len();
        let mut evaluation = Evaluation::standing(&vec![1.0; arms]);
        evaluation.next_tick_ms = Some(config.tick_ms);
        if plan.is_none() && !config.at_once {
            return Ok(evaluation);
        }
        match config.mode {
            Mode::None => {}
            Mode::Trap => std::process::abort(),
            Mode::Loop => loop {
                black_box(());
            },
            Mode::Memory => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1u8; 1 << 20]);
                    black_box(&hoard);
                }
            }
            Mode::Failed => return Err(PolicyError::failed("the guest says no")),
            Mode::LongFailed => return Err(PolicyError::failed("no".repeat(4 << 20))),
            Mode::Config => return Err(ConfigError::new("mode", "config is refused").into()),
            Mode::Nan => evaluation.arms[0].weight = f64::NAN,
            Mode::Negative => evaluation.arms[0].weight = -1.0,
            Mode::Huge => evaluation.arms.iter_mut().for_each(|arm| arm.weight = f64::MAX),
            Mode::Zero => evaluation.arms.iter_mut().for_each(|arm| arm.weight = 0.0),
            Mode::UnknownArm => evaluation.arms[0].arm = arms as u32,
            Mode::DuplicateArm => evaluation.arms.push(evaluation.arms[0]),
            Mode::OversizedPlan => evaluation.plan.data = vec![0; (64 << 10) + 1],
            Mode::Impure => {
                static CALLS: AtomicU64 = AtomicU64::new(1);
                evaluation.arms[0].weight = CALLS.fetch_add(1, Ordering::Relaxed) as f64;
            }
            Mode::Seeded => {
                evaluation.arms[0].weight = (RandomState::new().hash_one(1) % 100 + 1) as f64
            }
        }
        Ok(evaluation)
    }
}

berth_sdk::export_policy!(Faults);
