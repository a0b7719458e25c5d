//! What an operator asks of a running host.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::Client;
use crate::endpoint_file;
use crate::serve::say;
use crate::table::{cell, print, print_json, short, time, types};

/// A kind of thing that is pushed in versions.
pub(crate) trait Kind {
    /// Its path on the admin port.
    const PATH: &str;
    /// The columns of a list after the first three.
    const COLUMNS: &'static [&'static str];
    /// Their cells.
    fn cells(version: &Value) -> Vec<String>;
    /// Pushes a file.
    fn push(
        client: &Client,
        path: &str,
        query: &[(&str, &str)],
        file: &Path,
    ) -> anyhow::Result<Value> {
        client.upload(path, query, file)
    }
    /// What else there is to say about a version.
    fn details(_: &Value) -> Vec<(String, String)> {
        Vec::new()
    }
}

pub(crate) struct ModelKind;

impl Kind for ModelKind {
    const PATH: &str = "/v1/models";
    const COLUMNS: &'static [&'static str] = &["INPUTS", "OUTPUTS"];
    fn cells(version: &Value) -> Vec<String> {
        ["inputs", "outputs"].map(|key| types(&version[key], &version["symbols"])).into()
    }
    fn push(
        client: &Client,
        path: &str,
        query: &[(&str, &str)],
        file: &Path,
    ) -> anyhow::Result<Value> {
        client.push_model(path, query, file)
    }
    fn details(version: &Value) -> Vec<(String, String)> {
        let data = version["files"]["data"].as_object().into_iter().flatten();
        let data = data.map(|(name, digest)| {
            ("data file".to_owned(), format!("{name} sha256:{}", short(digest)))
        });
        let pair = |pair: &Value| (cell(&pair[0]), cell(&pair[1]));
        let properties = version["properties"].as_array().into_iter().flatten().map(pair);
        let batching = Some(&version["batching"]).filter(|batching| !batching.is_null());
        let warning = Some(&version["warning"]).filter(|warning| !warning.is_null());
        batching
            .map(|batching| ("batching".to_owned(), cell(batching)))
            .into_iter()
            .chain(warning.map(|warning| ("warning".to_owned(), cell(warning))))
            .chain(data)
            .chain(properties)
            .collect()
    }
}

pub(crate) struct PluginKind;

impl Kind for PluginKind {
    const PATH: &str = "/v1/plugins";
    const COLUMNS: &'static [&'static str] = &["KIND", "BUILT AS"];
    fn cells(version: &Value) -> Vec<String> {
        let inspection = &version["inspection"];
        let manifest = &inspection["manifest"];
        vec![
            cell(&inspection["kind"]),
            format!("{} {}", cell(&manifest["name"]), cell(&manifest["version"])),
        ]
    }
}

/// Push, list, show, alias.
#[derive(Args)]
pub(crate) struct Artifact<K: Kind + Send + Sync + 'static> {
    #[command(subcommand)]
    verb: ArtifactVerb,
    #[command(flatten)]
    client: Client,
    #[arg(skip)]
    kind: PhantomData<K>,
}

#[derive(Subcommand)]
enum ArtifactVerb {
    /// Push a file as the next version of a name; the same content keeps its version.
    Push {
        name: String,
        file: PathBuf,
        /// Why, for the history.
        #[arg(long, value_name = "WHY", default_value = "")]
        message: String,
    },
    /// List all versions.
    List,
    /// Show the versions of one name.
    Show { name: String },
    /// Point a movable name at a version, to refer to it as NAME@ALIAS.
    Alias { name: String, alias: String, version: u64 },
}

impl<K: Kind + Send + Sync + 'static> Artifact<K> {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        run_artifact::<K>(self.verb, &self.client)
    }
}

