//! Compilation off the request path, in a process of its own, and the cache of compiled code.
//!
//! The cache is keyed by the component's digest, wasmtime's version and its compatibility hash. It
//! lies in a folder that only this user can write, and compiled code is never taken from elsewhere:
//! wasmtime trusts it. A file ends in the sha256 of what is before that, so that one which a disk or a
//! crash has altered is made anew in place of being run.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_apart::{Bounds, Ended};
use berth_tensor::Digest;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::bindings::policy::exports::berth::plugin::evaluating;
use crate::bindings::processor::ProcessorPre;
use crate::compiler::COMPILE_COMMAND;
use crate::engine::Engines;
use crate::inspect::{CACHE, Inspection, Kind, LoadError, inspect};

/// The largest component that is compiled, in bytes.
pub const COMPONENT_SIZE: usize = 64 << 20;

/// A component ready to be bound.
#[derive(Clone)]
pub struct Compiled {
    /// What it is.
    pub inspection: Inspection,
    /// The sha256 of its bytes.
    pub digest: Digest,
    /// What making it took.
    pub times: CompileTimes,
    pub(crate) component: Component,
}

/// Where the time of a compilation went.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileTimes {
    /// Compiling; none when the compiled form was in the cache.
    pub compile: Option<Duration>,
    /// Loading the compiled form.
    pub load: Duration,
}

/// Compilations are made one at a time.
static COMPILING: Mutex<()> = Mutex::new(());

impl Engines {
    /// Inspects and compiles a component, or loads its compiled form. Blocks, for milliseconds to
    /// minutes: not for a serving thread.
    pub fn compile(&self, digest: &Digest, bytes: &[u8]) -> Result<Compiled, LoadError> {
        if bytes.len() > COMPONENT_SIZE {
            return Err(LoadError::TooLarge(format!(
                "has {} bytes, the most is {COMPONENT_SIZE}",
                bytes.len()
            )));
        }
        let inspection = inspect(bytes)?;
        let engine = self.engine(inspection.kind);
        let file = self.cache_file(engine, digest);
        if let Some(compiled) = self.cached(&inspection, digest, &file)? {
            return Ok(compiled);
        }
        // What is compiled already does not wait for what compiles.
        let _one_at_a_time = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = self.cached(&inspection, digest, &file)? {
            return Ok(compiled);
        }
        let start = Instant::now();
        compile_apart(&self.options.compiler, self.options.compile_bounds, bytes, &file)?;
        let compile = start.elapsed();
        let start = Instant::now();
        let component = load(engine, &file)
            .map_err(|error| LoadError::Compile(format!("its compiled form: {error:#}")))?;
        self.check_interfaces(inspection.kind, &component)?;
        let times = CompileTimes { compile: Some(compile), load: start.elapsed() };
        Ok(Compiled { inspection, digest: *digest, times, component })
    }

    /// The engine that components of a kind are compiled for.
    fn engine(&self, kind: Kind) -> &Engine {
        match kind {
            Kind::Processor => &self.processors,
            Kind::Policy => &self.policies,
        }
    }

    /// The compiled form in the cache, when it is there and sound.
    fn cached(
        &self,
        inspection: &Inspection,
        digest: &Digest,
        file: &Path,
    ) -> Result<Option<Compiled>, LoadError> {
        if !file.exists() {
            return Ok(None);
        }
        let engine = self.engine(inspection.kind);
        let start = Instant::now();
        match load(engine, file) {
            Ok(component) => {
                self.check_interfaces(inspection.kind, &component)?;
                let times = CompileTimes { compile: None, load: start.elapsed() };
                let inspection = inspection.clone();
                Ok(Some(Compiled { inspection, digest: *digest, times, component }))
            }
            Err(error) => {
                tracing::warn!("compiled code in {} is made anew: {error:#}", file.display());
                Ok(None)
            }
        }
    }

