//! Tensors, wherever their data lies.

use std::borrow::Cow;
use std::ops::Deref;

use crate::bindings::processor::berth::plugin::model as host;
use crate::bindings::processor::wasi::nn;
use crate::{DataType, Error};

/// An immutable tensor. Its data lies here or in the host; what lies in the host is copied only
/// when it is read.
#[derive(Debug)]
pub struct Tensor(Place);

#[derive(Debug)]
enum Place {
    Here { datatype: DataType, shape: Vec<u64>, data: Vec<u8> },
    Host(host::Tensor),
    Nn(nn::tensor::Tensor),
}

/// Named tensors, in the order of a model's outputs.
#[derive(Debug)]
pub struct Tensors(Vec<(String, Tensor)>);

/// A type that the elements of a tensor can have here.
pub trait Element: bytemuck::Pod {
    /// Its datatype.
    const DATATYPE: DataType;
}

macro_rules! elements {
    ($($element:ty => $datatype:ident),*) => {
        $(impl Element for $element {
            const DATATYPE: DataType = DataType::$datatype;
        })*
    };
}

elements!(
    u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64,
    i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    f32 => Fp32, f64 => Fp64
);

impl DataType {
    /// The name in the Open Inference Protocol, such as `FP32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::Bytes => "BYTES",
        }
    }

    /// Bytes an element, or `None` for [`DataType::Bytes`], whose elements vary.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Tensor {
    /// A tensor of `shape` (outermost dimension first; empty for a scalar) from its elements in
    /// row-major order. Fails when their number does not follow from the shape.
    ///
    /// ```
    /// let tensor = berth_sdk::Tensor::new(&[2, 2], &[1i64, 2, 3, 4])?;
    /// assert_eq!(tensor.to_vec::<i64>()?, [1, 2, 3, 4]);
    /// # Ok::<(), berth_sdk::Error>(())
    /// ```
    pub fn new<T: Element>(shape: &[u64], elements: &[T]) -> Result<Self, Error> {
        Self::from_bytes(T::DATATYPE, shape, bytemuck::cast_slice(elements).to_vec())
    }

    /// A tensor of FP32; see [`Tensor::new`].
    pub fn from_f32(shape: &[u64], elements: &[f32]) -> Result<Self, Error> {
        Self::new(shape, elements)
    }

    /// A tensor of BYTES from its elements.
    pub fn from_byte_strings<S: AsRef<[u8]>>(shape: &[u64], elements: &[S]) -> Result<Self, Error> {
        check_count(DataType::Bytes, shape, elements.len())?;
        let mut data =
            Vec::with_capacity(elements.iter().map(|element| 4 + element.as_ref().len()).sum());
        for element in elements {
            let element = element.as_ref();
            let length = u32::try_from(element.len())
                .map_err(|_| Error::plugin("an element of 4 GiB or more"))?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(element);
        }
        Ok(Self(Place::Here { datatype: DataType::Bytes, shape: shape.to_vec(), data }))
    }

    /// A tensor from its data: row-major, little endian, without padding; BYTES as four bytes of
    /// length and then the bytes. Fails when the length does not follow from the shape.
    pub fn from_bytes(datatype: DataType, shape: &[u64], data: Vec<u8>) -> Result<Self, Error> {
        if let Some(size) = datatype.size() {
            if !data.len().is_multiple_of(size) {
                return Err(Error::plugin(format!(
                    "{} bytes are no whole elements of {datatype}",
                    data.len()
                )));
            }
            check_count(datatype, shape, data.len() / size)?;
        }
        Ok(Self(Place::Here { datatype, shape: shape.to_vec(), data }))
    }

    /// The type of the elements.
    pub fn datatype(&self) -> DataType {
        match &self.0 {
            Place::Here { datatype, .. } => *datatype,
            Place::Host(tensor) => tensor.datatype(),
            Place::Nn(tensor) => from_nn(tensor.ty()),
        }
    }

    /// The dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> Vec<u64> {
        match &self.0 {
            Place::Here { shape, .. } => shape.clone(),
            Place::Host(tensor) => tensor.shape(),
            Place::Nn(tensor) => tensor.dimensions().into_iter().map(u64::from).collect(),
        }
    }

    /// The data, as [`Tensor::from_bytes`] takes it.
    pub fn data(&self) -> Cow<'_, [u8]> {
        match &self.0 {
            Place::Here { data, .. } => Cow::Borrowed(data),
            Place::Host(tensor) => Cow::Owned(tensor.data()),
            Place::Nn(tensor) => Cow::Owned(tensor.data()),
        }
    }

    /// The elements in row-major order. Fails when they are of another datatype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, Error> {
        self.expect(T::DATATYPE)?;
        Ok(self.data().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
    }

    /// The elements of a tensor of FP32; see [`Tensor::to_vec`].
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        self.to_vec()
    }

    /// The elements of a tensor of BYTES.
    pub fn to_byte_strings(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.expect(DataType::Bytes)?;
        let data = self.data();
        let mut rest: &[u8] = &data;
        let mut elements = Vec::new();
        while !rest.is_empty() {
            let (element, after) = rest
                .split_first_chunk::<4>()
                .and_then(|(length, after)| {
                    after.split_at_checked(u32::from_le_bytes(*length) as usize)
                })
                .ok_or_else(|| {
                    Error::plugin(format!(
                        "element {} of a BYTES tensor ends early",
                        elements.len()
                    ))
                })?;
            elements.push(element.to_vec());
            rest = after;
        }
        Ok(elements)
    }

    fn expect(&self, datatype: DataType) -> Result<(), Error> {
        let actual = self.datatype();
        if actual == datatype {
            Ok(())
        } else {
            Err(Error::plugin(format!("expected a tensor of {datatype}, got {actual}")))
        }
    }

    /// The tensor in the host, for Berth's interfaces.
    pub(crate) fn to_host(&self) -> Result<Handle<'_>, Error> {
        if let Place::Host(tensor) = &self.0 {
            return Ok(Handle::Borrowed(tensor));
        }
        Ok(Handle::Owned(host::Tensor::create(self.datatype(), &self.shape(), &self.data())?))
    }

    /// A copy in the host, for `wasi:nn`, which takes tensors away.
    pub(crate) fn to_nn(&self) -> Result<nn::tensor::Tensor, Error> {
        let datatype = to_nn(self.datatype())?;
        let shape = self.shape();
        let dimensions =
            shape.iter().map(|&dimension| u32::try_from(dimension)).collect::<Result<Vec<_>, _>>();
        let dimensions = dimensions.map_err(|_| {
            Error::plugin(format!("shape {shape:?} exceeds the 32 bits of wasi:nn"))
        })?;
        Ok(nn::tensor::Tensor::new(&dimensions, datatype, &self.data()))
    }
}

