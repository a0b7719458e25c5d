//! Blobs that arrive in several goes, each in `blobs/partial/` under the digest and the size that it is
//! to have: who is wrong about the size is at an upload of its own.
//!
//! What has arrived stays when a connection breaks and when the host ends, so that whoever sends it
//! again sends the rest. It is not synced before it is whole: what a power cut takes of it, its digest
//! finds. Any number of clients may send the same at once: what one has sent already is passed over
//! in what another sends.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_tensor::Digest;
use cap_std::fs::{File, OpenOptions};
use sha2::{Digest as _, Sha256};

use crate::blobs::{Blobs, PARTIAL, SealedBlob, file};
use crate::error::StoreError;

/// The most uploads that are kept.
const MOST: usize = 1024;

/// The most that all of them together may come to, in bytes.
const TOGETHER: u64 = 64 << 30;

/// One that nothing was added to for so long goes.
const AGE: Duration = Duration::from_secs(24 * 3600);

/// One that nothing was added to for so long goes when there is no room for another.
const IDLE: Duration = Duration::from_secs(60);

/// The uploads that are kept.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<HashMap<Key, Arc<Part>>>);

/// What an upload is to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    digest: Digest,
    bytes: u64,
}

impl Key {
    /// Reads the name of an upload's file.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let (digest, bytes) = name.split_once('-')?;
        Some(Self { digest: digest.parse().ok()?, bytes: bytes.parse().ok()? })
    }

    fn file(&self) -> PathBuf {
        Path::new(PARTIAL).join(format!("{}-{}", self.digest, self.bytes))
    }
}

/// What has arrived of one.
pub(crate) struct Part {
    key: Key,
    /// Bytes that are there.
    held: AtomicU64,
    /// When it last grew, in milliseconds since 1970.
    touched: AtomicU64,
    state: Mutex<State>,
}

/// Where an upload stands.
enum State {
    /// More is to come. Without a hash, the file is from before the host was started.
    Growing(Option<Sha256>),
    /// It is whole, on the disk and what its digest says.
    Sealed,
    /// It is in the place of its blob.
    Placed,
    /// It was removed.
    Gone,
}

impl Part {
    fn new(key: Key, held: u64, touched: u64, hash: Option<Sha256>) -> Self {
        let [held, touched] = [held, touched].map(AtomicU64::new);
        Self { key, held, touched, state: Mutex::new(State::Growing(hash)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> PathBuf {
        self.key.file()
    }

    fn untouched_for(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.touched.load(Relaxed)))
    }

    /// Moves what is sealed to the place of its blob, if it is not there yet.
    pub(crate) fn place(&self, blobs: &Blobs) -> Result<(), StoreError> {
        let mut state = self.state();
        match *state {
            State::Placed => return Ok(()),
            State::Sealed => blobs.put_in_place(&self.name(), &self.key.digest)?,
            State::Growing(_) | State::Gone => {
                let digest = self.key.digest;
                return Err(StoreError::Missing { digest, path: blobs.path(&digest) });
            }
        }
        *state = State::Placed;
        drop(state);
        blobs.uploads.forget(self);
        Ok(())
    }

    /// Removes it, whoever is at it.
    pub(crate) fn remove(&self, blobs: &Blobs) {
        let mut state = self.state();
        self.remove_locked(&mut state, blobs);
        drop(state);
        blobs.uploads.forget(self);
    }

    fn remove_locked(&self, state: &mut State, blobs: &Blobs) {
        if matches!(*state, State::Growing(_) | State::Sealed) {
            *state = State::Gone;
            // What cannot be removed now is an upload again at the next opening, and too old one day.
            let _ = blobs.folder.remove_file(self.name());
        }
    }
}

impl Uploads {
    fn parts(&self) -> MutexGuard<'_, HashMap<Key, Arc<Part>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, part: &Part) {
        let mut parts = self.parts();
        if parts.get(&part.key).is_some_and(|known| std::ptr::eq(&**known, part)) {
            parts.remove(&part.key);
        }
    }

    /// Takes up a file that was there when the store was opened.
    pub(crate) fn found(&self, key: Key, size: u64, modified: SystemTime) {
        let part = Part::new(key, size, since_1970_ms(modified), None);
        self.parts().insert(key, Arc::new(part));
    }

    /// Lets go of what nothing was added to for long.
    pub(crate) fn expire(&self, blobs: &Blobs) {
        self.let_go(blobs, AGE, |_| true);
    }

    /// Removes, longest untouched first, what nothing was added to for `age` while `goes_on` says so
    /// of those left.
    fn let_go(
        &self,
        blobs: &Blobs,
        age: Duration,
        mut goes_on: impl FnMut(&HashMap<Key, Arc<Part>>) -> bool,
    ) {
        let mut parts = self.parts();
        let mut old: Vec<Arc<Part>> =
            parts.values().filter(|part| part.untouched_for() >= age).cloned().collect();
        old.sort_by_key(|part| part.touched.load(Relaxed));
        for part in old {
            if !goes_on(&parts) {
                break;
            }
            // One that is being read or written is not idle after all, nor one that is being pushed,
            // which this list and the table are not alone in holding.
            if let Ok(mut state) = part.state.try_lock()
                && !(matches!(*state, State::Sealed) && Arc::strong_count(&part) > 2)
            {
                part.remove_locked(&mut state, blobs);
                parts.remove(&part.key);
            }
        }
    }

