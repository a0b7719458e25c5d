//! What can be shown only where a GPU is: that a model gives the same there, runs there together with
//! others, and as fast as ONNX Runtime alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Built};
use crate::conformance;
use crate::python;
use crate::table::Table;
use crate::workspace::{cargo, run as run_command, say};

/// ONNX Runtime's CUDA build with the libraries that it needs.
const REQUIREMENTS: &str = "tests/gpu/requirements.txt";

/// Tells the tests which provider models run on.
const PROVIDER: (&str, &str) = ("BERTH_TEST_PROVIDER", "cuda");

const BATCH: &str = "32";
const CALLERS: &str = "64";
const SECONDS: &str = "5";

/// Runs everything, or says why nothing can be run here.
pub(crate) fn run() -> Result<()> {
    let gpus = match gpus() {
        Ok(gpus) => gpus,
        Err(why) => {
            say(format!(
                "gpu-check was skipped: {why}. Nothing of what it checks has been run: the tests of host/inference and the ONNX project's tests on CUDA, batching there, rows a second beside ONNX Runtime alone"
            ));
            return Ok(());
        }
    };
    say(format!("on {gpus}"));
    let mut built = build::for_tests()?;
    let cases = conformance::cases(&built.metadata)?;
    let path = libraries(&mut built)?;
    let with = |command: &mut Command| {
        command.envs(built.variables()).env("BERTH_CASES", &cases).env("LD_LIBRARY_PATH", &path);
        command.env(PROVIDER.0, PROVIDER.1);
    };
    for (what, arguments) in [
        (
            "one model alone and batched",
            &["--test", "inference", "--", "running::", "batching::"][..],
        ),
        (
            "the ONNX project's tests",
            &["--test", "end_to_end", "--", "--nocapture", "what_passes_in_python_passes_on_a_gpu"],
        ),
    ] {
        say(format!("testing {what} on CUDA"));
        let mut test = cargo();
        test.args(["test", "--release"]).args(arguments);
        with(&mut test);
        run_command(&mut test, "cargo test")?;
    }
    let mut build = cargo();
    run_command(build.args(["build", "--release", "--bin", "bench-rows"]), "building bench-rows")?;
    let folder = tempfile::tempdir()?;
    let mut table = Table::new(&["model", "way", "rows a second"]);
    for (name, bytes) in [
        ("ResNet-18", berth_onnx::networks::resnet18()),
        ("1024-1024-1024-10 perceptron", berth_onnx::networks::dense(1, &[1024, 1024, 1024, 10])),
    ] {
        let model = folder.path().join("model.onnx");
        fs::write(&model, bytes)?;
        for (way, arguments) in [
            ("ONNX Runtime alone, 32 rows a run", &["alone", BATCH, SECONDS][..]),
            ("Berth, 32 rows a run", &["berth", BATCH, SECONDS, "1", "1"]),
            ("Berth, 64 callers of a row, batching on", &["berth", "1", SECONDS, CALLERS, BATCH]),
            ("Berth, 64 callers of a row, batching off", &["berth", "1", SECONDS, CALLERS, "1"]),
        ] {
            say(format!("{name}: {way}"));
            let mut bench = Command::new(built.metadata.binary().with_file_name("bench-rows"));
            bench.args([PROVIDER.1, arguments[0]]).arg(&model).args(&arguments[1..]);
            with(&mut bench);
            let output = bench.stderr(Stdio::inherit()).output().context("bench-rows")?;
            if !output.status.success() {
                bail!("bench-rows failed; its output is above");
            }
            let rows: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
            table.row([name.to_owned(), way.to_owned(), format!("{rows:.0}")]);
        }
    }
    println!("{table}");
    Ok(())
}

/// What the driver calls the GPUs of this machine, or why there are none to use.
fn gpus() -> Result<String, String> {
    if (std::env::consts::OS, std::env::consts::ARCH) != ("linux", "x86_64") {
        return Err("there is a CUDA build of ONNX Runtime for Linux on x86-64 alone".to_owned());
    }
    let listed = Command::new("nvidia-smi").arg("-L").stdin(Stdio::null()).output();
    let listed =
        listed.map_err(|error| format!("there is no NVIDIA GPU here (nvidia-smi: {error})"))?;
    let gpus = String::from_utf8_lossy(&listed.stdout).trim().replace('\n', ", ");
    if !listed.status.success() || gpus.is_empty() {
        let said = String::from_utf8_lossy(&listed.stderr);
        return Err(format!("nvidia-smi finds no GPU ({} {gpus})", said.trim()));
    }
    Ok(gpus)
}

/// Has tests and benchmarks load the CUDA build, unless `ORT_DYLIB_PATH` names one. Answers the folders
/// in which the system finds what it needs.
fn libraries(built: &mut Built) -> Result<std::ffi::OsString> {
    let mut folders = Vec::new();
    if !beside(&built.library).is_file() {
        let python = python::obtain("gpu", REQUIREMENTS)?;
        let packages = packages(&python)?;
        let named = |name: &str| name.starts_with("libonnxruntime.so");
        built.library = entries(&packages.join("onnxruntime/capi"))?
            .into_iter()
            .find(|path| path.file_name().is_some_and(|name| named(&name.to_string_lossy())))
            .context("onnxruntime-gpu has no libonnxruntime.so")?;
        for package in entries(&packages.join("nvidia"))? {
            folders.extend([package.join("lib")].into_iter().filter(|folder| folder.is_dir()));
        }
    }
    let present = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&present).filter(|path| !path.as_os_str().is_empty()));
    Ok(std::env::join_paths(folders)?)
}

/// What makes a build one for CUDA.
fn beside(library: &Path) -> PathBuf {
    library.with_file_name("libonnxruntime_providers_cuda.so")
}

fn packages(python: &Path) -> Result<PathBuf> {
    let mut ask = Command::new(python);
    ask.args(["-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]);
    let said = ask.output().context("the environment's Python cannot be started")?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().into())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}
