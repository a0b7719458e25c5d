//! The admin port from the other side.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use berth_inference::data_files::{self, DataFileError};
use berth_serving::documents::ModelFiles;
use berth_tensor::Digest;
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::typestate::WithBody;
use ureq::{Agent, Body, RequestBuilder, SendBody};

use crate::progress::Progress;

/// Where a host's admin port is unless told otherwise.
pub(crate) const DEFAULT_ADMIN: &str = "127.0.0.1:8081";

/// How often a host is asked what it lacks of a model: what it lets go of in between is sent anew.
const ROUNDS: usize = 5;

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

    pub(crate) fn ask(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.answer(self.agent().get(self.url(path)).query_pairs(query.to_vec()).call())
    }

    /// What a host answers, as it comes.
    pub(crate) fn stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<impl Read + use<>> {
        let sent = self.agent().get(self.url(path)).query_pairs(query.to_vec()).call();
        match sent {
            Ok(response) if response.status().is_success() => {
                Ok(response.into_body().into_reader())
            }
            refused => match self.answer(refused) {
                Ok(_) => bail!("the host at {} answered in another form", self.admin),
                Err(error) => Err(error),
            },
        }
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

    /// Streams a file in one request.
    pub(crate) fn upload(
        &self,
        path: &str,
        query: &[(&str, &str)],
        file: &Path,
    ) -> anyhow::Result<Value> {
        let (open, length) = open(file)?;
        let request = self.agent().post(self.url(path)).query_pairs(signed(query));
        self.answer(stream(request, Progress::new("sending", open, file, 0, length), length))
    }

    /// Pushes a model with the files that it names, of which only what the host lacks is sent.
    pub(crate) fn push_model(
        &self,
        path: &str,
        query: &[(&str, &str)],
        file: &Path,
    ) -> anyhow::Result<Value> {
        let data = data_files::beside(file).map_err(|problem| match problem {
            DataFileError::Read(error) => anyhow!("cannot open {}: {error}", file.display()),
            problem => anyhow!("{} {problem}", file.display()),
        })?;
        let mut sources = HashMap::new();
        let model = digest(file, &mut sources)?;
        let mut files = ModelFiles { model, data: BTreeMap::new() };
        for (name, path) in data {
            files.data.insert(name, digest(&path, &mut sources)?);
        }
        let body = serde_json::to_string(&files)?;
        let target = self.url(&format!("{path}/files"));
        for round in 0..ROUNDS {
            let request = self.agent().post(&target).query_pairs(signed(query));
            let sent = request.header("content-type", "application/json").send(&body);
            let (status, answer) = self.read(sent)?;
            let Some(missing) = answer["missing"].as_object() else {
                return settled(status, answer);
            };
            for (digest, held) in missing {
                let path = digest.parse().ok().and_then(|digest: Digest| sources.get(&digest));
                let path = path.ok_or_else(|| anyhow!("the host asks for {digest}, unasked"))?;
                // What is there may be someone's who is wrong about the size: the next time, all is sent,
                // and the host passes over what it has.
                let held = held.as_u64().filter(|_| round == 0);
                self.send_rest(path, digest, held.unwrap_or(0))?;
            }
        }
        bail!("the host gave up {} time after time: too much is uploaded there", file.display())
    }

    /// Sends what a host that holds the first `held` bytes of a file lacks. A host where it has come to
    /// an end meanwhile is to be asked again.
    fn send_rest(&self, path: &Path, digest: &str, held: u64) -> anyhow::Result<()> {
        let (mut file, length) = open(path)?;
        let from = file.seek(SeekFrom::Start(held.min(length)))?;
        let query = [("offset", from.to_string()), ("bytes", length.to_string())];
        let request =
            self.agent().put(self.url(&format!("/v1/uploads/{digest}"))).query_pairs(query);
        let progress = Progress::new("sending", file, path, from, length);
        let (status, answer) =
            self.read(stream(request, progress, length - from)).map_err(|error| {
                error.context(format!("{}: push it again to go on from there", path.display()))
            })?;
        match status {
            StatusCode::CONFLICT => Ok(()),
            _ => settled(status, answer).map(drop),
        }
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
        let (status, value) = self.read(sent)?;
        settled(status, value)
    }

    fn read(
        &self,
        sent: Result<Response<Body>, ureq::Error>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut response = sent.map_err(|error| {
            let problem = format!(
                "no answer from a host at {}: {error}; is `berth serve` running there? (--admin or BERTH_ADMIN)",
                self.admin
            );
            NoAnswer(problem)
        })?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(1 << 30).read_to_string();
        let text =
            text.map_err(|error| NoAnswer(format!("the host's answer broke off: {error}")))?;
        let value = serde_json::from_str(&text)
            .with_context(|| format!("the host at {} answered {status} and no JSON", self.admin))?;
        Ok((status, value))
    }
}

/// There is no host, or it has gone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoAnswer(String);

fn settled(status: StatusCode, answer: Value) -> anyhow::Result<Value> {
    if status.is_success() {
        return Ok(answer);
    }
    bail!("{}", answer["error"].as_str().unwrap_or("the host refused without a reason"))
}

fn open(file: &Path) -> anyhow::Result<(File, u64)> {
    let open = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let length = open.metadata()?.len();
    Ok((open, length))
}

fn stream(
    request: RequestBuilder<WithBody>,
    mut content: Progress,
    length: u64,
) -> Result<Response<Body>, ureq::Error> {
    let request = request.header("content-length", length.to_string());
    // A host that refuses by name or size says so before the content is sent, and is heard.
    request.header("expect", "100-continue").send(SendBody::from_reader(&mut content))
}

/// The sha256 of a file, which is a source from then on.
fn digest(path: &Path, sources: &mut HashMap<Digest, PathBuf>) -> anyhow::Result<Digest> {
    let (file, length) = open(path)?;
    let mut progress = Progress::new("reading", file, path, 0, length);
    let digest =
        Digest::read(&mut progress).with_context(|| format!("cannot read {}", path.display()))?;
    sources.insert(digest, path.to_owned());
    Ok(digest)
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
