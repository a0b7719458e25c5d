//! How a revision chooses among its variants: by shares that its policy decides again and again, and
//! where the policy has a router, by what that says of the request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use berth_monitor::{Observations, Observed};
use berth_plugin::{Evaluation, Observation, Policy, PolicyError, Routers, Subject, unit_hash};

use crate::catalog::now_ms;
use crate::draw::{Drawn, Shares};
use crate::live::PredictionId;
use crate::measures;
use crate::sink::VariantSink;

/// What comes before an arm's name in the evaluation's attribute that names its fallbacks.
const FALLBACK: &str = "fallback.";

/// The most fallbacks of an arm.
const FALLBACKS: usize = 16;

/// How a revision chooses among its variants.
pub(crate) enum Routing {
    /// There is one.
    Only,
    /// As a policy says.
    Policy(Box<Routed>),
}

/// A policy that chooses among the variants of a revision.
pub struct Routed {
    endpoint: String,
    /// The revision's id, for the log.
    revision: String,
    policy: Arc<Policy>,
    sink: Arc<VariantSink>,
    /// What it sees, without arms and time.
    sees: Observation,
    variants: Vec<String>,
    standing: ArcSwap<Standing>,
    observations: Observations,
    /// What the policy said last, committed or not.
    said: Mutex<Option<Evaluation>>,
    /// It is not asked any more.
    quarantined: Arc<AtomicBool>,
    /// Requests for which its router gave no decision.
    failures: AtomicU64,
}

/// An evaluation and what follows from it.
pub struct Standing {
    evaluation: Evaluation,
    shares: Shares,
    routers: Option<Routers>,
    /// For each arm.
    fallbacks: Vec<Vec<usize>>,
    /// Arms that get copies, with the probability of each.
    shadows: Vec<(usize, f64)>,
}

impl Standing {
    /// The evaluation.
    pub fn evaluation(&self) -> &Evaluation {
        &self.evaluation
    }

    /// The share of traffic of each of so many variants, where no router says otherwise.
    pub fn shares(&self, variants: usize) -> Vec<f64> {
        self.shares.probabilities(variants)
    }
}

/// What a routing policy is made from.
pub(crate) struct Asked {
    pub(crate) revision: String,
    pub(crate) policy: Arc<Policy>,
    pub(crate) sink: Arc<VariantSink>,
    pub(crate) sees: Observation,
    pub(crate) variants: Vec<String>,
    pub(crate) slices: Vec<String>,
}

impl Routed {
    /// A policy that begins, or goes on from the evaluation that it gave and from what had been
    /// observed `before`.
    pub(crate) fn new(
        endpoint: &str,
        asked: Asked,
        before: Option<(Evaluation, Vec<Observed>)>,
    ) -> Result<Self, PolicyError> {
        let Asked { revision, policy, sink, sees, variants, slices } = asked;
        let quarantined = Arc::default();
        let (before, mut observed) = before.unzip();
        let observed = observed.take().filter(|known| known.len() == variants.len());
        let observed = observed.unwrap_or_else(|| {
            // What comes from now on is counted.
            let feedback = now_ms() * 1000;
            vec![Observed { feedback, ..Observed::default() }; variants.len()]
        });
        let observation = Arc::new(seen(&sees, &variants, &observed));
        let evaluation = match before {
            Some(evaluation) => evaluation,
            None => policy.evaluate(&observation, None)?,
        };
        let standing = follow(&policy, &observation, evaluation, &quarantined)?;
        Ok(Self {
            endpoint: endpoint.to_owned(),
            revision,
            policy,
            sink,
            sees,
            said: Mutex::new(Some(standing.evaluation.clone())),
            standing: ArcSwap::from_pointee(standing),
            observations: Observations::new(observed, slices),
            variants,
            quarantined,
            failures: AtomicU64::new(0),
        })
    }

    /// The draw for a request. Where the router fails, the shares of the last evaluation decide.
    /// `unit` is where the unit's value is among the attributes.
    pub(crate) fn draw(
        &self,
        attributes: &[(String, String)],
        unit: Option<usize>,
        id: PredictionId,
    ) -> Drawn {
        let standing = self.standing.load();
        let value = unit.map(|at| attributes[at].1.as_str());
        let hash = unit_hash(&self.endpoint, value, id.chance());
        if let Some(routers) = &standing.routers {
            let subject = Subject { attributes: attributes.into(), unit, chance: id.chance() };
            match routers.route(&subject) {
                Ok(decision) => {
                    let shares = Shares::from_decision(&decision.shares, self.variants.len());
                    let drawn = Drawn::from(shares.draw(hash));
                    let shadows = decision.shadows.iter().map(|share| (share.arm, share.weight));
                    return Drawn {
                        reason: decision.reason,
                        fallbacks: decision.fallbacks,
                        shadows: copied(shadows, drawn.arm, id),
                        ..drawn
                    };
                }
                Err(error) => {
                    berth_monitor::policy_failed(
                        &self.endpoint,
                        self.sink.plugin(),
                        error.reason(),
                    );
                    let failed = self.failures.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
                    self.sink.router_failed(&error, &self.revision, &id.text(), failed);
                    if self.quarantined() && !matches!(error, PolicyError::Quarantined) {
                        berth_monitor::policy_quarantined(&self.endpoint, true);
                    }
                }
            }
        }
        let drawn = Drawn::from(standing.shares.draw(hash));
        Drawn {
            fallbacks: standing.fallbacks[drawn.arm].clone(),
            shadows: copied(standing.shadows.iter().copied(), drawn.arm, id),
            ..drawn
        }
    }

