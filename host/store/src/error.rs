//! What can go wrong.

use std::io;
use std::path::PathBuf;

use berth_tensor::Digest;

use crate::change::Sequence;

/// Why the store did not do what was asked. Nothing is half-done after any of these.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another host has the folder open.
    #[error(
        "{} is in use by another host: stop that one, or give this one another folder",
        .folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// Someone else committed first. Read again, decide again.
    #[error(
        "the store is at commit {actual}, not {expected} as expected: something else changed meanwhile"
    )]
    Conflict {
        /// The sequence that the caller expected.
        expected: Sequence,
        /// The sequence that the store is at.
        actual: Sequence,
    },
    /// A document or blob is over its limit.
    #[error("{what} is over the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// What was written is not what was announced.
    #[error("the content received has sha256 {actual}, not {expected} as announced: send it again")]
    Mismatch {
        /// The digest announced.
        expected: Digest,
        /// The digest of what was written.
        actual: Digest,
    },
    /// What is sent of an upload does not follow on what is there.
    #[error("{held} bytes of {digest} are here and {offset} is beyond them: go on from {held}")]
    Gap {
        /// The upload.
        digest: Digest,
        /// Where the client wanted to go on, in bytes.
        offset: u64,
        /// The bytes that are there.
        held: u64,
    },
    /// An upload came to its end while it was gone on with: it has grown too old, was refused, or is
    /// in the store by now.
    #[error("the upload of {digest} has ended meanwhile: ask for what is missing, and begin again")]
    Gone {
        /// The upload.
        digest: Digest,
    },
    /// Other uploads leave no room for this one.
    #[error("other uploads take all the room that there is for them; try again later")]
    Busy,
    /// There is no blob of that digest.
    #[error("blob {digest} is not in the store ({} does not exist)", .path.display())]
    Missing {
        /// The digest asked for.
        digest: Digest,
        /// Where it would lie.
        path: PathBuf,
    },
    /// A blob's file was altered on the disk. Pushing the same content again repairs it.
    #[error(
        "blob {digest} is corrupt: {} now has sha256 {actual}; push the same content again to repair it, then apply what uses it",
        .path.display()
    )]
    Corrupt {
        /// The digest asked for.
        digest: Digest,
        /// The file.
        path: PathBuf,
        /// What the file holds instead.
        actual: Digest,
    },
    /// The folder was written by a newer version.
    #[error("{} has layout {found}, this version reads up to {known}: use a newer one", .path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its layout.
        found: u32,
        /// The newest layout known here.
        known: u32,
    },
    /// A file operation failed: no room, no permission, a broken disk.
    #[error("cannot {action} {}: {error}", .path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The database failed: no room, no permission, not a database, a broken disk.
    #[error("cannot {action} {}: {problem}", .path.display())]
    Database {
        /// What was tried, as a verb and its object.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// The database's answer.
        problem: String,
    },
}
