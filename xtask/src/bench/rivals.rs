//! The servers that do the jobs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::jobs::Job;
use crate::build::Built;
use crate::host::{self, Host};
use crate::http::{Connection, Request};
use crate::python;
use crate::workspace::{Metadata, root};

/// How long a server may take to answer that it is ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// In the order of tables and pictures.
pub(crate) const NAMES: [&str; 3] = ["Berth", "native", "FastAPI"];

/// What the rivals are made of.
pub(crate) struct Parts {
    /// Berth, the native server and ONNX Runtime.
    pub(crate) built: Built,
    /// The Python that has what FastAPI needs.
    python: PathBuf,
}

/// A server that does one job. It ends when this is dropped.
pub(crate) enum Rival {
    Berth(Host),
    Other(Server),
}

/// A server of one process or several that ends by a signal to the first.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Parts {
    /// Obtains what is not built.
    pub(crate) fn obtain(built: Built) -> Result<Self> {
        Ok(Self {
            built,
            python: python::obtain("fastapi", "tests/bench/fastapi/requirements.txt")?,
        })
    }

    /// Starts all three for one job, in the order of [`NAMES`].
    pub(crate) fn start(&self, job: &Job) -> Result<[Rival; 3]> {
        let berth = self.berth()?;
        prepare(&berth, &self.built.metadata, job)?;
        Ok([Rival::Berth(berth), self.native(job)?, self.fastapi(job)?])
    }

    /// Starts Berth with nothing in it.
    pub(crate) fn berth(&self) -> Result<Host> {
        self.berth_with(&[])
    }

    /// The same with options of `berth serve`.
    pub(crate) fn berth_with(&self, options: &[&str]) -> Result<Host> {
        let free = || host::address(None, 0);
        let binary = self.built.metadata.binary();
        Host::start(&binary, &self.built.library, [free()?, free()?], options)
    }

    fn native(&self, job: &Job) -> Result<Rival> {
        let address = host::address(None, 0)?;
        let binary = self.built.metadata.binary().with_file_name("bench-native");
        let mut command = Command::new(binary);
        command.arg(address.to_string()).arg(&job.model);
        command.args(job.config.as_ref().map(ToString::to_string));
        command.env("ORT_DYLIB_PATH", &self.built.library);
        Server::start(command, address)
    }

    fn fastapi(&self, job: &Job) -> Result<Rival> {
        let address = host::address(None, 0)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new(&self.python);
        command.args(["-m", "uvicorn", "server:app", "--loop", "uvloop", "--http", "httptools"]);
        command.args(["--no-access-log", "--log-level", "warning", "--host", "127.0.0.1"]);
        command.args(["--port", &address.port().to_string(), "--workers", &cores.to_string()]);
        command.current_dir(root().join("tests/bench/fastapi")).env("MODEL", &job.model);
        // Nothing may use more threads than the one that the process has.
        command.env("OMP_NUM_THREADS", "1").env("OPENBLAS_NUM_THREADS", "1");
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(config) = &job.config {
            command.env("CONFIG", config.to_string());
        }
        Server::start(command, address)
    }
}

/// Pushes and applies what a job needs.
pub(crate) fn prepare(host: &Host, metadata: &Metadata, job: &Job) -> Result<()> {
    let (name, plugin) = (job.endpoint_name(), job.plugin());
    push_model(host, name, &job.model)?;
    push_plugin(host, plugin, &metadata.plugins().join(format!("{plugin}.wasm")))?;
    apply(host, name, &job.endpoint(name))
}

/// Pushes a model.
pub(crate) fn push_model(host: &Host, name: &str, file: &Path) -> Result<()> {
    host.command(&["model", "push", name, &file.to_string_lossy()]).map(drop)
}

/// Pushes a plugin.
pub(crate) fn push_plugin(host: &Host, name: &str, file: &Path) -> Result<()> {
    host.command(&["plugin", "push", name, &file.to_string_lossy()]).map(drop)
}

/// An endpoint file for a model without a processor, with more lines before its variant.
pub(crate) fn tensors(name: &str, model: &str, lines: &str) -> String {
    format!(
        "name = \"{name}\"\n{lines}[[variants]]\nname = \"only\"\nmodels = {{ default = \"{model}\" }}\n"
    )
}

/// Applies an endpoint file with this content.
pub(crate) fn apply(host: &Host, name: &str, content: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join(format!("{name}.toml"));
    std::fs::write(&file, content)?;
    host.command(&["apply", &file.to_string_lossy()]).map(drop)
}

impl Rival {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Berth(host) => host.listen,
            Self::Other(server) => server.address,
        }
    }

    /// The first of its processes.
    pub(crate) fn process(&self) -> u32 {
        match self {
            Self::Berth(host) => host.process(),
            Self::Other(server) => server.child.id(),
        }
    }
}

impl Server {
    fn start(mut command: Command, address: SocketAddr) -> Result<Rival> {
        let program = command.get_program().display().to_string();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("{program} cannot be started"))?;
        let mut server = Self { child, address };
        let (start, ready) = (Instant::now(), Request::get("/v2/health/ready"));
        while !Connection::new(address, Duration::from_secs(1))
            .send(&ready)
            .is_ok_and(|answer| answer.status == 200)
        {
            if let Some(status) = server.child.try_wait()? {
                bail!("{program} ended ({status}) instead of serving; its reason is above");
            }
            if start.elapsed() > PATIENCE {
                bail!("{program} is not ready after {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Rival::Other(server))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By a signal that it can hand on to its own processes; its end is not what is measured.
        let asked = host::signal("-TERM", self.child.id());
        let start = Instant::now();
        while asked.is_ok() && start.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
