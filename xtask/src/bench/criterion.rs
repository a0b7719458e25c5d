//! What the host adds to a request, in parts.

use anyhow::Result;

use crate::build::Built;
use crate::workspace::{cargo, run, say};

/// Runs the criterion benchmarks and prints what they measured.
pub(crate) fn run_all(built: &Built) -> Result<()> {
    say("measuring what the host adds to a request");
    let mut bench = cargo();
    // The whole workspace, so that dependencies are compiled once for this and the tests.
    bench.args(["bench", "--workspace", "--bench", "request_path", "--bench", "overhead"]);
    bench.envs(built.variables());
    run(&mut bench, "cargo bench")
}
