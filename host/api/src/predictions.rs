//! Recorded predictions: asked for on the admin port, and what is said of them on the data port.

use std::io::Read as _;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use berth_monitor::predictions::{Filter, now_ms, parse_id, parse_span, parse_time};
use berth_serving::ControlError;
use berth_serving::replay::ReplayOptions;
use berth_serving::scores::ScoreQuery;
use berth_store::{Feedback, Said};
use berth_tensor::{Digest, Name};
use bytes::Bytes;
use http_body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::admin::{Admin, Answer};

/// The most feedback of one request.
const FEEDBACK: usize = 10_000;

/// The longest label, in bytes.
const LABEL: usize = 1024;

/// Pieces of an answer that wait for its client.
const AHEAD: usize = 4;

/// How much of an answer is sent at once, in bytes.
const PIECE: usize = 64 << 10;

/// Which predictions are asked for, and how.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Asked {
    since: Option<String>,
    until: Option<String>,
    id: Option<String>,
    variant: Option<String>,
    arm: Option<String>,
    revision: Option<String>,
    status: Option<String>,
    attribute: Option<String>,
    limit: Option<usize>,
    window: Option<String>,
    slices: Option<String>,
}

fn time(key: &str, text: Option<&String>) -> Result<Option<u64>, ControlError> {
    let parse = |text: &String| {
        parse_time(text, now_ms()).ok_or_else(|| {
            ControlError::Invalid(format!(
                "{key}: {text:?} is no time: give a span before now such as 90m, 24h or 7d, or a date in UTC such as 2026-11-21T19:05"
            ))
        })
    };
    text.map(parse).transpose()
}

fn pair(key: &str, text: &str) -> Result<(String, String), ControlError> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(ControlError::Invalid(format!("{key}: {text:?} is not ATTRIBUTE=VALUE"))),
    }
}

/// An id that was asked for.
pub(crate) fn id(text: &str) -> Result<u128, ControlError> {
    parse_id(text).ok_or_else(|| {
        ControlError::Invalid(format!(
            "{text:?} is no id of a prediction: it has 32 hexadecimal digits, as the header berth-prediction"
        ))
    })
}

impl Asked {
    fn filter(&self) -> Result<Filter, ControlError> {
        let columns = [
            ("variant", &self.variant),
            ("arm", &self.arm),
            ("revision", &self.revision),
            ("status", &self.status),
        ];
        let equal = columns.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        Ok(Filter {
            since_ms: time("since", self.since.as_ref())?.unwrap_or(0),
            until_ms: time("until", self.until.as_ref())?,
            id: self.id.as_deref().map(id).transpose()?,
            equal: equal.collect(),
            attribute: self.attribute.as_deref().map(|text| pair("attribute", text)).transpose()?,
        })
    }
}

/// Answers predictions as lines of JSON, latest first.
pub(crate) async fn query(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Answer {
    let (name, filter): (Name, Filter) = (name.parse()?, asked.filter()?);
    admin.host.show(&name)?;
    let mut left = asked.limit.unwrap_or(usize::MAX);
    let (lines, answer) = Lines::channel();
    tokio::task::spawn_blocking(move || {
        let mut piece = Vec::new();
        let done = admin.host.predictions(&name, &filter, |row| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            // A map of JSON has a form.
            let _ = serde_json::to_writer(&mut piece, &row);
            piece.push(b'\n');
            if piece.len() < PIECE {
                return ControlFlow::Continue(());
            }
            match lines.blocking_send(Ok(std::mem::take(&mut piece).into())) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        let last = done.map(|()| Bytes::from(piece)).map_err(|error| error.to_string());
        if let Err(error) = &last {
            tracing::error!("predictions could not be read: {error}");
        }
        let _ = lines.blocking_send(last);
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], answer).into_response())
}

/// Lists the files of a time.
pub(crate) async fn files(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Answer {
    let (name, filter): (Name, Filter) = (name.parse()?, asked.filter()?);
    admin.host.show(&name)?;
    let files = tokio::task::block_in_place(|| admin.host.recorder().files(name.as_str(), &filter));
    let files = files.into_iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes }));
    Ok(Json(files.collect::<Vec<_>>()).into_response())
}

