//! Policy whose router fails in the way its configuration asks for: `{"mode": …}`, see [`Mode`].
//!
//! Its evaluation gives all to the first arm, or where it is to `"promote_after"` so many requests, half
//! to each of two arms and then all to the last. A healthy route gives all to the last, for the
//! reason `healthy`. With `"attribute": NAME` only requests that have that attribute meet the
//! fault.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_sdk::{
    ArmState, ConfigError, Decision, Evaluation, Observation, Phase, Plan, Policy, PolicyError,
    Router, Share, Subject,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    mode: Mode,
    attribute: Option<String>,
    promote_after: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Behaves.
    None,
    /// Traps when the router is made.
    CreateTrap,
    /// Refuses its configuration when the router is made.
    CreateRefuse,
    /// Traps.
    Trap,
    /// Never comes back.
    Loop,
    /// Allocates without end.
    Memory,
    /// A share that is not a number.
    Nan,
    /// A share below 0.
    Negative,
    /// Shares whose sum is beyond all numbers.
    Huge,
    /// No share.
    Empty,
    /// An arm beyond the last.
    WrongArm,
    /// Fallbacks and shadows beyond the last arm, beside a good share.
    WrongOthers,
    /// A million shares.
    Flood,
    /// A reason of a million bytes.
    LongReason,
    /// Asks two thousand times for the position under a salt of half a million bytes.
    LongSalt,
    /// A reason that differs for every request.
    ManyReasons,
    /// Names the first arm as a fallback: a healthy route.
    Fallbacks,
    /// Has the first arm get a copy of every request: a healthy route.
    Shadows,
    /// Shares that follow from how often this instance was called.
    Impure,
}

struct Faults;

impl Policy for Faults {
    type Config = Config;

    fn evaluate(
        config: Config,
        observation: &Observation,
        _: Option<Plan>,
    ) -> Result<Evaluation, PolicyError> {
        if let Some(least) = config.promote_after {
            let count = |arm| observation.measure(arm, "requests", None).map_or(0, |of| of.count);
            let over = count(0) + count(1) >= least;
            let (share, phase) =
                if over { (1.0, Phase::Succeeded) } else { (0.5, Phase::Progressing) };
            let mut evaluation = Evaluation::moving(share, phase, "as it was told");
            evaluation.next_tick_ms = Some(50);
            return Ok(evaluation);
        }
        let mut weights = vec![0.0; observation.arms().len()];
        weights[0] = 1.0;
        let mut evaluation = Evaluation::standing(&weights);
        evaluation.arms.iter_mut().for_each(|arm| arm.state = ArmState::Ready);
        Ok(evaluation)
    }
}

struct FaultyRouter {
    config: Config,
    arms: u32,
}

impl Router for FaultyRouter {
    type Config = Config;

    fn create(config: Config, observation: &Observation, _: Plan) -> Result<Self, PolicyError> {
        match config.mode {
            Mode::CreateTrap => std::process::abort(),
            Mode::CreateRefuse => Err(ConfigError::new("mode", "create-refuse is refused").into()),
            _ => Ok(Self { config, arms: observation.arms().len() as u32 }),
        }
    }

    fn route(&self, subject: &Subject) -> Decision {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let mut decision = Decision::arm(self.arms - 1, "healthy");
        if self.config.attribute.as_ref().is_some_and(|name| subject.attribute(name).is_none()) {
            return decision;
        }
        match self.config.mode {
            Mode::None | Mode::CreateTrap | Mode::CreateRefuse => {}
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
            Mode::Nan => decision.shares[0].weight = f64::NAN,
            Mode::Negative => decision.shares[0].weight = -1.0,
            Mode::Huge => {
                decision.shares =
                    (0..self.arms).map(|arm| Share { arm, weight: f64::MAX }).collect();
            }
            Mode::Empty => decision.shares.clear(),
            Mode::WrongArm => decision.shares[0].arm = self.arms,
            Mode::WrongOthers => {
                decision.fallbacks = vec![self.arms];
                decision.shadows = vec![Share { arm: self.arms, weight: 1.0 }];
            }
            Mode::Flood => decision.shares = vec![decision.shares[0]; 1_000_000],
            Mode::LongReason => decision.reason = "x".repeat(1_000_000),
            Mode::LongSalt => {
                let salt = "x".repeat(500_000);
                for _ in 0..2_000 {
                    black_box(subject.position(&salt));
                }
            }
            Mode::ManyReasons => {
                decision.reason = format!("reason-{}", subject.position("reasons"))
            }
            Mode::Fallbacks => decision.fallbacks = vec![0],
            Mode::Shadows => decision.shadows = vec![Share { arm: 0, weight: 1.0 }],
            Mode::Impure => {
                decision.shares[0].arm =
                    (CALLS.fetch_add(1, Ordering::Relaxed) % u64::from(self.arms)) as u32
            }
        }
        decision
    }
}

berth_sdk::export_policy!(Faults, router: FaultyRouter);
