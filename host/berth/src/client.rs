//! The admin port from the other side.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

/// Where a host's admin port is unless told otherwise.
pub(crate) const DEFAULT_ADMIN: &str = "127.0.0.1:8081";

/// How to reach a host and how to print its answers.
#[derive(clap::Args, Clone)]
pub(crate) struct Client {
    /// The admin address of the host.
    #[arg(long, env = "BERTH_ADMIN", value_name = "ADDR", default_value = DEFAULT_ADMIN, global = true)]
    admin: String,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Client {
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.agent().get(self.url(path)).call())
    }

    pub(crate) fn delete(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.answer(self.agent().delete(self.url(path)).query_pairs(signed(query)).call())
    }

    pub(crate) fn put(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.answer(self.agent().put(self.url(path)).query_pairs(signed(query)).send_empty())
    }

    pub(crate) fn post(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: &Value,
    ) -> anyhow::Result<Value> {
        let request = self.agent().post(self.url(path)).query_pairs(signed(query));
        self.answer(request.header("content-type", "application/json").send(body.to_string()))
    }

    /// Streams a file, with progress on a terminal when it takes longer than a second.
    pub(crate) fn upload(
        &self,
        path: &str,
        query: &[(&str, &str)],
        file: &Path,
    ) -> anyhow::Result<Value> {
        let open = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let length = open.metadata()?.len();
        let mut progress = Progress::new(open, length, file);
        let request = self.agent().post(self.url(path)).query_pairs(signed(query));
        let request = request.header("content-length", length.to_string());
        // A host that refuses by name or size says so before the content is sent, and is heard.
        let request = request.header("expect", "100-continue");
        let sent = request.send(SendBody::from_reader(&mut progress));
        progress.finish();
        self.answer(sent)
    }

    fn agent(&self) -> Agent {
        // No limit on the whole: making a large model ready takes as long as it takes.
        let config = Agent::config_builder().http_status_as_error(false);
        config.timeout_connect(Some(Duration::from_secs(5))).build().into()
    }

    fn url(&self, path: &str) -> String {
        let host = self.admin.trim_start_matches("http://").trim_end_matches('/');
        // What is no name goes to the host as it was given: the host says what is wrong with it.
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.~/@".contains(&c);
        let path = path.bytes().map(|c| match plain(c) {
            true => char::from(c).to_string(),
            false => format!("%{c:02X}"),
        });
        format!("http://{host}{}", path.collect::<String>())
    }

    fn answer(&self, sent: Result<Response<Body>, ureq::Error>) -> anyhow::Result<Value> {
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => bail!(
                "no answer from a host at {}: {error}; is `berth serve` running there? (--admin or BERTH_ADMIN)",
                self.admin
            ),
        };
        let status = response.status();
        let text = response.body_mut().with_config().limit(1 << 30).read_to_string();
        let text = text.context("the host's answer broke off")?;
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("the host at {} answered {status} and no JSON", self.admin))?;
        if status.is_success() {
            return Ok(value);
        }
        bail!("{}", value["error"].as_str().unwrap_or("the host refused without a reason"))
    }
}

/// Adds who asks.
fn signed<'a>(query: &[(&'a str, &'a str)]) -> Vec<(&'a str, String)> {
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| "unknown".into());
    let mut pairs: Vec<(&str, String)> =
        query.iter().map(|&(key, value)| (key, value.to_owned())).collect();
    pairs.push(("who", user));
    pairs
}

/// A file that tells how much of it has been read.
struct Progress {
    file: File,
    name: String,
    done: u64,
    length: u64,
    start: std::time::Instant,
    shown: u64,
}

impl Progress {
    fn new(file: File, length: u64, path: &Path) -> Self {
        let name =
            path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self { file, name, done: 0, length, start: std::time::Instant::now(), shown: 0 }
    }

    fn finish(&self) {
        if self.shown > 0 {
            eprintln!();
        }
    }
}

impl Read for Progress {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done += read as u64;
        let seconds = self.start.elapsed().as_secs();
        if seconds > self.shown {
            self.shown = seconds;
            let percent = (self.done * 100).checked_div(self.length).unwrap_or(100);
            eprint!("\r{}: {percent} % of {} MiB", self.name, self.length >> 20);
        }
        Ok(read)
    }
}
