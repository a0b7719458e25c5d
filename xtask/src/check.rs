//! Formatting and lints.

use anyhow::Result;

use crate::workspace::{self, cargo, say};

/// Fails on a file that rustfmt would change and on any lint.
pub(crate) fn run() -> Result<()> {
    say("checking formatting");
    workspace::run(cargo().args(["fmt", "--all", "--check"]), "cargo fmt --check")?;
    say("checking lints");
    let lint = ["clippy", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"];
    workspace::run(cargo().args(lint), "cargo clippy")
}