    fn part(&self, blobs: &Blobs, key: Key) -> Result<Arc<Part>, StoreError> {
        self.expire(blobs);
        let full = |parts: &HashMap<Key, Arc<Part>>| {
            let others = || parts.keys().filter(|other| **other != key);
            let bytes = others().fold(key.bytes, |sum, other| sum.saturating_add(other.bytes));
            others().count() >= MOST || bytes > TOGETHER
        };
        self.let_go(blobs, IDLE, full);
        let mut parts = self.parts();
        if full(&parts) {
            return Err(StoreError::Busy);
        }
        let fresh = || Arc::new(Part::new(key, 0, now_ms(), Some(Sha256::new())));
        let part = Arc::clone(parts.entry(key).or_insert_with(fresh));
        part.touched.store(now_ms(), Relaxed);
        Ok(part)
    }
}

impl Blobs {
    /// How many bytes are there of an upload; of several that differ in size, the most.
    pub(crate) fn uploaded(&self, digest: &Digest) -> u64 {
        let parts = self.uploads.parts();
        let held = parts.values().filter(|part| part.key.digest == *digest);
        held.map(|part| part.held.load(Relaxed)).max().unwrap_or(0)
    }

    /// An upload that is whole.
    pub(crate) fn whole_upload(self: &Arc<Self>, digest: &Digest) -> Option<SealedBlob> {
        let parts = self.uploads.parts();
        let of_digest = parts.values().filter(|part| part.key.digest == *digest).cloned();
        let of_digest: Vec<Arc<Part>> = of_digest.collect();
        // A part's state is held for as long as it is read or written, the table never.
        drop(parts);
        let part = of_digest.into_iter().find(|part| matches!(*part.state(), State::Sealed))?;
        let size = part.key.bytes;
        Some(SealedBlob::of_upload(Arc::clone(self), part, *digest, size))
    }

    /// Goes on with an upload that is to have `bytes`, from `offset` on.
    pub(crate) fn upload(
        self: &Arc<Self>,
        digest: Digest,
        offset: u64,
        bytes: u64,
    ) -> Result<Upload, StoreError> {
        if bytes > TOGETHER {
            return Err(StoreError::TooLarge { what: "the content".into(), limit: TOGETHER });
        }
        let part = self.uploads.part(self, Key { digest, bytes })?;
        let mut state = part.state();
        let path = self.path.join(part.name());
        let failed = |action| {
            let path = path.clone();
            move |error| file(action, &path, error)
        };
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(matches!(*state, State::Growing(_)));
        let mut open = match *state {
            State::Placed | State::Gone => return Err(StoreError::Gone { digest }),
            State::Sealed | State::Growing(_) => {
                self.folder.open_with(part.name(), &options).map_err(failed("open"))?
            }
        };
        if let State::Growing(hash @ None) = &mut *state {
            let mut read = Sha256::new();
            let held = io::copy(&mut open, &mut read).map_err(failed("read"))?;
            part.held.store(held, Relaxed);
            *hash = Some(read);
        }
        let held = part.held.load(Relaxed);
        drop(state);
        if offset > held || offset > bytes {
            return Err(StoreError::Gap { digest, offset, held });
        }
        Ok(Upload { blobs: Arc::clone(self), part, file: open, at: offset })
    }
}

/// An upload that is gone on with. Dropped, it leaves what has arrived.
pub struct Upload {
    blobs: Arc<Blobs>,
    part: Arc<Part>,
    file: File,
    /// Where the next piece belongs.
    at: u64,
}

impl Upload {
    /// Takes the next piece, of any length; what is there already is passed over. A disk that takes no
    /// more has all of the upload back: the host's own commits need the room.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let Key { digest, bytes } = self.part.key;
        if piece.len() as u64 > bytes - self.at {
            return Err(StoreError::TooLarge { what: "the content".into(), limit: bytes });
        }
        let mut state = self.part.state();
        let held = self.part.held.load(Relaxed);
        let known =
            usize::try_from(held.saturating_sub(self.at)).unwrap_or(usize::MAX).min(piece.len());
        let new = &piece[known..];
        match &mut *state {
            State::Growing(Some(hash)) => {
                if let Err(error) = self.file.write_all(new) {
                    drop(state);
                    self.part.remove(&self.blobs);
                    return Err(file("write", &self.blobs.path.join(self.part.name()), error));
                }
                hash.update(new);
                self.part.held.store(held + new.len() as u64, Relaxed);
                self.part.touched.store(now_ms(), Relaxed);
            }
            State::Sealed | State::Placed => {}
            State::Growing(None) | State::Gone => {
                return Err(StoreError::Gone { digest });
            }
        }
        self.at += piece.len() as u64;
        Ok(())
    }

    /// Ends this go and answers how many bytes are there. When all are, the upload is sealed; one whose
    /// content is not what its digest says is refused and removed.
    pub fn finish(self) -> Result<u64, StoreError> {
        let mut state = self.part.state();
        let held = self.part.held.load(Relaxed);
        if let State::Growing(Some(hash)) = &*state
            && held == self.part.key.bytes
        {
            let (expected, actual) =
                (self.part.key.digest, Digest::from_bytes(hash.clone().finalize().into()));
            if actual != expected {
                drop(state);
                self.part.remove(&self.blobs);
                return Err(StoreError::Mismatch { expected, actual });
            }
            let synced = self.file.sync_all();
            synced
                .map_err(|error| file("write", &self.blobs.path.join(self.part.name()), error))?;
            *state = State::Sealed;
        }
        Ok(held)
    }
}

fn now_ms() -> u64 {
    since_1970_ms(SystemTime::now())
}

fn since_1970_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