/// Answers a file as it is.
pub(crate) async fn file(
    State(admin): State<Admin>,
    Path((name, file)): Path<(String, String)>,
) -> Answer {
    let name: Name = name.parse()?;
    let found = tokio::task::block_in_place(|| admin.host.recorder().file(name.as_str(), &file));
    let mut found = found.ok_or_else(|| {
        ControlError::NotFound(format!(
            "{name} has no file {file:?} of predictions any more: list them again, it may have been merged"
        ))
    })?;
    let (lines, answer) = Lines::channel();
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = found.read(&mut piece);
            let sent = match read {
                Ok(0) => return,
                Ok(bytes) => {
                    piece.truncate(bytes);
                    lines.blocking_send(Ok(piece.into()))
                }
                Err(error) => lines.blocking_send(Err(error.to_string())),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/vnd.apache.parquet")], answer).into_response())
}

/// Scores predictions by what was said of them.
pub(crate) async fn scores(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Answer {
    let window_ms = match &asked.window {
        None => 0,
        Some(text) => parse_span(text).filter(|&span| span > 0).ok_or_else(|| {
            ControlError::Invalid(format!("window: {text:?} is no span such as 1h or 1d"))
        })?,
    };
    let slices = asked.slices.iter().flat_map(|slices| slices.split(','));
    let slices = slices.map(|slice| pair("slices", slice)).collect::<Result<_, _>>()?;
    let query = ScoreQuery { filter: asked.filter()?, window_ms, slices };
    Ok(Json(admin.host.scores(&name.parse()?, query).await?).into_response())
}

/// What a replay goes through, and who asks.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Through {
    revision: Option<String>,
    plugin: Option<String>,
    variant: Option<String>,
    who: String,
}

/// Runs a recorded request again.
pub(crate) async fn replay(
    State(admin): State<Admin>,
    Path(prediction): Path<String>,
    Query(through): Query<Through>,
) -> Answer {
    let Through { revision, plugin, variant, who } = through;
    let plugin = plugin.map(|digest| digest.parse::<Digest>()).transpose();
    let plugin = plugin.map_err(|error| ControlError::Invalid(format!("plugin: {error}")))?;
    let id = id(&prediction)?;
    tracing::info!(who, prediction, "replayed");
    let options = ReplayOptions { revision, plugin, variant };
    Ok(Json(admin.host.replay(id, options).await?).into_response())
}

/// A body that a thread writes, a few pieces ahead of its client.
struct Lines(mpsc::Receiver<Result<Bytes, String>>);

impl Lines {
    fn channel() -> (mpsc::Sender<Result<Bytes, String>>, Body) {
        let (sender, receiver) = mpsc::channel(AHEAD);
        (sender, Body::new(Self(receiver)))
    }
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// What a client says of a prediction.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    prediction: String,
    reward: Option<f64>,
    label: Option<Value>,
}

/// Reads feedback: one entry, or a list of them.
pub(crate) fn decode_feedback(body: &[u8]) -> Result<Vec<Feedback>, (StatusCode, String)> {
    let refused = |problem: String| (StatusCode::BAD_REQUEST, problem);
    let many = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let entries: Result<Vec<Entry>, _> = match many {
        true => serde_json::from_slice(body),
        false => serde_json::from_slice(body).map(|entry| vec![entry]),
    };
    let entries = entries.map_err(|problem| {
        refused(format!(
            "{problem}; send {{\"prediction\": ID, \"reward\": NUMBER}} or {{\"prediction\": ID, \"label\": LABEL}}, or a list of them"
        ))
    })?;
    if entries.len() > FEEDBACK {
        let problem = format!(
            "{} entries, the most of one request is {FEEDBACK}: send several",
            entries.len()
        );
        return Err((StatusCode::PAYLOAD_TOO_LARGE, problem));
    }
    let mut feedback = Vec::with_capacity(entries.len());
    for (at, entry) in entries.into_iter().enumerate() {
        let wrong = |problem: String| refused(format!("entry {at}: {problem}"));
        let prediction = id(&entry.prediction).map_err(|error| wrong(error.to_string()))?;
        let said = match (entry.reward, &entry.label) {
            (Some(reward), None) => Said::Reward(reward),
            (None, Some(label)) => {
                let text = berth_monitor::predictions::text(label);
                Said::Label(text.filter(|text| text.len() <= LABEL).ok_or_else(|| {
                    wrong(format!(
                        "label: give text of up to {LABEL} bytes, a number, true or false"
                    ))
                })?)
            }
            _ => return Err(wrong("give a reward or a label, one of them".into())),
        };
        feedback.push(Feedback { prediction, said });
    }
    Ok(feedback)
}
