//! Fuzzing, with what it needs installed first.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::build;
use crate::workspace::{root, run, say};

const TOOLCHAIN: &str = "nightly";

/// Fuzzes one target or each in turn, and fails on the first input that breaks it.
#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// A target, by the name of its file in fuzz/targets; all of them when left out
    target: Option<String>,
    /// How long each target is fuzzed
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Keep of each corpus only what reaches something that the rest does not, in place of fuzzing
    #[arg(long)]
    minimise: bool,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        let mut targets = Vec::new();
        for file in fs::read_dir(root().join("fuzz/targets"))? {
            targets.extend(file?.path().file_stem().map(|name| name.display().to_string()));
        }
        targets.sort();
        if let Some(wanted) = &self.target {
            if !targets.contains(wanted) {
                bail!("there is no target {wanted}; there are {}", targets.join(", "));
            }
            targets.retain(|target| target == wanted);
        }
        install()?;
        let built = build::for_tests()?;
        for target in targets {
            let mut fuzz = cargo();
            if self.minimise {
                say(format!("minimising the corpus of {target}"));
                fuzz.args(["fuzz", "cmin", "--sanitizer", "none", &target]);
            } else {
                say(format!("fuzzing {target} for {} s", self.seconds));
                fuzz.args(["fuzz", "run", "--sanitizer", "none", &target, "--"]);
                fuzz.arg(format!("-max_total_time={}", self.seconds));
                fuzz.args(["-timeout=60", "-print_final_stats=1"]);
            }
            fuzz.envs(built.variables());
            run(&mut fuzz, &format!("cargo fuzz of {target}"))?;
        }
        Ok(())
    }
}

/// The nightly toolchain's cargo: only that one instruments code for a fuzzer.
fn cargo() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", TOOLCHAIN, "cargo"]).current_dir(root());
    command
}

fn install() -> Result<()> {
    let there = |command: &mut Command| {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    if !there(cargo().arg("--version")) {
        say(format!("installing the {TOOLCHAIN} toolchain through rustup"));
        let install = ["toolchain", "install", TOOLCHAIN, "--profile", "minimal"];
        run(Command::new("rustup").args(install), "rustup")?;
    }
    if !there(cargo().args(["fuzz", "--version"])) {
        say("installing cargo-fuzz");
        run(cargo().args(["install", "--locked", "cargo-fuzz"]), "cargo install cargo-fuzz")?;
    }
    Ok(())
}
