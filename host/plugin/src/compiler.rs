//! The process that compiles one component, within bounds that the system keeps: what a component
//! makes the compiler take ends this process and not the host.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use berth_apart::Bounds;
use wasmtime::Engine;

use crate::engine::{policy_config, processor_config};
use crate::inspect::{Kind, LoadError, inspect};

/// The command of the program that compiles: it calls [`compile_standard_input`].
pub const COMPILE_COMMAND: &str = "compile-component";

/// What one compilation may take, where the operator says nothing else: seconds of CPU time and bytes
/// of memory.
pub const COMPILE_BOUNDS: Bounds = Bounds { cpu: Duration::from_secs(60), memory: Some(2 << 30) };

/// Compiles the component on standard input and writes its compiled form to standard output. Takes
/// the whole process: bounds it for good, first.
pub fn compile_standard_input(bounds: Bounds) -> Result<(), LoadError> {
    berth_apart::bound_this_process(bounds)?;
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
