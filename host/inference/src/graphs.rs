//! What is known of models from their trials, on the disk, so that a model which was tried is neither
//! tried nor optimised again: whether its requests may run together, whether a run takes long, and its
//! graph as ONNX Runtime has optimised it.
//!
//! A model has a folder, by the digest of its files and by all else that a graph depends on: ONNX Runtime,
//! the processor, the providers. It lies in one that only this user may write, is made beside its place
//! and moved there once it is on the disk, and holds the sha256 of each of its files: what a disk or a
//! crash has altered is made anew. A graph's weights are mapped while a session uses them, so that no
//! file is ever altered, only removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use berth_tensor::Digest;
use serde::{Deserialize, Serialize};

use crate::data_files;
use crate::onnxruntime::Providers;
use crate::onnxruntime::library::Library;
use crate::onnxruntime::session::WEIGHTS;
use crate::probe::Judged;
use crate::trial::{Found, Outcome};

/// The most bytes of all graphs together, and never more than half of what the disk has beside them;
/// one of them has at most a quarter of that.
const MOST: u64 = 8 << 30;
const PART: u64 = 4;
/// A model's folder counts as that many bytes at least, so that there are not too many.
const LEAST: u64 = 1 << 20;
/// Of one model, what was found for so many batch sizes is kept.
const JUDGED: usize = 16;

/// Raised with every change of what a trial finds or keeps, so that no model is left with what an older
/// Berth found.
const TRIAL: &str = "1";

/// A graph's own file in the folder of its model, and the file that says what was found.
const GRAPH: &str = "graph.onnx";
const FOUND: &str = "found";

/// The folder of what is known.
#[derive(Clone, Debug)]
pub(crate) struct Graphs {
    folder: PathBuf,
}

/// The place of one model.
pub(crate) struct Entry {
    graphs: Graphs,
    place: PathBuf,
    /// Whether a graph may be kept for it: not where it is not known what it would hold for, nor with
    /// other providers than the CPU's, which have parts of a graph to themselves.
    holds: bool,
}

/// Where a graph may be written. Dropped, it leaves nothing of what was not moved to its place.
pub(crate) struct Room {
    partial: PathBuf,
    /// The most bytes of each of its files.
    pub(crate) bytes: u64,
}

impl Room {
    pub(crate) fn graph(&self) -> PathBuf {
        self.partial.join(GRAPH)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // What cannot be removed now goes at the next start of the host.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// What the file says.
#[derive(Default, Serialize, Deserialize)]
struct Known {
    /// What the model is like, by the most rows that were asked for.
    judged: Vec<(Option<u32>, Judged)>,
    /// The digests of the graph's files by their names; none where there is none.
    graph: BTreeMap<String, Digest>,
}

impl Graphs {
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        berth_apart::private_folder(&folder)?;
        Ok(Self { folder })
    }

    /// The place of the model whose files have this digest, opened with these providers.
    pub(crate) fn entry(&self, library: &Library, digest: &Digest, providers: &Providers) -> Entry {
        let processor = processor();
        let providers_text = serde_json::to_string(providers).unwrap_or_default();
        let processor_text = processor.as_deref().unwrap_or_default();
        let holds_for =
            [TRIAL, &library.version, library.build, processor_text, &providers_text].join("\n");
        let name = format!("{digest}-{}", Digest::of(holds_for.as_bytes()).short());
        Entry {
            graphs: self.clone(),
            place: self.folder.join(name),
            holds: processor.is_some() && providers.names().eq(["cpu"]),
        }
    }

    /// Every model's folder: when it was last of use, its bytes and its path.
    fn entries(&self) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
        let of = |path: PathBuf| {
            let used = path.join(FOUND).metadata().and_then(|found| found.modified());
            Ok((used.unwrap_or(SystemTime::UNIX_EPOCH), size(&path)?, path))
        };
        let paths = fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.path()));
        let is_whole = |path: &io::Result<PathBuf>| {
            path.as_ref().map_or(true, |path| path.extension().is_none() && path.is_dir())
        };
        paths.filter(is_whole).map(|path| path.and_then(of)).collect()
    }

    /// The most bytes of all graphs together.
    fn most(&self, kept: u64) -> io::Result<u64> {
        Ok(MOST.min((free(&self.folder)? + kept) / 2))
    }

    /// Removes what was of no use for the longest until there is room for so many bytes.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut entries = self.entries()?;
        let mut kept: u64 = entries.iter().map(|&(_, bytes, _)| bytes).sum();
        let most = self.most(kept)?;
        entries.sort();
        for (_, freed, path) in entries {
            if kept + bytes <= most {
                break;
            }
            fs::remove_dir_all(path)?;
            kept -= freed;
        }
        Ok(())
    }
}

