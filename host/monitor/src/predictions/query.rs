//! Recorded predictions, found again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::{ControlFlow, Range};
use std::time::Duration;

use berth_tensor::{DataType, NamedTensor, Tensor};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::column::{Chunk, Kind, Scalar};
use super::file::{FileError, Opened, digits, time_ms};
use super::folder;
use super::recorder::Recorder;
use super::row::{BODY, Content, Prediction};
use super::time::{hour, now_ms, parse_time, utc};

/// Which predictions are asked for: all that fit everything that is set.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// From this time on, in milliseconds since 1970.
    pub since_ms: u64,
    /// Before this time; none is now.
    pub until_ms: Option<u64>,
    /// One prediction.
    pub id: Option<u128>,
    /// The values of columns of text.
    pub equal: Vec<(&'static str, String)>,
    /// An attribute and its value.
    pub attribute: Option<(String, String)>,
}

/// What the policies' and labels' part of a prediction is: enough to score it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Its id.
    pub id: u128,
    /// The id of the revision.
    pub revision: String,
    /// The variant.
    pub variant: String,
    /// The variant that was drawn.
    pub drawn: Option<String>,
    /// The arm of the rollout.
    pub arm: Option<String>,
    /// The value of the unit.
    pub unit: Option<String>,
    /// The hash by which its unit is counted.
    pub unit_hash: Option<u64>,
    /// The declared slices that it is in, a bit each.
    pub slices: u16,
    /// Attributes.
    pub attributes: Vec<(String, String)>,
    /// What was predicted.
    pub predicted: Option<String>,
    /// Its score.
    pub score: Option<f64>,
}

/// The columns of a [`Summary`].
const SUMMARY: [&str; 11] = [
    "prediction",
    "revision",
    "variant",
    "drawn",
    "arm",
    "unit",
    "unit_hash",
    "slices",
    "attributes",
    "predicted",
    "score",
];