    /// Compares the types of what a component imports and exports with those of the interfaces:
    /// inspection knew them by name alone.
    fn check_interfaces(&self, kind: Kind, component: &Component) -> Result<(), LoadError> {
        let fits = match kind {
            Kind::Processor => self.processor_linker.instantiate_pre(component).and_then(|pre| {
                ProcessorPre::new(pre)?;
                Ok(())
            }),
            Kind::Policy => self.policy_linker.instantiate_pre(component).and_then(|pre| {
                evaluating::GuestIndices::new(&pre)?;
                Ok(())
            }),
        };
        fits.map_err(|error| LoadError::Interface(format!("{error:#}")))
    }

    fn cache_file(&self, engine: &Engine, digest: &Digest) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.options.cache.join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
    }
}

fn load(engine: &Engine, file: &Path) -> wasmtime::Result<Component> {
    let bytes = std::fs::read(file)?;
    let code = match bytes.split_last_chunk::<32>() {
        Some((code, digest)) if Digest::of(code).as_bytes() == digest => code,
        _ => return Err(wasmtime::Error::msg("it is not as it was written")),
    };
    // SAFETY: only this process and those that it starts write the folder, and the code is as they have
    // written it; what another version of wasmtime wrote has another name.
    unsafe { Component::deserialize(engine, code) }
}

/// Compiles into `file` in a process of its own, so that a component that takes the compiler too
/// much time or memory can be given up.
fn compile_apart(
    program: &Path,
    bounds: Bounds,
    bytes: &[u8],
    file: &Path,
) -> Result<(), LoadError> {
    let source = file.with_extension("source.partial");
    let code = file.with_extension("partial");
    let compiled = (|| {
        File::create(&source)?.write_all(bytes)?;
        let mut written = File::create(&code)?;
        let mut command = Command::new(program);
        command
            .arg(COMPILE_COMMAND)
            .arg(format!("--cpu={}", bounds.cpu.as_secs()))
            .arg(format!("--memory={}", bounds.memory.unwrap_or(u64::MAX)))
            .stdin(File::open(&source)?);
        let output = Stdio::from(written.try_clone()?);
        let ended = berth_apart::run(command, bounds, Some(output), &|| true)
            .map_err(LoadError::Compiler)?;
        verdict(&ended, bounds)?;
        let digest = Digest::read(File::open(&code)?)?;
        // The compiler has moved the place at which both write to its end.
        written.write_all(digest.as_bytes())?;
        written.sync_all()?;
        std::fs::rename(&code, file)?;
        Ok(())
    })();
    // What is left of it: a failure to remove it leaves it to the next start of the host.
    let _ = std::fs::remove_file(&source);
    if compiled.is_err() {
        let _ = std::fs::remove_file(&code);
    }
    compiled
}

/// What the end of a compiling process says about the component.
fn verdict(ended: &Ended, bounds: Bounds) -> Result<(), LoadError> {
    let no_memory = ["memory allocation of", "Cannot allocate memory", "out of memory"];
    let Some(status) = ended.status else {
        return Err(too_costly(format!("{} s", bounds.time().as_secs()), "--compile-cpu"));
    };
    match (status.code(), ended.signal()) {
        (Some(0), _) => Ok(()),
        (_, Some(libc::SIGXCPU)) => {
            let cpu = format!("{} s of CPU time", bounds.cpu.as_secs());
            Err(too_costly(cpu, "--compile-cpu"))
        }
        _ if no_memory.iter().any(|words| ended.said.contains(words)) => {
            let memory = format!("{} MiB of memory", bounds.memory.unwrap_or_default() >> 20);
            Err(too_costly(memory, "--compile-memory"))
        }
        (Some(1), _) => {
            let said = ended.last_words();
            let said = said.strip_prefix("berth: ").unwrap_or(said);
            Err(match said.strip_prefix(CACHE) {
                Some(problem) => LoadError::Cache(io::Error::other(problem)),
                None => LoadError::Refused(said.to_owned()),
            })
        }
        (_, Some(libc::SIGXFSZ)) => Err(io::Error::from_raw_os_error(libc::EFBIG).into()),
        _ => {
            let last = ended.last_words();
            Err(LoadError::Compile(format!("the compiler ended with {status}: {last:?}")))
        }
    }
}

fn too_costly(most: String, flag: &'static str) -> LoadError {
    LoadError::TooCostly { most, flag }
}
