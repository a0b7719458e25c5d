//! Python environments of their own, for the rival in Python and for what Python packages compute.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::onnxruntime::cache;
use crate::workspace::{root, run, say};

/// The Python that has what a file of requirements in the repository pins; made by pip when there
/// is none yet. `name` is the environment's folder in the cache.
pub(crate) fn obtain(name: &str, requirements: &str) -> Result<PathBuf> {
    let file = root().join(requirements);
    let pinned = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let digest = hex::encode(Sha256::digest(pinned));
    let folder = cache()?.join(format!("{name}-{}", &digest[..12]));
    let python = folder.join("bin").join("python");
    // Written last: an environment without it is not whole.
    let whole = folder.join("whole");
    if !whole.is_file() {
        say(format!("making a Python environment with what {requirements} names"));
        run(
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder),
            "python3 -m venv",
        )
        .context("Python cannot make an environment: install Python 3.11 or newer with venv")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
        run(pip.arg(&file), "pip install")?;
        fs::write(&whole, digest)?;
    }
    Ok(python)
}
