//! Tensors and the types of tensors.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::DataType;

/// An immutable tensor. A clone shares the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    datatype: DataType,
    shape: Vec<u64>,
    data: Bytes,
}

/// A tensor and the name of the input or output that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTensor {
    /// The input's or output's name.
    pub name: String,
    /// Its value.
    pub tensor: Tensor,
}

/// The most dimensions of a tensor.
pub const DIMENSIONS: usize = 64;

/// Why a shape, a datatype and data do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// There are more than [`DIMENSIONS`].
    #[error("a shape has at most {DIMENSIONS} dimensions, got {0}")]
    TooManyDimensions(usize),
    /// The product of the dimensions overflows.
    #[error("shape {0:?} has more elements than can be addressed")]
    TooManyElements(Vec<u64>),
    /// The data's length does not follow from shape and datatype.
    #[error("shape {shape:?} of {datatype} takes {expected} bytes, got {actual}")]
    Length {
        /// The shape given.
        shape: Vec<u64>,
        /// The datatype given.
        datatype: DataType,
        /// Bytes that they call for.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// The data of a [`DataType::Bytes`] tensor is not that many length-prefixed elements.
    #[error(
        "shape {shape:?} of BYTES takes {expected} elements, each four bytes of length and then its bytes; {problem}"
    )]
    Elements {
        /// The shape given.
        shape: Vec<u64>,
        /// Elements that it calls for.
        expected: u64,
        /// What was found instead.
        problem: String,
    },
}

/// The number of elements of a shape, 1 for a scalar, or `None` when it overflows 63 bits.
pub fn elements(shape: &[u64]) -> Option<u64> {
    let product =
        shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension))?;
    // A zero hides an overflow of the others, which a runtime may still multiply.
    let others = shape.iter().filter(|&&dimension| dimension != 0);
    others.copied().try_fold(1u64, u64::checked_mul).filter(|&n| n <= i64::MAX as u64)?;
    Some(product)
}

/// Checks what [`Tensor::new`] checks, of data that is not to be copied before.
pub fn check(datatype: DataType, shape: &[u64], data: &[u8]) -> Result<(), TensorError> {
    if shape.len() > DIMENSIONS {
        return Err(TensorError::TooManyDimensions(shape.len()));
    }
    let too_many = || TensorError::TooManyElements(shape.to_vec());
    let count = elements(shape).ok_or_else(too_many)?;
    let Some(size) = datatype.size() else {
        return check_byte_strings(data, count).map_err(|problem| TensorError::Elements {
            shape: shape.to_vec(),
            expected: count,
            problem,
        });
    };
    let expected = count.checked_mul(size as u64).ok_or_else(too_many)?;
    let actual = data.len() as u64;
    if expected != actual {
        return Err(TensorError::Length { shape: shape.to_vec(), datatype, expected, actual });
    }
    Ok(())
}

impl Tensor {
    /// A tensor of `shape` (outermost dimension first; empty for a scalar) from its data: row-major,
    /// little endian, without padding.
    pub fn new(
        datatype: DataType,
        shape: Vec<u64>,
        data: impl Into<Bytes>,
    ) -> Result<Self, TensorError> {
        let data = data.into();
        check(datatype, &shape, &data)?;
        Ok(Self { datatype, shape, data })
    }

    /// A [`DataType::Bytes`] tensor of the given elements.
    pub fn from_byte_strings<S: AsRef<[u8]>>(
        shape: Vec<u64>,
        strings: &[S],
    ) -> Result<Self, TensorError> {
        let mut data = Vec::with_capacity(strings.iter().map(|s| 4 + s.as_ref().len()).sum());
        for string in strings {
            let string = string.as_ref();
            let length = u32::try_from(string.len())
                .map_err(|_| TensorError::TooManyElements(shape.clone()))?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(string);
        }
        Self::new(DataType::Bytes, shape, data)
    }

