//! What is committed and what is read back.

use serde_json::Value;

/// The number of a commit: 1 for the first, 0 before it, no gaps.
pub type Sequence = u64;

/// The largest document, in bytes of JSON.
pub const DOCUMENT_SIZE: usize = 4 << 20;

/// One change to one document. Kinds and their documents are the caller's affair.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The document of `kind` and `key` becomes this one.
    Put {
        /// What sort of thing it is, such as `endpoint`.
        kind: String,
        /// Its name among its kind.
        key: String,
        /// Its content.
        document: Value,
    },
    /// The document of `kind` and `key` goes. One that does not exist may be deleted.
    Delete {
        /// What sort of thing it was.
        kind: String,
        /// Its name among its kind.
        key: String,
    },
}

impl Change {
    /// A [`Change::Put`].
    pub fn put(kind: impl Into<String>, key: impl Into<String>, document: Value) -> Self {
        Self::Put { kind: kind.into(), key: key.into(), document }
    }

    /// A [`Change::Delete`].
    pub fn delete(kind: impl Into<String>, key: impl Into<String>) -> Self {
        Self::Delete { kind: kind.into(), key: key.into() }
    }
}

/// Who commits, and why; kept in the log for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The person or part of the host that asked for the change.
    pub who: String,
    /// Their reason; may be empty.
    pub why: String,
}

/// A document as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The commit that put it.
    pub sequence: Sequence,
    /// Its content.
    pub document: Value,
}

/// One change as the log keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The commit that it belongs to.
    pub sequence: Sequence,
    /// When it was committed, in milliseconds since 1970-01-01T00:00:00Z by the host's clock.
    pub time: u64,
    /// Who and why.
    pub note: Note,
    /// What changed.
    pub change: Change,
}
