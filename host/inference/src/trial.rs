//! The process in which a model is tried before it is opened where it serves: ONNX Runtime does not
//! check all that it computes, so that a model can end the process that opens it or runs it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_apart::{Bounds, Ended};
use serde::{Deserialize, Serialize};

use crate::graphs::{Entry, Graphs};
use crate::model::ModelOptions;
use crate::onnxruntime::library::Library;
use crate::onnxruntime::session::Graph;
use crate::onnxruntime::{OpenError, RuntimeError};
use crate::pace::Zeros;
use crate::probe::Judged;
use crate::runtime::{Runtime, RuntimeOptions};

/// The command of the program that tries a model: it calls [`try_here`].
pub const TRY_COMMAND: &str = "try-model";

/// The most CPU time of a trial, where the operator says nothing else.
pub const TRIAL_CPU: Duration = Duration::from_secs(300);

/// How models are tried.
#[derive(Clone, Debug)]
pub struct Trials {
    program: PathBuf,
    cpu: Duration,
    pub(crate) graphs: Graphs,
}

/// What is known of a model that was tried.
pub(crate) struct Found {
    /// What it is like; none where ONNX Runtime refuses it, which says best why when it is opened.
    pub(crate) judged: Option<Judged>,
    /// The file of its optimised graph, where that is kept.
    pub(crate) graph: Option<PathBuf>,
}

/// What a trial says, a line of JSON each.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    /// The [build](Library::build) of ONNX Runtime that it runs on.
    Library(String),
    /// What the model is like; nothing where ONNX Runtime refuses it.
    Model(Option<Judged>),
    /// What became of its optimised graph.
    Graph(Outcome),
}

