//! Files of recorded predictions: written, merged and read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_tensor::NamedTensor;
use bytes::Bytes;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, RowGroupMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::column::{Chunk, Column, Kind, schema};
use super::row::{BODY, Content, Prediction};

/// Rows of a row group, which is read whole.
pub(crate) const GROUP_ROWS: usize = 16_384;

/// Bytes of a row group, about, before they are compressed.
pub(crate) const GROUP_BYTES: usize = 8 << 20;

/// The file's own list of its columns, and of the files that it has taken the place of.
const COLUMNS: &str = "berth.columns";
const REPLACES: &str = "berth.replaces";

/// The columns that every file has, first.
const FIXED: [(&str, Kind); 21] = [
    ("prediction", Kind::Text),
    ("time", Kind::Time),
    ("endpoint", Kind::Text),
    ("revision", Kind::Text),
    ("variant", Kind::Text),
    ("drawn", Kind::Text),
    ("arm", Kind::Text),
    ("propensity", Kind::Number),
    ("reason", Kind::Text),
    ("unit", Kind::Text),
    ("unit_hash", Kind::Text),
    ("slices", Kind::Integer),
    ("attributes", Kind::Map),
    ("request_id", Kind::Text),
    ("latency_seconds", Kind::Number),
    ("processor_cpu_seconds", Kind::Number),
    ("model_seconds", Kind::Number),
    ("status", Kind::Text),
    ("error", Kind::Text),
    ("predicted", Kind::Text),
    ("score", Kind::Number),
];

/// Why a file of predictions cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not what was written.
    #[error("{}: {error}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why.
        error: ParquetError,
    },
}

impl FileError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), error }
    }

    fn parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self {
        move |error| Self::Parquet { path: path.to_owned(), error }
    }
}

/// The hexadecimal digits of an id.
pub(crate) fn digits(id: u128) -> String {
    format!("{id:032x}")
}

/// Rows by column.
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    /// One list of leaves for each column.
    pub(crate) chunks: Vec<Vec<Chunk>>,
    pub(crate) rows: usize,
    /// How many of the rows each column has so far.
    have: Vec<usize>,
    places: HashMap<String, usize>,
}

impl Table {
    /// No rows.
    pub(crate) fn new() -> Self {
        let mut table = Self {
            columns: Vec::new(),
            chunks: Vec::new(),
            rows: 0,
            have: Vec::new(),
            places: HashMap::new(),
        };
        for (name, kind) in FIXED {
            table.add(name.to_owned(), kind);
        }
        table
    }

    fn add(&mut self, name: String, kind: Kind) -> usize {
        let place = self.columns.len();
        self.places.insert(name.clone(), place);
        self.columns.push(Column { name, kind });
        self.chunks.push(vec![Chunk::new(kind); kind.leaves()]);
        self.have.push(0);
        place
    }

    /// Whether a row may have what is at these columns: a column is of one kind.
    fn fits(&self, columns: &[(String, Kind)]) -> bool {
        columns.iter().all(|(name, kind)| {
            self.places.get(name).is_none_or(|&place| self.columns[place].kind == *kind)
        })
    }

