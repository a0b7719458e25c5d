//! Asks the routing policy of a live revision again when it is due, and commits what it decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_monitor::Observed;
use berth_serving::{ControlError, Host, LiveRevision, Routed};
use berth_store::Note;

use crate::controller::{OBSERVED, RETRY};
use crate::decide;
use crate::pace::{FAILURES, Pace, tick};

/// How often to see whether the revision still serves.
const LOOK: Duration = Duration::from_secs(1);

/// Follows the routing policy of a revision for as long as that is the live one and the policy is asked.
pub(crate) async fn follow(host: Arc<Host>, live: Arc<LiveRevision>) {
    let Some(routed) = live.routed() else { return };
    shown(&live, routed);
    let wish = routed.standing().evaluation().next_tick_ms;
    let mut following = Following {
        pace: Pace::new(Instant::now() + tick(wish, 0)),
        observed: Vec::new(),
        at: Instant::now(),
        host,
        live: Arc::clone(&live),
    };
    loop {
        let due = following.pace.due.saturating_duration_since(Instant::now());
        tokio::time::sleep(due.min(LOOK)).await;
        let round = tokio::task::spawn_blocking(move || {
            let goes_on = following.round();
            (following, goes_on)
        });
        let Ok((same, goes_on)) = round.await else {
            tracing::error!(endpoint = live.endpoint().as_str(), "a round of its routing failed");
            return;
        };
        following = same;
        match goes_on {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(endpoint = live.endpoint().as_str(), "routing: {error}");
                following.pace.due = Instant::now() + RETRY;
            }
        }
    }
}

struct Following {
    host: Arc<Host>,
    live: Arc<LiveRevision>,
    pace: Pace,
    /// What was committed of what was observed, and when.
    observed: Vec<Observed>,
    at: Instant,
}

impl Following {
    /// One round; false when there is nothing more to do.
    fn round(&mut self) -> Result<bool, ControlError> {
        let live = Arc::clone(&self.live);
        let Some(routed) = live.routed().filter(|_| self.host.serves(&live)) else {
            return Ok(false);
        };
        if routed.quarantined() {
            shown(&self.live, routed);
            return Ok(false);
        }
        if Instant::now() >= self.pace.due {
            self.evaluate(routed)?;
        }
        if self.at.elapsed() >= OBSERVED {
            self.at = Instant::now();
            let observed = routed.observed();
            // Where nothing was counted, nothing is written.
            if self.observed != observed {
                self.observed.clone_from(&observed);
                self.host.commit_variants(&self.live, observed)?;
            }
        }
        let asks = routed.said().is_some_and(|said| said.next_tick_ms.is_some());
        Ok(asks && !routed.quarantined())
    }

    fn evaluate(&mut self, routed: &Routed) -> Result<(), ControlError> {
        let observed = routed.observed();
        let before = routed.standing();
        match routed.evaluate(&observed) {
            Ok(standing) => {
                let said = standing.evaluation().clone();
                let decided = decide::differs(before.evaluation(), &said);
                if decided {
                    let variants = routed.variants();
                    let shares = standing.shares(variants.len());
                    let arms = variants.iter().zip(shares).zip(&observed);
                    let arms = arms.map(|((name, share), arm)| (name.as_str(), share, arm));
                    let why = decide::reason(decide::message(&said), arms);
                    let note = Note { who: routed.policy().to_owned(), why };
                    self.observed.clone_from(&observed);
                    self.at = Instant::now();
                    self.host.commit_standing(&self.live, standing, observed, &note)?;
                    shown(&self.live, routed);
                }
                self.pace.evaluated(Instant::now(), said.next_tick_ms, decided);
                routed.says(said);
            }
            Err(error) => {
                let wish = before.evaluation().next_tick_ms;
                if self.pace.failed(Instant::now(), &error, wish) {
                    routed.quarantine();
                    shown(&self.live, routed);
                    let (endpoint, policy) = (self.live.endpoint().as_str(), routed.policy());
                    tracing::error!(
                        endpoint,
                        policy,
                        "not asked any more after {FAILURES} failures, its last weights serve"
                    );
                }
            }
        }
        Ok(())
    }
}

/// Tells what stands.
fn shown(live: &LiveRevision, routed: &Routed) {
    let endpoint = live.endpoint().as_str();
    let variants = routed.variants();
    let shares = routed.standing().shares(variants.len());
    berth_monitor::routing_shares(endpoint, variants.iter().map(String::as_str).zip(shares));
    berth_monitor::policy_quarantined(endpoint, routed.quarantined());
}
