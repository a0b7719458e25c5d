//! The folder of an endpoint's predictions: files by hour.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::file::{self, FileError, Opened};
use super::time::{hour, parse_time};

/// Below this, in bytes, files of the hour that is not over yet are merged.
const SMALL: u64 = 4 << 20;

/// Once there are so many of them.
const MANY: usize = 32;

/// The most files that are merged at once.
const TOGETHER: usize = 64;

/// How long after its end predictions of an hour may still come.
const LATE_MS: u64 = 60_000;

/// A file of predictions.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

impl Part {
    pub(crate) fn hour(&self) -> &str {
        self.name.get(..13).unwrap_or_default()
    }
}

/// The files of a folder by name, and so by hour.
pub(crate) fn list(folder: &Path) -> Vec<Part> {
    let mut parts: Vec<Part> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let bytes = entry.metadata().ok()?.len();
            // Others are not ours: neither read nor deleted.
            let of_hour = name.get(..13).is_some_and(|hour| parse_time(hour, 0).is_some());
            (name.ends_with(".parquet") && of_hour).then(|| Part {
                path: entry.path(),
                name,
                bytes,
            })
        })
        .collect();
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    parts
}

/// The path of a new file for an hour.
pub(crate) fn new_path(folder: &Path, hour: &str) -> PathBuf {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    folder.join(format!("{hour}-{:016x}.parquet", since.as_nanos()))
}

/// Takes away what a crash has left: files half written, and those that a merged one has replaced.
pub(crate) fn recover(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "partial") {
            let _ = fs::remove_file(entry.path());
        }
    }
    for parts in list(folder).chunk_by(|a, b| a.hour() == b.hour()) {
        if parts.len() < 2 {
            continue;
        }
        let opened = parts.iter().filter_map(|part| Opened::open(&part.path).ok());
        let replaced: Vec<String> = opened.flat_map(|file| file.replaces).collect();
        for part in parts.iter().filter(|part| replaced.contains(&part.name)) {
            let _ = fs::remove_file(&part.path);
        }
    }
}

/// The files of an hour, opened: those that there are at one time, whatever is merged meanwhile.
pub(crate) fn open_hour(folder: &Path, hour: &str, alone: &RwLock<()>) -> Vec<Opened> {
    let _alone = alone.read().unwrap_or_else(PoisonError::into_inner);
    let parts = list(folder).into_iter().filter(|part| part.hour() == hour);
    parts.filter_map(|part| open(&part)).collect()
}

/// A file, opened; one that is none of predictions is left as it is.
fn open(part: &Part) -> Option<Opened> {
    let opened = Opened::open(&part.path);
    opened.inspect_err(|error| tracing::warn!("left as it is: {error}")).ok()
}

/// The hours that there are files of, the first first.
pub(crate) fn hours(folder: &Path) -> Vec<String> {
    let mut hours: Vec<String> = list(folder).iter().map(|part| part.hour().to_owned()).collect();
    hours.dedup();
    hours
}

/// Makes one file of an hour that is over, and fewer of the one that is not. `alone` is held while
/// files are replaced.
pub(crate) fn compact(folder: &Path, now_ms: u64, alone: &RwLock<()>) -> Result<(), FileError> {
    let over = hour(now_ms.saturating_sub(LATE_MS));
    for hour in hours(folder) {
        loop {
            let mut parts = list(folder);
            parts.retain(|part| part.hour() == hour);
            if hour >= over {
                parts.retain(|part| part.bytes < SMALL);
                if parts.len() < MANY {
                    break;
                }
            }
            if !merge_some(folder, &hour, &parts, hour < over, alone)? {
                break;
            }
        }
    }
    Ok(())
}

/// Merges the first files that can be, and says whether there were such.
fn merge_some(
    folder: &Path,
    hour: &str,
    parts: &[Part],
    over: bool,
    alone: &RwLock<()>,
) -> Result<bool, FileError> {
    if parts.len() < 2 {
        return Ok(false);
    }
    let opened = parts.iter().filter_map(|part| Some((part, open(part)?)));
    let mut left: Vec<(&Part, Opened)> = opened.collect();
    while !left.is_empty() {
        let (mut group, mut others): (Vec<(&Part, Opened)>, Vec<_>) = (Vec::new(), Vec::new());
        for (part, opened) in left {
            let mut files: Vec<&Opened> = group.iter().map(|(_, opened)| opened).collect();
            files.push(&opened);
            match group.len() < TOGETHER && file::union(&files).is_some() {
                true => group.push((part, opened)),
                false => others.push((part, opened)),
            }
        }
        if group.len() > 1 {
            let whole = folder.join(format!("{hour}.parquet"));
            let takes = |path: &Path| group.iter().any(|(part, _)| part.path == path);
            let free = over && (takes(&whole) || !whole.exists());
            let path = if free { whole } else { new_path(folder, hour) };
            let (parts, opened): (Vec<&Part>, Vec<Opened>) = group.into_iter().unzip();
            let merged = file::merge(&path, &opened)?;
            let _alone = alone.write().unwrap_or_else(PoisonError::into_inner);
            merged.place()?;
            for part in parts.iter().filter(|part| part.path != path) {
                let _ = fs::remove_file(&part.path);
            }
            return Ok(true);
        }
        left = others;
    }
    Ok(false)
}

/// Deletes what is older than `keep_ms`, and the oldest beyond `keep_bytes`.
pub(crate) fn retain(
    folder: &Path,
    now_ms: u64,
    (keep_ms, keep_bytes): (u64, u64),
    alone: &RwLock<()>,
) {
    let oldest = hour(now_ms.saturating_sub(keep_ms));
    let mut bytes = 0;
    let gone: Vec<Part> = list(folder)
        .into_iter()
        .rev()
        .filter(|part| {
            bytes += part.bytes;
            part.hour() < oldest.as_str() || bytes > keep_bytes
        })
        .collect();
    if gone.is_empty() {
        return;
    }
    let _alone = alone.write().unwrap_or_else(PoisonError::into_inner);
    for part in gone {
        if let Err(error) = fs::remove_file(&part.path) {
            tracing::warn!("{}: {error}", part.path.display());
        }
    }
}
