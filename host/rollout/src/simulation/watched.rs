//! What the policy sees: counted and put together by what counts and puts together in a host.

use std::time::Duration;

use berth_monitor::{End, Exposed, Observations, Observed, Sum, Value};
use berth_plugin::Observation;
use berth_serving::{ArmStatus, measures};

/// What is observed of the arms.
pub(super) struct Watched {
    names: Vec<String>,
    observations: Observations,
}

impl Watched {
    /// Of arms and declared slices of these names.
    pub(super) fn new(names: Vec<String>, slices: Vec<String>) -> Self {
        let observations = Observations::new(vec![Observed::default(); names.len()], slices);
        Self { names, observations }
    }

    /// The plan has changed.
    pub(super) fn begin_anew(&self) {
        self.observations.begin_anew();
    }

    /// A request came to its end, and its processor reported these values by name.
    pub(super) fn ended(&self, at: Exposed, end: End, latency: Duration, values: &[(String, f64)]) {
        let values = values.iter().map(|(name, value)| (name.as_str(), Sum::of(*value)));
        self.observations.note(at, end, latency, values);
    }

    /// A reward came for a request.
    pub(super) fn rewarded(&self, at: Exposed, value: f64) {
        self.observations.value(at, Value::Reward, Sum::of(value));
    }

    /// A copy came to its end, and where it could be compared agreed or not.
    pub(super) fn copied(&self, at: Exposed, end: End, latency: Duration, agreed: Option<bool>) {
        self.observations.shadowed(at.arm, end, latency);
        if let Some(agreed) = agreed {
            let value = Sum::of(f64::from(u8::from(agreed)));
            self.observations.value(at, Value::Agreement, value);
        }
    }

    /// What a policy sees of arms that are so, beside what `bare` says.
    pub(super) fn observation(&self, statuses: &[ArmStatus], bare: Observation) -> Observation {
        let observed = self.observations.total();
        let arms = self.names.iter().zip(statuses).zip(&observed);
        let arms = arms.map(|((name, status), observed)| {
            measures::arm(name.clone(), *status == ArmStatus::Ready, observed)
        });
        Observation { arms: arms.collect(), ..bare }
    }
}
