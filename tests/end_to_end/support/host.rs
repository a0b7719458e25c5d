//! A host of its own for each test, on a data folder of its own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
#[cfg(target_os = "linux")]
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tempfile::TempDir;

#[cfg(target_os = "linux")]
use super::disk::Disk;
use super::files::{self, told};
use super::http::{Answer, Connection, Request};
use super::until;

/// A running host. It is killed when this is dropped.
pub(crate) struct Host {
    child: Mutex<Child>,
    /// Held, so that the host can write there for as long as it runs.
    _stdout: BufReader<ChildStdout>,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    berth: Berth,
    options: Vec<String>,
    folder: TempDir,
}

/// How `berth` is run.
type Berth = Box<dyn Fn() -> Command + Send + Sync>;

/// What a command of `berth` came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `berth ARGUMENTS`, which are to end by themselves.
pub(crate) fn berth(arguments: &[&str], admin: Option<&str>, folder: &Path) -> Said {
    let mut command = Command::new(told("BERTH_BIN"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("USER", "tester").env_remove("BERTH_ADMIN");
    command.envs(admin.map(|admin| ("BERTH_ADMIN", admin)));
    let output = command.output().expect("BERTH_BIN runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Said {
        code: output.status.code().expect("an exit code"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn spawn(
    mut command: Command,
    folder: &Path,
    options: &[String],
) -> (Child, BufReader<ChildStdout>, SocketAddr, SocketAddr) {
    let log = File::options().create(true).append(true).open(folder.join("host.log")).unwrap();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]);
    command.arg(folder.join("data")).args(options);
    command.env("ORT_DYLIB_PATH", told("ORT_DYLIB_PATH")).env_remove("BERTH_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().expect("BERTH_BIN runs");
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let addresses = line.trim().split_once(" serves on http://");
    let addresses = addresses.and_then(|(_, rest)| rest.split_once(", admin on http://"));
    let Some((listen, admin)) = addresses else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the host said {line:?}; its log: {}", last_lines(folder));
    };
    (child, stdout, listen.parse().unwrap(), admin.parse().unwrap())
}

/// A folder for a host and the files of its test, gone when it is dropped.
pub(crate) fn new_folder() -> TempDir {
    tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap()
}

fn last_lines(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("host.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

impl Host {
    /// A host on an empty data folder, ready.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further options of `berth serve`.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self::start_as(new_folder(), Box::new(|| Command::new(told("BERTH_BIN"))), options)
    }

    /// A host whose data is on a disk of its own, of 32 MiB. None where the system does not let us,
    /// which says that `what` was skipped.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_on_small_disk(what: &str) -> Option<(Self, Arc<Disk>)> {
        let folder = new_folder();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let Some(disk) = Disk::mount(&data, 32).map(Arc::new) else {
            // Past what a test's output is kept from.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: {what}, for here nobody may mount a file system of their own"
            );
            return None;
        };
        let inside = Arc::clone(&disk);
        let host = Self::start_as(folder, Box::new(move || inside.berth()), Vec::new());
        Some((host, disk))
    }

    fn start_as(folder: TempDir, berth: Berth, options: Vec<String>) -> Self {
        let (child, stdout, listen, admin) = spawn(berth(), folder.path(), &options);
        let child = Mutex::new(child);
        let host = Self { child, _stdout: stdout, listen, admin, berth, options, folder };
        host.wait_ready();
        host
    }

    /// Ready, with both versions of the example's model and the image classifier pushed.
    pub(crate) fn with_digits(options: &[&str]) -> Self {
        let host = Self::start_with(options);
        host.push_digits();
        host.push("plugin", "image-classifier", &files::plugin("image-classifier"));
        host
    }

    /// Ready, with the endpoint `healthy`, which goes on answering [`Request::healthy`].
    pub(crate) fn with_healthy(options: &[&str]) -> Self {
        let host = Self::start_with(options);
        host.push("plugin", "empty", &files::guest("empty"));
        host.apply(&format!("name = \"healthy\"\n{}", files::variant("main", "empty@1", "", "")));
        host
    }

    pub(crate) fn push_digits(&self) {
        for version in [1, 2] {
            self.push("model", "digits", &files::digits().join(format!("digits-{version}.onnx")));
        }
    }

    /// Ends the host without warning, as a power cut would, if it has not ended already.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts the host again on the same data, killing it first, and waits until it is ready.
    pub(crate) fn restart(&mut self) {
        self.start_again();
        self.wait_ready();
    }

    /// The same without waiting: it listens, and what it served is yet to be restored.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        let (child, stdout, listen, admin) =
            spawn((self.berth)(), self.folder.path(), &self.options);
        self.child = Mutex::new(child);
        (self._stdout, self.listen, self.admin) = (stdout, listen, admin);
    }

    fn wait_ready(&self) {
        until("the host is ready", || {
            let ended = self.child.lock().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the host ended: {}", last_lines(self.folder.path()));
            self.send(&Request::get("/v2/health/ready")).status == 200
        });
    }

    /// Sends a signal, by name such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.lock().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// The host's process.
    pub(crate) fn process(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// How many more bytes than before the host itself had resident at any time of `work`; 0 where
    /// the system does not say.
    pub(crate) fn grown_by(&self, work: impl FnOnce()) -> u64 {
        if !cfg!(target_os = "linux") {
            work();
            return 0;
        }
        let process = format!("/proc/{}", self.process());
        let peak = || {
            let status = fs::read_to_string(format!("{process}/status")).unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
        };
        // The peak begins anew.
        fs::write(format!("{process}/clear_refs"), "5").unwrap();
        let before = peak();
        work();
        peak() - before
    }

    /// Lets no file of the host's grow beyond `bytes`, as if the disk were full; `unlimited` again
    /// lets all.
    #[cfg(target_os = "linux")]
    pub(crate) fn limit_files(&self, bytes: &str) {
        let id = self.child.lock().unwrap().id().to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        let set = Command::new("prlimit").args(["--pid", &id, &limit]).status();
        assert!(set.expect("prlimit runs").success());
    }

    /// Waits until the host ends by itself.
    pub(crate) fn ended(&self) -> ExitStatus {
        let mut status = None;
        until("the host ends", || {
            status = self.child.lock().unwrap().try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// The folder for files of the test; the host's data is in `data` below.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Everything that the host has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("host.log")).unwrap()
    }

    /// The entry of the log, of one line or more, that names `id`.
    pub(crate) fn logged(&self, id: &str) -> String {
        self.entries(0).into_iter().find(|entry| entry.contains(id)).unwrap_or_default()
    }

    /// The entries of the log, of one line or more, after the first `bytes` of it.
    pub(crate) fn entries(&self, bytes: usize) -> Vec<String> {
        let log = self.log()[bytes..].to_owned();
        let mut entries: Vec<String> = Vec::new();
        for line in log.lines() {
            match entries.last_mut() {
                Some(entry) if !line.starts_with("20") => entry.push_str(line),
                _ => entries.push(line.to_owned()),
            }
        }
        entries
    }

    /// Writes a file into the test's folder.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs a command of `berth` against this host.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Said {
        berth(arguments, Some(&self.admin.to_string()), self.folder.path())
    }

    /// The same, which is to succeed; answers what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let said = self.cli(arguments);
        assert_eq!(said.code, 0, "berth {}: {}", arguments.join(" "), said.stderr);
        assert_eq!(said.stderr, "", "berth {}", arguments.join(" "));
        said.stdout
    }

    /// The same with `--json`; answers what it printed.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// The same, which is to fail with one line that contains `part`.
    #[track_caller]
    pub(crate) fn refused(&self, arguments: &[&str], part: &str) {
        check_refused(&arguments.join(" "), &self.cli(arguments), part);
    }

    /// Pushes a file and answers its version.
    #[track_caller]
    pub(crate) fn push(&self, kind: &str, name: &str, file: &Path) -> u64 {
        let pushed = self.json(&[kind, "push", name, file.to_str().unwrap()]);
        pushed["version"].as_u64().unwrap()
    }

    /// Pushes a model that the test has made.
    #[track_caller]
    pub(crate) fn push_model(&self, name: &str, model: &[u8]) -> u64 {
        self.push("model", name, &self.file(&format!("{name}.onnx"), model))
    }

    /// Applies an endpoint file and answers the id of the revision that is live then.
    #[track_caller]
    pub(crate) fn apply(&self, endpoint: &str) -> String {
        let file = self.file("endpoint.toml", endpoint);
        let applied = self.json(&["apply", file.to_str().unwrap()]);
        assert_eq!(applied["state"], "live", "{applied}");
        applied["revision"].as_str().unwrap().to_owned()
    }

    /// Applies an endpoint file that is to be refused with one line that contains `part`.
    #[track_caller]
    pub(crate) fn apply_refused(&self, name: &str, endpoint: &str, part: &str) {
        let file = self.file("refused.toml", endpoint);
        check_refused(name, &self.cli(&["apply", file.to_str().unwrap()]), part);
    }

    /// The first digits of the digest of a plugin's first version.
    pub(crate) fn digest(&self, plugin: &str) -> String {
        self.json(&["plugin", "show", plugin])[0]["digest"].as_str().unwrap()[..12].to_owned()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.listen).expect("the host accepts")
    }

    /// Sends one request to the data port.
    pub(crate) fn send(&self, request: &Request) -> Answer {
        self.connect().send(request).expect("the host answers")
    }

    /// Sends requests that never end until there is no room for `other`, and answers their
    /// connections: the room is theirs until they are dropped.
    pub(crate) fn fill(&self, endless: &Request, other: &Request) -> Vec<Connection> {
        let mut taken = Vec::new();
        until("there is no room left", || {
            let is_full = self.send(other).status == 503;
            if !is_full {
                let mut connection = self.connect();
                connection.start(endless).unwrap();
                taken.push(connection);
            }
            is_full
        });
        taken
    }

    pub(crate) fn connect_admin(&self) -> Connection {
        Connection::open(self.admin).unwrap()
    }

    /// Sends one request to the admin port.
    pub(crate) fn ask_admin(&self, request: &Request) -> Answer {
        Connection::open(self.admin).and_then(|mut admin| admin.send(request)).expect("it answers")
    }

    /// The value of one line of the metrics, such as `berth_requests_total{endpoint="e"}`; 0 when
    /// there is none.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let page = self.ask_admin(&Request::get("/metrics")).text();
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Fails unless a command failed with one line that contains `part`.
#[track_caller]
pub(crate) fn check_refused(name: &str, said: &Said, part: &str) {
    assert_ne!(said.code, 0, "{name}: {}", said.stdout);
    assert_eq!(said.stdout, "", "{name}");
    let line = said.stderr.trim_end();
    assert!(line.contains(part), "{name}: {line:?} lacks {part:?}");
    assert!(line.starts_with("berth: ") && !line.contains('\n'), "{name}: {line:?}");
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the host's log ends with:\n{}", last_lines(self.folder.path()));
        }
    }
}
