//! Compilation off the request path, and the cache of compiled code.
//!
//! The cache is keyed by the component's digest, wasmtime's version and its compatibility hash. It
//! lies in a folder that only this user can write, and compiled code is never taken from elsewhere:
//! wasmtime trusts it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_tensor::Digest;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::engine::Engines;
use crate::inspect::{Inspection, Kind, LoadError, inspect};

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
    /// seconds: not for a serving thread.
    pub fn compile(&self, digest: &Digest, bytes: &[u8]) -> Result<Compiled, LoadError> {
        if bytes.len() > COMPONENT_SIZE {
            return Err(LoadError::TooLarge(format!(
                "has {} bytes, the most is {COMPONENT_SIZE}",
                bytes.len()
            )));
        }
        let inspection = inspect(bytes)?;
        let engine = match inspection.kind {
            Kind::Processor => &self.processors,
            Kind::Policy => &self.policies,
        };
        let _one_at_a_time = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.cache_file(engine, digest);
        let start = Instant::now();
        if let Some(component) = load(engine, &file) {
            let times = CompileTimes { compile: None, load: start.elapsed() };
            return Ok(Compiled { inspection, digest: *digest, times, component });
        }
        let code = self
            .compiler
            .install(|| engine.precompile_component(bytes))
            .map_err(|error| LoadError::Compile(format!("{error:#}")))?;
        let compile = start.elapsed();
        let partial = file.with_extension("partial");
        let mut written = std::fs::File::create(&partial)?;
        written.write_all(&code)?;
        written.sync_all()?;
        std::fs::rename(&partial, &file)?;
        let start = Instant::now();
        let component = load(engine, &file)
            .ok_or_else(|| LoadError::Compile("the compiled form does not load".into()))?;
        let times = CompileTimes { compile: Some(compile), load: start.elapsed() };
        Ok(Compiled { inspection, digest: *digest, times, component })
    }

    fn cache_file(&self, engine: &Engine, digest: &Digest) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.options.cache.join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
    }
}

fn load(engine: &Engine, file: &std::path::Path) -> Option<Component> {
    if !file.exists() {
        return None;
    }
    // SAFETY: only this process writes the folder, each file whole by a rename, and never again
    // once it is there; what another version of wasmtime wrote has another name.
    match unsafe { Component::deserialize_file(engine, file) } {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!("compiled code in {} is made anew: {error:#}", file.display());
            None
        }
    }
}