    /// The type of the elements.
    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    /// The dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The data: row-major, little endian, without padding.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        // The constructor has checked that the product fits.
        self.shape.iter().product()
    }

    /// The elements of a [`DataType::Bytes`] tensor; empty for any other.
    pub fn byte_strings(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = if self.datatype == DataType::Bytes { &self.data } else { &[] };
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (string, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(string)
        })
    }
}

fn check_byte_strings(data: &[u8], expected: u64) -> Result<(), String> {
    let mut rest = data;
    let mut found = 0u64;
    while !rest.is_empty() {
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            return Err(format!("element {found} ends inside its length"));
        };
        let Some((_, after)) = after.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            return Err(format!("element {found} ends early"));
        };
        rest = after;
        found += 1;
    }
    if found == expected { Ok(()) } else { Err(format!("got {found}")) }
}

/// What an input takes or an output answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorType {
    /// The input's or output's name.
    pub name: String,
    /// The type of the elements.
    pub datatype: DataType,
    /// The dimensions, outermost first; -1 stands for one that varies.
    pub shape: Vec<i64>,
}

impl TensorType {
    /// Says what is wrong with `tensor` as a value of this type, or nothing when it fits.
    pub fn mismatch(&self, tensor: &Tensor) -> Option<String> {
        if tensor.datatype() != self.datatype {
            return Some(format!("expected datatype {}, got {}", self.datatype, tensor.datatype()));
        }
        let fits = self.shape.len() == tensor.shape().len()
            && self
                .shape
                .iter()
                .zip(tensor.shape())
                .all(|(&want, &have)| want < 0 || want as u64 == have);
        (!fits).then(|| format!("expected shape {:?}, got {:?}", self.shape, tensor.shape()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(datatype: DataType, shape: &[u64], bytes: &[u8], problem: Option<&str>) {
        let made = Tensor::new(datatype, shape.to_vec(), bytes.to_vec());
        match (made, problem) {
            (Ok(tensor), None) => assert_eq!(tensor.data().as_ref(), bytes),
            (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
            (made, _) => panic!("{made:?}, expected {problem:?}"),
        }
    }

    #[test]
    fn data_must_follow_from_shape_and_datatype() {
        check(DataType::Fp32, &[2, 2], &[0; 16], None);
        check(DataType::Fp32, &[], &[0; 4], None);
        check(DataType::Fp32, &[0, 3], &[], None);
        check(DataType::Fp32, &[2, 2], &[0; 15], Some("takes 16 bytes, got 15"));
        check(DataType::Fp32, &[1 << 4, (1 << 60) + 2], &[0; 128], Some("more elements"));
        check(DataType::Fp32, &[1 << 2, (1 << 60) + 2], &[0; 32], Some("more elements"));
        check(DataType::Uint8, &[0, u64::MAX, u64::MAX], &[], Some("more elements"));
        check(DataType::Bytes, &[2], &[1, 0, 0, 0, b'a', 0, 0, 0, 0], None);
        check(DataType::Bytes, &[1], &[1, 0, 0, 0, b'a', 0, 0, 0, 0], Some("got 2"));
        check(DataType::Bytes, &[1], &[9, 0, 0, 0, b'a'], Some("element 0 ends early"));
        check(DataType::Bytes, &[1], &[9, 0], Some("ends inside its length"));
    }

    #[test]
    fn byte_strings_round_trip() {
        let tensor = Tensor::from_byte_strings(vec![3], &["a", "", "\0b"]).unwrap();
        assert_eq!(tensor.byte_strings().collect::<Vec<_>>(), [&b"a"[..], b"", b"\0b"]);
    }

    #[test]
    fn mismatch_names_the_difference() {
        let ty = TensorType { name: "x".into(), datatype: DataType::Fp32, shape: vec![-1, 2] };
        let tensor = |shape: &[u64]| {
            Tensor::new(
                DataType::Fp32,
                shape.to_vec(),
                vec![0; 4 * shape.iter().product::<u64>() as usize],
            )
            .unwrap()
        };
        assert_eq!(ty.mismatch(&tensor(&[7, 2])), None);
        assert_eq!(ty.mismatch(&tensor(&[7, 3])).unwrap(), "expected shape [-1, 2], got [7, 3]");
    }
}
