//! What a routing policy that is asked again and again needs of the host, and rewards.

use std::sync::Arc;

use berth_monitor::{Exposed, Observed, Sum};
use berth_store::{Change, Note};

use crate::catalog::document;
use crate::documents::{
    ENDPOINT, EndpointRecord, EndpointState, OBSERVED_VARIANTS, VariantsObserved,
};
use crate::error::ControlError;
use crate::host::Host;
use crate::live::LiveRevision;
use crate::rolling::{ARMS, Endpoint};
use crate::routing::{Routed, Standing};

/// A reward, or whether an answer was right, for a request that was answered before.
#[derive(Clone, Debug)]
pub struct Rewarded<'a> {
    /// The endpoint.
    pub endpoint: &'a str,
    /// The id of the revision that answered, as clients see it.
    pub revision: &'a str,
    /// The variant that was drawn.
    pub variant: &'a str,
    /// When the request was answered by an arm of a rollout: that arm, and when the request began, in
    /// milliseconds since 1970.
    pub in_rollout: Option<(&'a str, u64)>,
    /// As it was told of the request's end.
    pub unit: Option<u64>,
    /// As it was told of the request's end.
    pub slices: u16,
    /// The value.
    pub value: f64,
    /// The number of its feedback, and whether it is read again after a start of the host.
    pub feedback: (u64, bool),
}

impl Host {
    /// Counts a reward for the arms that had the request. False where none of them is observed any
    /// more: the revision has gone, or the value is no number.
    pub fn reward(&self, rewarded: &Rewarded<'_>) -> bool {
        let Rewarded { in_rollout, unit, slices, value, feedback, .. } = *rewarded;
        let snapshot = self.snapshot.load();
        let Some(endpoint) = snapshot.live.get(rewarded.endpoint).filter(|_| value.is_finite())
        else {
            return false;
        };
        let (value, mut counted) = (Sum::of(value), false);
        let mut declared = None;
        // What was answered before is no request of this rollout, though its revision is an arm.
        if let Endpoint::Rolling(rolling) = endpoint
            && in_rollout.is_some_and(|(_, began_ms)| began_ms >= rolling.started_ms())
        {
            let known = |arm: &usize| rolling.revision(*arm).short() == rewarded.revision;
            if let Some(arm) = (0..2).find(known) {
                let observations = rolling.observations();
                let at = Exposed { arm, slices, unit, propensity: None };
                observations.reward(at, value, feedback);
                declared = Some(observations.slices());
                counted = true;
            }
        }
        let revisions = endpoint.revisions();
        for live in revisions.iter().filter(|live| live.id() == rewarded.revision) {
            let Some(routed) = live.routed() else { continue };
            let variants = routed.variants();
            let Some(arm) = variants.iter().position(|name| name == rewarded.variant) else {
                continue;
            };
            // Slices are those of the revision that answered, in a rollout those of the next one, which
            // of a rollout that is over are not known any more.
            let observations = routed.observations();
            let own = in_rollout.is_none_or(|(arm, _)| arm == ARMS[1])
                || declared.is_some_and(|declared| declared == observations.slices());
            let slices = if own { slices } else { 0 };
            let at = Exposed { arm, slices, unit, propensity: None };
            observations.reward(at, value, feedback);
            counted = true;
        }
        counted
    }

    /// The live revisions, out of any rollout, whose routing policy asks to be evaluated again.
    pub fn ticking(&self) -> Vec<Arc<LiveRevision>> {
        let snapshot = self.snapshot.load();
        let live = snapshot.live.values().filter_map(|endpoint| match endpoint {
            Endpoint::Live(live) => Some(live),
            Endpoint::Rolling(_) => None,
        });
        let asks = |routed: &Routed| {
            !routed.quarantined() && routed.standing().evaluation().next_tick_ms.is_some()
        };
        live.filter(|live| live.routed().is_some_and(asks)).cloned().collect()
    }

    /// The endpoints, and whether a policy of each is in quarantine: that of its rollout, or the routing
    /// policy of a revision that answers.
    pub fn quarantines(&self) -> Vec<(String, bool)> {
        let snapshot = self.snapshot.load();
        let each = snapshot.live.iter().map(|(name, endpoint)| {
            let rollout = matches!(endpoint, Endpoint::Rolling(rolling) if rolling.quarantined());
            let revisions = endpoint.revisions();
            let mut routed = revisions.iter().filter_map(|live| live.routed());
            (name.to_string(), rollout || routed.any(Routed::quarantined))
        });
        each.collect()
    }

    /// Whether a revision is what answers at its endpoint, out of any rollout.
    pub fn serves(&self, live: &Arc<LiveRevision>) -> bool {
        let snapshot = self.snapshot.load();
        matches!(
            snapshot.live.get(&live.endpoint),
            Some(Endpoint::Live(now)) if Arc::ptr_eq(now, live)
        )
    }

    /// Commits an evaluation of the routing policy of a live revision with what it was decided on, and
    /// has it be in force. False where the revision does not serve any more.
    pub fn commit_standing(
        &self,
        live: &LiveRevision,
        standing: Standing,
        observed: Vec<Observed>,
        note: &Note,
    ) -> Result<bool, ControlError> {
        let Some(routed) = live.routed() else { return Ok(false) };
        let _alone = self.record_lock();
        let Some(mut record) = self.live_record(live)? else { return Ok(false) };
        let plan = record.evaluation.as_ref().map(|evaluation| &evaluation.plan);
        let mut observed = observed;
        if plan != Some(&standing.evaluation().plan) {
            routed.observations().begin_anew();
            observed.iter_mut().for_each(|arm| arm.lately.clear());
        }
        record.evaluation = Some(standing.evaluation().clone());
        let put = Change::put(ENDPOINT, live.endpoint.as_str(), document(&record)?);
        self.store().commit(None, &[put, variants(live, observed)?], note)?;
        routed.follow(standing);
        Ok(true)
    }

    /// Commits what was observed of the variants of a live revision.
    pub fn commit_variants(
        &self,
        live: &LiveRevision,
        observed: Vec<Observed>,
    ) -> Result<(), ControlError> {
        let _alone = self.record_lock();
        if self.live_record(live)?.is_some() {
            let note = Note { who: "berth".into(), why: "observed".into() };
            self.store().commit(None, &[variants(live, observed)?], &note)?;
        }
        Ok(())
    }

    /// What has the variants of an endpoint begin with what this revision has observed, as it becomes the
    /// live one.
    pub(crate) fn begin_variants(
        &self,
        live: &LiveRevision,
    ) -> Result<Option<Change>, ControlError> {
        if let Some(routed) = live.routed() {
            return Ok(Some(variants(live, routed.observed())?));
        }
        let found = self.store().get(OBSERVED_VARIANTS, live.endpoint.as_str())?;
        Ok(found.map(|_| Change::delete(OBSERVED_VARIANTS, live.endpoint.as_str())))
    }

    /// The record of an endpoint whose live revision is this one and not in a rollout.
    fn live_record(&self, live: &LiveRevision) -> Result<Option<EndpointRecord>, ControlError> {
        let record = self.record(&live.endpoint)?;
        Ok(record.filter(|record| {
            record.live == Some(live.digest) && record.state != EndpointState::Rolling
        }))
    }
}

fn variants(live: &LiveRevision, arms: Vec<Observed>) -> Result<Change, ControlError> {
    let observed = VariantsObserved { revision: live.digest, arms };
    Ok(Change::put(OBSERVED_VARIANTS, live.endpoint.as_str(), document(&observed)?))
}
