//! The process that compiles one component, within bounds that the system keeps: what a component
//! makes the compiler take ends this process and not the host.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use wasmtime::Engine;

use crate::engine::{policy_config, processor_config};
use crate::inspect::{Kind, LoadError, inspect};

/// The command of the program that compiles: it calls [`compile_standard_input`].
pub const COMPILE_COMMAND: &str = "compile-component";

/// What one compilation may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// CPU time of all its threads together, in whole seconds. By the clock it may take four
    /// times as long.
    pub cpu: Duration,
    /// Bytes of memory.
    pub memory: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { cpu: Duration::from_secs(60), memory: 2 << 30 }
    }
}

/// Compiles the component on standard input and writes its compiled form to standard output. Takes
/// the whole process: bounds it for good, first.
pub fn compile_standard_input(limits: CompileLimits) -> Result<(), LoadError> {
    limit_process(limits)?;
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    let config = match inspect(&bytes)?.kind {
        Kind::Processor => processor_config(None),
        Kind::Policy => policy_config(),
    };
    let wrong = |error: wasmtime::Error| LoadError::Compile(format!("{error:#}"));
    let code = Engine::new(&config).and_then(|engine| engine.precompile_component(&bytes));
    let code = code.map_err(wrong)?;
    let mut output = std::io::stdout().lock();
    output.write_all(&code)?;
    output.flush()?;
    Ok(())
}

/// Bounds this process and lowers its priority, so that compiling does not slow down serving.
fn limit_process(limits: CompileLimits) -> std::io::Result<()> {
    let limit = |resource, most: u64| {
        let most = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: the pointer is to a whole value that outlives the call.
        match unsafe { libc::setrlimit(resource, &raw const most) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // No picture of the memory is left behind by what ends the process.
    limit(libc::RLIMIT_CORE, 0)?;
    // What is written counts, not the address space that is set aside.
    limit(libc::RLIMIT_DATA, limits.memory)?;
    let cpu = libc::rlimit { rlim_cur: limits.cpu.as_secs(), rlim_max: limits.cpu.as_secs() + 1 };
    // SAFETY: as above; the softer limit's signal says what happened.
    if unsafe { libc::setrlimit(libc::RLIMIT_CPU, &raw const cpu) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: these take plain numbers. Threads that are made later inherit the priority.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 5);
        #[cfg(target_os = "linux")]
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    Ok(())
}
