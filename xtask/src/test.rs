//! Every test, on what was just built.

use anyhow::Result;

use crate::build::Build;
use crate::onnxruntime;
use crate::workspace::{cargo, run, say};

/// Builds everything and runs every test.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// Passed on to `cargo test`, such as `-p berth-store` or a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Test {
    /// Tests find what was built through BERTH_BIN, BERTH_PLUGINS, BERTH_GUESTS and
    /// ORT_DYLIB_PATH.
    pub(crate) fn run(&self) -> Result<()> {
        let library = onnxruntime::library()?;
        let metadata = Build { guests: true, examples: false }.run()?;
        say("testing");
        let mut test = cargo();
        test.args(["test", "--release"]);
        if !self
            .arguments
            .iter()
            .any(|argument| argument == "-p" || argument.starts_with("--package"))
        {
            test.arg("--workspace");
        }
        test.args(&self.arguments)
            .env("BERTH_BIN", metadata.binary())
            .env("BERTH_PLUGINS", metadata.plugins())
            .env("BERTH_GUESTS", metadata.guests())
            .env("ORT_DYLIB_PATH", library);
        run(&mut test, "cargo test")
    }
}
