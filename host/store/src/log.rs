//! Changes and documents in SQLite. The log is the truth; documents are its projection, written in
//! the same transaction.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use serde_json::Value;

use crate::change::{Change, DOCUMENT_SIZE, Document, Entry, Note, Sequence};
use crate::error::StoreError;

/// The layout of the tables below. A later one brings the steps that lead to it.
const LAYOUT: u32 = 1;

const TABLES: &str = "
CREATE TABLE commits (
    sequence INTEGER PRIMARY KEY,
    time_ms  INTEGER NOT NULL,
    who      TEXT NOT NULL,
    why      TEXT NOT NULL
) STRICT;
CREATE TABLE changes (
    sequence INTEGER NOT NULL REFERENCES commits,
    position INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    document TEXT,
    PRIMARY KEY (sequence, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX changes_of_document ON changes (kind, key, sequence, position);
CREATE TABLE documents (
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    sequence INTEGER NOT NULL REFERENCES commits,
    document TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
";

/// The database, opened by this process alone.
pub(crate) struct Log {
    connection: Connection,
    path: PathBuf,
    sequence: Sequence,
}

impl Log {
    /// Opens the database at `path`, or makes it. The folder must exist and be locked.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let failed = |error| database("open", &path, error);
        let mut connection = Connection::open(&path).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        lay_out(&mut connection, &path)?;
        let sequence = connection
            .query_row("SELECT coalesce(max(sequence), 0) FROM commits", [], |row| row.get(0))
            .map_err(|error| database("read", &path, error))?;
        Ok(Self { connection, path, sequence })
    }

    /// The last commit, 0 before the first.
    pub(crate) fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Commits all of `changes` or nothing.
    pub(crate) fn commit(
        &mut self,
        expected: Option<Sequence>,
        changes: &[Change],
        note: &Note,
    ) -> Result<Sequence, StoreError> {
        if let Some(expected) = expected.filter(|&expected| expected != self.sequence) {
            return Err(StoreError::Conflict { expected, actual: self.sequence });
        }
        if changes.is_empty() {
            return Ok(self.sequence);
        }
        let texts = changes.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let sequence = self.sequence + 1;
        let failed = |error| database("commit to", &self.path, error);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        write(&transaction, sequence, changes, &texts, note).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        self.sequence = sequence;
        Ok(sequence)
    }

    pub(crate) fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
        self.connection
            .prepare_cached("SELECT sequence, document FROM documents WHERE kind = ? AND key = ?")
            .and_then(|mut query| query.query_row([kind, key], |row| document(row, 0)).optional())
            .map_err(|error| database("read", &self.path, error))
    }

    pub(crate) fn list(
        &self,
        kind: &str,
        prefix: &str,
    ) -> Result<Vec<(String, Document)>, StoreError> {
        // The last character there is comes after every key that begins with the prefix.
        self.connection
            .prepare_cached(
                "SELECT key, sequence, document FROM documents
                 WHERE kind = ?1 AND key >= ?2 AND key < ?2 || char(0x10FFFF) ORDER BY key",
            )
            .and_then(|mut query| {
                let row = |row: &Row<'_>| Ok((row.get(0)?, document(row, 1)?));
                query.query_map([kind, prefix], row)?.collect()
            })
            .map_err(|error| database("read", &self.path, error))
    }

    pub(crate) fn history(
        &self,
        kind: &str,
        key: &str,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let entry = |row: &Row<'_>| {
            let change = match row.get::<_, Option<Value>>(4)? {
                Some(document) => Change::put(kind, key, document),
                None => Change::delete(kind, key),
            };
            let note = Note { who: row.get(2)?, why: row.get(3)? };
            Ok(Entry { sequence: row.get(0)?, time: row.get(1)?, note, change })
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.connection
            .prepare_cached(
                "SELECT sequence, time_ms, who, why, document
                 FROM changes JOIN commits USING (sequence)
                 WHERE kind = ? AND key = ? ORDER BY sequence DESC, position DESC LIMIT ?",
            )
            .and_then(|mut query| query.query_map(params![kind, key, limit], entry)?.collect())
            .map_err(|error| database("read", &self.path, error))
    }
}

/// Makes the tables in an empty database, and refuses one of a layout unknown here.
fn lay_out(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| database("open", path, error);
    let found: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    match found {
        0 => {
            let transaction = connection.transaction().map_err(failed)?;
            transaction.execute_batch(TABLES).map_err(failed)?;
            transaction.pragma_update(None, "user_version", LAYOUT).map_err(failed)?;
            transaction.commit().map_err(failed)
        }
        LAYOUT => Ok(()),
        found => Err(StoreError::Newer { path: path.to_owned(), found, known: LAYOUT }),
    }
}

/// The document of a change as JSON text; none for a deletion.
fn text(change: &Change) -> Result<Option<String>, StoreError> {
    let Change::Put { kind, key, document } = change else {
        return Ok(None);
    };
    let text = document.to_string();
    if text.len() > DOCUMENT_SIZE {
        let what = format!("the document of {kind} {key:?}");
        return Err(StoreError::TooLarge { what, limit: DOCUMENT_SIZE as u64 });
    }
    Ok(Some(text))
}

fn write(
    transaction: &Transaction<'_>,
    sequence: Sequence,
    changes: &[Change],
    texts: &[Option<String>],
    note: &Note,
) -> rusqlite::Result<()> {
    // A clock before 1970 is set wrong, which is no reason to refuse a commit.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    transaction
        .prepare_cached("INSERT INTO commits VALUES (?, ?, ?, ?)")?
        .execute(params![sequence, time, note.who, note.why])?;
    let mut record = transaction.prepare_cached("INSERT INTO changes VALUES (?, ?, ?, ?, ?)")?;
    let mut put =
        transaction.prepare_cached("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)")?;
    let mut delete =
        transaction.prepare_cached("DELETE FROM documents WHERE kind = ? AND key = ?")?;
    for (position, (change, text)) in changes.iter().zip(texts).enumerate() {
        let (Change::Put { kind, key, .. } | Change::Delete { kind, key }) = change;
        record.execute(params![sequence, position, kind, key, text])?;
        match text {
            Some(text) => put.execute(params![kind, key, sequence, text])?,
            None => delete.execute([kind, key])?,
        };
    }
    Ok(())
}

fn document(row: &Row<'_>, first: usize) -> rusqlite::Result<Document> {
    Ok(Document { sequence: row.get(first)?, document: row.get(first + 1)? })
}

pub(crate) fn database(action: &'static str, path: &Path, error: rusqlite::Error) -> StoreError {
    StoreError::Database { action, path: path.to_owned(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_disk_leaves_the_commit_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path().join("berth.sqlite")).unwrap();
        let note = Note::default();
        let before = json!("before");
        log.commit(None, &[Change::put("k", "a", before.clone())], &note).unwrap();
        let limit_pages = |log: &Log, pages: i64| {
            log.connection
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| {
                    row.get::<_, i64>(0)
                })
                .unwrap()
        };
        // SQLite answers with the smallest limit it can take: the pages there are.
        limit_pages(&log, 1);
        let large =
            [Change::put("k", "a", json!(1)), Change::put("k", "b", json!("x".repeat(100_000)))];
        let error = log.commit(Some(1), &large, &note).unwrap_err().to_string();
        assert!(error.contains("cannot commit to") && error.contains("full"), "{error}");
        assert_eq!(log.get("k", "a").unwrap().unwrap().document, before);
        assert_eq!(log.history("k", "b", 9).unwrap(), []);
        limit_pages(&log, 1_000_000);
        assert_eq!(log.commit(Some(1), &large, &note).unwrap(), 2);
    }

    #[test]
    fn foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("berth.sqlite");
        std::fs::write(&path, "no database, only some text that is long enough").unwrap();
        let error = Log::open(path.clone()).err().unwrap().to_string();
        assert!(error.contains("berth.sqlite: file is not a database"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let log = Log::open(path.clone()).unwrap();
        log.connection.pragma_update(None, "user_version", LAYOUT + 1).unwrap();
        drop(log);
        assert!(matches!(Log::open(path), Err(StoreError::Newer { found: 2, known: 1, .. })));
    }
}
