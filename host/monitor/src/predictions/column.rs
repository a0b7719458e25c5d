//! Columns of recorded predictions, as Parquet keeps them.

use std::ops::Range;
use std::sync::Arc;

use berth_tensor::{DataType, Tensor};
use bytes::Bytes;
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType as Encoded, DoubleType, FloatType, Int32Type,
    Int64Type,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::writer::SerializedColumnWriter;
use parquet::schema::types::{Type, TypePtr};
use serde::{Deserialize, Serialize};

/// A column of a file: one leaf of its schema, or two for a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// UTF-8.
    Text,
    /// Bytes.
    Blob,
    /// An integer.
    Integer,
    /// A double.
    Number,
    /// Microseconds since 1970.
    Time,
    /// Text by text.
    Map,
    /// The dimensions of the tensor beside it.
    Shape,
    /// The elements of a tensor, row-major. Floats of 16 and of 8 bits are widened.
    #[serde(untagged)]
    Tensor(DataType),
}

impl Kind {
    /// How many leaves of the schema it takes.
    pub(crate) fn leaves(self) -> usize {
        if self == Self::Map { 2 } else { 1 }
    }

    fn repeated(self) -> bool {
        matches!(self, Self::Map | Self::Tensor(_) | Self::Shape)
    }

    fn physical(self) -> (Physical, Option<LogicalType>) {
        let integer = |bit_width, is_signed| Some(LogicalType::integer(bit_width, is_signed));
        match self {
            Self::Text | Self::Map => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Self::Blob => (Physical::BYTE_ARRAY, None),
            Self::Number => (Physical::DOUBLE, None),
            Self::Time => (
                Physical::INT64,
                Some(LogicalType::timestamp(true, parquet::basic::TimeUnit::MICROS)),
            ),
            Self::Integer | Self::Shape => (Physical::INT64, None),
            Self::Tensor(datatype) => match datatype {
                DataType::Bool => (Physical::BOOLEAN, None),
                DataType::Uint8 => (Physical::INT32, integer(8, false)),
                DataType::Uint16 => (Physical::INT32, integer(16, false)),
                DataType::Uint32 => (Physical::INT32, integer(32, false)),
                DataType::Uint64 => (Physical::INT64, integer(64, false)),
                DataType::Int8 => (Physical::INT32, integer(8, true)),
                DataType::Int16 => (Physical::INT32, integer(16, true)),
                DataType::Int32 => (Physical::INT32, None),
                DataType::Int64 => (Physical::INT64, None),
                DataType::Fp16
                | DataType::Bf16
                | DataType::Fp32
                | DataType::Float8E4M3Fn
                | DataType::Float8E4M3Fnuz
                | DataType::Float8E5M2
                | DataType::Float8E5M2Fnuz => (Physical::FLOAT, None),
                DataType::Fp64 => (Physical::DOUBLE, None),
                DataType::Bytes => (Physical::BYTE_ARRAY, None),
            },
        }
    }
}

/// The schema of a file with these columns.
pub(crate) fn schema(columns: &[Column]) -> Result<TypePtr> {
    let leaf = |name: &str, kind: Kind, repetition| {
        let (physical, logical) = kind.physical();
        let leaf = Type::primitive_type_builder(name, physical).with_repetition(repetition);
        leaf.with_logical_type(logical).build().map(Arc::new)
    };
    let group = |name: &str, repetition, logical, fields| {
        let group = Type::group_type_builder(name).with_repetition(repetition);
        group.with_logical_type(logical).with_fields(fields).build().map(Arc::new)
    };
    let column = |Column { name, kind }: &Column| match kind {
        Kind::Map => {
            let pair = ["key", "value"].map(|name| leaf(name, *kind, Repetition::REQUIRED));
            let pair = pair.into_iter().collect::<Result<_>>()?;
            let entries = group("key_value", Repetition::REPEATED, None, pair)?;
            group(name, Repetition::OPTIONAL, Some(LogicalType::Map), vec![entries])
        }
        kind if kind.repeated() => {
            let element = leaf("element", *kind, Repetition::REQUIRED)?;
            let list = group("list", Repetition::REPEATED, None, vec![element])?;
            group(name, Repetition::OPTIONAL, Some(LogicalType::List), vec![list])
        }
        kind => leaf(name, *kind, Repetition::OPTIONAL),
    };
    let fields = columns.iter().map(column).collect::<Result<_>>()?;
    Type::group_type_builder("prediction").with_fields(fields).build().map(Arc::new)
}

/// One leaf of some rows: what is there, by Parquet's levels. A scalar's definition is 0 where there is
/// none; a list's is 0 where there is none, 1 where it is empty, and its first element repeats nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chunk {
    repeated: bool,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    values: Values,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
}

