//! Finds, checks and loads ONNX Runtime's shared library.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::sys;

use super::words::one_line;

/// The variable that names the library.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Why there is no ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No library was named, and none was found.
    #[error(
        "ONNX Runtime was not found: {VARIABLE} is not set, there is none beside {} and the system has none; install it (such as pip install onnxruntime) and name its {} in {VARIABLE}",
        beside.display(),
        file_name()
    )]
    NotFound {
        /// The folder of the executable.
        beside: PathBuf,
    },
    /// The library that was named does not exist.
    #[error("there is no ONNX Runtime at {}; name its {} there or in {VARIABLE}", path.display(), file_name())]
    Missing {
        /// The path that was named.
        path: PathBuf,
    },
    /// The file does not load as a library.
    #[error("{} does not load as ONNX Runtime: {problem}; name another {} in {VARIABLE}", path.display(), file_name())]
    NotLoadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        problem: String,
    },
    /// The library is something else.
    #[error("{} is a library, but not ONNX Runtime; name the {} of ONNX Runtime in {VARIABLE}", path.display(), file_name())]
    NotOnnxRuntime {
        /// The file.
        path: PathBuf,
    },
    /// The library is older than what is needed.
    #[error("{} is ONNX Runtime {version}, which is too old: install 1.{} or newer", path.display(), sys::ORT_API_VERSION)]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// The process has loaded another one, which cannot be exchanged.
    #[error("this process runs ONNX Runtime from {} and cannot take {} as well; start it anew", loaded.display(), path.display())]
    AlreadyLoaded {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        path: PathBuf,
    },
    /// The library loaded and then failed to start, or its threads could not be made.
    #[error("ONNX Runtime from {} does not start: {problem}", path.display())]
    Start {
        /// The file.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
}

/// ONNX Runtime, loaded and started. There is one in a process, and it stays until its end.
pub(crate) struct Library {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    /// What it says of how it was built.
    pub(crate) build: &'static str,
    pub(super) environment: Environment,
    /// Where tensors live that are lent to a run.
    pub(super) memory: MemoryInfo<'static>,
}

/// ONNX Runtime can neither be unloaded nor started twice.
static LOADED: Mutex<Option<Arc<Library>>> = Mutex::new(None);

impl Library {
    /// The process's library, loaded now if it is not yet: the one named, else the one that the
    /// environment names, else one beside the executable, else the system's.
    pub(crate) fn load(named: Option<&Path>) -> Result<Arc<Self>, RuntimeError> {
        let path = find(named)?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = loaded.as_ref().filter(|library| library.path == path) {
            return Ok(Arc::clone(library));
        }
        let version = inspect(&path)?;
        if let Some(library) = &*loaded {
            return Err(RuntimeError::AlreadyLoaded { loaded: library.path.clone(), path });
        }
        let start = |problem: String| RuntimeError::Start { path: path.clone(), problem };
        let environment = ort::init_from(&path)
            .map_err(|error| start(error.to_string()))?
            .with_name("berth")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()
            .map_err(|error| start(error.to_string()))?;
        // The environment starts at the most verbose level, which costs every run its formatting.
        environment.set_log_level(LogLevel::Warning);
        let memory =
            MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
                .map_err(|error| start(error.to_string()))?;
        let library =
            Arc::new(Self { path: path.clone(), version, build: ort::info(), environment, memory });
        *loaded = Some(Arc::clone(&library));
        Ok(library)
    }
}

/// Such as `libonnxruntime.so`.
fn file_name() -> String {
    format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}")
}

fn find(named: Option<&Path>) -> Result<PathBuf, RuntimeError> {
    let variable = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_path_buf).or(variable) {
        let found =
            if path.is_dir() { in_folder(&path) } else { path.exists().then(|| path.clone()) };
        return found
            .and_then(|found| std::path::absolute(found).ok())
            .ok_or(RuntimeError::Missing { path });
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let beside = executable.parent().unwrap_or(Path::new("")).to_path_buf();
    let system = || {
        [file_name(), format!("{}.1", file_name())]
            .into_iter()
            .map(PathBuf::from)
            .find(|name| open(name).is_ok())
    };
    in_folder(&beside).or_else(system).ok_or(RuntimeError::NotFound { beside })
}

/// The library in a folder, with or without its version in the name.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(file_name());
    if plain.exists() {
        return Some(plain);
    }
    let stem = format!("{DLL_PREFIX}onnxruntime.");
    let versioned = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&stem) && name.contains(DLL_SUFFIX)
    };
    std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(versioned).max()
}

fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: loading runs the library's initialisers; which library that is is the operator's
    // choice, as with the executable itself.
    unsafe { libloading::Library::new(path) }
}

/// Says what is wrong with a file that the system does not load and says misleading things of, or
/// loads to its own harm: what is no file would keep whoever opens it waiting, and a library for Linux
/// whose end is not there would end the process where something reaches for that end.
fn unfit(path: &Path) -> Option<String> {
    // A bare name is the system's to find.
    if !path.metadata().ok()?.is_file() {
        return Some("it is not a file".to_owned());
    }
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // The layout is that of ELF, here of 64 bits and with the lowest byte first: where the table of
    // what is loaded begins, how long an entry is and how many there are; of an entry its kind, 1 for
    // what is loaded, and place and length in the file. Before them are the bits and the processor.
    let mut head = [0; 64];
    file.read_exact(&mut head).ok()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let mut own = [0; 20];
    let executable = std::env::current_exe().and_then(File::open);
    let known = executable.and_then(|mut file| file.read_exact(&mut own)).is_ok();
    if known
        && own.starts_with(b"\x7fELF")
        && (&own[4..6], &own[18..]) != (&head[4..6], &head[18..20])
    {
        return Some(format!(
            "it is built for another processor; install one for {}",
            std::env::consts::ARCH
        ));
    }
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let short =
        |bytes: &[u8], at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let long = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (table, size, count) = (long(&head, 32)?, short(&head, 54)?, short(&head, 56)?);
    let mut entries = vec![0; usize::from(size) * usize::from(count)];
    file.seek(SeekFrom::Start(table)).ok()?;
    file.read_exact(&mut entries).ok()?;
    let loaded =
        entries.chunks(usize::from(size).max(1)).filter(|it| it.starts_with(&[1, 0, 0, 0]));
    let end = loaded.filter_map(|it| long(it, 8)?.checked_add(long(it, 32)?)).max()?;
    (end > length).then(|| format!("it has {length} bytes and lacks {}", end - length))
}

/// `OrtApiBase` of a library that may be another one and have nothing in it.
#[repr(C)]
struct Base {
    api: Option<unsafe extern "system" fn(u32) -> *const sys::OrtApi>,
    version: Option<unsafe extern "system" fn() -> *const c_char>,
}

/// The version of the ONNX Runtime in a file. `ort` panics where this answers with an error.
fn inspect(path: &Path) -> Result<String, RuntimeError> {
    let problem = |error: libloading::Error| RuntimeError::NotLoadable {
        path: path.to_path_buf(),
        problem: super::why(&error),
    };
    let other = || RuntimeError::NotOnnxRuntime { path: path.to_path_buf() };
    if let Some(problem) = unfit(path) {
        return Err(RuntimeError::NotLoadable { path: path.to_path_buf(), problem });
    }
    let library = open(path).map_err(problem)?;
    // SAFETY: ONNX Runtime exports a function of this name and type, and what else would?
    let base = unsafe {
        library.get::<unsafe extern "C" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase")
    }
    .map_err(|_| other())?;
    // SAFETY: ONNX Runtime answers with null or a pointer to a structure of its own.
    let base = unsafe { base().cast::<Base>().as_ref() }.ok_or_else(other)?;
    let (api, version) = base.api.zip(base.version).ok_or_else(other)?;
    // SAFETY: ONNX Runtime answers with a string.
    let version = unsafe { version() };
    if version.is_null() {
        return Err(other());
    }
    // SAFETY: the version is a string that ONNX Runtime keeps while it is loaded.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
    // SAFETY: any number may be asked for; ONNX Runtime answers null to one that it lacks.
    if unsafe { api(sys::ORT_API_VERSION) }.is_null() {
        return Err(RuntimeError::TooOld { path: path.to_path_buf(), version });
    }
    Ok(version)
}

/// ONNX Runtime's own log. What it calls an error is returned to the caller as well, so a client
/// that provokes one cannot fill the host's log.
fn log(level: LogLevel, category: &str, _id: &str, place: &str, message: &str) {
    let message = one_line(message);
    match level {
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", category, place, "{message}"),
        LogLevel::Error | LogLevel::Warning => {
            tracing::debug!(target: "onnxruntime", category, place, "{message}")
        }
        LogLevel::Info | LogLevel::Verbose => {
            tracing::trace!(target: "onnxruntime", category, place, "{message}")
        }
    }
}
