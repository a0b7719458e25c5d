//! Builds the binary, the plugins and, for the tests, the guests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::onnxruntime;
use crate::workspace::{Component, Metadata, cargo, run, say};

const TARGET: &str = "wasm32-wasip2";

/// Builds target/release/berth and target/plugins/NAME.wasm.
#[derive(clap::Args, Default)]
pub(crate) struct Build {
    /// Also build the guests of the tests, as target/guests/NAME.wasm
    #[arg(long)]
    pub(crate) guests: bool,
    /// Also build what the examples need: image-classifier-small.wasm, optimised for size
    #[arg(long)]
    pub(crate) examples: bool,
}

impl Build {
    /// Builds, and answers where cargo says things are.
    pub(crate) fn run(&self) -> Result<Metadata> {
        let metadata = Metadata::read()?;
        add_target()?;

        say("building berth");
        // Of all default members, so that dependencies get the features that the tests need too and
        // are compiled once.
        let binaries = ["berth", "bench-native", "bench-stages", "bench-alone"]
            .map(|name| ["--bin", name])
            .concat();
        run(cargo().args(["build", "--release"]).args(binaries), "building berth")?;

        let plugins = metadata.components("plugins");
        say(format!("building plugins: {}", names(&plugins)));
        Profile::Plugin.build(&metadata, &plugins)?;
        for plugin in &plugins {
            Profile::Plugin.place(&metadata, plugin, &metadata.plugins(), &plugin.folder)?;
        }
        if self.examples {
            let example: Vec<_> =
                plugins.into_iter().filter(|plugin| plugin.folder == "image-classifier").collect();
            say("building image-classifier once more, for size");
            Profile::Small.build(&metadata, &example)?;
            for plugin in &example {
                let name = format!("{}-small", plugin.folder);
                Profile::Small.place(&metadata, plugin, &metadata.plugins(), &name)?;
            }
        }
        if self.guests {
            let guests = metadata.components("tests/guests");
            say(format!("building guests: {}", names(&guests)));
            Profile::Plugin.build(&metadata, &guests)?;
            for guest in &guests {
                Profile::Plugin.place(&metadata, guest, &metadata.guests(), &guest.folder)?;
            }
        }
        Ok(metadata)
    }
}

/// What tests and benchmarks use.
pub(crate) struct Built {
    /// Where cargo says things are.
    pub(crate) metadata: Metadata,
    /// ONNX Runtime.
    pub(crate) library: PathBuf,
}

/// Builds what tests and benchmarks use.
pub(crate) fn for_tests() -> Result<Built> {
    let library = onnxruntime::library()?;
    Ok(Built { metadata: Build { guests: true, examples: false }.run()?, library })
}

impl Built {
    /// The variables by which tests and benchmarks find it.
    pub(crate) fn variables(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("BERTH_BIN", self.metadata.binary()),
            ("BERTH_PLUGINS", self.metadata.plugins()),
            ("BERTH_GUESTS", self.metadata.guests()),
            ("ORT_DYLIB_PATH", self.library.clone()),
        ]
    }
}

fn names(components: &[Component]) -> String {
    components.iter().map(|component| component.folder.as_str()).collect::<Vec<_>>().join(", ")
}

/// How components are compiled.
#[derive(Clone, Copy)]
enum Profile {
    Plugin,
    Small,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Plugin => "plugin",
            Self::Small => "plugin-small",
        }
    }

    fn build(self, metadata: &Metadata, components: &[Component]) -> Result<()> {
        let mut command = cargo();
        command.args(["build", "--target", TARGET, "--profile", self.name(), "--target-dir"]);
        command.arg(&metadata.target_directory);
        if matches!(self, Self::Small) {
            command.args(["--config", "profile.plugin-small.inherits = 'plugin'"]);
            command.args(["--config", "profile.plugin-small.opt-level = 's'"]);
        }
        for component in components {
            command.args(["-p", &component.package]);
        }
        run(&mut command, &format!("building {}", names(components)))
    }

    fn place(
        self,
        metadata: &Metadata,
        component: &Component,
        folder: &Path,
        name: &str,
    ) -> Result<()> {
        let built = metadata.target_directory.join(TARGET).join(self.name()).join(&component.file);
        copy(&built, &folder.join(format!("{name}.wasm")))
    }
}

/// Copies when the content differs; whoever reads sees the old file or the new one.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let content =
        fs::read(from).with_context(|| format!("cargo did not build {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let folder = to.parent().context("a file without a folder")?;
    fs::create_dir_all(folder)?;
    let file = tempfile::NamedTempFile::new_in(folder)?;
    fs::copy(from, file.path())?;
    file.persist(to).with_context(|| format!("{} cannot be written", to.display()))?;
    Ok(())
}

/// Adds the plugins' target to the toolchain when it is missing.
fn add_target() -> Result<()> {
    let library = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .stdin(Stdio::null())
        .output()
        .context("rustc cannot be started: install Rust through rustup")?;
    if library.status.success()
        && PathBuf::from(String::from_utf8_lossy(&library.stdout).trim()).is_dir()
    {
        return Ok(());
    }
    say(format!("adding the target {TARGET} through rustup"));
    let mut rustup = Command::new("rustup");
    if run(rustup.args(["target", "add", TARGET]), "rustup").is_err() {
        bail!(
            "the target {TARGET} is missing and rustup cannot add it: run `rustup target add {TARGET}` with a network"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_file_keeps_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("made").join("to"));
        let old = std::time::SystemTime::UNIX_EPOCH;
        for (content, changed) in [("one", true), ("one", false), ("two", true)] {
            fs::write(&from, content).unwrap();
            copy(&from, &to).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), content);
            let file = fs::File::options().write(true).open(&to).unwrap();
            assert_eq!(file.metadata().unwrap().modified().unwrap() != old, changed, "{content}");
            file.set_modified(old).unwrap();
        }
    }
}
