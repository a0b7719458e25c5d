//! The loaded runtime, its threads, and how a model is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use berth_tensor::Digest;

use crate::data_files::{self, DataFileError};
use crate::deadline::Deadlines;
use crate::executor::{Executor, Lane, MORE, threads};
use crate::graphs::Entry;
use crate::model::{ModelOptions, Opened};
use crate::onnxruntime::library::Library;
use crate::onnxruntime::session::{Graph, Session};
use crate::onnxruntime::{Device, OpenError, RuntimeError, providers};
use crate::probe::Judged;
use crate::trial::{Found, Trials};

/// How much a runtime takes on at once.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Runs of one lane at once that must not hold up their caller, at least 1. There are twice as
    /// many threads for all lanes together, and up to 256 more while lanes that have none running
    /// would wait for one: so slow lanes hold up no other.
    pub each: usize,
    /// How models are tried before they are opened. Without it they are not, and one that ends the
    /// process that opens it ends this one.
    pub trials: Option<Trials>,
}

impl Default for RuntimeOptions {
    /// As many as the machine has cores, and no trials.
    fn default() -> Self {
        Self { each: available_parallelism().map_or(1, usize::from), trials: None }
    }
}

/// ONNX Runtime, loaded, with the threads that run models. A clone is the same runtime.
#[derive(Clone)]
pub struct Runtime {
    library: Arc<Library>,
    devices: Arc<Mutex<BTreeMap<Device, Arc<Lanes>>>>,
    each: usize,
    /// Held by what is done aside.
    aside: Arc<Mutex<()>>,
    /// Held while a model is tried, which takes longer: what is known opens meanwhile.
    trying: Arc<Mutex<()>>,
    trials: Option<Trials>,
}

/// What the models of a device share.
pub(crate) struct Lanes {
    pub(crate) executor: Executor,
    pub(crate) deadlines: Deadlines,
}

impl Lanes {
    fn start(each: usize) -> std::io::Result<Self> {
        Ok(Self { executor: Executor::start(each)?, deadlines: Deadlines::start()? })
    }
}

impl Runtime {
    /// Loads ONNX Runtime: from `library` (the file, or a folder with it), else from what
    /// `ORT_DYLIB_PATH` names, else from beside the executable, else from the system's libraries.
    ///
    /// A process loads one library, once: a further call answers a runtime with threads of its own
    /// over the same library, and an error where it would have to be another.
    pub fn load(library: Option<&Path>, options: RuntimeOptions) -> Result<Self, RuntimeError> {
        let library = Library::load(library)?;
        let start = |error: std::io::Error| RuntimeError::Start {
            path: library.path.clone(),
            problem: error.to_string(),
        };
        let RuntimeOptions { each, trials } = options;
        let runtime = Self {
            devices: Arc::default(),
            each,
            aside: Arc::default(),
            trying: Arc::default(),
            trials,
            library: Arc::clone(&library),
        };
        runtime.lanes(&Device::default()).map_err(start)?;
        Ok(runtime)
    }

    /// ONNX Runtime's version, such as `1.31.1`.
    pub fn version(&self) -> &str {
        &self.library.version
    }

    /// What ONNX Runtime says of how it was built: no two builds say the same.
    pub(crate) fn build(&self) -> &str {
        self.library.build
    }

    /// Threads that run models on the CPU: when nothing runs, and at most. Each other device that a
    /// model is opened on has as many.
    pub fn threads(&self) -> (usize, usize) {
        let threads = threads(self.each);
        (threads, threads + MORE)
    }

    /// The file that was loaded; a bare name when the system found it.
    pub fn library(&self) -> &Path {
        &self.library.path
    }

    /// The execution providers that it was built with, such as `cuda, cpu`.
    pub fn providers(&self) -> String {
        providers::built_with()
    }

