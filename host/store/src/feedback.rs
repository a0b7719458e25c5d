//! What became known of predictions afterwards, in a database of its own: what clients send is not
//! held up by the log, nor the log by them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, TransactionBehavior, params};

use crate::error::StoreError;
use crate::log::database;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS feedback (
    endpoint   TEXT NOT NULL,
    prediction BLOB NOT NULL,
    kind       TEXT NOT NULL,
    reward     REAL,
    label      TEXT,
    number     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (endpoint, prediction, kind)
) STRICT, WITHOUT ROWID;
";

const NUMBERS: &str = "
CREATE INDEX IF NOT EXISTS feedback_numbers ON feedback (endpoint, number);
";

/// What became known of a prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// The prediction's id.
    pub prediction: u128,
    /// What it was worth, or what was right.
    pub said: Said,
}

/// What is said of a prediction. Each of the two is said once.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// What it was worth.
    Reward(f64),
    /// What was right.
    Label(String),
}

/// Feedback by endpoint and prediction.
pub struct FeedbackLog {
    connection: Mutex<Connection>,
    path: PathBuf,
}

impl FeedbackLog {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| database("open", path, error);
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
        connection.execute_batch(TABLE).map_err(failed)?;
        let numbered = "SELECT count(*) FROM pragma_table_info('feedback') WHERE name = 'number'";
        if connection.query_one(numbered, [], |row| row.get::<_, i64>(0)).map_err(failed)? == 0 {
            let add = "ALTER TABLE feedback ADD COLUMN number INTEGER NOT NULL DEFAULT 0";
            connection.execute(add, []).map_err(failed)?;
        }
        connection.execute_batch(NUMBERS).map_err(failed)?;
        Ok(Self { connection: Mutex::new(connection), path: path.to_owned() })
    }

    /// Adds all of `feedback`, which is on the disk when this returns, and answers the number of each that
    /// was not there before: they rise with the time, which they are about, in microseconds since 1970.
    /// What was there stays as it is.
    pub fn add(
        &self,
        endpoint: &str,
        feedback: &[Feedback],
    ) -> Result<Vec<Option<u64>>, StoreError> {
        let failed = |error| database("commit to", &self.path, error);
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let mut added = Vec::with_capacity(feedback.len());
        let last = "SELECT coalesce(max(number), 0) FROM feedback WHERE endpoint = ?";
        let last: i64 =
            transaction.query_one(last, [endpoint], |row| row.get(0)).map_err(failed)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut number = last.max(i64::try_from(since.as_micros()).unwrap_or(i64::MAX >> 1));
        for Feedback { prediction, said } in feedback {
            let (kind, reward, label) = match said {
                Said::Reward(reward) => ("reward", Some(reward), None),
                Said::Label(label) => ("label", None, Some(label)),
            };
            let rows = transaction
                .prepare_cached(
                    "INSERT OR IGNORE INTO feedback
                     (endpoint, prediction, kind, reward, label, number) VALUES (?, ?, ?, ?, ?, ?)",
                )
                .and_then(|mut insert| {
                    let id = prediction.to_be_bytes();
                    insert.execute(params![endpoint, id, kind, reward, label, number + 1])
                })
                .map_err(failed)?;
            number += i64::from(rows > 0);
            added.push((rows > 0).then(|| number.unsigned_abs()));
        }
        transaction.commit().map_err(failed)?;
        Ok(added)
    }

    /// What came after the feedback of this number, with its numbers, the first `most` of it.
    pub fn after(
        &self,
        endpoint: &str,
        number: u64,
        most: usize,
    ) -> Result<Vec<(u64, Feedback)>, StoreError> {
        self.connection()
            .prepare_cached(
                "SELECT prediction, reward, label, number FROM feedback
                 WHERE endpoint = ? AND number > ? ORDER BY number LIMIT ?",
            )
            .and_then(|mut query| {
                let row = |row: &rusqlite::Row<'_>| {
                    Ok((row.get::<_, i64>(3)?.unsigned_abs(), feedback(row)?))
                };
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                query.query_map(params![endpoint, number, most as i64], row)?.collect()
            })
            .map_err(|error| database("read", &self.path, error))
    }

    /// What is known of the predictions from `first` to `last`, both included.
    pub fn between(
        &self,
        endpoint: &str,
        first: u128,
        last: u128,
    ) -> Result<Vec<Feedback>, StoreError> {
        self.connection()
            .prepare_cached(
                "SELECT prediction, reward, label FROM feedback
                 WHERE endpoint = ? AND prediction BETWEEN ? AND ?",
            )
            .and_then(|mut query| {
                let range = params![endpoint, first.to_be_bytes(), last.to_be_bytes()];
                query.query_map(range, feedback)?.collect()
            })
            .map_err(|error| database("read", &self.path, error))
    }

    /// Lets go of what is known of predictions before an id.
    pub fn forget(&self, endpoint: &str, before: u128) -> Result<(), StoreError> {
        self.connection()
            .prepare_cached("DELETE FROM feedback WHERE endpoint = ? AND prediction < ?")
            .and_then(|mut delete| delete.execute(params![endpoint, before.to_be_bytes()]))
            .map(drop)
            .map_err(|error| database("commit to", &self.path, error))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic in between rolls the transaction back, so the database is whole.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prediction, reward and label of a row.
fn feedback(row: &rusqlite::Row<'_>) -> rusqlite::Result<Feedback> {
    let id: [u8; 16] = row.get(0)?;
    let reward: Option<f64> = row.get(1)?;
    let said = match reward {
        Some(reward) => Said::Reward(reward),
        None => Said::Label(row.get(2)?),
    };
    Ok(Feedback { prediction: u128::from_be_bytes(id), said })
}
