//! How guests come to their end, in words for the log.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use wasmtime::WasmBacktrace;
use wasmtime_wasi::I32Exit;

use crate::guest_log::{cut, one_line};

/// Functions of a stack that are shown, the innermost first: a panic is a dozen of them already.
pub(crate) const FRAMES: usize = 32;

/// The longest name of a function that is shown, in bytes.
const FUNCTION: usize = 256;

/// How a guest came to its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}: {cause}{}{said}{stack}", if said.is_empty() { "" } else { "; it said: " })]
pub struct Trap {
    /// A word for metrics: `unreachable`, `memory`, `stack`, `fuel`, `exit`, `host` or `trap`.
    pub kind: &'static str,
    /// What is known, in one line.
    pub cause: String,
    /// The guest's last words, in one line.
    pub said: String,
    /// Where it was: a line for each function, the innermost first. A component without names shows
    /// the functions' numbers.
    pub stack: String,
}

impl Trap {
    /// The same for every trap of one plugin that came about at the same place.
    pub fn place(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.kind, if self.stack.is_empty() { &self.cause } else { &self.stack })
            .hash(&mut hasher);
        hasher.finish()
    }
}

/// Puts a guest's end into words. `memory` is the limit that it ran into last, in bytes: a guest that
/// cannot go on without more gives up by a trap, and one that panics says so.
pub(crate) fn describe(error: &wasmtime::Error, memory: Option<u64>, said: String) -> Trap {
    let trap = error.downcast_ref::<wasmtime::Trap>();
    let (kind, cause) = if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        ("exit", format!("it left with exit code {code}"))
    } else {
        match trap {
            Some(wasmtime::Trap::UnreachableCodeReached) => match memory {
                Some(limit) if !said.contains("panicked at") => {
                    ("memory", format!("it asked for more than its {limit} bytes of memory"))
                }
                _ => ("unreachable", "it panicked or aborted".into()),
            },
            Some(wasmtime::Trap::StackOverflow) => ("stack", "its stack overflowed".into()),
            Some(wasmtime::Trap::MemoryOutOfBounds) if is_below_zero(error) => {
                ("stack", "the stack in its memory overflowed".into())
            }
            Some(wasmtime::Trap::OutOfFuel) => ("fuel", "it ran out of fuel".into()),
            Some(trap) => ("trap", trap.to_string()),
            None => ("host", one_line(&error.root_cause().to_string())),
        }
    };
    let mut stack = String::new();
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        for frame in backtrace.frames() {
            let name = frame
                .func_name()
                .map_or_else(|| format!("function {}", frame.func_index()), demangled);
            stack.push_str("\n    at ");
            stack.push_str(&name);
        }
    }
    Trap { kind, cause, said, stack }
}

/// Whether memory was reached for at an address just below zero. Compilers put a guest's own stack,
/// which grows downwards, at the beginning of its memory, so that it leaves the memory when it is
/// full.
fn is_below_zero(error: &wasmtime::Error) -> bool {
    const BELOW_ZERO: u64 = (1 << 32) - (1 << 20);
    error.chain().any(|cause| {
        let words = cause.to_string();
        let address = words.strip_prefix("memory fault at wasm address 0x");
        let address = address.and_then(|rest| rest.split(' ').next());
        address
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .is_some_and(|address| address >= BELOW_ZERO)
    })
}

/// A function's name as its author wrote it. It comes from the component: in one line, and bounded.
fn demangled(name: &str) -> String {
    let name = rustc_demangle::try_demangle(name)
        .map_or_else(|_| name.to_owned(), |name| format!("{name:#}"));
    one_line(cut(&name, FUNCTION))
}