fn run_artifact<K: Kind>(verb: ArtifactVerb, client: &Client) -> anyhow::Result<()> {
    match verb {
        ArtifactVerb::Push { name, file, message } => {
            let path = format!("{}/{name}", K::PATH);
            let pushed = K::push(client, &path, &[("why", &message)], &file)
                .with_context(|| format!("{} is not pushed", file.display()))?;
            if client.json {
                print_json(&pushed);
            } else {
                say(&format!(
                    "{}@{} sha256:{}",
                    cell(&pushed["name"]),
                    pushed["version"],
                    short(&pushed["digest"])
                ));
                if let Some(warning) = pushed["warning"].as_str() {
                    say(&format!("warning: {warning}"));
                }
            }
        }
        ArtifactVerb::List => versions::<K>(client, client.get(K::PATH)?),
        ArtifactVerb::Show { name } => {
            let found = client.get(&format!("{}/{name}", K::PATH))?;
            let newest = found.as_array().and_then(|versions| versions.last()).cloned();
            versions::<K>(client, found);
            for (key, value) in newest.iter().flat_map(K::details).filter(|_| !client.json) {
                say(&format!("{key:12}{value}"));
            }
        }
        ArtifactVerb::Alias { name, alias, version } => {
            let path = format!("{}/{name}/aliases/{alias}", K::PATH);
            let set = client.put(&path, &[("version", &version.to_string())])?;
            if client.json {
                print_json(&set);
            } else {
                say(&format!("{name}@{alias} is {name}@{version}"));
            }
        }
    }
    Ok(())
}

fn versions<K: Kind>(client: &Client, found: Value) {
    if client.json {
        return print_json(&found);
    }
    let heading = [&["VERSION", "DIGEST", "BYTES", "PUSHED"], K::COLUMNS].concat();
    let rows = found.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|version| {
        let mut row = vec![
            format!("{}@{}", cell(&version["name"]), version["version"]),
            short(&version["digest"]),
            cell(&version["bytes"]),
            time(&version["pushed_ms"]),
        ];
        row.extend(K::cells(version));
        row
    });
    print(&heading, &rows.collect::<Vec<_>>());
}

/// What can be done with plugins.
#[derive(Args)]
pub(crate) struct PluginCommand {
    #[command(subcommand)]
    verb: PluginVerb,
    #[command(flatten)]
    client: Client,
}

#[derive(Subcommand)]
enum PluginVerb {
    #[command(flatten)]
    Artifact(ArtifactVerb),
    /// Say what a component is, imports and asks for. Needs no host and runs nothing.
    Inspect { file: PathBuf },
}

impl PluginCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = match self.verb {
            PluginVerb::Artifact(verb) => return run_artifact::<PluginKind>(verb, &self.client),
            PluginVerb::Inspect { file } => file,
        };
        let bytes =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let inspection =
            berth_plugin::inspect::inspect(&bytes).with_context(|| file.display().to_string())?;
        if self.client.json {
            print_json(&serde_json::to_value(&inspection)?);
            return Ok(());
        }
        let manifest = &inspection.manifest;
        let list =
            |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let routes = if inspection.routes { ", sees each request" } else { "" };
        let limit = |value: Option<String>| value.unwrap_or_else(|| "the host's".into());
        let rows = [
            ("kind", format!("{}{routes}", inspection.kind)),
            ("built as", format!("{} {}", manifest.name, manifest.version)),
            ("plugin ABI", manifest.abi.clone()),
            ("roles", list(&manifest.roles)),
            ("assets", list(&manifest.assets)),
            ("attributes", list(&manifest.attributes)),
            ("memory", limit(manifest.limits.memory.map(|bytes| format!("{} MiB", bytes >> 20)))),
            ("CPU time", limit(manifest.limits.cpu_ms.map(|ms| format!("{ms} ms")))),
            ("size", format!("{} bytes", bytes.len())),
        ];
        for (key, value) in rows {
            say(&format!("{key:12}{value}"));
        }
        for import in &inspection.imports {
            say(&format!("{:12}{import}", "imports"));
        }
        Ok(())
    }
}

/// Apply an endpoint file.
#[derive(Args)]
pub(crate) struct Apply {
    /// The endpoint file, in TOML.
    file: PathBuf,
    /// Make it ready and say what would change, but change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Why, for the history.
    #[arg(long, value_name = "WHY", default_value = "")]
    message: String,
    /// Return once it is committed, not once it is live.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: Client,
}

