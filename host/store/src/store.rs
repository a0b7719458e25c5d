//! The folder, opened.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_tensor::Digest;
use tokio::sync::watch;

use crate::blobs::{BlobWriter, Blobs, LaidOut, SealedBlob};
use crate::change::{Change, Document, Entry, Note, Sequence};
use crate::error::StoreError;
use crate::feedback::FeedbackLog;
use crate::log::Log;
use crate::uploads::Upload;

/// An open store. A clone is another handle on the same one; the folder is free again when the
/// last is gone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    log: Mutex<Log>,
    committed: watch::Sender<Sequence>,
    blobs: Arc<Blobs>,
    feedback: FeedbackLog,
    folder: PathBuf,
    // Declared last: the folder is given up after everything in it is closed.
    _lock: File,
}

/// For how long a lock may outlive its host.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

impl Store {
    /// Opens the store in the folder `path`, or makes it. Refused while another host has it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |action| move |error| file(action, path, error);
        std::fs::create_dir_all(path).map_err(failed("make"))?;
        let folder = path.canonicalize().map_err(failed("open"))?;
        let lock = lock(&folder)?;
        let blobs = Blobs::open(folder.join("blobs"))?;
        let log = Log::open(folder.join("berth.sqlite"))?;
        let feedback = FeedbackLog::open(&folder.join("feedback.sqlite"))?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed("sync"))?;
        let committed = watch::Sender::new(log.sequence());
        let (log, blobs) = (Mutex::new(log), Arc::new(blobs));
        Ok(Self(Arc::new(Inner { log, committed, blobs, feedback, folder, _lock: lock })))
    }

    /// The folder, as an absolute path.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The last commit, 0 before the first.
    pub fn sequence(&self) -> Sequence {
        *self.0.committed.borrow()
    }

    /// Tells of every commit made from now on. A slow receiver sees the last one only.
    pub fn watch(&self) -> watch::Receiver<Sequence> {
        self.0.committed.subscribe()
    }

    /// Commits all of `changes`, in their order, or nothing, and returns the new sequence; without
    /// changes, the sequence stays. With `expected`, only while the store is at that sequence;
    /// otherwise the error is [`StoreError::Conflict`]. Documents take at most
    /// [`DOCUMENT_SIZE`](crate::change::DOCUMENT_SIZE).
    pub fn commit(
        &self,
        expected: Option<Sequence>,
        changes: &[Change],
        note: &Note,
    ) -> Result<Sequence, StoreError> {
        let mut log = self.log();
        let sequence = log.commit(expected, changes, note)?;
        // Told before the log is released, so that receivers never see an older one after a newer.
        self.0.committed.send_if_modified(|last| std::mem::replace(last, sequence) != sequence);
        Ok(sequence)
    }

    /// The document of `kind` and `key`.
    pub fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
        self.log().get(kind, key)
    }

    /// Every document of `kind` whose key begins with `prefix`, with its key, in the order of the
    /// keys' bytes.
    pub fn list(&self, kind: &str, prefix: &str) -> Result<Vec<(String, Document)>, StoreError> {
        self.log().list(kind, prefix)
    }

    /// The last `limit` changes to the document of `kind` and `key`, latest first.
    pub fn history(&self, kind: &str, key: &str, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.log().history(kind, key, limit)
    }

    /// What became known of predictions.
    pub fn feedback(&self) -> &FeedbackLog {
        &self.0.feedback
    }

    /// Starts a blob of at most `limit` bytes.
    pub fn blob_writer(&self, limit: u64) -> Result<BlobWriter, StoreError> {
        self.0.blobs.writer(limit)
    }

    /// How many bytes are there of an upload: of a blob that arrives in several goes.
    pub fn uploaded(&self, digest: &Digest) -> u64 {
        self.0.blobs.uploaded(digest)
    }

    /// Goes on with an upload, of `bytes` in all, from `offset` on, which must not be beyond what is
    /// there; refused when the uploads that are kept leave no room for it.
    pub fn upload(&self, digest: Digest, offset: u64, bytes: u64) -> Result<Upload, StoreError> {
        self.0.blobs.upload(digest, offset, bytes)
    }

    /// An upload, if it is whole.
    pub fn whole_upload(&self, digest: &Digest) -> Option<SealedBlob> {
        self.0.blobs.whole_upload(digest)
    }

    /// Lets go of uploads that nothing was added to for a day.
    pub fn expire_uploads(&self) {
        self.0.blobs.uploads.expire(&self.0.blobs);
    }

    /// The blob in its place, compared with its digest, which reads it in small pieces.
    pub fn blob(&self, digest: &Digest) -> Result<SealedBlob, StoreError> {
        self.0.blobs.whole(digest)
    }

    /// A folder in which blobs lie under names, which are relative and lead nowhere else, for those who
    /// must have them so.
    pub fn lay_out<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a str, &'a SealedBlob)>,
    ) -> Result<LaidOut, StoreError> {
        self.0.blobs.lay_out(files)
    }

    /// Whether the blob is there; its content is not looked at.
    pub fn blob_exists(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.0.blobs.exists(digest)
    }

    /// The whole blob, compared with its digest.
    pub fn blob_read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.0.blobs.read(digest)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // A panic in between rolls the transaction back, so the log is whole.
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let lock = File::create(&path).map_err(|error| file("make", &path, error))?;
    let begin = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            // A process that a host has just begun to start, for a compilation or a trial, holds the
            // lock for a moment longer than the host, if that was killed.
            Err(TryLockError::WouldBlock) if begin.elapsed() < LEFT_BEHIND => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { folder: folder.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(file("lock", &path, error)),
        }
    }
}

fn file(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::File { action, path: path.to_owned(), error }
}
