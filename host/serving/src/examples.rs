//! The answers of an endpoint's shadows that are farthest from the live ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use berth_plugin::Reply;
use berth_tensor::NamedTensor;
use serde::Serialize;

/// The most examples that are kept of an endpoint.
const EXAMPLES: usize = 32;

/// The most that is kept of an answer or of what is said of it, in bytes.
const EXCERPT: usize = 1024;

/// An answer of a shadow that differs from the live one.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    /// The id of the prediction.
    pub prediction: String,
    /// The id of the shadow's revision.
    pub revision: String,
    /// The shadow's variant.
    pub variant: String,
    /// How far the answers are apart: of two numbers the part by which they differ, of the largest in a
    /// row the difference, of ranks what their correlation lacks to 1; 10^9 where they cannot be compared.
    pub distance: f64,
    /// What differs.
    pub difference: String,
    /// The beginning of the live answer.
    pub live: String,
    /// The beginning of the shadow's answer, or why it has none.
    pub shadow: String,
}

/// What is kept of an endpoint's shadows, for people.
#[derive(Default)]
pub(crate) struct Examples {
    dropped: AtomicU64,
    kept: Mutex<Vec<Example>>,
}

impl Examples {
    /// A copy was dropped for a `reason`.
    pub(crate) fn dropped(&self, endpoint: &str, reason: &'static str) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        berth_monitor::shadow_dropped(endpoint, reason);
    }

    /// Keeps an example if it is among the worst, and of the revision that has copies now.
    pub(crate) fn keep(&self, revision: &str, distance: f64, example: impl FnOnce() -> Example) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|known| known.revision == revision);
        // The worst first; of equals, those that came first stay.
        let at = kept.partition_point(|known| known.distance >= distance);
        if at < EXAMPLES {
            kept.insert(at, example());
            kept.truncate(EXAMPLES);
        }
    }

    /// Copies that were dropped since the host was started, and the examples, worst first.
    pub(crate) fn all(&self) -> (u64, Vec<Example>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.dropped.load(Ordering::Relaxed), kept)
    }
}

/// The beginning of a text.
pub(crate) fn excerpt(text: &str) -> String {
    text[..text.floor_char_boundary(EXCERPT)].to_owned()
}

/// The beginning of an answer, in words.
pub(crate) fn beginning(reply: &Reply) -> String {
    if reply.tensors.is_empty() {
        let mut bytes = Vec::new();
        for part in &reply.parts {
            bytes.extend_from_slice(&part[..part.len().min(EXCERPT - bytes.len())]);
        }
        return excerpt(&String::from_utf8_lossy(&bytes));
    }
    let tensor = |NamedTensor { name, tensor }: &NamedTensor| {
        let values = crate::compare::first_numbers(tensor);
        format!("{name} {} {:?} {values}", tensor.datatype(), tensor.shape())
    };
    excerpt(&reply.tensors.iter().map(tensor).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_the_last_revision_are_kept() {
        let examples = Examples::default();
        let keep = |revision: &str, distance: f64| {
            examples.keep(revision, distance, || Example {
                prediction: String::new(),
                revision: revision.to_owned(),
                variant: "main".to_owned(),
                distance,
                difference: String::new(),
                live: String::new(),
                shadow: String::new(),
            });
        };
        keep("old", 1e9);
        (0..100).for_each(|at| keep("new", f64::from(at * 37 % 100)));
        let (_, kept) = examples.all();
        let distances: Vec<f64> = kept.iter().map(|example| example.distance).collect();
        let expected: Vec<f64> = (0..32).map(|at| f64::from(99 - at)).collect();
        assert_eq!(distances, expected);
    }
}