    /// Adds a row, unless one of its columns is here with another kind.
    pub(crate) fn push(&mut self, row: &Prediction) -> bool {
        let parts: Vec<(&str, &Content)> = row
            .inputs
            .iter()
            .map(|part| ("input", part))
            .chain(row.outputs.iter().map(|part| ("output", part)))
            .collect();
        let columns: Vec<_> =
            parts.iter().flat_map(|(side, part)| columns_of(side, part)).collect();
        if !self.fits(&columns) {
            return false;
        }
        let some = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let mut texts = |name: &str, text: Option<&str>| {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                self.at(name, Kind::Text).push_bytes([some(text)]);
            }
        };
        texts("prediction", Some(&digits(row.id)));
        texts("endpoint", Some(&row.endpoint));
        texts("revision", Some(&row.revision));
        texts("variant", Some(&row.variant));
        texts("drawn", row.drawn.as_deref());
        texts("unit_hash", row.unit_hash.map(|hash| format!("{hash:016x}")).as_deref());
        texts("arm", row.arm.as_deref());
        texts("reason", Some(&row.reason));
        texts("unit", row.unit.as_deref());
        texts("request_id", Some(&row.request));
        texts("status", Some(row.status));
        texts("error", row.error.as_deref());
        texts("predicted", row.predicted.as_deref());
        self.at("time", Kind::Time).push_int64([time_ms(row.id) as i64 * 1000]);
        self.at("slices", Kind::Integer).push_int64([i64::from(row.slices)]);
        let latency = row.latency.as_secs_f64();
        let times = |at: usize| row.times.map(|times| times[at].as_secs_f64());
        for (name, number) in [
            ("latency_seconds", Some(latency)),
            ("processor_cpu_seconds", times(0)),
            ("model_seconds", times(1)),
            ("propensity", row.propensity),
            ("score", row.score),
        ] {
            if let Some(number) = number {
                self.at(name, Kind::Number).push_double(number);
            }
        }
        let map = self.place("attributes", Kind::Map);
        let [keys, values] = &mut self.chunks[map][..] else { return false };
        keys.push_bytes(row.attributes.iter().map(|(name, _)| some(name)));
        values.push_bytes(row.attributes.iter().map(|(_, value)| some(value)));
        let mut done: Vec<String> = Vec::new();
        for (side, part) in parts {
            let names = columns_of(side, part);
            // A tensor whose name is that of another's shape, or comes twice, has no column.
            if names.iter().any(|(name, _)| done.contains(name)) {
                continue;
            }
            done.extend(names.iter().map(|(name, _)| name.clone()));
            match (part, &names[..]) {
                (Content::Tensor(NamedTensor { tensor, .. }), [(first, kind), (second, other)]) => {
                    self.at(first, *kind).push_tensor(tensor);
                    let shape = tensor.shape().iter().map(|&size| size as i64);
                    self.at(second, *other).push_int64(shape);
                }
                (Content::Body { content_type, bytes }, [(first, kind), (second, other)]) => {
                    self.at(first, *kind).push_bytes([bytes.clone()]);
                    if let Some(content_type) = content_type {
                        self.at(second, *other).push_bytes([some(content_type)]);
                    }
                }
                (Content::Field { text, .. }, [(name, kind)]) => {
                    self.at(name, *kind).push_bytes([some(text)]);
                }
                _ => {}
            }
        }
        self.rows += 1;
        true
    }

    /// Has these columns too, where there is none of their name.
    pub(crate) fn declare(&mut self, columns: &[Column]) {
        for Column { name, kind } in columns {
            if !self.places.contains_key(name) {
                self.add(name.clone(), *kind);
            }
        }
    }

    /// The only leaf of a column, with what it lacks of the rows before; its next row is to be pushed.
    fn at(&mut self, name: &str, kind: Kind) -> &mut Chunk {
        let place = self.place(name, kind);
        &mut self.chunks[place][0]
    }

    fn place(&mut self, name: &str, kind: Kind) -> usize {
        let known = self.places.get(name).copied();
        let place = known.unwrap_or_else(|| self.add(name.to_owned(), kind));
        let lacks = self.rows - self.have[place];
        self.chunks[place].iter_mut().for_each(|chunk| chunk.push_none(lacks));
        self.have[place] = self.rows + 1;
        place
    }

    /// Fills up what the columns lack of the rows.
    fn complete(&mut self) {
        for (chunks, have) in self.chunks.iter_mut().zip(&mut self.have) {
            chunks.iter_mut().for_each(|chunk| chunk.push_none(self.rows - *have));
            *have = self.rows;
        }
    }
}

fn columns_of(side: &str, part: &Content) -> Vec<(String, Kind)> {
    match part {
        Content::Tensor(NamedTensor { name, tensor }) => vec![
            (format!("{side}.{name}"), Kind::Tensor(tensor.datatype())),
            (format!("{side}.{name}.shape"), Kind::Shape),
        ],
        Content::Body { .. } => {
            vec![
                (format!("{side}.{BODY}"), Kind::Blob),
                (format!("{side}.{BODY}.type"), Kind::Text),
            ]
        }
        Content::Field { name, .. } => vec![(format!("{side}.{name}"), Kind::Text)],
    }
}

/// When an id was made, in milliseconds since 1970.
pub(crate) fn time_ms(id: u128) -> u64 {
    (id >> 80) as u64
}

