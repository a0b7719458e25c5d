//! A real host on an empty data directory, and its command line.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

use crate::http::{Connection, Request};
use crate::workspace::{root, say};

/// How long the host may take to become ready, and to drain and end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one command of `berth` may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(120);

/// A running host. It ends, and its data goes, when this is dropped or the user interrupts.
pub(crate) struct Host {
    running: Arc<Mutex<Running>>,
    serves_on: Arc<AtomicBool>,
    binary: PathBuf,
    /// Where predictions are asked for.
    pub(crate) listen: SocketAddr,
    /// Where it is administered.
    pub(crate) admin: SocketAddr,
}

/// What has to be cleared away, once.
struct Running {
    child: Child,
    folder: Option<TempDir>,
}

impl Host {
    /// Starts `binary` with the ONNX Runtime of `library`, on two addresses and with more options,
    /// and waits until it is ready.
    pub(crate) fn start(
        binary: &Path,
        library: &Path,
        [listen, admin]: [SocketAddr; 2],
        options: &[&str],
    ) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("berth-")
            .tempdir()
            .context("no temporary folder can be made")?;
        let log = File::create(folder.path().join("host.log"))?;
        let mut command = Command::new(binary);
        command.arg("serve").args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
        command.arg("--data").arg(folder.path().join("data")).arg("--onnxruntime").arg(library);
        command.args(options);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // In a group of its own, so that an interrupt reaches this program alone, which then ends
        // the host in good order.
        command.process_group(0);
        let child =
            command.spawn().with_context(|| format!("{} cannot be started", binary.display()))?;

        let running = Arc::new(Mutex::new(Running { child, folder: Some(folder) }));
        let serves_on = Arc::new(AtomicBool::new(false));
        let host = Self { running, serves_on, binary: binary.to_owned(), listen, admin };
        let (running, serves_on) = (host.running.clone(), host.serves_on.clone());
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be caught")?;
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                // An interrupt is how serving on is meant to end, and a failure before.
                let ended = lock(&running).end();
                let good = serves_on.load(Ordering::Relaxed) && ended.is_ok();
                std::process::exit(if good { 0 } else { 130 });
            }
        });
        host.wait_ready()?;
        Ok(host)
    }

    fn wait_ready(&self) -> Result<()> {
        let start = Instant::now();
        let ready = Request::get("/v2/health/ready");
        loop {
            let mut connection = Connection::new(self.listen, Duration::from_secs(1));
            if connection.send(&ready).is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            let mut running = lock(&self.running);
            if let Some(status) = running.child.try_wait()? {
                bail!("the host ended ({status}) instead of serving: {}", running.last_lines());
            }
            if start.elapsed() > PATIENCE {
                bail!("the host is not ready after {PATIENCE:?}: {}", running.last_lines());
            }
            drop(running);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `berth ARGUMENTS` against this host, from the root; answers what it printed and how long
    /// it took.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<(String, Duration)> {
        let start = Instant::now();
        let child = Command::new(&self.binary)
            .current_dir(root())
            .args(arguments)
            .env("BERTH_ADMIN", self.admin.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", self.binary.display()))?;
        let id = child.id();
        let (done, hang) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if hang.recv_timeout(COMMAND_PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = signal("-KILL", id);
            }
        });
        let output = child.wait_with_output()?;
        drop(done);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`berth {}` failed ({}): {}", arguments.join(" "), output.status, said.trim());
        }
        Ok((String::from_utf8_lossy(&output.stdout).trim_end().to_owned(), start.elapsed()))
    }

    /// The host's process.
    pub(crate) fn process(&self) -> u32 {
        lock(&self.running).child.id()
    }

    /// Ends the host in good order and fails when it does not end so.
    pub(crate) fn stop(self) -> Result<()> {
        lock(&self.running).end()
    }

    /// Serves until the user interrupts, and fails when the host ends by itself.
    pub(crate) fn serve_on(&self) -> Result<()> {
        self.serves_on.store(true, Ordering::Relaxed);
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let mut running = lock(&self.running);
            if let Some(status) = running.child.try_wait()? {
                bail!("the host ended by itself ({status}): {}", running.last_lines());
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Only after a failure that is being reported already.
        let _ = lock(&self.running).end();
    }
}

/// Sends a signal, such as `-TERM`, to a process.
pub(crate) fn signal(name: &str, process: u32) -> Result<()> {
    Command::new("kill")
        .arg(name)
        .arg(process.to_string())
        .status()
        .context("`kill` cannot be started")?;
    Ok(())
}

/// A thread that panicked while it held the lock leaves the process as it was.
fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Asks the host to drain and end, by force when it takes too long; removes its data.
    fn end(&mut self) -> Result<()> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        if self.child.try_wait()?.is_none() {
            signal("-TERM", self.child.id())?;
        }
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > PATIENCE {
                self.child.kill()?;
                self.child.wait()?;
                bail!("the host did not end within {PATIENCE:?} of being asked to: it was killed");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if !status.success() {
            bail!("the host ended with {status}: {}", last_lines(folder.path()));
        }
        folder.close().context("the host's data cannot be removed")
    }

    fn last_lines(&self) -> String {
        self.folder.as_ref().map(|folder| last_lines(folder.path())).unwrap_or_default()
    }
}

fn last_lines(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("host.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// The address asked for, which must be free; else the loopback one with `port`, or with a free
/// port when that is taken.
pub(crate) fn address(asked: Option<SocketAddr>, port: u16) -> Result<SocketAddr> {
    if let Some(address) = asked {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("nothing can listen on {address}"))?;
        return Ok(listener.local_addr()?);
    }
    let loopback = |port| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr())
    };
    if let Ok(address) = loopback(port) {
        return Ok(address);
    }
    let address = loopback(0)?;
    say(format!("port {port} is taken, using {} instead", address.port()));
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_unless_it_was_asked_for() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let holder = TcpListener::bind(taken).unwrap();
        assert_ne!(address(None, taken.port()).unwrap(), taken);
        assert!(address(Some(taken), 0).is_err());
        drop(holder);
        assert_eq!(address(Some(taken), 0).unwrap(), taken);
    }
}
