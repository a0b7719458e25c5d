//! What an operator asks of recorded predictions.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::client::Client;
use crate::serve::say;
use crate::table::{cell, print, print_json, time};

/// The columns of a table of text, without what was sent and answered.
const CSV: [&str; 23] = [
    "prediction",
    "time",
    "endpoint",
    "revision",
    "variant",
    "drawn",
    "arm",
    "propensity",
    "reason",
    "unit",
    "unit_hash",
    "slices",
    "attributes",
    "request_id",
    "latency_seconds",
    "processor_cpu_seconds",
    "model_seconds",
    "status",
    "error",
    "predicted",
    "score",
    "reward",
    "label",
];

/// Look at recorded predictions, take them away, score them.
#[derive(Args)]
pub(crate) struct PredictionsCommand {
    #[command(subcommand)]
    verb: PredictionsVerb,
    #[command(flatten)]
    client: Client,
}

#[derive(Subcommand)]
enum PredictionsVerb {
    /// Show predictions, latest first.
    Query {
        endpoint: String,
        #[command(flatten)]
        which: Which,
        /// One prediction, by its berth-prediction.
        #[arg(long, value_name = "PREDICTION")]
        id: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// The form; json, a line for each, also has what was sent and answered, and of bytes that are no
        /// text how many there are.
        #[arg(long, value_name = "FORM", default_value = "table")]
        format: Format,
    },
    /// Copy predictions into a folder, as Parquet files by hour, or into one file of lines of JSON or CSV.
    Export {
        endpoint: String,
        #[command(flatten)]
        which: Which,
        /// A folder, where it takes the place of what was exported of the same hours before; or a file
        /// that ends in .jsonl or .csv. Of bytes that are no text those tell how many there are; Parquet
        /// has them.
        #[arg(long, value_name = "FOLDER|FILE")]
        to: PathBuf,
    },
    /// Score predictions by the labels and rewards that came.
    Score {
        endpoint: String,
        #[command(flatten)]
        which: Which,
        /// Each span of time by itself, such as 1h or 1d.
        #[arg(long, value_name = "SPAN")]
        window: Option<String>,
        /// Also of those with this value of an attribute; may be given several times.
        #[arg(long, value_name = "ATTRIBUTE=VALUE")]
        slice: Vec<String>,
    },
}

/// Which predictions.
#[derive(Args)]
struct Which {
    /// From then on: a span before now such as 90m or 7d, or a date in UTC such as 2026-11-21T19:05.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before then.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of one variant.
    #[arg(long)]
    variant: Option<String>,
    /// Of one arm of a rollout: live or next.
    #[arg(long)]
    arm: Option<String>,
    /// Of one revision, by its id.
    #[arg(long)]
    revision: Option<String>,
    /// With this end: ok, invalid, failed, timeout, cpu, overloaded.
    #[arg(long)]
    status: Option<String>,
    /// With this value of an attribute.
    #[arg(long, value_name = "ATTRIBUTE=VALUE")]
    attribute: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

impl Which {
    fn query(&self) -> Vec<(&'static str, &str)> {
        let given = [
            ("since", &self.since),
            ("until", &self.until),
            ("variant", &self.variant),
            ("arm", &self.arm),
            ("revision", &self.revision),
            ("status", &self.status),
            ("attribute", &self.attribute),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))).collect()
    }
}

fn path(endpoint: &str) -> String {
    format!("/v1/endpoints/{endpoint}/predictions")
}

impl PredictionsCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let client = &self.client;
        match self.verb {
            PredictionsVerb::Query { endpoint, which, id, limit, format } => {
                let mut query = which.query();
                query.extend(id.as_deref().map(|id| ("id", id)));
                let limit = limit.to_string();
                query.push(("limit", &limit));
                let lines = client.stream(&path(&endpoint), &query)?;
                let format = if client.json { Format::Json } else { format };
                show(lines, format)
            }
            PredictionsVerb::Export { endpoint, which, to } => {
                export(client, &endpoint, &which, &to)
            }
            PredictionsVerb::Score { endpoint, which, window, slice } => {
                let mut query = which.query();
                query.extend(window.as_deref().map(|window| ("window", window)));
                let slices = slice.join(",");
                if !slices.is_empty() {
                    query.push(("slices", &slices));
                }
                let scores = client.ask(&format!("{}/scores", path(&endpoint)), &query)?;
                if client.json {
                    print_json(&scores);
                } else {
                    show_scores(&scores);
                }
                Ok(())
            }
        }
    }
}

