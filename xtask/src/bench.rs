//! Benchmarks of what the host adds to a request.

use anyhow::Result;

use crate::build;
use crate::workspace::{cargo, run, say};

/// Runs the criterion benchmarks and prints what they measured.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// Only benchmarks whose name contains this
    filter: Option<String>,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        let built = build::for_tests()?;
        say("measuring");
        let mut bench = cargo();
        // The whole workspace, so that dependencies are compiled once for this and the tests.
        bench.args([
            "bench",
            "--workspace",
            "--bench",
            "request_path",
            "--bench",
            "overhead",
            "--",
        ]);
        bench.args(&self.filter).envs(built);
        run(&mut bench, "cargo bench")
    }
}