impl Entry {
    /// What is known of the model, when it was found for the same number of rows and its graph's files
    /// are as they were written.
    pub(crate) fn found(&self, most: Option<u32>) -> Option<Found> {
        let known = self.known()?;
        let (_, judged) = known.judged.iter().find(|(found, _)| *found == most)?;
        // So that it is not the next to go; where that fails it goes sooner.
        let _ = File::open(self.place.join(FOUND))
            .and_then(|found| found.set_modified(SystemTime::now()));
        Some(Found { judged: Some(judged.clone()), graph: self.graph(&known) })
    }

    fn known(&self) -> Option<Known> {
        let read = || -> io::Result<Known> {
            let found = fs::read(self.place.join(FOUND))?;
            let altered = || io::Error::other("it is not as it was written");
            let (text, digest) = found.split_last_chunk::<32>().ok_or_else(altered)?;
            if Digest::of(text).as_bytes() != digest {
                return Err(altered());
            }
            let known: Known = serde_json::from_slice(text)?;
            for (name, digest) in &known.graph {
                if Digest::read(File::open(self.place.join(name))?)? != *digest {
                    return Err(altered());
                }
            }
            Ok(known)
        };
        if !self.place.exists() {
            return None;
        }
        read().map_err(|error| self.forget_after(&error)).ok()
    }

