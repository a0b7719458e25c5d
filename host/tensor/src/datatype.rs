//! The element types of the Open Inference Protocol, and four of ONNX's that it has no names for.

use serde::{Deserialize, Serialize};

/// The type of a tensor's elements, named as in the Open Inference Protocol; the floats of 8 bits, which
/// it lacks, as in ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataType {
    /// One byte an element, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE 754 half precision.
    Fp16,
    /// IEEE 754 single precision.
    Fp32,
    /// IEEE 754 double precision.
    Fp64,
    /// bfloat16.
    Bf16,
    /// Byte strings of any length: four bytes of length, little endian, then the bytes.
    Bytes,
    /// 8 bits, of which 4 are the exponent and 3 the mantissa: up to 448, no infinities.
    Float8E4M3Fn,
    /// 8 bits, of which 4 are the exponent and 3 the mantissa: up to 240, neither infinities nor -0.
    Float8E4M3Fnuz,
    /// 8 bits, of which 5 are the exponent and 2 the mantissa: up to 57344, as IEEE 754 would have them.
    Float8E5M2,
    /// 8 bits, of which 5 are the exponent and 2 the mantissa: up to 57344, neither infinities nor -0.
    Float8E5M2Fnuz,
}

impl DataType {
    /// Every datatype.
    pub const ALL: [Self; 18] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::Bytes,
        Self::Float8E4M3Fn,
        Self::Float8E4M3Fnuz,
        Self::Float8E5M2,
        Self::Float8E5M2Fnuz,
    ];

    /// The protocol's name, such as `FP32`, or ONNX's, such as `FLOAT8E4M3FN`.
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
            Self::Float8E4M3Fn => "FLOAT8E4M3FN",
            Self::Float8E4M3Fnuz => "FLOAT8E4M3FNUZ",
            Self::Float8E5M2 => "FLOAT8E5M2",
            Self::Float8E5M2Fnuz => "FLOAT8E5M2FNUZ",
        }
    }

    /// The datatype of that name; names are case-sensitive.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }

    /// Bytes an element, or `None` for [`DataType::Bytes`], whose elements vary.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Float8E4M3Fn | Self::Float8E4M3Fnuz | Self::Float8E5M2 | Self::Float8E5M2Fnuz => {
                Some(1)
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for datatype in DataType::ALL {
            assert_eq!(DataType::from_name(datatype.name()), Some(datatype));
        }
        assert_eq!(DataType::from_name("fp32"), None);
    }
}