fn rows(lines: impl Read) -> impl Iterator<Item = anyhow::Result<Value>> {
    BufReader::new(lines).lines().map(|line| {
        let line = line.context("the host's answer broke off; its log says why")?;
        serde_json::from_str(&line).context("the host answered something else than JSON")
    })
}

fn show(lines: impl Read, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => {
            for line in BufReader::new(lines).lines() {
                say(&line.context("the host's answer broke off; its log says why")?);
            }
        }
        Format::Csv => {
            let mut text = Vec::new();
            write_csv(rows(lines), &mut text)?;
            say(String::from_utf8_lossy(&text).trim_end());
        }
        Format::Table => {
            let cells = |row: Value| {
                let latency = row["latency_seconds"].as_f64().unwrap_or_default() * 1e3;
                let of_time = cell(&row["time"]).replace('T', " ");
                let mut cells = vec![of_time, cell(&row["prediction"])];
                cells.extend(["revision", "variant", "arm"].map(|key| cell(&row[key])));
                cells.push(format!("{latency:.2}"));
                cells.extend(["status", "predicted", "label", "reward"].map(|key| cell(&row[key])));
                cells.push(cell(&row["error"]));
                cells
            };
            let rows = rows(lines).map(|row| row.map(cells)).collect::<anyhow::Result<Vec<_>>>()?;
            let heading = [
                "TIME",
                "PREDICTION",
                "REVISION",
                "VARIANT",
                "ARM",
                "MS",
                "STATUS",
                "PREDICTED",
                "LABEL",
                "REWARD",
                "ERROR",
            ];
            print(&heading, &rows);
        }
    }
    Ok(())
}

fn write_csv(
    rows: impl Iterator<Item = anyhow::Result<Value>>,
    to: &mut impl Write,
) -> anyhow::Result<()> {
    writeln!(to, "{}", CSV.join(","))?;
    for row in rows {
        let row = row?;
        let cells = CSV.map(|column| match cell(&row[column]) {
            text if text.contains([',', '"', '\n', '\r']) => {
                format!("\"{}\"", text.replace('"', "\"\""))
            }
            text => text,
        });
        writeln!(to, "{}", cells.join(","))?;
    }
    Ok(())
}

fn export(client: &Client, endpoint: &str, which: &Which, to: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", to.display());
    let form = to.extension().and_then(|extension| extension.to_str());
    match form {
        Some("jsonl" | "csv") => {
            let mut lines = client.stream(&path(endpoint), &which.query())?;
            let mut file = io::BufWriter::new(File::create(to).with_context(failed)?);
            match form {
                Some("csv") => write_csv(rows(lines), &mut file)?,
                _ => drop(io::copy(&mut lines, &mut file).with_context(failed)?),
            }
            file.flush().with_context(failed)?;
            say(&format!("{}", to.display()));
            return Ok(());
        }
        Some("parquet") => {
            bail!(
                "--to: give a folder for Parquet, whose files are by hour, or a file that ends in .jsonl or .csv"
            )
        }
        _ => {}
    }
    let query = which.query();
    if let Some((key, _)) = query.iter().find(|(key, _)| !["since", "until"].contains(key)) {
        bail!(
            "--{key}: Parquet files are copied whole; a file that ends in .jsonl or .csv takes what is asked for alone"
        )
    }
    fs::create_dir_all(to).with_context(failed)?;
    let files = client.ask(&format!("{}/files", path(endpoint)), &query)?;
    let (mut bytes, mut names) = (0, Vec::new());
    for file in files.as_array().into_iter().flatten() {
        let name = cell(&file["name"]);
        if name.contains(['/', '\\']) {
            bail!("the host names a file {name:?}");
        }
        let mut content = client.stream(&format!("{}/files/{name}", path(endpoint)), &[])?;
        let name = format!("{endpoint}-{name}");
        let mut file = File::create(to.join(&name)).with_context(failed)?;
        bytes += io::copy(&mut content, &mut file).with_context(failed)?;
        names.push(name);
    }
    let count = names.len();
    // What an export before has copied of the same hours, and was merged since, would be there twice.
    let hour = |name: &str| name.get(..endpoint.len() + 14).map(str::to_owned);
    for entry in fs::read_dir(to).with_context(failed)? {
        let name = entry.with_context(failed)?.file_name().to_string_lossy().into_owned();
        let again = names.iter().any(|copied| hour(copied) == hour(&name));
        if again && name.ends_with(".parquet") && !names.contains(&name) {
            fs::remove_file(to.join(&name)).with_context(failed)?;
        }
    }
    if client.json {
        print_json(&json!({ "files": count, "bytes": bytes }));
    } else {
        say(&format!("{count} files of {bytes} bytes in {}", to.display()));
    }
    Ok(())
}

