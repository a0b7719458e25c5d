//! Work in a process of its own, whose CPU time and memory the system bounds: what takes too much, or
//! ends the process that does it, does not end the host.

use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The most that is kept of what a process says, in bytes, of each of its outputs.
const SAID: u64 = 64 << 10;

/// How often it is asked whether somebody still wants what a process does.
const ASK: Duration = Duration::from_millis(200);

/// What a process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// CPU time of all its threads together, in whole seconds. By the clock it may take four times as
    /// long: it stands back where others want the cores.
    pub cpu: Duration,
    /// Bytes of memory. Without it, as much as there is; where that is too little, the system ends
    /// this process before any other.
    pub memory: Option<u64>,
}

impl Bounds {
    /// The longest that it may take by the clock.
    pub fn time(&self) -> Duration {
        4 * self.cpu
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// By itself or by a signal; none where its time by the clock was up, or nobody wanted it any more.
    pub status: Option<ExitStatus>,
    /// The beginning of its standard output, where that was not set to go elsewhere.
    pub output: String,
    /// The beginning of its standard error.
    pub said: String,
}

impl Ended {
    /// Whether it ended well.
    pub fn well(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(|status| status.signal())
    }

    /// The last line that it said.
    pub fn last_words(&self) -> &str {
        self.said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default()
    }
}

/// Runs a command to its end, or ends it when its time is up or it is not `wanted` any more. Blocks.
/// Standard output is gathered unless `output` says where it goes.
pub fn run(
    mut command: Command,
    bounds: Bounds,
    output: Option<Stdio>,
    wanted: &dyn Fn() -> bool,
) -> io::Result<Ended> {
    command
        .stdout(output.unwrap_or_else(Stdio::piped))
        .stderr(Stdio::piped())
        .env_remove("RUST_BACKTRACE")
        // A signal from the terminal is for the host, which then decides.
        .process_group(0);
    let mut child = command.spawn()?;
    let output = child.stdout.take().map(gather).transpose()?;
    let said = child.stderr.take().map(gather).transpose()?;
    // Its standard error ends when it does: reading to the end is waiting for it.
    let end = Instant::now() + bounds.time();
    let heard = said.map(|said| {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match said.recv_timeout(left.min(ASK)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() && wanted() => {}
                heard => break heard,
            }
        }
    });
    let late = matches!(heard, Some(Err(_)));
    if late {
        // It may have ended just now, which is as good.
        let _ = child.kill();
    }
    let status = child.wait()?;
    Ok(Ended {
        status: (!late).then_some(status),
        output: output.and_then(|output| output.recv().ok()).unwrap_or_default(),
        said: heard.and_then(Result::ok).unwrap_or_default(),
    })
}

/// Reads to the end on a thread of its own, and hands on the beginning.
fn gather(mut pipe: impl Read + Send + 'static) -> io::Result<Receiver<String>> {
    let (all, gathered) = mpsc::channel();
    std::thread::Builder::new().name("apart".into()).spawn(move || {
        let mut text = Vec::new();
        // What cannot be read any more has ended.
        let _ = pipe.by_ref().take(SAID).read_to_end(&mut text);
        let _ = io::copy(&mut pipe, &mut io::sink());
        let _ = all.send(String::from_utf8_lossy(&text).into_owned());
    })?;
    Ok(gathered)
}

/// Bounds this process for good and lowers its priority, so that its work does not slow down serving.
/// It ends with whoever has started it.
pub fn bound_this_process(bounds: Bounds) -> io::Result<()> {
    // No picture of the memory is left behind by what ends the process.
    limit(libc::RLIMIT_CORE, 0, 0)?;
    match bounds.memory {
        // What is written counts, not the address space that is set aside.
        Some(memory) => limit(libc::RLIMIT_DATA, memory, memory)?,
        #[cfg(target_os = "linux")]
        None => std::fs::write("/proc/self/oom_score_adj", "1000")?,
        #[cfg(not(target_os = "linux"))]
        None => {}
    }
    let cpu = bounds.cpu.as_secs();
    // The softer limit's signal says what happened.
    limit(libc::RLIMIT_CPU, cpu, cpu + 1)?;
    // SAFETY: these take plain numbers. Threads that are made later inherit the priority.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 5);
        #[cfg(target_os = "linux")]
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    Ok(())
}

/// Has the system prefer any other thread to this one.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes plain numbers; for Linux, 0 is the calling thread alone. That it may fail changes
    // nothing but who waits.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}

/// Lets no file that this process writes from here on grow beyond so many bytes.
pub fn bound_files(bytes: u64) -> io::Result<()> {
    let mut set = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a whole value that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit(libc::RLIMIT_FSIZE, bytes.min(set.rlim_cur), set.rlim_max)
}

/// Makes a folder for what such processes leave, if it is not there, that only this user may read, and
/// removes what a crash has left in it half-made: what ends in `.partial`.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_os = "linux"))]
type Resource = libc::c_int;

fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let most = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the pointer is to a whole value that outlives the call.
    match unsafe { libc::setrlimit(resource, &raw const most) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
