//! A Python environment of its own for the rival in Python.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::onnxruntime::cache;
use crate::workspace::{root, run, say};

/// The Python that has what `tests/bench/fastapi/requirements.txt` pins; made by pip when there is
/// none yet.
pub(crate) fn obtain() -> Result<PathBuf> {
    let file = root().join("tests/bench/fastapi/requirements.txt");
    let pinned = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let digest = hex::encode(Sha256::digest(pinned));
    let folder = cache()?.join(format!("fastapi-{}", &digest[..12]));
    let python = folder.join("bin").join("python");
    // Written last: an environment without it is not whole.
    let whole = folder.join("whole");
    if !whole.is_file() {
        say("making a Python environment with FastAPI, onnxruntime, Pillow and numpy");
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