/// A file that is on the disk, and not in its place yet.
pub(crate) struct Unplaced {
    partial: PathBuf,
    path: PathBuf,
}

impl Unplaced {
    /// Puts it in its place.
    pub(crate) fn place(self) -> Result<(), FileError> {
        fs::rename(&self.partial, &self.path).map_err(FileError::io(&self.path))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(FileError::io(folder))
    }
}

impl Drop for Unplaced {
    fn drop(&mut self) {
        // Gone where it was placed.
        let _ = fs::remove_file(&self.partial);
    }
}

/// Writes rows as one file, which is in its place once it is on the disk.
pub(crate) fn write(path: &Path, mut table: Table) -> Result<(), FileError> {
    table.complete();
    let written = write_file(path, &table.columns, &[], |file| {
        group(file, table.chunks.iter().flatten().map(|chunk| Ok(Cow::Borrowed(chunk))))
    });
    written?.place()
}

type Writer = SerializedFileWriter<File>;

/// Writes one row group of these leaves.
fn group<'a>(
    file: &mut Writer,
    chunks: impl Iterator<Item = parquet::errors::Result<Cow<'a, Chunk>>>,
) -> parquet::errors::Result<()> {
    let mut group = file.next_row_group()?;
    for chunk in chunks {
        let chunk = chunk?;
        let Some(mut column) = group.next_column()? else { break };
        chunk.write(&mut column)?;
        column.close()?;
    }
    group.close().map(drop)
}

fn write_file(
    path: &Path,
    columns: &[Column],
    replaces: &[String],
    fill: impl FnOnce(&mut Writer) -> parquet::errors::Result<()>,
) -> Result<Unplaced, FileError> {
    // What begins with a dot is passed over by whoever reads the folder.
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let unplaced = Unplaced { partial, path: path.to_owned() };
    let partial = &unplaced.partial;
    let wrong = || FileError::parquet(partial);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(vec![
            KeyValue::new(COLUMNS.into(), serde_json::to_string(columns).ok()),
            KeyValue::new(REPLACES.into(), serde_json::to_string(replaces).ok()),
        ]));
    for Column { name, kind } in columns {
        let distinct = name == "prediction" || matches!(kind, Kind::Time | Kind::Number);
        let content = matches!(kind, Kind::Tensor(_) | Kind::Blob);
        let path = match kind {
            Kind::Tensor(_) => vec![name.clone(), "list".into(), "element".into()],
            _ => vec![name.clone()],
        };
        if distinct || content {
            let path = ColumnPath::new(path.clone());
            properties = properties.set_column_dictionary_enabled(path, false);
        }
        if content {
            let path = ColumnPath::new(path);
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    let file = File::create(partial).map_err(FileError::io(partial))?;
    let mut writer = SerializedFileWriter::new(
        file,
        schema(columns).map_err(wrong())?,
        Arc::new(properties.build()),
    )
    .map_err(wrong())?;
    fill(&mut writer).map_err(wrong())?;
    writer.finish().map_err(wrong())?;
    writer.inner().sync_all().map_err(FileError::io(partial))?;
    Ok(unplaced)
}

/// A file, opened.
pub(crate) struct Opened {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    pub(crate) columns: Vec<Column>,
    pub(crate) replaces: Vec<String>,
}

impl Opened {
    /// Reads the end of a file, which says what is in it.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(FileError::io(path))?;
        let reader = SerializedFileReader::new(file).map_err(FileError::parquet(path))?;
        let noted = reader.metadata().file_metadata().key_value_metadata();
        let noted = |key: &str| {
            let found = noted.into_iter().flatten().find(|pair| pair.key == key);
            found.and_then(|pair| pair.value.clone()).unwrap_or_default()
        };
        let columns: Vec<Column> = serde_json::from_str(&noted(COLUMNS)).unwrap_or_default();
        let leaves: usize = columns.iter().map(|column| column.kind.leaves()).sum();
        let schema = reader.metadata().file_metadata().schema_descr();
        if leaves == 0 || leaves != schema.num_columns() {
            let error = ParquetError::General("this is no file of predictions".into());
            return Err(FileError::Parquet { path: path.to_owned(), error });
        }
        let replaces = serde_json::from_str(&noted(REPLACES)).unwrap_or_default();
        Ok(Self { path: path.to_owned(), columns, replaces, reader })
    }

    /// Its row groups: rows, bytes before compression, the least and the greatest id.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let groups = self.reader.metadata().row_groups().iter();
        groups.map(Group::new).collect()
    }

    /// The leaves of a column in a row group, if the file has it.
    pub(crate) fn chunks(
        &self,
        group: usize,
        name: &str,
    ) -> Result<Option<(Kind, Vec<Chunk>)>, FileError> {
        let mut leaf = 0;
        for column in &self.columns {
            if column.name == name {
                let chunks = self.leaves(group, leaf, column.kind)?;
                return Ok(Some((column.kind, chunks)));
            }
            leaf += column.kind.leaves();
        }
        Ok(None)
    }

    fn leaves(&self, group: usize, first: usize, kind: Kind) -> Result<Vec<Chunk>, FileError> {
        let read = || {
            let group = self.reader.get_row_group(group)?;
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
            let leaf = |leaf| Chunk::read(kind, rows, group.get_column_reader(leaf)?);
            (first..first + kind.leaves()).map(leaf).collect::<Result<Vec<_>, _>>()
        };
        read().map_err(FileError::parquet(&self.path))
    }
}