/// A tensor in the host, borrowed or made for one call.
pub(crate) enum Handle<'a> {
    Borrowed(&'a host::Tensor),
    Owned(host::Tensor),
}

impl Deref for Handle<'_> {
    type Target = host::Tensor;

    fn deref(&self) -> &host::Tensor {
        match self {
            Self::Borrowed(tensor) => tensor,
            Self::Owned(tensor) => tensor,
        }
    }
}

impl From<host::Tensor> for Tensor {
    fn from(tensor: host::Tensor) -> Self {
        Self(Place::Host(tensor))
    }
}

impl From<nn::tensor::Tensor> for Tensor {
    fn from(tensor: nn::tensor::Tensor) -> Self {
        Self(Place::Nn(tensor))
    }
}

impl Tensors {
    pub(crate) fn new(tensors: Vec<(String, Tensor)>) -> Self {
        Self(tensors)
    }

    /// The tensor of that name. Fails when there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor, Error> {
        self.iter().find(|(found, _)| *found == name).map(|(_, tensor)| tensor).ok_or_else(|| {
            let names: Vec<_> = self.iter().map(|(name, _)| name).collect();
            Error::plugin(format!(
                "there is no output `{name}`; the outputs are {}",
                names.join(", ")
            ))
        })
    }

    /// The first tensor, for models that have one output. Fails when there is none.
    pub fn first(&self) -> Result<&Tensor, Error> {
        self.0
            .first()
            .map(|(_, tensor)| tensor)
            .ok_or_else(|| Error::plugin("the model answered no output"))
    }

    /// The names and tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

