//! Lines in the host's log.

use crate::Level;
use crate::bindings::processor::berth::plugin::log as host;

/// Writes a line when the host keeps lines of this level. The host bounds their rate and length.
pub fn write(level: Level, message: std::fmt::Arguments<'_>) {
    if host::enabled(level) {
        match message.as_str() {
            Some(message) => host::write(level, message),
            None => host::write(level, &message.to_string()),
        }
    }
}

/// Writes a line into the host's log: a [`Level`], then what `format!` takes.
#[macro_export]
macro_rules! log {
    ($level:expr, $($message:tt)+) => { $crate::write_log($level, ::core::format_args!($($message)+)) };
}

/// Writes a line of level error into the host's log; takes what `format!` takes.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log!($crate::Level::Error, $($message)+) };
}

/// Writes a line of level warn into the host's log; takes what `format!` takes.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log!($crate::Level::Warn, $($message)+) };
}

/// Writes a line of level info into the host's log; takes what `format!` takes.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log!($crate::Level::Info, $($message)+) };
}

/// Writes a line of level debug into the host's log; takes what `format!` takes.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log!($crate::Level::Debug, $($message)+) };
}