/// A row group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl Group {
    fn new(group: &RowGroupMetaData) -> Self {
        let statistics = group.column(0).statistics();
        let id = |bytes: Option<&[u8]>| {
            let text = std::str::from_utf8(bytes?).ok()?;
            u128::from_str_radix(text, 16).ok()
        };
        Self {
            rows: usize::try_from(group.num_rows()).unwrap_or_default(),
            bytes: usize::try_from(group.total_byte_size()).unwrap_or_default(),
            first: id(statistics.and_then(|known| known.min_bytes_opt())).unwrap_or(0),
            last: id(statistics.and_then(|known| known.max_bytes_opt())).unwrap_or(u128::MAX),
        }
    }
}

/// The columns of several files together, unless one of them differs in kind.
pub(crate) fn union(files: &[&Opened]) -> Option<Vec<Column>> {
    let mut all: Vec<Column> = Vec::new();
    for column in files.iter().flat_map(|file| &file.columns) {
        match all.iter().find(|known| known.name == column.name) {
            None => all.push(column.clone()),
            Some(known) if known.kind == column.kind => {}
            Some(_) => return None,
        }
    }
    Some(all)
}

/// Writes the rows of several files as one, in their order, with what memory one column of a row group
/// takes.
pub(crate) fn merge(path: &Path, files: &[Opened]) -> Result<Unplaced, FileError> {
    let Some(columns) = union(&files.iter().collect::<Vec<_>>()) else {
        let error = ParquetError::General("its columns are of other kinds".into());
        return Err(FileError::Parquet { path: path.to_owned(), error });
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let replaces: Vec<String> =
        files.iter().map(|file| name(&file.path)).filter(|file| *file != name(path)).collect();
    let mut groups: Vec<Vec<(&Opened, usize, usize)>> = Vec::new();
    let (mut rows, mut bytes) = (GROUP_ROWS, 0);
    for file in files {
        for (index, group) in file.groups().into_iter().enumerate() {
            if rows + group.rows > GROUP_ROWS || bytes + group.bytes > GROUP_BYTES {
                groups.push(Vec::new());
                (rows, bytes) = (0, 0);
            }
            (rows, bytes) = (rows + group.rows, bytes + group.bytes);
            groups.last_mut().into_iter().for_each(|into| into.push((file, index, group.rows)));
        }
    }
    write_file(path, &columns, &replaces, |writer| {
        for parts in &groups {
            let mut leaves = Vec::new();
            for column in &columns {
                leaves.extend((0..column.kind.leaves()).map(|leaf| (column, leaf)));
            }
            group(
                writer,
                leaves.into_iter().map(|(column, leaf)| {
                    let mut whole = Chunk::new(column.kind);
                    for &(file, index, rows) in parts {
                        let found = file.chunks(index, &column.name);
                        let found =
                            found.map_err(|error| ParquetError::External(Box::new(error)))?;
                        match found {
                            Some((_, mut chunks)) => whole.append(chunks.swap_remove(leaf)),
                            None => whole.push_none(rows),
                        }
                    }
                    Ok(Cow::Owned(whole))
                }),
            )?;
        }
        Ok(())
    })
}