/// What became of an optimised graph.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// It is there, and answers what the model's own does.
    Written,
    /// It is not like the model's own, or that cannot be told.
    Unlike(String),
    /// It could not be written.
    Failed(String),
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
    /// Has `program`, which has [`TRY_COMMAND`], try models, each for at most `cpu`, in whole seconds, by
    /// the clock four times as long. What is found is kept in `folder`, which is made when missing,
    /// readable to this user alone, and belongs to one host at a time.
    pub fn new(program: PathBuf, cpu: Duration, folder: PathBuf) -> std::io::Result<Self> {
        Ok(Self { program, cpu, graphs: Graphs::open(folder)? })
    }

    /// Tries a model in a process of its own, and keeps what is found. Blocks.
    pub(crate) fn try_apart(
        &self,
        library: &Library,
        name: &str,
        file: &Path,
        options: &ModelOptions,
        entry: &Entry,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Found, OpenError> {
        let unwanted = || Err(OpenError::Unwanted { name: name.to_owned() });
        if !wanted() {
            return unwanted();
        }
        let begin = Instant::now();
        let bounds = Bounds { cpu: self.cpu, memory: None };
        let refused = |problem: String| OpenError::Trial {
            name: name.to_owned(),
            file: file.to_path_buf(),
            problem,
        };
        let most = options.batch.most;
        let options = serde_json::to_string(options)
            .map_err(|error| refused(format!("its options could not be written: {error}")))?;
        let mut command = Command::new(&self.program);
        command
            .arg(TRY_COMMAND)
            .arg(format!("--cpu={}", bounds.cpu.as_secs()))
            .arg("--onnxruntime")
            .arg(&library.path)
            .arg(format!("--options={options}"));
        let room = entry.room(name, file);
        if let Some(room) = &room {
            command.arg("--graph").arg(room.graph());
            command.arg(format!("--graph-bytes={}", room.bytes));
        }
        command.arg("--").arg(file);
        let ended = berth_apart::run(command, bounds, None, wanted)
            .map_err(|error| refused(format!("no process could be started: {error}")))?;
        let said = ended.output.lines().filter_map(|line| serde_json::from_str(line).ok());
        let (mut on, mut judged, mut outcome) = (None, None, None);
        for said in said {
            match said {
                Said::Library(build) => on = Some(build),
                Said::Model(found) => judged = Some(found),
                Said::Graph(found) => outcome = Some(found),
            }
        }
        // What it found holds for what it ran on.
        let killed = ended.signal() == Some(libc::SIGKILL);
        if ended.status.is_some() && !killed && on.as_deref() != Some(library.build) {
            return Err(OpenError::Replaced {
                name: name.to_owned(),
                library: library.path.clone(),
                loaded: library.version.clone(),
                problem: match on {
                    Some(_) => "it is another one now".to_owned(),
                    None => problem(&ended, bounds, library),
                },
            });
        }
        if let Some(judged) = judged {
            tracing::info!(model = name, "tried in {:.1?}", begin.elapsed());
            let graph = judged.as_ref().and_then(|judged| {
                let ended = || Outcome::Unlike(problem(&ended, bounds, library));
                let outcome = room.map(|room| (room, outcome.unwrap_or_else(ended)));
                entry.keep(name, most, judged, outcome)
            });
            return Ok(Found { judged, graph });
        }
        if ended.status.is_none() && !wanted() {
            return unwanted();
        }
        if killed {
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

/// Tries a model in this process, and writes what was found to standard output; with `graph`, a file and
/// its most bytes, also the model's optimised graph. Takes the whole process: bounds it for good, first.
pub fn try_here(
    bounds: Bounds,
    library: &Path,
    options: &str,
    graph: Option<(&Path, u64)>,
    file: &Path,
) -> Result<(), TrialError> {
    berth_apart::bound_this_process(bounds)?;
    // As in the host: a write over the limit on the size of files fails and ends nothing.
    // SAFETY: sets what the system does by itself; no handler of this program's is involved.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if let Some((_, bytes)) = graph {
        berth_apart::bound_files(bytes)?;
    }
    let options: ModelOptions = serde_json::from_str(options)?;
    let runtime = Runtime::load(Some(library), RuntimeOptions { each: 1, trials: None })?;
    say(&Said::Library(runtime.build().to_owned()))?;
    runtime.aside(|| try_aside(&runtime, &options, graph.map(|(graph, _)| graph), file))?
}

fn try_aside(
    runtime: &Runtime,
    options: &ModelOptions,
    graph: Option<&Path>,
    file: &Path,
) -> Result<(), TrialError> {
    let open = |form| runtime.open_as("tried", file, options, form, None);
    let mut failed = None;
    let opened = match graph.map(|graph| open(Graph::Written(graph))) {
        Some(Ok(opened)) => Ok(opened),
        // Of a model that is none, the same again.
        Some(Err(error)) => open(Graph::Given).inspect(|_| failed = Some(error.to_string())),
        None => open(Graph::Given),
    };
    let Ok(opened) = opened else { return say(&Said::Model(None)) };
    let judged = opened.judged().clone();
    // What never answers cannot be held against another form of it.
    let answers = judged.zeros != Zeros::Endless;
    say(&Said::Model(Some(judged)))?;
    let written = graph.filter(|_| failed.is_none());
    let seen = written.map(|graph| (graph, answers.then(|| opened.seen())));
    drop(opened);
    // The process may end in here: of the model, all is said.
    let outcome = match (seen, failed) {
        (None, None) => return Ok(()),
        (_, Some(problem)) => Outcome::Failed(problem),
        (Some((graph, Some(seen))), _) if seen.tells() => match open(Graph::Optimised(graph)) {
            Ok(opened) if opened.seen() == seen => Outcome::Written,
            Ok(_) => Outcome::Unlike("it does not answer the same".to_owned()),
            Err(error) => Outcome::Unlike(error.to_string()),
        },
        (Some(_), _) => Outcome::Unlike("it answers to nothing that it was tried on".to_owned()),
    };
    say(&Said::Graph(outcome))
}

fn say(said: &Said) -> Result<(), TrialError> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(said)?)?;
    output.flush()?;
    Ok(())
}