impl Recorder {
    /// Shows each prediction that fits, by column, latest first, until `visit` has had enough.
    pub fn query(
        &self,
        endpoint: &str,
        filter: &Filter,
        mut visit: impl FnMut(u128, Map<String, Value>) -> ControlFlow<()>,
    ) -> Result<(), FileError> {
        self.flush();
        self.scan(endpoint, filter, true, |file, group, rows| {
            let names: Vec<&str> = file.columns.iter().map(|column| column.name.as_str()).collect();
            let rows_of = Rows::read(file, group, &names)?;
            for row in rows {
                if visit(rows_of.id(row), rows_of.json(row)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Hands over what is needed to score each prediction that fits and is on the disk, a row group at a
    /// time, by time of the group.
    pub fn summaries(
        &self,
        endpoint: &str,
        filter: &Filter,
        mut visit: impl FnMut(Vec<Summary>),
    ) -> Result<(), FileError> {
        self.scan(endpoint, filter, false, |file, group, rows| {
            let of = Rows::read(file, group, &SUMMARY)?;
            visit(rows.into_iter().map(|row| of.summary(row)).collect());
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Those of the predictions that were recorded, and are on the disk when this returns.
    pub fn find(&self, endpoint: &str, ids: &HashSet<u128>) -> Result<Vec<Summary>, FileError> {
        self.settle(ids);
        let mut found = Vec::new();
        let mut by_hour: BTreeMap<String, BTreeSet<u128>> = BTreeMap::new();
        for &id in ids {
            by_hour.entry(hour(time_ms(id))).or_default().insert(id);
        }
        for (hour, mut ids) in by_hour {
            for file in folder::open_hour(&self.folder(endpoint), &hour, &self.alone) {
                for (group, stated) in file.groups().into_iter().enumerate() {
                    if ids.range(stated.first..=stated.last).next().is_none() {
                        continue;
                    }
                    let of = Rows::read(&file, group, &["prediction"])?;
                    let rows: Vec<usize> =
                        (0..of.rows).filter(|&row| ids.remove(&of.id(row))).collect();
                    if !rows.is_empty() {
                        let of = Rows::read(&file, group, &SUMMARY)?;
                        found.extend(rows.iter().map(|&row| of.summary(row)));
                    }
                }
            }
        }
        Ok(found)
    }

    /// When the oldest predictions of an endpoint that are kept may have been made, in milliseconds since
    /// 1970.
    pub fn oldest_ms(&self, endpoint: &str) -> Option<u64> {
        let hours = folder::hours(&self.folder(endpoint));
        parse_time(hours.first()?, 0)
    }

    /// A recorded prediction, as far as it was kept.
    pub fn get(&self, endpoint: &str, id: u128) -> Result<Option<Prediction>, FileError> {
        self.flush();
        let filter = Filter { id: Some(id), ..Filter::default() };
        let mut found = None;
        self.scan(endpoint, &filter, true, |file, group, rows| {
            let names: Vec<&str> = file.columns.iter().map(|column| column.name.as_str()).collect();
            let of = Rows::read(file, group, &names)?;
            found = rows.first().map(|&row| of.prediction(row, endpoint));
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// The same of whatever endpoint.
    pub fn locate(&self, id: u128) -> Result<Option<Prediction>, FileError> {
        // The first of an endpoint may have no folder yet.
        self.flush();
        for endpoint in self.endpoints() {
            if let Some(found) = self.get(&endpoint, id)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The files of an endpoint that have predictions of a time, with their size in bytes.
    pub fn files(&self, endpoint: &str, filter: &Filter) -> Vec<(String, u64)> {
        self.flush();
        let (since, until) = hours(filter);
        let parts = folder::list(&self.folder(endpoint)).into_iter();
        let within = parts.filter(|part| (&*since..=&*until).contains(&part.hour()));
        within.map(|part| (part.name, part.bytes)).collect()
    }

    /// A file that [`Recorder::files`] names, if it is still there.
    pub fn file(&self, endpoint: &str, name: &str) -> Option<std::fs::File> {
        let parts = folder::list(&self.folder(endpoint));
        let part = parts.into_iter().find(|part| part.name == name)?;
        std::fs::File::open(part.path).ok()
    }

    fn scan(
        &self,
        endpoint: &str,
        filter: &Filter,
        latest_first: bool,
        mut visit: impl FnMut(&Opened, usize, Vec<usize>) -> Result<ControlFlow<()>, FileError>,
    ) -> Result<(), FileError> {
        let folder = self.folder(endpoint);
        let (since, until) = hours(filter);
        let mut found = folder::hours(&folder);
        found.retain(|hour| (since.as_str()..=until.as_str()).contains(&hour.as_str()));
        if latest_first {
            found.reverse();
        }
        for hour in found {
            let files = folder::open_hour(&folder, &hour, &self.alone);
            let mut groups: Vec<_> = files
                .iter()
                .flat_map(|file| {
                    file.groups().into_iter().enumerate().map(move |group| (file, group))
                })
                .collect();
            groups.sort_by_key(|(_, (_, group))| group.first);
            if latest_first {
                groups.reverse();
            }
            for (file, (group, stated)) in groups {
                if !filter.may_be_within(stated.first, stated.last) {
                    continue;
                }
                let mut rows = filter.rows(file, group)?;
                if latest_first {
                    rows.reverse();
                }
                if !rows.is_empty() && visit(file, group, rows)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The first and the last hour that may have what is asked for.
fn hours(filter: &Filter) -> (String, String) {
    match filter.id {
        Some(id) => (hour(time_ms(id)), hour(time_ms(id))),
        None => (hour(filter.since_ms), hour(filter.until_ms.unwrap_or_else(now_ms))),
    }
}

impl Filter {
    fn within(&self, id: u128) -> bool {
        match self.id {
            Some(asked) => asked == id,
            None => {
                time_ms(id) >= self.since_ms
                    && self.until_ms.is_none_or(|until| time_ms(id) < until)
            }
        }
    }

    fn may_be_within(&self, first: u128, last: u128) -> bool {
        match self.id {
            Some(asked) => (first..=last).contains(&asked),
            None => {
                time_ms(last) >= self.since_ms
                    && self.until_ms.is_none_or(|until| time_ms(first) < until)
            }
        }
    }

    /// The rows of a row group that fit, in the order of their ids.
    fn rows(&self, file: &Opened, group: usize) -> Result<Vec<usize>, FileError> {
        let mut names = vec!["prediction"];
        names.extend(self.equal.iter().map(|(name, _)| *name));
        names.extend(self.attribute.iter().map(|_| "attributes"));
        let of = Rows::read(file, group, &names)?;
        let mut rows: Vec<usize> = (0..of.rows)
            .filter(|&row| {
                let equal = |(name, value): &(&str, String)| {
                    let text = of.text(name, row).unwrap_or_default();
                    // The first digits of a revision, or all of its digest.
                    let begins = text.starts_with(value.as_str()) || value.starts_with(text);
                    text == value || *name == "revision" && text.len() >= 6 && begins
                };
                let attribute =
                    |pair: &(String, String)| of.attributes(row).iter().any(|known| known == pair);
                self.within(of.id(row))
                    && self.equal.iter().all(equal)
                    && self.attribute.as_ref().is_none_or(attribute)
            })
            .collect();
        rows.sort_by_cached_key(|&row| of.id(row));
        Ok(rows)
    }
}

/// Some columns of a row group.
struct Rows {
    columns: HashMap<String, Leaves>,
    /// Names in the order of the file.
    names: Vec<String>,
    rows: usize,
}

struct Leaves {
    kind: Kind,
    chunks: Vec<Chunk>,
    /// Where each row's values are.
    places: Vec<Option<Range<usize>>>,
}

impl Rows {
    fn read(file: &Opened, group: usize, names: &[&str]) -> Result<Self, FileError> {
        let mut columns = HashMap::new();
        for &name in names {
            if let Some((kind, chunks)) = file.chunks(group, name)? {
                let places = chunks[0].rows();
                columns.insert(name.to_owned(), Leaves { kind, chunks, places });
            }
        }
        let rows = file.groups().get(group).map_or(0, |group| group.rows);
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Ok(Self { columns, names, rows })
    }

    /// The values that a row has in a column.
    fn values(&self, name: &str, row: usize) -> Option<(&Leaves, Range<usize>)> {
        let leaves = self.columns.get(name)?;
        let place = leaves.places.get(row)?.clone()?;
        Some((leaves, place))
    }

    fn bytes(&self, name: &str, row: usize) -> Option<&[u8]> {
        let (leaves, place) = self.values(name, row)?;
        match leaves.chunks[0].value(leaves.kind, place.start) {
            Scalar::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn text(&self, name: &str, row: usize) -> Option<&str> {
        std::str::from_utf8(self.bytes(name, row)?).ok()
    }

    fn number(&self, name: &str, row: usize) -> Option<f64> {
        let (leaves, place) = self.values(name, row)?;
        match leaves.chunks[0].value(leaves.kind, place.start) {
            Scalar::Double(number) => Some(number),
            _ => None,
        }
    }

    fn integer(&self, name: &str, row: usize) -> Option<i64> {
        let (leaves, place) = self.values(name, row)?;
        match leaves.chunks[0].value(leaves.kind, place.start) {
            Scalar::Int(integer) => Some(integer),
            _ => None,
        }
    }

    fn id(&self, row: usize) -> u128 {
        let digits = self.text("prediction", row);
        digits.and_then(|digits| u128::from_str_radix(digits, 16).ok()).unwrap_or_default()
    }

    fn attributes(&self, row: usize) -> Vec<(String, String)> {
        let Some((leaves, place)) = self.values("attributes", row) else { return Vec::new() };
        let text = |leaf: usize, at: usize| match leaves.chunks[leaf].value(leaves.kind, at) {
            Scalar::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        place.map(|at| (text(0, at), text(1, at))).collect()
    }

    fn summary(&self, row: usize) -> Summary {
        let owned = |name: &str| self.text(name, row).map(str::to_owned);
        Summary {
            id: self.id(row),
            revision: owned("revision").unwrap_or_default(),
            variant: owned("variant").unwrap_or_default(),
            arm: owned("arm"),
            unit: owned("unit"),
            drawn: owned("drawn"),
            unit_hash: self
                .text("unit_hash", row)
                .and_then(|digits| u64::from_str_radix(digits, 16).ok()),
            slices: self.integer("slices", row).and_then(|bits| bits.try_into().ok()).unwrap_or(0),
            attributes: self.attributes(row),
            predicted: owned("predicted"),
            score: self.number("score", row),
        }
    }

    /// The row as JSON: of what is no text, its size.
    fn json(&self, row: usize) -> Map<String, Value> {
        let mut json = Map::new();
        for name in &self.names {
            let Some((leaves, place)) = self.values(name, row) else { continue };
            let values = || place.clone().map(|at| scalar(leaves.chunks[0].value(leaves.kind, at)));
            let value = match leaves.kind {
                Kind::Map => json!(self.attributes(row).into_iter().collect::<BTreeMap<_, _>>()),
                Kind::Tensor(_) | Kind::Shape => Value::Array(values().collect()),
                Kind::Time => utc(time_ms(self.id(row))).into(),
                Kind::Text | Kind::Blob | Kind::Integer | Kind::Number => {
                    values().next().unwrap_or(Value::Null)
                }
            };
            json.insert(name.clone(), value);
        }
        json
    }

    fn prediction(&self, row: usize, endpoint: &str) -> Prediction {
        let Summary {
            id,
            revision,
            variant,
            drawn,
            arm,
            unit,
            unit_hash,
            slices,
            attributes,
            predicted,
            score,
        } = self.summary(row);
        let content = |side: &str| {
            let prefix = format!("{side}.");
            let names = self.names.iter().filter_map(|name| name.strip_prefix(&prefix));
            names.filter_map(|name| self.content(side, name, row)).collect()
        };
        Prediction {
            id,
            request: self.text("request_id", row).unwrap_or_default().to_owned(),
            endpoint: endpoint.to_owned(),
            revision,
            variant,
            drawn,
            arm,
            unit,
            unit_hash,
            slices,
            attributes,
            predicted,
            score,
            inputs: content("input"),
            outputs: content("output"),
            error: self.text("error", row).map(str::to_owned),
            propensity: self.number("propensity", row),
            reason: self.text("reason", row).unwrap_or_default().to_owned(),
            latency: Duration::from_secs_f64(
                self.number("latency_seconds", row).unwrap_or(0.0).max(0.0),
            ),
            ..Prediction::default()
        }
    }

    fn content(&self, side: &str, name: &str, row: usize) -> Option<Content> {
        let column = format!("{side}.{name}");
        let (leaves, place) = self.values(&column, row)?;
        match leaves.kind {
            Kind::Blob if name == BODY => Some(Content::Body {
                content_type: self.text(&format!("{column}.type"), row).map(str::to_owned),
                bytes: Bytes::copy_from_slice(self.bytes(&column, row)?),
            }),
            Kind::Text if name.starts_with('/') => Some(Content::Field {
                name: name.to_owned(),
                text: self.text(&column, row)?.to_owned(),
            }),
            Kind::Tensor(datatype) => {
                let (shape, of_shape) = self.values(&format!("{column}.shape"), row)?;
                let sizes = of_shape.map(|at| match shape.chunks[0].value(shape.kind, at) {
                    Scalar::Int(size) => size as u64,
                    _ => 0,
                });
                let mut data = Vec::new();
                for at in place {
                    encode(datatype, leaves.chunks[0].value(leaves.kind, at), &mut data);
                }
                let tensor = Tensor::new(datatype, sizes.collect(), data).ok()?;
                Some(Content::Tensor(NamedTensor { name: name.to_owned(), tensor }))
            }
            _ => None,
        }
    }
}

/// An element as a tensor has it.
fn encode(datatype: DataType, value: Scalar<'_>, to: &mut Vec<u8>) {
    match value {
        Scalar::Bool(flag) => to.push(u8::from(flag)),
        Scalar::Int(integer) => {
            to.extend(&integer.to_le_bytes()[..datatype.size().unwrap_or_default()]);
        }
        Scalar::Uint(integer) => to.extend(integer.to_le_bytes()),
        Scalar::Float(float) => match datatype {
            DataType::Fp32 => to.extend(float.to_le_bytes()),
            _ => datatype.write(float.into(), to),
        },
        Scalar::Double(double) => to.extend(double.to_le_bytes()),
        Scalar::Bytes(bytes) => {
            to.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
            to.extend(bytes);
        }
    }
}

/// A value as JSON: floats by their shortest digits, bytes that are no text by their number.
fn scalar(value: Scalar<'_>) -> Value {
    match value {
        Scalar::Bool(flag) => flag.into(),
        Scalar::Int(integer) => integer.into(),
        Scalar::Uint(integer) => integer.into(),
        Scalar::Float(float) => float.to_string().parse::<f64>().map_or(Value::Null, Value::from),
        Scalar::Double(double) => double.into(),
        Scalar::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => json!({ "bytes": bytes.len() }),
        },
    }
}

/// An id by its hexadecimal digits, with or without hyphens.
pub fn parse_id(text: &str) -> Option<u128> {
    let plain: String = text.chars().filter(|&digit| digit != '-').collect();
    (plain.len() == 32).then(|| u128::from_str_radix(&plain, 16).ok()).flatten()
}

/// An id as it is shown.
pub fn show_id(id: u128) -> String {
    digits(id)
}
