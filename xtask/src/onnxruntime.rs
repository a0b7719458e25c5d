//! Finds the ONNX Runtime library, or obtains it through pip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::workspace::{run as run_command, say};

const VERSION: &str = "1.31.1";

/// What a user can always do instead.
const INSTEAD: &str = "set ORT_DYLIB_PATH to the library of ONNX Runtime 1.22 or newer (libonnxruntime.so, or .dylib on macOS)";

/// The wheel of one platform. One Python version is named whatever the local one is, so that there
/// is one file, and one digest of it.
struct Wheel {
    os: &'static str,
    architecture: &'static str,
    tag: &'static str,
    sha256: &'static str,
    library: &'static str,
}

const WHEELS: [Wheel; 3] = [
    Wheel {
        os: "linux",
        architecture: "x86_64",
        tag: "manylinux_2_28_x86_64",
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        library: "libonnxruntime.so.1.31.1",
    },
    Wheel {
        os: "linux",
        architecture: "aarch64",
        tag: "manylinux_2_28_aarch64",
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        library: "libonnxruntime.so.1.31.1",
    },
    Wheel {
        os: "macos",
        architecture: "aarch64",
        tag: "macosx_14_0_arm64",
        sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        library: "libonnxruntime.1.31.1.dylib",
    },
];

/// Prints the library's path, and nothing else, on standard output.
pub(crate) fn run() -> Result<()> {
    println!("{}", library()?.display());
    Ok(())
}

/// The absolute path of the library: what `ORT_DYLIB_PATH` names, else the cached one, else one
/// that pip downloads now.
pub(crate) fn library() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        let path = Path::new(&named);
        return match path.canonicalize() {
            Ok(found) if found.is_file() => Ok(found),
            _ => bail!(
                "ORT_DYLIB_PATH names {}, which is no file: correct it or unset it",
                path.display()
            ),
        };
    }
    let (os, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
    let Some(wheel) =
        WHEELS.iter().find(|wheel| (wheel.os, wheel.architecture) == (os, architecture))
    else {
        bail!("there is no pinned ONNX Runtime for {os} on {architecture}: {INSTEAD}");
    };
    let cache = cache()?;
    let folder = cache.join(format!("onnxruntime-{VERSION}-{os}-{architecture}"));
    let library = folder.join(wheel.library);
    if !library.is_file() {
        obtain(wheel, &cache, &folder)
            .with_context(|| format!("ONNX Runtime {VERSION} cannot be obtained"))?;
    }
    Ok(library)
}

/// The folder outside the work tree that keeps what is obtained.
pub(crate) fn cache() -> Result<PathBuf> {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("BERTH_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("berth")))
        .or_else(|| Some(variable("HOME")?.join(".cache").join("berth")))
        .context("no folder to keep ONNX Runtime in: set BERTH_CACHE to one")?;
    std::path::absolute(&folder).with_context(|| format!("{} is no path", folder.display()))
}

/// Downloads, verifies and unpacks beside `folder`, then renames: another process sees all or
/// nothing.
fn obtain(wheel: &Wheel, cache: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| {
        format!("{} cannot be made: set BERTH_CACHE to another folder", cache.display())
    })?;
    let work =
        tempfile::Builder::new().prefix(".onnxruntime-").tempdir_in(cache).with_context(|| {
            format!("{} cannot be written to: set BERTH_CACHE to another folder", cache.display())
        })?;

    let file = download(wheel, work.path())?;
    verify(&file, wheel.sha256)?;

    say("unpacking it");
    let unpacked = work.path().join("unpacked");
    run_command(
        Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(&unpacked),
        "unpacking",
    )?;
    let placed = work.path().join("placed");
    fs::create_dir(&placed)?;
    let package = unpacked.join("onnxruntime");
    for path in ["LICENSE", "ThirdPartyNotices.txt"] {
        fs::rename(package.join(path), placed.join(path))?;
    }
    fs::rename(package.join("capi").join(wheel.library), placed.join(wheel.library))
        .with_context(|| format!("the wheel does not hold {}", wheel.library))?;
    place(&placed, folder, wheel.library)
}

/// Has pip download the wheel into `folder`.
fn download(wheel: &Wheel, folder: &Path) -> Result<PathBuf> {
    let usable = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    if !usable {
        bail!("`python3 -m pip` does not run: install Python 3 with pip, or {INSTEAD}");
    }
    say(format!("downloading onnxruntime {VERSION} (about 24 MB) with pip"));
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ])
    .args(["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"])
    .args(["--platform", wheel.tag, &format!("onnxruntime=={VERSION}"), "--dest"])
    .arg(folder)
    .env("PIP_REQUIRE_VIRTUALENV", "0");
    if run_command(&mut pip, "pip download").is_err() {
        bail!(
            "pip did not download it, for the reason above: check the network and pip's settings, or {INSTEAD}"
        );
    }
    fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")
}

/// Refuses a file that is not the pinned one.
fn verify(file: &Path, sha256: &str) -> Result<()> {
    let found = hex::encode(Sha256::digest(fs::read(file)?));
    if found != sha256 {
        let name = file.file_name().unwrap_or_default().display();
        bail!(
            "{name} has sha256 {found}, not the pinned {sha256}: it is not used; look at where pip downloads from"
        );
    }
    Ok(())
}

/// Renames `placed` to `folder`, unless another process was faster.
fn place(placed: &Path, folder: &Path, library: &str) -> Result<()> {
    if fs::rename(placed, folder).is_ok() || folder.join(library).is_file() {
        return Ok(());
    }
    // What stands there is incomplete, so a person has removed files from it.
    fs::remove_dir_all(folder)?;
    fs::rename(placed, folder)
        .with_context(|| format!("{} cannot be put in place", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_that_is_not_the_pinned_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("onnxruntime.whl");
        fs::write(&file, b"").unwrap();
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(verify(&file, of_nothing).is_ok());
        for wheel in &WHEELS {
            let error = verify(&file, wheel.sha256).unwrap_err().to_string();
            assert!(error.contains(of_nothing) && error.contains(wheel.sha256), "{error}");
        }
    }

    #[test]
    fn placing_replaces_only_what_is_incomplete() {
        let check = |standing: &[&str], expected: &str| {
            let root = tempfile::tempdir().unwrap();
            let (placed, folder) = (root.path().join("placed"), root.path().join("folder"));
            fs::create_dir(&placed).unwrap();
            fs::write(placed.join("library"), "new").unwrap();
            for name in standing {
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(name), "old").unwrap();
            }
            place(&placed, &folder, "library").unwrap();
            assert_eq!(
                fs::read_to_string(folder.join("library")).unwrap(),
                expected,
                "{standing:?}"
            );
        };
        check(&[], "new");
        check(&["LICENSE"], "new");
        check(&["LICENSE", "library"], "old");
    }
}
