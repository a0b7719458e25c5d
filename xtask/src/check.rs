//! Formatting and lints.

use anyhow::Result;

use crate::workspace::{self, cargo, say};

/// Fails on a file that rustfmt would change and on any lint.
pub(crate) fn run() -> Result<()> {
    say("checking formatting");
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let format = ["fmt", "--all", "--check", "--manifest-path", manifest];
        workspace::run(cargo().args(format), "cargo fmt --check")?;
    }
    say("checking lints");
    let lint = ["clippy", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"];
    workspace::run(cargo().args(lint), "cargo clippy")
}