fn show_scores(scores: &Value) {
    let all = scores.as_array().map(Vec::as_slice).unwrap_or_default();
    let names = ["accuracy", "precision", "recall", "roc_auc", "mae", "rmse", "reward"];
    let used: Vec<&str> =
        names.into_iter().filter(|name| all.iter().any(|score| !score[name].is_null())).collect();
    let windows = all.iter().any(|score| !score["window_ms"].is_null());
    let mut heading: Vec<String> = Vec::new();
    heading.extend(windows.then(|| "WINDOW".to_owned()));
    let first = ["REVISION", "VARIANT", "ARM", "SLICE", "PREDICTIONS", "LABELS", "REWARDS"];
    heading.extend(first.map(str::to_owned));
    heading.extend(used.iter().map(|name| name.replace('_', " ").to_uppercase()));
    let rows = all.iter().map(|score| {
        let mut row = Vec::new();
        row.extend(windows.then(|| time(&score["window_ms"])));
        let keys = ["revision", "variant", "arm", "slice", "predictions", "labels", "rewards"];
        row.extend(keys.map(|key| cell(&score[key])));
        row.extend(used.iter().map(|name| {
            let number = &score[name];
            match (number["value"].as_f64(), number["interval"].as_array().map(Vec::as_slice)) {
                (Some(value), Some([low, high])) => {
                    let bound = |value: &Value| value.as_f64().unwrap_or_default();
                    format!("{value:.4} ({:.4} to {:.4})", bound(low), bound(high))
                }
                (Some(value), _) => format!("{value:.4}"),
                _ => String::new(),
            }
        }));
        row
    });
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    print(&heading, &rows.collect::<Vec<_>>());
}

/// Run a recorded request again and show what differs in the answer.
#[derive(Args)]
pub(crate) struct ReplayCommand {
    /// The prediction, by its berth-prediction.
    prediction: String,
    /// Through this revision of its endpoint; without it, the live one.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// With this component in place of the processor.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Through this variant; without it, the one that answered.
    #[arg(long)]
    variant: Option<String>,
    #[command(flatten)]
    client: Client,
}

impl ReplayCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let client = &self.client;
        let uploaded = self.plugin.as_ref().map(|file| client.upload("/v1/assets", &[], file));
        let digest = uploaded.transpose()?.map(|uploaded| cell(&uploaded["digest"]));
        let given = [("revision", &self.revision), ("plugin", &digest), ("variant", &self.variant)];
        let query: Vec<_> =
            given.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))).collect();
        let target = format!("/v1/predictions/{}/replay", self.prediction);
        let replay = client.post(&target, &query, &Value::Null)?;
        if client.json {
            print_json(&replay);
            return Ok(());
        }
        say(&format!(
            "prediction {} of {}",
            cell(&replay["prediction"]),
            cell(&replay["endpoint"])
        ));
        let row = |side: &str| {
            let of = &replay[side];
            let mut row = vec![side.to_owned()];
            row.extend(["revision", "variant", "predicted"].map(|key| cell(&of[key])));
            row.push(format!("{:.2}", of["latency_ms"].as_f64().unwrap_or_default()));
            row.push(cell(&of["error"]));
            row
        };
        let rows = ["recorded", "replayed"].map(row);
        print(&["", "REVISION", "VARIANT", "PREDICTED", "MS", "ERROR"], &rows);
        let lines = |key: &str| replay[key].as_array().cloned().unwrap_or_default();
        for line in lines("differences") {
            say(&format!("  {}", cell(&line)));
        }
        for name in lines("unknown") {
            say(&format!("  {}: was not recorded", cell(&name)));
        }
        if replay["same"] == true {
            say("nothing differs of what was recorded");
        }
        Ok(())
    }
}
