//! Records predictions: a queue, the thread that writes what comes, and the one that tidies up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::file::{self, FileError, GROUP_BYTES, GROUP_ROWS, Table, time_ms};
use super::folder;
use super::row::Prediction;
use super::spec::{Declared, PredictionsSpec};
use super::time::{hour, now_ms};

const RECORDED: &str = "berth_predictions_recorded_total";
const DROPPED: &str = "berth_predictions_dropped_total";
const FEEDBACK: &str = "berth_feedback_total";
const WAITING: &str = "berth_predictions_waiting_bytes";

/// How long a prediction waits for others before it is written.
const WAIT: Duration = Duration::from_secs(2);

/// How soon it is written where somebody waits for that.
const SOON: Duration = Duration::from_millis(50);

/// How often files are merged and old ones deleted.
const TIDY: Duration = Duration::from_secs(10);

pub(crate) fn describe() {
    describe_counter!(RECORDED, "Predictions that are on the disk.");
    describe_counter!(DROPPED, "Predictions that were to be recorded and were not, by reason.");
    describe_counter!(FEEDBACK, "What clients said of predictions, by what became of it.");
    describe_gauge!(WAITING, Unit::Bytes, "Predictions that are not on the disk yet.");
}

/// Feedback on predictions of `endpoint` came: it is kept, was said before, or is of none that is known.
pub fn feedback(endpoint: &str, accepted: u64, duplicate: u64, unknown: u64) {
    for (outcome, count) in [("accepted", accepted), ("duplicate", duplicate), ("unknown", unknown)]
    {
        let labels = [("endpoint", endpoint.to_owned()), ("outcome", outcome.to_owned())];
        counter!(FEEDBACK, &labels).increment(count);
    }
}

/// Records predictions in files, off the way of requests.
pub struct Recorder {
    queue: Sender<Message>,
    waiting: Arc<AtomicUsize>,
    most: usize,
    folder: PathBuf,
    /// Held for writing while files are replaced.
    pub(crate) alone: Arc<RwLock<()>>,
    keep: Arc<Mutex<BTreeMap<String, (u64, u64)>>>,
    /// Ends the thread that tidies up when it is dropped.
    _tidying: Sender<()>,
}

enum Message {
    Record(Box<Prediction>, Arc<Declared>, usize),
    Find(HashSet<u128>, SyncSender<bool>),
    Flush(SyncSender<()>),
}

impl Recorder {
    /// A recorder of files below `folder`, of which at most `most` bytes wait to be written. What a
    /// crash has left half done is tidied up first.
    pub fn start(folder: &Path, most: usize) -> Result<Self, FileError> {
        let folder = folder.join("predictions");
        let failed = |error| FileError::Io { path: folder.clone(), error };
        fs::create_dir_all(&folder).map_err(failed)?;
        endpoints(&folder).iter().for_each(|endpoint| folder::recover(&folder.join(endpoint)));
        let (queue, messages) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut writer =
            Writer { folder: folder.clone(), waiting: Arc::clone(&waiting), open: HashMap::new() };
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        named("predictions").spawn(move || writer.run(&messages)).map_err(failed)?;
        let (tidying, ended) = mpsc::channel();
        let (alone, keep) = (Arc::<RwLock<()>>::default(), Arc::<Mutex<_>>::default());
        let tidy = (folder.clone(), Arc::clone(&alone), Arc::clone(&keep));
        named("predictions-tidy")
            .spawn(move || {
                while ended.recv_timeout(TIDY) == Err(RecvTimeoutError::Timeout) {
                    tidy_up(&tidy.0, &tidy.1, &tidy.2);
                }
            })
            .map_err(failed)?;
        Ok(Self { queue, waiting, most, folder, alone, keep, _tidying: tidying })
    }

    /// Takes a prediction to be recorded as its endpoint declares, whose request came with `sent` bytes, or
    /// drops and counts it when too much waits already.
    pub fn record(&self, mut prediction: Prediction, sent: usize, declared: &Arc<Declared>) {
        let bytes = prediction.bytes();
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > self.most {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            return dropped(&prediction.endpoint, "full", 1);
        }
        prediction.take_apart(sent);
        let message = Message::Record(Box::new(prediction), Arc::clone(declared), bytes);
        // The thread ends after this does.
        let _ = self.queue.send(message);
    }

    /// Waits until all that was recorded before is on the disk, or was dropped.
    pub fn flush(&self) {
        let (done, flushed) = mpsc::sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            let _ = flushed.recv();
        }
    }

    /// Waits until those of these predictions that were recorded are on the disk, or were dropped.
    pub(crate) fn settle(&self, ids: &HashSet<u128>) {
        let (reply, found) = mpsc::sync_channel(1);
        let asked = self.queue.send(Message::Find(ids.clone(), reply)).is_ok();
        if asked && found.recv() == Ok(true) {
            // What comes right after its answer is not to have a file for each.
            thread::sleep(SOON);
            self.flush();
        }
    }

    /// Says of which endpoints old predictions are deleted, and when; those of others stay.
    pub fn keep<'a>(&self, endpoints: impl Iterator<Item = (&'a str, &'a PredictionsSpec)>) {
        let mut keep = BTreeMap::<String, (u64, u64)>::new();
        for (name, spec) in endpoints {
            // Of two revisions, the one that keeps more.
            let (ms, bytes) = keep.entry(name.to_owned()).or_default();
            (*ms, *bytes) = ((*ms).max(spec.keep().0), (*bytes).max(spec.keep().1));
        }
        *self.keep.lock().unwrap_or_else(PoisonError::into_inner) = keep;
        gauge!(WAITING).set(self.waiting.load(Ordering::Relaxed) as f64);
    }

    /// The endpoints of which there are files.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        endpoints(&self.folder)
    }

    /// The folder of an endpoint's files.
    pub(crate) fn folder(&self, endpoint: &str) -> PathBuf {
        self.folder.join(endpoint)
    }
}

