//! The process in which a model is tried before it is opened where it serves: ONNX Runtime does not
//! check all that it computes, so that a model can end the process that opens it or runs it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use berth_apart::{Bounds, Ended};
use serde::{Deserialize, Serialize};

use crate::model::ModelOptions;
use crate::onnxruntime::library::Library;
use crate::onnxruntime::{OpenError, RuntimeError};
use crate::probe::Batching;
use crate::runtime::{Runtime, RuntimeOptions};

/// The command of the program that tries a model: it calls [`try_here`].
pub const TRY_COMMAND: &str = "try-model";

/// The most CPU time of a trial, where the operator says nothing else.
pub const TRIAL_CPU: Duration = Duration::from_secs(300);

/// How models are tried.
#[derive(Clone, Debug)]
pub struct Trials {
    /// The program that has [`TRY_COMMAND`].
    pub program: PathBuf,
    /// The most CPU time of one trial, in whole seconds; by the clock four times as long.
    pub cpu: Duration,
}

/// What a trial has found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tried {
    /// It opens and runs, and this is whether its requests may run together.
    Opens(Batching),
    /// Nothing: it was not tried, or ONNX Runtime refuses it, which says best why when it is opened.
    Unknown,
}

/// Why a trial came to nothing, for the process that started it.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The process could not be bounded, or could not say what it found.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// There is no ONNX Runtime.
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
    /// The options are not as the host writes them.
    #[error("the options of a trial: {0}")]
    Options(#[from] serde_json::Error),
}

impl Trials {
    /// Tries a model in a process of its own. Blocks.
    pub(crate) fn try_apart(
        &self,
        library: &Library,
        name: &str,
        file: &Path,
        options: &ModelOptions,
    ) -> Result<Tried, OpenError> {
        let bounds = Bounds { cpu: self.cpu, memory: None };
        let refused = |problem: String| OpenError::Trial {
            name: name.to_owned(),
            file: file.to_path_buf(),
            problem,
        };
        let options = serde_json::to_string(options)
            .map_err(|error| refused(format!("its options could not be written: {error}")))?;
        let mut command = Command::new(&self.program);
        command
            .arg(TRY_COMMAND)
            .arg(format!("--cpu={}", bounds.cpu.as_secs()))
            .arg("--onnxruntime")
            .arg(&library.path)
            .arg(format!("--options={options}"))
            .arg("--")
            .arg(file);
        let ended = berth_apart::run(command, bounds, None)
            .map_err(|error| refused(format!("no process could be started: {error}")))?;
        if ended.well()
            && let Some(tried) = ended.output.lines().next_back()
            && let Ok(tried) = serde_json::from_str(tried)
        {
            return Ok(tried);
        }
        if ended.signal() == Some(libc::SIGKILL) {
            return Err(OpenError::Memory {
                name: name.to_owned(),
                file: file.to_path_buf(),
                bytes: file.metadata().map_or(0, |metadata| metadata.len()),
                problem: "the system ended its trial".to_owned(),
            });
        }
        Err(refused(problem(&ended, bounds, library)))
    }
}

/// What became of a trial that found nothing.
fn problem(ended: &Ended, bounds: Bounds, library: &Library) -> String {
    let more = "give `berth serve` a higher --trial-cpu if it is meant to";
    let Some(status) = ended.status else {
        return format!("it was not done after {} s; {more}", bounds.time().as_secs());
    };
    let version = &library.version;
    match ended.signal() {
        Some(libc::SIGXCPU) => {
            format!("it took more than {} s of CPU time; {more}", bounds.cpu.as_secs())
        }
        Some(signal) => {
            let what = match signal {
                libc::SIGFPE => "a division of whole numbers that has no result",
                libc::SIGSEGV | libc::SIGBUS => {
                    "an access to memory that is not its own, or too deep a graph"
                }
                libc::SIGABRT => "a fault that it found in itself",
                _ => "a fault",
            };
            format!(
                "ONNX Runtime {version} ended its process ({what}, {status}); export it otherwise, or try another version of ONNX Runtime"
            )
        }
        None => format!("the process that tried it ended with {status}: {:?}", ended.last_words()),
    }
}

/// Tries a model in this process, and writes what was found, a [`Tried`] as JSON, to standard output.
/// Takes the whole process: bounds it for good, first.
pub fn try_here(
    bounds: Bounds,
    library: &Path,
    options: &str,
    file: &Path,
) -> Result<(), TrialError> {
    berth_apart::bound_this_process(bounds)?;
    // As in the host: a write over the shell's limit on the size of files fails and ends nothing.
    // SAFETY: sets what the system does by itself; no handler of this program's is involved.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let options: ModelOptions = serde_json::from_str(options)?;
    let runtime = Runtime::load(Some(library), RuntimeOptions { each: 1, trials: None })?;
    let opened = runtime.aside(|| runtime.open("tried", file, &options))?;
    let tried = match opened {
        Ok(opened) => Tried::Opens(opened.batching().clone()),
        Err(_) => Tried::Unknown,
    };
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(&tried)?)?;
    output.flush()?;
    Ok(())
}