impl Apply {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let spec = endpoint_file::read(&self.file, &self.client)?;
        let query = [
            ("why", self.message.as_str()),
            ("dry_run", if self.dry_run { "true" } else { "false" }),
            ("no_wait", if self.no_wait { "true" } else { "false" }),
        ];
        let applied = self.client.post("/v1/endpoints", &query, &serde_json::to_value(&spec)?)?;
        report(&self.client, &applied, self.dry_run);
        Ok(())
    }
}

fn report(client: &Client, applied: &Value, dry_run: bool) {
    if client.json {
        return print_json(applied);
    }
    let (endpoint, revision) = (cell(&applied["endpoint"]), cell(&applied["revision"]));
    if applied["changed"] == json!(false) {
        return say(&format!("{endpoint}: revision {revision} is live already"));
    }
    for change in applied["changes"].as_array().map(Vec::as_slice).unwrap_or_default() {
        say(&format!("  {}", cell(change)));
    }
    let ready = applied["ready_ms"].as_f64().unwrap_or(0.0);
    if dry_run {
        say(&format!(
            "{endpoint}: revision {revision} would be ready in {ready:.0} ms; nothing was changed"
        ));
    } else if applied["state"] == "live" {
        say(&format!("{endpoint}: revision {revision} is live, ready in {ready:.0} ms"));
    } else if applied["state"] == "rolling" {
        say(&format!(
            "{endpoint}: revision {revision} is rolling out; `berth rollout watch {endpoint}` shows how it goes"
        ));
    } else {
        say(&format!("{endpoint}: revision {revision} is {}", cell(&applied["state"])));
    }
}

/// What can be done with endpoints.
#[derive(Args)]
pub(crate) struct EndpointCommand {
    #[command(subcommand)]
    verb: EndpointVerb,
    #[command(flatten)]
    client: Client,
}

#[derive(Subcommand)]
enum EndpointVerb {
    /// List all endpoints.
    List,
    /// Show one endpoint with its variants.
    Show { name: String },
    /// Show what was done to an endpoint, latest first.
    History { name: String },
    /// Go back to the revision that was live before, or to a given one.
    Rollback {
        name: String,
        /// The id of the revision, as the history shows it.
        #[arg(long, value_name = "REVISION")]
        to: Option<String>,
        /// Why, for the history.
        #[arg(long, value_name = "WHY", default_value = "")]
        message: String,
        /// Return once it is committed, not once it is live.
        #[arg(long)]
        no_wait: bool,
    },
    /// Take an endpoint away; its history stays.
    Delete {
        name: String,
        /// Why, for the history.
        #[arg(long, value_name = "WHY", default_value = "")]
        message: String,
    },
}

impl EndpointCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let client = &self.client;
        match self.verb {
            EndpointVerb::List => {
                let found = client.get("/v1/endpoints")?;
                if client.json {
                    print_json(&found);
                    return Ok(());
                }
                let rows = found.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(
                    |endpoint| {
                        let variants =
                            endpoint["revision"]["variants"].as_array().map_or(0, Vec::len);
                        vec![
                            cell(&endpoint["name"]),
                            cell(&endpoint["live"]),
                            cell(&endpoint["applied"]),
                            cell(&endpoint["state"]),
                            variants.to_string(),
                            cell(&endpoint["problem"]),
                        ]
                    },
                );
                let heading = ["ENDPOINT", "LIVE", "APPLIED", "STATE", "VARIANTS", "PROBLEM"];
                print(&heading, &rows.collect::<Vec<_>>());
            }
            EndpointVerb::Show { name } => {
                let endpoint = client.get(&format!("/v1/endpoints/{name}"))?;
                if client.json {
                    print_json(&endpoint);
                } else {
                    show(&endpoint);
                }
            }
            EndpointVerb::History { name } => {
                let found = client.get(&format!("/v1/endpoints/{name}/history"))?;
                if client.json {
                    print_json(&found);
                    return Ok(());
                }
                let rows =
                    found.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|entry| {
                        let mut row = vec![cell(&entry["sequence"]), time(&entry["time_ms"])];
                        row.extend(
                            ["revision", "state", "who", "why", "problem"]
                                .map(|key| cell(&entry[key])),
                        );
                        row
                    });
                let heading = ["COMMIT", "TIME", "REVISION", "STATE", "WHO", "WHY", "PROBLEM"];
                print(&heading, &rows.collect::<Vec<_>>());
            }
            EndpointVerb::Rollback { name, to, message, no_wait } => {
                let mut query = vec![("why", message.as_str())];
                query.push(("no_wait", if no_wait { "true" } else { "false" }));
                query.extend(to.as_deref().map(|to| ("to", to)));
                let rolled =
                    client.post(&format!("/v1/endpoints/{name}/rollback"), &query, &Value::Null)?;
                report(client, &rolled, false);
            }
            EndpointVerb::Delete { name, message } => {
                let deleted =
                    client.delete(&format!("/v1/endpoints/{name}"), &[("why", &message)])?;
                if client.json {
                    print_json(&deleted);
                } else {
                    say(&format!("{name}: deleted"));
                }
            }
        }
        Ok(())
    }
}

