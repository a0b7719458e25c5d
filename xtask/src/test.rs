//! Every test, on what was just built.

use anyhow::Result;

use crate::build;
use crate::conformance;
use crate::python;
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
        let cases = conformance::cases(&built.metadata)?;
        let readers = python::obtain("predictions", "tests/predictions/requirements.txt")?;
        say("testing");
        let test = |packages: &[String]| {
            let mut test = cargo();
            test.args(["test", "--release"]).args(packages).args(&self.arguments);
            run(
                test.envs(built.variables())
                    .env("BERTH_CASES", &cases)
                    .env("BERTH_READERS", &readers),
                "cargo test",
            )
        };
        // Those of the default members, which share what they depend on; then the plugins'.
        test(&[])?;
        if self.arguments.is_empty() {
            let plugins = built.metadata.components("plugins");
            let packages = plugins.into_iter().flat_map(|plugin| ["-p".into(), plugin.package]);
            test(&packages.collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