    fn forget_after(&self, error: &io::Error) {
        match error.raw_os_error() {
            // Nothing of this is the files' fault.
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                tracing::warn!("what is known in {} cannot be read: {error}", self.place.display());
            }
            _ => self.forget(&error.to_string()),
        }
    }

    fn graph(&self, known: &Known) -> Option<PathBuf> {
        (!known.graph.is_empty()).then(|| self.place.join(GRAPH))
    }

    /// Removes what does not open, or is not as it was written.
    pub(crate) fn forget(&self, problem: &str) {
        tracing::warn!("the optimised graph in {} is made anew: {problem}", self.place.display());
        if let Err(error) = fs::remove_dir_all(&self.place) {
            tracing::warn!("{} cannot be removed: {error}", self.place.display());
        }
    }

    /// Where the graph of the model in `file` is to be written; nothing where there is one, or none is
    /// to be had.
    pub(crate) fn room(&self, name: &str, file: &Path) -> Option<Room> {
        if !self.holds || self.place.exists() {
            return None;
        }
        let room = || -> io::Result<_> {
            let kept = self.graphs.entries()?.iter().map(|&(_, bytes, _)| bytes).sum();
            let bytes = self.graphs.most(kept)? / PART;
            let length = |file: &Path| file.metadata().map_or(0, |metadata| metadata.len());
            let beside = data_files::beside(file).unwrap_or_default();
            let files = beside.values().map(PathBuf::as_path).chain([file]);
            if files.map(length).sum::<u64>() > bytes {
                return Ok(None);
            }
            self.begin(bytes).map(Some)
        };
        room().unwrap_or_else(|error| {
            self.not_kept(name, &error);
            None
        })
    }

    fn partial(&self) -> PathBuf {
        self.place.with_extension("partial")
    }

    fn begin(&self, bytes: u64) -> io::Result<Room> {
        fs::create_dir(self.partial())?;
        Ok(Room { partial: self.partial(), bytes })
    }

    /// Keeps what a trial has found for so many rows, and the graph, if it has written one where there
    /// was room; answers the graph's file.
    pub(crate) fn keep(
        &self,
        name: &str,
        most: Option<u32>,
        judged: &Judged,
        outcome: Option<(Room, Outcome)>,
    ) -> Option<PathBuf> {
        let kept = || -> io::Result<_> {
            let mut known = match outcome {
                None => self.known().unwrap_or_default(),
                Some((_, Outcome::Written)) => Known { graph: self.written()?, ..Known::default() },
                Some((room, Outcome::Unlike(problem))) => {
                    tracing::info!(model = name, "its optimised graph is not used: {problem}");
                    drop(room);
                    Known::default()
                }
                Some((_, Outcome::Failed(problem))) => return Err(io::Error::other(problem)),
            };
            known.judged.retain(|(found, _)| *found != most);
            if known.judged.len() == JUDGED {
                known.judged.remove(0);
            }
            known.judged.push((most, judged.clone()));
            self.write(&known)?;
            Ok(self.graph(&known))
        };
        kept().unwrap_or_else(|error| {
            self.not_kept(name, &error);
            None
        })
    }

    fn not_kept(&self, name: &str, problem: &io::Error) {
        tracing::warn!(
            model = name,
            "what its trial has found is not kept in {}, so that it is tried again the next time: {problem}",
            self.graphs.folder.display()
        );
    }

    /// The digests of the files of a graph that a trial has written, once they are on the disk.
    fn written(&self) -> io::Result<BTreeMap<String, Digest>> {
        let partial = self.partial();
        let beside = data_files::beside(&partial.join(GRAPH))
            .map_err(|error| io::Error::other(error.to_string()))?;
        if beside.keys().any(|name| name != WEIGHTS) {
            return Err(io::Error::other("its weights are not where they were to be written"));
        }
        let mut digests = BTreeMap::new();
        for name in beside.into_keys().chain([GRAPH.to_owned()]) {
            let file = File::open(partial.join(&name))?;
            file.sync_all()?;
            digests.insert(name, Digest::read(file)?);
        }
        Ok(digests)
    }

    /// Writes what is known: beside the graph, where one was just written, and moves both to their place;
    /// or over what was known before.
    fn write(&self, known: &Known) -> io::Result<()> {
        let partial = self.partial();
        let is_new = !self.place.exists();
        let _room = (is_new && !partial.exists()).then(|| self.begin(0)).transpose()?;
        let written = match is_new {
            true => partial.join(FOUND),
            false => self.place.with_extension("found.partial"),
        };
        let mut text = serde_json::to_vec(known)?;
        text.extend_from_slice(Digest::of(&text).as_bytes());
        let mut file = File::create(&written)?;
        file.write_all(&text)?;
        file.sync_all()?;
        if is_new {
            self.graphs.make_room(size(&partial)?)?;
            fs::rename(&partial, &self.place)
        } else {
            fs::rename(&written, self.place.join(FOUND))
        }
    }
}

/// What the folder of a model counts as, in bytes.
fn size(folder: &Path) -> io::Result<u64> {
    let files = fs::read_dir(folder)?.map(|file| Ok(file?.metadata()?.len()));
    Ok(files.sum::<io::Result<u64>>()?.max(LEAST))
}

/// What the processor is and can do: a graph is laid out for it. Nothing where the system does not say.
fn processor() -> Option<String> {
    // Of what the system says of the first, the lines that stay the same.
    const SAYS: [&str; 11] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "flags",
        "Features",
        "CPU implementer",
        "CPU architecture",
        "CPU variant",
        "CPU part",
    ];
    let all = fs::read_to_string("/proc/cpuinfo").ok()?;
    let first = all.split("\n\n").next()?;
    let says = |line: &&str| line.split(':').next().is_some_and(|key| SAYS.contains(&key.trim()));
    let said: Vec<_> = first.lines().filter(says).collect();
    (!said.is_empty()).then(|| said.join("\n"))
}

/// The bytes that a folder's disk has free for this user.
fn free(folder: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero byte, and the place takes what is written.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so that it has written it.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "not every system has these numbers of 64 bits")]
    Ok(found.f_bavail as u64 * found.f_frsize as u64)
}