/// A value of a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    /// Of BOOL.
    Bool(bool),
    /// Of a signed integer, or one of up to 32 bits.
    Int(i64),
    /// Of UINT64.
    Uint(u64),
    /// Of a float of 32 bits or less.
    Float(f32),
    /// Of a double.
    Double(f64),
    /// Of text, or bytes.
    Bytes(&'a [u8]),
}

impl Chunk {
    /// A leaf of a column of this kind, of no rows.
    pub(crate) fn new(kind: Kind) -> Self {
        let values = match kind.physical().0 {
            Physical::BOOLEAN => Values::Bool(Vec::new()),
            Physical::INT32 => Values::Int32(Vec::new()),
            Physical::INT64 => Values::Int64(Vec::new()),
            Physical::FLOAT => Values::Float(Vec::new()),
            Physical::DOUBLE => Values::Double(Vec::new()),
            _ => Values::Bytes(Vec::new()),
        };
        let (definitions, repetitions) = (Vec::new(), Vec::new());
        Self { repeated: kind.repeated(), definitions, repetitions, values }
    }

    /// Adds rows that have nothing.
    pub(crate) fn push_none(&mut self, rows: usize) {
        self.definitions.resize(self.definitions.len() + rows, 0);
        self.repetitions.resize(self.repetitions.len() + rows, 0);
    }

    fn level(&mut self, count: usize) {
        if !self.repeated {
            self.definitions.push(1);
            self.repetitions.push(0);
            return;
        }
        let at = self.definitions.len();
        self.definitions.resize(at + count.max(1), if count == 0 { 1 } else { 2 });
        self.repetitions.resize(at + count.max(1), 1);
        self.repetitions[at] = 0;
    }

    /// Adds a row of text or bytes; of a list, of so many.
    pub(crate) fn push_bytes<T: Into<Bytes>>(&mut self, row: impl IntoIterator<Item = T>) {
        if let Values::Bytes(values) = &mut self.values {
            let before = values.len();
            values.extend(row.into_iter().map(|bytes| ByteArray::from(bytes.into())));
            let count = values.len() - before;
            self.level(count);
        }
    }

    /// Adds a row of integers of 64 bits.
    pub(crate) fn push_int64(&mut self, row: impl IntoIterator<Item = i64>) {
        if let Values::Int64(values) = &mut self.values {
            let before = values.len();
            values.extend(row);
            let count = values.len() - before;
            self.level(count);
        }
    }

    /// Adds a row with a double.
    pub(crate) fn push_double(&mut self, value: f64) {
        if let Values::Double(values) = &mut self.values {
            values.push(value);
            self.level(1);
        }
    }

    /// Adds a row with a tensor's elements; the tensor is of the datatype that the column holds.
    pub(crate) fn push_tensor(&mut self, tensor: &Tensor) {
        let data = tensor.data();
        fn of<const N: usize, T>(
            data: &[u8],
            read: impl Fn([u8; N]) -> T,
        ) -> impl Iterator<Item = T> {
            // The constructor of a tensor has checked that its length is a multiple.
            data.as_chunks::<N>().0.iter().map(move |&bytes| read(bytes))
        }
        match (&mut self.values, tensor.datatype()) {
            (Values::Bool(to), _) => to.extend(data.iter().map(|&byte| byte != 0)),
            (Values::Int32(to), DataType::Uint8) => to.extend(data.iter().map(|&v| i32::from(v))),
            (Values::Int32(to), DataType::Int8) => {
                to.extend(data.iter().map(|&v| i32::from(v as i8)))
            }
            (Values::Int32(to), DataType::Uint16) => {
                to.extend(of(data, |bytes| i32::from(u16::from_le_bytes(bytes))));
            }
            (Values::Int32(to), DataType::Int16) => {
                to.extend(of(data, |bytes| i32::from(i16::from_le_bytes(bytes))));
            }
            (Values::Int32(to), _) => to.extend(of(data, i32::from_le_bytes)),
            (Values::Int64(to), _) => to.extend(of(data, i64::from_le_bytes)),
            (Values::Float(to), DataType::Fp32) => to.extend(of(data, f32::from_le_bytes)),
            (Values::Float(to), _) => to.extend(tensor.numbers().map(|number| number as f32)),
            (Values::Double(to), _) => to.extend(of(data, f64::from_le_bytes)),
            (Values::Bytes(to), _) => to.extend(
                tensor.byte_strings().map(|bytes| ByteArray::from(Bytes::copy_from_slice(bytes))),
            ),
        }
        self.level(tensor.elements() as usize);
    }

