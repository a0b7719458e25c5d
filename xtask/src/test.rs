//! Every test, on what was just built.

use anyhow::Result;

use crate::build;
use crate::workspace::{cargo, run, say};

/// Builds everything and runs every test.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// Passed on to `cargo test`, such as `-p berth-store` or a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Test {
    pub(crate) fn run(&self) -> Result<()> {
        let built = build::for_tests()?;
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
        test.args(&self.arguments).envs(built.variables());
        run(&mut test, "cargo test")
    }
}
