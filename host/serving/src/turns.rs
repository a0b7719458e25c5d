//! Turns: who may do something with what a key names, one at a time and in the order in which they ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Of each key, whose turn it is and who waits for it.
pub(crate) struct Turns<K>(Mutex<HashMap<K, Place>>);

type Place = Arc<tokio::sync::Mutex<()>>;

/// A turn, over when this is dropped.
pub(crate) struct Turn(OwnedMutexGuard<()>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits for the turn.
    pub(crate) async fn wait(&self, key: &K) -> Turn {
        let place = self.place(key);
        Turn(place.lock_owned().await)
    }

    /// The same on a thread that may block.
    pub(crate) fn wait_blocking(&self, key: &K) -> Turn {
        Turn(self.place(key).blocking_lock_owned())
    }

    /// The turn of who comes before all others: whoever has it or waits for it is given up.
    pub(crate) async fn take(&self, key: &K) -> Turn {
        let place = Place::default();
        // Nobody else knows it yet.
        let turn = Turn(Arc::clone(&place).lock_owned().await);
        self.places().insert(key.clone(), place);
        turn
    }

    /// Gives up whoever has the turn or waits for it.
    pub(crate) fn give_up(&self, key: &K) {
        self.places().remove(key);
    }

    /// Whether this turn was not given up.
    pub(crate) fn stands(&self, key: &K, turn: &Turn) -> bool {
        let place = OwnedMutexGuard::mutex(&turn.0);
        self.places().get(key).is_some_and(|now| Arc::ptr_eq(now, place))
    }

    fn place(&self, key: &K) -> Place {
        let mut places = self.places();
        places.retain(|_, place| Arc::strong_count(place) > 1);
        Arc::clone(places.entry(key.clone()).or_default())
    }

    fn places(&self) -> MutexGuard<'_, HashMap<K, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
