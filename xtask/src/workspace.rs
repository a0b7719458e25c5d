//! Where things are, how to call cargo, and how progress is said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A line on standard error, so that standard output stays the command's result.
pub(crate) fn say(message: impl std::fmt::Display) {
    eprintln!("==> {message}");
}

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A call of the cargo that runs this program, from the root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command whose output the user sees on standard error; `what` names it when it fails.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<()> {
    let status =
        command.stdin(Stdio::null()).stdout(std::io::stderr()).status().with_context(|| {
            format!("{what}: {} cannot be started", command.get_program().display())
        })?;
    if !status.success() {
        bail!("{what} failed ({status}); its output is above");
    }
    Ok(())
}

/// What cargo knows of this workspace.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    /// Where cargo puts what it builds; respects `CARGO_TARGET_DIR`.
    pub(crate) target_directory: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// A crate of the workspace that is built as a component.
pub(crate) struct Component {
    /// Its package, for `cargo build -p`.
    pub(crate) package: String,
    /// The name of its folder.
    pub(crate) folder: String,
    /// The file that cargo writes.
    pub(crate) file: String,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self> {
        let output = cargo()
            .args(["metadata", "--format-version=1", "--no-deps"])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo cannot be started")?;
        if !output.status.success() {
            bail!("cargo metadata failed; its output is above");
        }
        serde_json::from_slice(&output.stdout)
            .context("cargo metadata answers no JSON that this program knows")
    }

    /// The components directly inside `folder` of the repository, sorted by name.
    pub(crate) fn components(&self, folder: &str) -> Vec<Component> {
        let inside = root().join(folder);
        let mut components: Vec<_> =
            self.packages.iter().filter_map(|package| package.component(&inside)).collect();
        components.sort_by(|a, b| a.folder.cmp(&b.folder));
        components
    }

    /// The release binary of Berth.
    pub(crate) fn binary(&self) -> PathBuf {
        self.target_directory.join("release").join(format!("berth{}", std::env::consts::EXE_SUFFIX))
    }

    /// Where [`crate::build`] puts the first-party plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.target_directory.join("plugins")
    }

    /// Where [`crate::build`] puts the guests of the tests.
    pub(crate) fn guests(&self) -> PathBuf {
        self.target_directory.join("guests")
    }
}

impl Package {
    fn component(&self, inside: &Path) -> Option<Component> {
        let folder = self.manifest_path.parent()?;
        let file = self.targets.iter().find_map(|target| match target.kind.first()?.as_str() {
            "bin" => Some(format!("{}.wasm", target.name)),
            "cdylib" => Some(format!("{}.wasm", target.name.replace('-', "_"))),
            _ => None,
        })?;
        (folder.parent() == Some(inside)).then_some(Component {
            package: self.name.clone(),
            folder: folder.file_name()?.to_str()?.to_owned(),
            file,
        })
    }
}