fn show(endpoint: &Value) {
    let revision = &endpoint["revision"];
    say(&format!("endpoint   {}", cell(&endpoint["name"])));
    say(&format!("live       {}", cell(&endpoint["live"])));
    say(&format!("applied    {} ({})", cell(&endpoint["applied"]), cell(&endpoint["state"])));
    if endpoint["state"] == "rolling" {
        let share = endpoint["rollout"]["share"].as_f64().unwrap_or_default() * 100.0;
        say(&format!("rollout    {share:.2} % to {}", cell(&endpoint["applied"])));
    }
    if !endpoint["problem"].is_null() {
        say(&format!("problem    {}", cell(&endpoint["problem"])));
    }
    if !revision["routing"].is_null() {
        let policy = &revision["routing"]["policy"];
        let config = &revision["routing"]["config"];
        say(&format!("routing    {}@{} {config}", cell(&policy["name"]), policy["version"]));
        if endpoint["quarantined"] == true {
            say(
                "           in quarantine: it answered the same request differently or failed again and again, so the shares below decide",
            );
        }
        let said = &endpoint["said"];
        if said["message"].as_str().is_some_and(|message| !message.is_empty()) {
            say(&format!("           {}: {}", cell(&said["phase"]), cell(&said["message"])));
        }
    }
    if !revision["limits"].is_null() {
        say(&format!("limits     {}", revision["limits"]));
    }
    if !revision["warm_up"].is_null() {
        say(&format!("warm-up    {}", revision["warm_up"]));
    }
    let pinned = |part: &Value| match part {
        Value::Null => "none".to_owned(),
        part => format!("{}@{}", cell(&part["name"]), part["version"]),
    };
    let variants = revision["variants"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = variants.iter().enumerate().map(|(index, variant)| {
        let models = variant["models"].as_object().into_iter().flatten();
        let models: Vec<String> =
            models.map(|(role, model)| format!("{role}={}", pinned(model))).collect();
        let share = endpoint["shares"][index]
            .as_f64()
            .map_or_else(String::new, |share| format!("{:.2} %", share * 100.0));
        let observed = &endpoint["observed"][index];
        let mean = |name: &str| {
            let value = &observed["values"][name];
            let mean = value["sum"].as_f64().zip(value["count"].as_f64());
            mean.map_or_else(String::new, |(sum, count)| format!("{:.4}", sum / count))
        };
        vec![
            cell(&variant["name"]),
            share,
            cell(&observed["requests"]),
            cell(&observed["errors"]),
            mean("reward"),
            pinned(&variant["processor"]),
            models.join(", "),
            variant["config"].to_string(),
        ]
    });
    let heading =
        ["VARIANT", "SHARE", "REQUESTS", "ERRORS", "REWARD", "PROCESSOR", "MODELS", "CONFIG"];
    print(&heading, &rows.collect::<Vec<_>>());
}
