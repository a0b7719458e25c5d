//! `berth:plugin/log`: a plugin's lines in the host's log.

use crate::bindings::processor::berth::plugin::log::{Host, Level as WitLevel};
use crate::policy::PolicyState;
use crate::state::State;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something looks wrong.
    Warn,
    /// Something of note.
    Info,
    /// For whoever is looking for a fault.
    Debug,
}

impl From<WitLevel> for Level {
    fn from(level: WitLevel) -> Self {
        match level {
            WitLevel::Error => Self::Error,
            WitLevel::Warn => Self::Warn,
            WitLevel::Info => Self::Info,
            WitLevel::Debug => Self::Debug,
        }
    }
}

/// The longest line kept, in bytes.
const LINE: usize = 4 << 10;

/// One line of at most 4 KiB: what could look like another line is made visible.
pub(crate) fn one_line(message: &str) -> String {
    let kept = cut(message, LINE).chars();
    let mut line: String =
        kept.map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    line.truncate(line.floor_char_boundary(LINE));
    line
}

/// The first whole characters of a text, in at most so many bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

impl Host for State {
    fn enabled(&mut self, level: WitLevel) -> wasmtime::Result<bool> {
        Ok(self.bindings.sink.enabled(level.into()))
    }

    fn write(&mut self, level: WitLevel, message: String) -> wasmtime::Result<()> {
        self.bindings.sink.log(level.into(), &one_line(&message));
        Ok(())
    }
}

impl Host for PolicyState {
    fn enabled(&mut self, _: WitLevel) -> wasmtime::Result<bool> {
        self.charge(0)?;
        // The same on every run, whatever the host's log shows: a policy is pure.
        Ok(true)
    }

    fn write(&mut self, level: WitLevel, message: String) -> wasmtime::Result<()> {
        self.charge(message.len())?;
        (self.log)(level.into(), &one_line(&message));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_of_bounded_length() {
        let line = "é".repeat(LINE);
        assert_eq!(one_line(&line).len(), LINE);
        assert_eq!(one_line(&"\n".repeat(LINE)).len(), LINE / 3 * 3);
        assert_eq!(one_line("short\tline"), "short\tline");
        assert_eq!(
            one_line("first\n2026 ERROR forged\u{1b}[31m"),
            "first\u{fffd}2026 ERROR forged\u{fffd}[31m"
        );
    }
}
