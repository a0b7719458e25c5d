//! The loaded runtime, its threads, and how a model is opened.

use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;

use crate::deadline::Deadlines;
use crate::executor::Executor;
use crate::model::Model;
use crate::onnxruntime::library::Library;
use crate::onnxruntime::session::Session;
use crate::onnxruntime::{OpenError, RuntimeError};

/// How much a runtime takes on at once.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Threads for runs that must not hold up their caller. All models share them.
    pub threads: usize,
    /// Runs that may wait for one of them; the next is refused at once.
    pub queue: usize,
}

impl Default for RuntimeOptions {
    /// As many threads as the machine has cores, and 64 waiting runs for each.
    fn default() -> Self {
        let threads = available_parallelism().map_or(1, usize::from);
        Self { threads, queue: 64 * threads }
    }
}

/// ONNX Runtime, loaded, with the threads that run models. A clone is the same runtime.
#[derive(Clone)]
pub struct Runtime {
    library: Arc<Library>,
    pub(crate) lanes: Arc<Lanes>,
}

/// What the models of a runtime share.
pub(crate) struct Lanes {
    pub(crate) executor: Executor,
    pub(crate) deadlines: Deadlines,
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
        let executor = Executor::start(options.threads, options.queue).map_err(start)?;
        let deadlines = Deadlines::start().map_err(start)?;
        Ok(Self { lanes: Arc::new(Lanes { executor, deadlines }), library })
    }

    /// ONNX Runtime's version, such as `1.31.1`.
    pub fn version(&self) -> &str {
        &self.library.version
    }

    /// The file that was loaded; a bare name when the system found it.
    pub fn library(&self) -> &Path {
        &self.library.path
    }

    /// Opens a model and runs it once on zeros, so that the first request finds it warm.
    ///
    /// Blocks for as long as ONNX Runtime takes: call it off the request path. `name`, such as
    /// `digits@2`, is for messages.
    pub fn open(&self, name: &str, file: &Path) -> Result<Arc<Model>, OpenError> {
        let session = Session::open(&self.library, name, file)?;
        let bytes = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        Ok(Arc::new(Model::new(name, session, bytes, Arc::clone(&self.lanes))))
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("library", &self.library.path)
            .field("version", &self.library.version)
            .finish_non_exhaustive()
    }
}
