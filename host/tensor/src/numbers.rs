//! Elements as doubles, and back.

use half::{bf16, f16};

use crate::float8::Float8;
use crate::{DataType, Tensor};

impl Tensor {
    /// The elements as doubles, row-major: of BOOL 0 and 1, of integers beyond 2⁵³ the nearest, of BYTES
    /// none.
    pub fn numbers(&self) -> impl Iterator<Item = f64> + '_ {
        let number: fn(&[u8]) -> f64 = match self.datatype() {
            DataType::Bool | DataType::Uint8 => |it| u8::from_le_bytes(array(it)).into(),
            DataType::Uint16 => |it| u16::from_le_bytes(array(it)).into(),
            DataType::Uint32 => |it| u32::from_le_bytes(array(it)).into(),
            DataType::Uint64 => |it| u64::from_le_bytes(array(it)) as f64,
            DataType::Int8 => |it| i8::from_le_bytes(array(it)).into(),
            DataType::Int16 => |it| i16::from_le_bytes(array(it)).into(),
            DataType::Int32 => |it| i32::from_le_bytes(array(it)).into(),
            DataType::Int64 => |it| i64::from_le_bytes(array(it)) as f64,
            DataType::Fp16 => |it| f16::from_le_bytes(array(it)).into(),
            DataType::Fp32 => |it| f32::from_le_bytes(array(it)).into(),
            DataType::Fp64 => |it| f64::from_le_bytes(array(it)),
            DataType::Bf16 => |it| bf16::from_le_bytes(array(it)).into(),
            DataType::Float8E4M3Fn => |it| Float8::E4M3FN.number(it[0]),
            DataType::Float8E4M3Fnuz => |it| Float8::E4M3FNUZ.number(it[0]),
            DataType::Float8E5M2 => |it| Float8::E5M2.number(it[0]),
            DataType::Float8E5M2Fnuz => |it| Float8::E5M2FNUZ.number(it[0]),
            DataType::Bytes => |_| f64::NAN,
        };
        let (size, data) = match self.datatype().size() {
            Some(size) => (size, &self.data()[..]),
            None => (1, &[][..]),
        };
        data.chunks_exact(size).map(number)
    }
}

/// The bytes of an element, which has as many.
fn array<const N: usize>(element: &[u8]) -> [u8; N] {
    element.first_chunk().copied().unwrap_or([0; N])
}

impl DataType {
    /// Appends an element to data: the one nearest to `number`, of integers towards zero; of BYTES none.
    pub fn write(self, number: f64, to: &mut Vec<u8>) {
        match self {
            Self::Bool => to.push((number != 0.0).into()),
            Self::Uint8 => to.push(number as u8),
            Self::Uint16 => to.extend((number as u16).to_le_bytes()),
            Self::Uint32 => to.extend((number as u32).to_le_bytes()),
            Self::Uint64 => to.extend((number as u64).to_le_bytes()),
            Self::Int8 => to.extend((number as i8).to_le_bytes()),
            Self::Int16 => to.extend((number as i16).to_le_bytes()),
            Self::Int32 => to.extend((number as i32).to_le_bytes()),
            Self::Int64 => to.extend((number as i64).to_le_bytes()),
            Self::Fp16 => to.extend(f16::from_f64(number).to_le_bytes()),
            Self::Fp32 => to.extend((number as f32).to_le_bytes()),
            Self::Fp64 => to.extend(number.to_le_bytes()),
            Self::Bf16 => to.extend(bf16::from_f64(number).to_le_bytes()),
            Self::Float8E4M3Fn => to.push(Float8::E4M3FN.code(number)),
            Self::Float8E4M3Fnuz => to.push(Float8::E4M3FNUZ.code(number)),
            Self::Float8E5M2 => to.push(Float8::E5M2.code(number)),
            Self::Float8E5M2Fnuz => to.push(Float8::E5M2FNUZ.code(number)),
            Self::Bytes => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_numbers_and_back() {
        for (datatype, data, expected) in [
            (DataType::Bool, &[0, 1][..], [0.0, 1.0]),
            (DataType::Uint8, &[0, 255], [0.0, 255.0]),
            (DataType::Uint16, &[255, 255, 1, 0], [65535.0, 1.0]),
            (DataType::Uint32, &[255, 255, 255, 255, 1, 0, 0, 0], [4_294_967_295.0, 1.0]),
            (
                DataType::Uint64,
                &[0, 0, 0, 0, 0, 0, 0, 128, 1, 0, 0, 0, 0, 0, 0, 0],
                [9_223_372_036_854_775_808.0, 1.0],
            ),
            (DataType::Int8, &[128, 127], [-128.0, 127.0]),
            (DataType::Int16, &[0, 128, 255, 127], [-32768.0, 32767.0]),
            (DataType::Int32, &[0, 0, 0, 128, 255, 255, 255, 255], [-2_147_483_648.0, -1.0]),
            (
                DataType::Int64,
                &[0, 0, 0, 0, 0, 0, 0, 128, 255, 255, 255, 255, 255, 255, 255, 255],
                [-9_223_372_036_854_775_808.0, -1.0],
            ),
            (
                DataType::Fp16,
                &[0x55, 0x35, 0x01, 0x80],
                [0.333_251_953_125, -5.960_464_477_539_063e-8],
            ),
            (DataType::Fp16, &[0xff, 0x7b, 0x00, 0xfc], [65504.0, f64::NEG_INFINITY]),
            (DataType::Bf16, &[0x80, 0x3f, 0x49, 0xc0], [1.0, -3.140_625]),
            (DataType::Fp32, &[0, 0, 128, 63, 0, 0, 0, 192], [1.0, -2.0]),
            (DataType::Fp64, &[0, 0, 0, 0, 0, 0, 240, 63, 0, 0, 0, 0, 0, 0, 0, 192], [1.0, -2.0]),
            (DataType::Float8E4M3Fn, &[0x38, 0xfe], [1.0, -448.0]),
            (DataType::Float8E4M3Fnuz, &[0x40, 0xff], [1.0, -240.0]),
            (DataType::Float8E5M2, &[0x3c, 0xfc], [1.0, f64::NEG_INFINITY]),
            (DataType::Float8E5M2Fnuz, &[0x40, 0xff], [1.0, -57344.0]),
        ] {
            let tensor = Tensor::new(datatype, vec![2], data.to_vec()).unwrap();
            assert_eq!(tensor.numbers().collect::<Vec<_>>(), expected, "{datatype}");
            let mut written = Vec::new();
            expected.into_iter().for_each(|number| datatype.write(number, &mut written));
            assert_eq!(written, data, "{datatype}");
        }
        let strings = Tensor::from_byte_strings(vec![1], &["1"]).unwrap();
        assert_eq!(strings.numbers().count(), 0);
    }
}
