//! What the tokenizers crate would ask a system for, and a plugin does not have. Linked in as it is
//! it would import files, a clock and randomness, and no host would take the component.

use std::ffi::{c_char, c_int, c_void};

use getrandom::Error;

/// What `getrandom` calls where it is built with its backend `custom`, as `.cargo/config.toml` does
/// for components: seeds of hash tables, and merges left out at random, which only training wants.
/// A constant, as the seed of the standard library's tables is.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(place: *mut u8, length: usize) -> Result<(), Error> {
    // SAFETY: getrandom's contract is that `length` bytes from `place` on may be written.
    unsafe { std::ptr::write_bytes(place, 0x5a, length) };
    Ok(())
}

/// Takes the place of libc's `open`, and with it of all that libc has for files: the builders of
/// models can also read vocabularies from files, which nothing here asks them for. Fails always.
#[unsafe(no_mangle)]
extern "C" fn open(_path: *const c_char, _flags: c_int, _rest: *const c_void) -> c_int {
    -1
}
