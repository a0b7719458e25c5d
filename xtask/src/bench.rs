//! Benchmarks of what the host adds to a request.

use anyhow::Result;

use crate::build::Build;
use crate::onnxruntime;
use crate::workspace::{cargo, run, say};

/// Runs the criterion benchmarks and prints what they measured.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// Only benchmarks whose name contains this
    filter: Option<String>,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        let library = onnxruntime::library()?;
        let metadata = Build { guests: true, examples: false }.run()?;
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
        bench.args(&self.filter);
        bench
            .env("BERTH_PLUGINS", metadata.plugins())
            .env("BERTH_GUESTS", metadata.guests())
            .env("ORT_DYLIB_PATH", library);
        run(&mut bench, "cargo bench")
    }
}
