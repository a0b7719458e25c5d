//! The data of one tensor: flat or nested, row-major, straight to bytes.

use std::fmt::Display;
use std::str::FromStr;

use berth_tensor::tensor::elements;
use berth_tensor::{DataType, Tensor, TensorError};

use super::scan::{Fault, Kind, Scanned, Scanner, shortened};

/// Reads the data of a tensor of `shape`: one array with every element, or arrays nested as deep
/// as the shape.
pub(super) fn tensor(
    scan: &mut Scanner<'_>,
    datatype: DataType,
    shape: Vec<u64>,
) -> Scanned<Tensor> {
    let data = match datatype {
        DataType::Bool => read(scan, datatype, &shape, |scan, data| {
            data.push(u8::from(scan.boolean("it")?));
            Ok(())
        }),
        DataType::Uint8 => read(scan, datatype, &shape, integer(u8::to_le_bytes, u8::MIN, u8::MAX)),
        DataType::Uint16 => {
            read(scan, datatype, &shape, integer(u16::to_le_bytes, u16::MIN, u16::MAX))
        }
        DataType::Uint32 => {
            read(scan, datatype, &shape, integer(u32::to_le_bytes, u32::MIN, u32::MAX))
        }
        DataType::Uint64 => {
            read(scan, datatype, &shape, integer(u64::to_le_bytes, u64::MIN, u64::MAX))
        }
        DataType::Int8 => read(scan, datatype, &shape, integer(i8::to_le_bytes, i8::MIN, i8::MAX)),
        DataType::Int16 => {
            read(scan, datatype, &shape, integer(i16::to_le_bytes, i16::MIN, i16::MAX))
        }
        DataType::Int32 => {
            read(scan, datatype, &shape, integer(i32::to_le_bytes, i32::MIN, i32::MAX))
        }
        DataType::Int64 => {
            read(scan, datatype, &shape, integer(i64::to_le_bytes, i64::MIN, i64::MAX))
        }
        DataType::Fp32 => read(scan, datatype, &shape, |scan, data| {
            let value = if let Some(value) = scan.short_decimal() {
                value
            } else if let Some(value) = scan.not_finite() {
                value as f32
            } else {
                finite(scan.number("it")?, datatype, f32::is_finite)?
            };
            data.extend_from_slice(&value.to_le_bytes());
            Ok(())
        }),
        DataType::Fp64 => read(scan, datatype, &shape, |scan, data| {
            let value = match scan.not_finite() {
                Some(value) => value,
                None => finite(scan.number("it")?, datatype, f64::is_finite)?,
            };
            data.extend_from_slice(&value.to_le_bytes());
            Ok(())
        }),
        DataType::Bytes => read(scan, datatype, &shape, |scan, data| {
            let text = scan.string("it")?;
            let length = u32::try_from(text.len())
                .map_err(|_| Fault::Value("it has more than 4294967295 bytes".into()))?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(text.as_bytes());
            Ok(())
        }),
        DataType::Fp16
        | DataType::Bf16
        | DataType::Float8E4M3Fn
        | DataType::Float8E4M3Fnuz
        | DataType::Float8E5M2
        | DataType::Float8E5M2Fnuz => Err(Fault::Value(format!(
            "{datatype} has no JSON form; of the floating-point datatypes, FP32 and FP64 have one"
        ))),
    }?;
    Tensor::new(datatype, shape, data).map_err(|error| Fault::Value(error.to_string()))
}

/// Reads one integer in its type's range.
fn integer<T: FromStr + Display + Copy, const N: usize>(
    bytes: impl Fn(T) -> [u8; N],
    least: T,
    most: T,
) -> impl FnMut(&mut Scanner<'_>, &mut Vec<u8>) -> Scanned<()> {
    move |scan, data| {
        let text = scan.number("it")?;
        let value = text.parse().map_err(|_| {
            let shown = shortened(text);
            Fault::Value(if text.contains(['.', 'e', 'E']) {
                format!("{shown} is not written as an integer")
            } else {
                format!("{shown} is out of range, {least} to {most}")
            })
        })?;
        data.extend_from_slice(&bytes(value));
        Ok(())
    }
}

/// The number nearest to `text`, which is a JSON number.
fn finite<T: FromStr + Copy>(
    text: &str,
    datatype: DataType,
    is_finite: impl Fn(T) -> bool,
) -> Scanned<T> {
    let value = text.parse().ok().filter(|&value| is_finite(value));
    value.ok_or_else(|| Fault::Value(format!("{} is out of range for {datatype}", shortened(text))))
}

/// Reads as many elements as `shape` calls for; `element` appends one to the data.
fn read(
    scan: &mut Scanner<'_>,
    datatype: DataType,
    shape: &[u64],
    mut element: impl FnMut(&mut Scanner<'_>, &mut Vec<u8>) -> Scanned<()>,
) -> Scanned<Vec<u8>> {
    let size = datatype.size();
    let count = elements(shape)
        .filter(|count| count.checked_mul(size.unwrap_or(1) as u64).is_some())
        .ok_or_else(|| Fault::Value(TensorError::TooManyElements(shape.to_vec()).to_string()))?;
    // The shape is only a claim: every element takes at least a digit and a comma.
    let most = (scan.remaining() / 2 + 1) as u64;
    let mut data = Vec::with_capacity(count.min(most) as usize * size.unwrap_or(16));
    let mut found = 0u64;
    let mut one = |scan: &mut Scanner<'_>| {
        element(scan, &mut data).map_err(|fault| match fault {
            Fault::Value(problem) => {
                Fault::Value(format!("element {found} of \"data\": {problem}"))
            }
            syntax => syntax,
        })?;
        found += 1;
        Ok(())
    };
    if shape.len() > 1 && scan.is_nested() {
        nested(scan, shape, 0, &mut one)?;
    } else if shape.is_empty() && scan.kind()? != Kind::Array {
        one(scan)?;
    } else {
        let items = items(scan, "\"data\"", count, one)?;
        if items != count {
            return Err(Fault::Value(format!(
                "\"data\" has {items} elements, shape {shape:?} takes {count}"
            )));
        }
    }
    Ok(data)
}

/// Reads the arrays of one dimension and everything inside.
fn nested(
    scan: &mut Scanner<'_>,
    shape: &[u64],
    dimension: usize,
    one: &mut impl FnMut(&mut Scanner<'_>) -> Scanned<()>,
) -> Scanned<()> {
    let what = "a row of \"data\"";
    let count = shape[dimension];
    let items = if dimension + 1 == shape.len() {
        items(scan, what, count, one)
    } else {
        items(scan, what, count, |scan| nested(scan, shape, dimension + 1, one))
    }?;
    if items == count {
        return Ok(());
    }
    Err(Fault::Value(format!(
        "\"data\" has an array of {items} in dimension {dimension}, shape {shape:?} takes {count}"
    )))
}

/// Reads an array whose first `count` items `item` reads, and returns how many there are.
fn items(
    scan: &mut Scanner<'_>,
    what: &str,
    count: u64,
    mut item: impl FnMut(&mut Scanner<'_>) -> Scanned<()>,
) -> Scanned<u64> {
    let mut found = 0;
    scan.array(what, |scan| {
        found += 1;
        if found <= count { item(scan) } else { scan.skip() }
    })?;
    Ok(found)
}
