//! Arms that are made ready and let go of by a virtual clock, in microseconds.

use berth_serving::ArmStatus;

use super::behaviour::Prepare;
use super::flow::PREPARE;

/// What the arms are now.
pub(super) struct Arms(Vec<Arm>);

struct Arm {
    status: ArmStatus,
    /// Requests under way on it.
    held: u64,
    /// When it will have been prepared, while it is.
    prepared: Option<(u64, Prepare)>,
}

impl Arms {
    /// So many of which the first ones are ready.
    pub(super) fn new(arms: usize, ready: usize) -> Self {
        let arm = |at| Arm {
            status: if at < ready { ArmStatus::Ready } else { ArmStatus::Stopped },
            held: 0,
            prepared: None,
        };
        Self((0..arms).map(arm).collect())
    }

    pub(super) fn statuses(&self) -> Vec<ArmStatus> {
        self.0.iter().map(|arm| arm.status.clone()).collect()
    }

    pub(super) fn ready(&self, arm: usize) -> bool {
        self.0[arm].status == ArmStatus::Ready
    }

    /// Begins to make an arm ready, unless it is or is on its way.
    pub(super) fn prepare(&mut self, arm: usize, now: u64, how: Prepare) {
        let arm = &mut self.0[arm];
        if matches!(arm.status, ArmStatus::Stopped | ArmStatus::Broken(_)) {
            let takes = match how {
                Prepare::Takes(takes) => takes,
                Prepare::Fails => PREPARE,
            };
            arm.status = ArmStatus::Preparing;
            arm.prepared = Some((now + takes.0, how));
        }
    }

    /// Takes an arm out of the way of requests. It is gone once none holds it.
    pub(super) fn stop(&mut self, arm: usize) {
        let arm = &mut self.0[arm];
        match arm.status {
            ArmStatus::Ready if arm.held > 0 => arm.status = ArmStatus::Leaving,
            ArmStatus::Ready | ArmStatus::Broken(_) => arm.status = ArmStatus::Stopped,
            ArmStatus::Stopped | ArmStatus::Leaving | ArmStatus::Preparing => {}
        }
    }

    /// When the next arm will have been prepared.
    pub(super) fn next(&self) -> u64 {
        self.0.iter().filter_map(|arm| Some(arm.prepared?.0)).min().unwrap_or(u64::MAX)
    }

    /// What was prepared until now is ready, or broken.
    pub(super) fn advance(&mut self, now: u64) {
        for arm in &mut self.0 {
            let Some((_, how)) = arm.prepared.filter(|(at, _)| *at <= now) else { continue };
            arm.prepared = None;
            arm.status = match how {
                Prepare::Takes(_) => ArmStatus::Ready,
                Prepare::Fails => {
                    ArmStatus::Broken("prepare = \"fails\" in the traffic file".into())
                }
            };
        }
    }

    /// A request holds an arm.
    pub(super) fn hold(&mut self, arm: usize) {
        self.0[arm].held += 1;
    }

    /// It holds it no more. Whether the arm is gone by that.
    pub(super) fn release(&mut self, arm: usize) -> bool {
        let arm = &mut self.0[arm];
        arm.held -= 1;
        let gone = arm.held == 0 && arm.status == ArmStatus::Leaving;
        if gone {
            arm.status = ArmStatus::Stopped;
        }
        gone
    }
}