    /// Adds the rows of another chunk of the same kind.
    pub(crate) fn append(&mut self, other: Self) {
        self.definitions.extend(other.definitions);
        self.repetitions.extend(other.repetitions);
        match (&mut self.values, other.values) {
            (Values::Bool(to), Values::Bool(from)) => to.extend(from),
            (Values::Int32(to), Values::Int32(from)) => to.extend(from),
            (Values::Int64(to), Values::Int64(from)) => to.extend(from),
            (Values::Float(to), Values::Float(from)) => to.extend(from),
            (Values::Double(to), Values::Double(from)) => to.extend(from),
            (Values::Bytes(to), Values::Bytes(from)) => to.extend(from),
            _ => {}
        }
    }

    /// Writes it as one leaf of a row group.
    pub(crate) fn write(&self, to: &mut SerializedColumnWriter<'_>) -> Result<()> {
        let definitions = Some(&self.definitions[..]);
        let repetitions = self.repeated.then_some(&self.repetitions[..]);
        macro_rules! write {
            ($kind:ty, $values:expr) => {
                to.typed::<$kind>().write_batch($values, definitions, repetitions)
            };
        }
        match &self.values {
            Values::Bool(values) => write!(BoolType, values),
            Values::Int32(values) => write!(Int32Type, values),
            Values::Int64(values) => write!(Int64Type, values),
            Values::Float(values) => write!(FloatType, values),
            Values::Double(values) => write!(DoubleType, values),
            Values::Bytes(values) => write!(ByteArrayType, values),
        }
        .map(drop)
    }

    /// Reads a leaf of a row group of so many rows.
    pub(crate) fn read(kind: Kind, rows: usize, from: ColumnReader) -> Result<Self> {
        let mut chunk = Self::new(kind);
        let (definitions, repetitions) = (&mut chunk.definitions, &mut chunk.repetitions);
        match (from, &mut chunk.values) {
            (ColumnReader::BoolColumnReader(from), Values::Bool(to)) => {
                read(from, rows, definitions, repetitions, to)?;
            }
            (ColumnReader::Int32ColumnReader(from), Values::Int32(to)) => {
                read(from, rows, definitions, repetitions, to)?;
            }
            (ColumnReader::Int64ColumnReader(from), Values::Int64(to)) => {
                read(from, rows, definitions, repetitions, to)?;
            }
            (ColumnReader::FloatColumnReader(from), Values::Float(to)) => {
                read(from, rows, definitions, repetitions, to)?;
            }
            (ColumnReader::DoubleColumnReader(from), Values::Double(to)) => {
                read(from, rows, definitions, repetitions, to)?;
            }
            (ColumnReader::ByteArrayColumnReader(from), Values::Bytes(to)) => {
                read(from, rows, definitions, repetitions, to)?;
            }
            _ => return Err(ParquetError::General("a column is not of its kind".into())),
        }
        if !chunk.repeated {
            chunk.repetitions = vec![0; chunk.definitions.len()];
        }
        Ok(chunk)
    }

    /// Where each row's values are; none where it has nothing.
    pub(crate) fn rows(&self) -> Vec<Option<Range<usize>>> {
        let full = if self.repeated { 2 } else { 1 };
        let (mut rows, mut at) = (Vec::new(), 0);
        for (&definition, &repetition) in self.definitions.iter().zip(&self.repetitions) {
            if repetition == 0 {
                rows.push((definition > 0).then_some(at..at));
            }
            if definition == full {
                at += 1;
                if let Some(Some(row)) = rows.last_mut() {
                    row.end = at;
                }
            }
        }
        rows
    }

    /// The value at a place that [`Chunk::rows`] gave.
    pub(crate) fn value(&self, kind: Kind, at: usize) -> Scalar<'_> {
        match &self.values {
            Values::Bool(values) => Scalar::Bool(values[at]),
            Values::Int32(values) if kind == Kind::Tensor(DataType::Uint32) => {
                Scalar::Int(i64::from(values[at] as u32))
            }
            Values::Int32(values) => Scalar::Int(i64::from(values[at])),
            Values::Int64(values) if kind == Kind::Tensor(DataType::Uint64) => {
                Scalar::Uint(values[at] as u64)
            }
            Values::Int64(values) => Scalar::Int(values[at]),
            Values::Float(values) => Scalar::Float(values[at]),
            Values::Double(values) => Scalar::Double(values[at]),
            Values::Bytes(values) => Scalar::Bytes(values[at].data()),
        }
    }
}

fn read<T: Encoded>(
    mut from: ColumnReaderImpl<T>,
    rows: usize,
    definitions: &mut Vec<i16>,
    repetitions: &mut Vec<i16>,
    values: &mut Vec<T::T>,
) -> Result<()> {
    let mut left = rows;
    while left > 0 {
        let (records, ..) =
            from.read_records(left, Some(definitions), Some(repetitions), values)?;
        if records == 0 {
            return Err(ParquetError::EOF("a column has fewer rows than its group".into()));
        }
        left -= records;
    }
    Ok(())
}