fn dropped(endpoint: &str, reason: &'static str, predictions: u64) {
    let labels = [("endpoint", endpoint.to_owned()), ("reason", reason.to_owned())];
    counter!(DROPPED, &labels).increment(predictions);
}

fn endpoints(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn tidy_up(folder: &Path, alone: &RwLock<()>, keep: &Mutex<BTreeMap<String, (u64, u64)>>) {
    let keep = keep.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for endpoint in endpoints(folder) {
        let (folder, now) = (folder.join(&endpoint), now_ms());
        if let Some(&keep) = keep.get(&endpoint) {
            folder::retain(&folder, now, keep, alone);
        }
        if let Err(error) = folder::compact(&folder, now, alone) {
            tracing::warn!(endpoint, "its predictions are not merged: {error}");
        }
    }
}

/// What the thread has that is not on the disk yet.
struct Writer {
    folder: PathBuf,
    waiting: Arc<AtomicUsize>,
    open: HashMap<String, Open>,
}

/// An endpoint's predictions that are not on the disk yet.
struct Open {
    rows: Vec<(Prediction, Arc<Declared>)>,
    bytes: usize,
    since: Instant,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let due = self.open.values().map(|open| open.since + WAIT).min();
            let wait = due.map_or(WAIT, |due| due.saturating_duration_since(Instant::now()));
            match messages.recv_timeout(wait) {
                Ok(Message::Record(prediction, declared, bytes)) => {
                    self.add(*prediction, declared, bytes);
                }
                Ok(Message::Find(ids, reply)) => {
                    let mut rows = self.open.values().flat_map(|open| &open.rows);
                    let _ = reply.send(rows.any(|(row, _)| ids.contains(&row.id)));
                }
                Ok(Message::Flush(done)) => {
                    self.write(|_| true);
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.write(|_| true),
            }
            self.write(|open| {
                open.bytes >= GROUP_BYTES
                    || open.rows.len() >= GROUP_ROWS
                    || open.since.elapsed() >= WAIT
            });
        }
    }

    fn add(&mut self, mut prediction: Prediction, declared: Arc<Declared>, bytes: usize) {
        prediction.keep(&declared.spec);
        let kept = prediction.bytes().min(bytes);
        self.waiting.fetch_sub(bytes - kept, Ordering::Relaxed);
        let open = self.open.entry(prediction.endpoint.clone());
        let open =
            open.or_insert_with(|| Open { rows: Vec::new(), bytes: 0, since: Instant::now() });
        open.rows.push((prediction, declared));
        open.bytes += kept;
    }

    /// Writes what is due.
    fn write(&mut self, due: impl Fn(&Open) -> bool) {
        let due: Vec<String> =
            self.open.iter().filter(|(_, open)| due(open)).map(|(name, _)| name.clone()).collect();
        for endpoint in due {
            let Some(open) = self.open.remove(&endpoint) else { continue };
            let (written, problem) = self.write_rows(&endpoint, &open.rows);
            self.waiting.fetch_sub(open.bytes, Ordering::Relaxed);
            let labels = [("endpoint", endpoint.clone())];
            counter!(RECORDED, &labels).increment(written as u64);
            if let Some(error) = problem {
                let lost = open.rows.len() - written;
                dropped(&endpoint, "failed", lost as u64);
                tracing::error!(endpoint, lost, "predictions were not recorded: {error}");
            }
        }
    }

    /// Writes rows in as many files as there are hours and kinds of columns, and says how many are there.
    fn write_rows(
        &self,
        endpoint: &str,
        rows: &[(Prediction, Arc<Declared>)],
    ) -> (usize, Option<FileError>) {
        let folder = self.folder.join(endpoint);
        // That of the first prediction is to be found after a crash too.
        let made = match folder.is_dir() {
            true => Ok(()),
            false => {
                fs::create_dir_all(&folder).and_then(|()| fs::File::open(&self.folder)?.sync_all())
            }
        };
        if let Err(error) = made {
            return (0, Some(FileError::Io { path: folder, error }));
        }
        let mut tables: Vec<(String, Table)> = Vec::new();
        for (row, _) in rows {
            let hour = hour(time_ms(row.id));
            let taken = tables.iter_mut().any(|(of, table)| *of == hour && table.push(row));
            if !taken {
                let mut table = Table::new();
                table.push(row);
                tables.push((hour, table));
            }
        }
        // The latest first: where a name is of two kinds, the next rows have the later.
        let declared = rows.chunk_by(|(_, a), (_, b)| Arc::ptr_eq(a, b)).rev();
        for (_, declared) in declared.filter_map(<[_]>::first) {
            tables.iter_mut().for_each(|(_, table)| table.declare(&declared.columns));
        }
        let mut written = 0;
        for (hour, table) in tables {
            let rows = table.rows;
            match file::write(&folder::new_path(&folder, &hour), table) {
                Ok(()) => written += rows,
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }
}