    /// Whether every request is drawn for by shares alone, now and after each evaluation.
    pub(crate) fn draws_by_shares(&self) -> bool {
        self.standing.load().routers.is_none()
    }

    /// What stands now.
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// The names of the variants, in the order of the arms.
    pub fn variants(&self) -> &[String] {
        &self.variants
    }

    /// The policy's name and version.
    pub fn policy(&self) -> &str {
        self.sink.plugin()
    }

    /// Where requests count.
    pub(crate) fn observations(&self) -> &Observations {
        &self.observations
    }

    /// What was observed of the variants until now.
    pub fn observed(&self) -> Vec<Observed> {
        self.observations.total()
    }

    /// What the policy said last, also where it changed nothing.
    pub fn said(&self) -> Option<Evaluation> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what the policy said.
    pub fn says(&self, evaluation: Evaluation) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(evaluation);
    }

    /// Whether the policy is not asked any more, so that what stands goes on.
    pub fn quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// Has the policy not be asked any more.
    pub fn quarantine(&self) {
        self.quarantined.store(true, Ordering::Relaxed);
    }

    /// Decides anew on what was `observed`, twice over, and builds what follows. A failure is counted
    /// and logged. Blocks.
    pub fn evaluate(&self, observed: &[Observed]) -> Result<Standing, PolicyError> {
        let observation = Arc::new(seen(&self.sees, &self.variants, observed));
        let standing = self.standing.load_full();
        let evaluated =
            self.policy.evaluate(&observation, Some(&standing.evaluation.plan)).and_then(
                |evaluation| follow(&self.policy, &observation, evaluation, &self.quarantined),
            );
        if let Err(error) = &evaluated {
            berth_monitor::policy_failed(&self.endpoint, self.sink.plugin(), error.reason());
            self.sink.evaluation_failed(error, &self.revision);
        }
        evaluated
    }

    /// Has an evaluation be in force for the requests that come.
    pub(crate) fn follow(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
    }
}

/// What a policy sees of what was observed.
fn seen(sees: &Observation, variants: &[String], observed: &[Observed]) -> Observation {
    let arms = variants.iter().zip(observed);
    let arms = arms.map(|(name, observed)| measures::arm(name.clone(), true, observed));
    Observation { now_ms: now_ms(), arms: arms.collect(), ..sees.clone() }
}

/// The arms but the drawn one that get a copy of a request, by the probability of each.
fn copied(
    shadows: impl Iterator<Item = (usize, f64)>,
    drawn: usize,
    id: PredictionId,
) -> Vec<usize> {
    let gets = |&(arm, part): &(usize, f64)| arm != drawn && id.falls_below(part, arm as u64);
    shadows.filter(gets).map(|(arm, _)| arm).collect()
}

/// What follows from an evaluation.
fn follow(
    policy: &Arc<Policy>,
    observation: &Arc<Observation>,
    evaluation: Evaluation,
    quarantined: &Arc<AtomicBool>,
) -> Result<Standing, PolicyError> {
    let arms: Vec<&str> = observation.arms.iter().map(|arm| arm.name.as_str()).collect();
    let routers = match evaluation.asks_router() {
        true => policy.routers(observation, &evaluation.plan, quarantined)?,
        false => None,
    };
    Ok(Standing {
        shares: Shares::from_weights(&evaluation.weights(arms.len())),
        routers,
        fallbacks: fallbacks(&arms, &evaluation.attributes)?,
        shadows: (0..arms.len())
            .map(|arm| (arm, evaluation.shadow(arm)))
            .filter(|(_, part)| *part > 0.0)
            .collect(),
        evaluation,
    })
}

/// The fallbacks of each arm, as an evaluation's attributes name them.
fn fallbacks(
    arms: &[&str],
    attributes: &[(String, String)],
) -> Result<Vec<Vec<usize>>, PolicyError> {
    let mut fallbacks = vec![Vec::new(); arms.len()];
    let find = |name: &str| {
        let found = arms.iter().position(|arm| *arm == name);
        found.ok_or_else(|| PolicyError::Wrong(format!("a fallback of {name:?}, which is no arm")))
    };
    for (key, names) in attributes {
        let Some(arm) = key.strip_prefix(FALLBACK) else { continue };
        let of = find(arm)?;
        let named = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        fallbacks[of] = named.map(find).collect::<Result<Vec<_>, _>>()?;
        if fallbacks[of].len() > FALLBACKS {
            return Err(PolicyError::Wrong(format!("more than {FALLBACKS} fallbacks of {arm:?}")));
        }
    }
    Ok(fallbacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallbacks_are_read_from_attributes() {
        let arms = ["a", "b", "c"];
        for (key, value, expected) in [
            ("note", "x", Ok(vec![vec![], vec![], vec![]])),
            ("fallback.a", "c, b", Ok(vec![vec![2, 1], vec![], vec![]])),
            ("fallback.b", "", Ok(vec![vec![], vec![], vec![]])),
            ("fallback.d", "a", Err("\"d\", which is no arm")),
            ("fallback.a", "b,e", Err("\"e\", which is no arm")),
        ] {
            let read = fallbacks(&arms, &[(key.to_owned(), value.to_owned())]);
            match (read, expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{key}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (read, _) => panic!("{key} = {value}: {read:?}"),
            }
        }
    }
}