    /// Does what must not slow down what serves, such as opening a model: on a thread of its own
    /// that the system prefers any other to, and one at a time. Blocks until it is done; fails when
    /// the system has no thread to give.
    pub fn aside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
        let _alone = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        giving_way(work)
    }

    /// Opens a model and runs it once on zeros, so that the first request finds it warm. The files
    /// that it names for its weights lie beside it or below.
    ///
    /// Blocks for as long as ONNX Runtime takes: call it off the request path. `name`, such as
    /// `digits@2`, is for messages.
    pub fn open(
        &self,
        name: &str,
        file: &Path,
        options: &ModelOptions,
    ) -> Result<Arc<Opened>, OpenError> {
        self.open_as(name, file, options, Graph::Given, None)
    }

    /// As [`open`](Self::open), of a model whose files have this digest, and [aside](Self::aside): unless
    /// that is known from before, it is first tried in a process of its own, which opens it, runs it, and
    /// finds out whether its requests may run together. What ends that process, or takes it too much, is
    /// an error. Its graph is optimised once and kept, where that can be.
    ///
    /// One model is tried at a time, and what is known from before does not wait for that. A trial ends
    /// when it is not `wanted` any more, which is asked a few times a second.
    pub fn open_tried(
        &self,
        name: &str,
        digest: &Digest,
        file: &Path,
        options: &ModelOptions,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Arc<Opened>, OpenError> {
        let no_thread = |error: std::io::Error| OpenError::Threads {
            name: name.to_owned(),
            problem: error.to_string(),
        };
        let Some(trials) = &self.trials else {
            return self.aside(|| self.open(name, file, options)).map_err(no_thread)?;
        };
        let entry = trials.graphs.entry(&self.library, digest, &options.providers);
        let open = |found| self.open_found(name, file, options, &entry, found);
        let known = || self.aside(|| entry.found(options.batch.most).map(open)).map_err(no_thread);
        if let Some(opened) = known()? {
            return opened;
        }
        let _one_at_a_time = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been this one that was tried meanwhile.
        if let Some(opened) = known()? {
            return opened;
        }
        let tried =
            giving_way(|| trials.try_apart(&self.library, name, file, options, &entry, wanted));
        let found = tried.map_err(no_thread)??;
        self.aside(|| open(found)).map_err(no_thread)?
    }

    /// Opens what was found good in a trial.
    fn open_found(
        &self,
        name: &str,
        file: &Path,
        options: &ModelOptions,
        entry: &Entry,
        Found { judged, graph }: Found,
    ) -> Result<Arc<Opened>, OpenError> {
        if let Some(graph) = graph {
            let graph = Graph::Optimised(&graph);
            match self.open_as(name, file, options, graph, judged.clone()) {
                // Nothing of this is the graph's fault.
                Err(
                    error @ (OpenError::DataFiles { .. }
                    | OpenError::Memory { .. }
                    | OpenError::Threads { .. }),
                ) => return Err(error),
                Err(error) => entry.forget(&error.to_string()),
                opened => return opened,
            }
        }
        self.open_as(name, file, options, Graph::Given, judged)
    }

    pub(crate) fn open_as(
        &self,
        name: &str,
        file: &Path,
        options: &ModelOptions,
        graph: Graph<'_>,
        judged: Option<Judged>,
    ) -> Result<Arc<Opened>, OpenError> {
        let data = match data_files::beside(file) {
            // The session says best what is wrong with the model's file itself.
            Err(DataFileError::Read(_)) => BTreeMap::new(),
            found => found.map_err(|problem| OpenError::DataFiles {
                name: name.to_owned(),
                file: file.to_path_buf(),
                problem,
            })?,
        };
        let session = Session::open(&self.library, name, file, graph, &options.providers)?;
        let files = data.values().map(PathBuf::as_path).chain([file]);
        let bytes = files.map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum();
        let lanes = self.lanes(&session.device).map_err(|error| OpenError::Threads {
            name: name.to_owned(),
            problem: error.to_string(),
        })?;
        Ok(Arc::new(Opened::new(name, session, options.batch, bytes, lanes, judged)))
    }

    /// A new lane: whoever runs models through it has a fair share of the threads.
    pub fn lane(&self) -> Arc<Lane> {
        Arc::default()
    }

    /// A device's threads and queues, started with its first model and kept from then on.
    pub(crate) fn lanes(&self, device: &Device) -> std::io::Result<Arc<Lanes>> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lanes) = devices.get(device) {
            return Ok(Arc::clone(lanes));
        }
        let lanes = Arc::new(Lanes::start(self.each)?);
        devices.insert(device.clone(), Arc::clone(&lanes));
        Ok(lanes)
    }
}

/// The stack of a thread that opens models, in bytes: ONNX Runtime goes down into a graph's subgraphs
/// and functions by calling itself. What is not used of it takes no memory.
const STACK: usize = 256 << 20;

/// Works on a thread that the system prefers any other to.
fn giving_way<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
            berth_apart::give_way();
            work()
        })?;
        Ok(thread.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked)))
    })
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("library", &self.library.path)
            .field("version", &self.library.version)
            .finish_non_exhaustive()
    }
}