impl IntoIterator for Tensors {
    type Item = (String, Tensor);
    type IntoIter = std::vec::IntoIter<(String, Tensor)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

fn check_count(datatype: DataType, shape: &[u64], count: usize) -> Result<(), Error> {
    let expected =
        shape.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
    match expected {
        Some(expected) if expected == count as u64 => Ok(()),
        Some(expected) => Err(Error::plugin(format!(
            "shape {shape:?} of {datatype} takes {expected} elements, got {count}"
        ))),
        None => {
            Err(Error::plugin(format!("shape {shape:?} has more elements than can be addressed")))
        }
    }
}

fn to_nn(datatype: DataType) -> Result<nn::tensor::TensorType, Error> {
    use nn::tensor::TensorType;
    Ok(match datatype {
        DataType::Fp16 => TensorType::Fp16,
        DataType::Fp32 => TensorType::Fp32,
        DataType::Fp64 => TensorType::Fp64,
        DataType::Bf16 => TensorType::Bf16,
        DataType::Uint8 => TensorType::U8,
        DataType::Int32 => TensorType::I32,
        DataType::Int64 => TensorType::I64,
        other => {
            return Err(Error::plugin(format!(
                "wasi:nn has no {other}; run it with `Model` in place of `Graph`"
            )));
        }
    })
}

fn from_nn(datatype: nn::tensor::TensorType) -> DataType {
    use nn::tensor::TensorType;
    match datatype {
        TensorType::Fp16 => DataType::Fp16,
        TensorType::Fp32 => DataType::Fp32,
        TensorType::Fp64 => DataType::Fp64,
        TensorType::Bf16 => DataType::Bf16,
        TensorType::U8 => DataType::Uint8,
        TensorType::I32 => DataType::Int32,
        TensorType::I64 => DataType::Int64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tensor: Result<Tensor, Error>, problem: Option<&str>) {
        match (tensor, problem) {
            (Ok(_), None) => {}
            (Err(error), Some(part)) => assert!(error.message().contains(part), "{error}"),
            (tensor, _) => panic!("{tensor:?}, expected {problem:?}"),
        }
    }

    #[test]
    fn elements_must_follow_from_the_shape() {
        check(Tensor::from_f32(&[2, 2], &[0.0; 4]), None);
        check(Tensor::from_f32(&[], &[0.0]), None);
        check(Tensor::from_f32(&[2, 2], &[0.0; 3]), Some("takes 4 elements, got 3"));
        check(Tensor::from_f32(&[1 << 32, 1 << 32], &[0.0; 3]), Some("more elements"));
        check(Tensor::from_bytes(DataType::Int32, &[1], vec![0; 5]), Some("no whole elements"));
        check(Tensor::from_byte_strings(&[2], &["a"]), Some("takes 2 elements, got 1"));
    }

    #[test]
    fn elements_round_trip() {
        let tensor = Tensor::new(&[3], &[1u16, 2, 65535]).unwrap();
        assert_eq!(tensor.to_vec::<u16>().unwrap(), [1, 2, 65535]);
        assert_eq!(tensor.data().as_ref(), [1, 0, 2, 0, 255, 255]);
        assert_eq!(tensor.to_f32().unwrap_err().message(), "expected a tensor of FP32, got UINT16");
        let tensor = Tensor::from_byte_strings(&[2], &["a", "\0bc"]).unwrap();
        assert_eq!(tensor.to_byte_strings().unwrap(), [&b"a"[..], b"\0bc"]);
    }
}
