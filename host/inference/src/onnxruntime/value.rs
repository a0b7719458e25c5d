//! Tensors in ONNX Runtime's terms.

use std::ffi::{c_char, c_void};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use berth_tensor::{DataType, Tensor};
use bytes::Bytes;
use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort::sys;
use ort::value::TensorElementType;

use super::check;
use super::session::Session;

/// Outputs up to this size are copied: cheaper than keeping ONNX Runtime's value alive, and a small
/// part of an arena is given back at once.
const COPIED: usize = 16 * 1024;

/// The datatype that ONNX Runtime calls `element`, when there is one.
pub(super) fn datatype(element: TensorElementType) -> Option<DataType> {
    DataType::ALL.into_iter().find(|&datatype| element_type(datatype) == element)
}

fn element_type(datatype: DataType) -> TensorElementType {
    match datatype {
        DataType::Bool => TensorElementType::Bool,
        DataType::Uint8 => TensorElementType::Uint8,
        DataType::Uint16 => TensorElementType::Uint16,
        DataType::Uint32 => TensorElementType::Uint32,
        DataType::Uint64 => TensorElementType::Uint64,
        DataType::Int8 => TensorElementType::Int8,
        DataType::Int16 => TensorElementType::Int16,
        DataType::Int32 => TensorElementType::Int32,
        DataType::Int64 => TensorElementType::Int64,
        DataType::Fp16 => TensorElementType::Float16,
        DataType::Fp32 => TensorElementType::Float32,
        DataType::Fp64 => TensorElementType::Float64,
        DataType::Bf16 => TensorElementType::Bfloat16,
        DataType::Bytes => TensorElementType::String,
        DataType::Float8E4M3Fn => TensorElementType::Float8E4M3FN,
        DataType::Float8E4M3Fnuz => TensorElementType::Float8E4M3FNUZ,
        DataType::Float8E5M2 => TensorElementType::Float8E5M2,
        DataType::Float8E5M2Fnuz => TensorElementType::Float8E5M2FNUZ,
    }
}

/// A value that ONNX Runtime has made and this owns.
pub(super) struct Value(NonNull<sys::OrtValue>);

// SAFETY: a value is a counted reference to a buffer and its deleter; neither is tied to a thread.
unsafe impl Send for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: the pointer came from ONNX Runtime and is owned, so this releases it once.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) }
    }
}

impl Value {
    /// Takes over what a call has written to `pointer`; none where it wrote nothing.
    ///
    /// # Safety
    /// The pointer is null or a value that ONNX Runtime has handed over to the caller.
    pub(super) unsafe fn from_raw(pointer: *mut sys::OrtValue) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }
}

/// A tensor lent to one run.
pub(super) struct Lent<'a> {
    value: Value,
    /// The addresses of its elements.
    memory: Range<usize>,
    /// The elements, where the tensor's own were not aligned.
    _aligned: Vec<u64>,
    _tensor: std::marker::PhantomData<&'a Tensor>,
}

impl<'a> Lent<'a> {
    /// Lends a tensor without copying it, unless its data is unaligned or strings.
    pub(super) fn new(tensor: &'a Tensor, memory: &MemoryInfo<'static>) -> Result<Self, String> {
        let Some(size) = tensor.datatype().size() else {
            let value = strings(tensor)?;
            let (memory, _aligned) = (0..0, Vec::new());
            return Ok(Self { value, memory, _aligned, _tensor: std::marker::PhantomData });
        };
        let data = tensor.data();
        let mut aligned = Vec::new();
        let mut pointer = data.as_ptr();
        if !pointer.addr().is_multiple_of(size) || data.is_empty() {
            aligned = vec![0u64; data.len().div_ceil(8)];
            pointer = aligned.as_ptr().cast();
            // SAFETY: the vector has at least as many bytes as the data, and is another allocation.
            unsafe {
                ptr::copy_nonoverlapping(data.as_ptr(), aligned.as_mut_ptr().cast(), data.len())
            };
        }
        let shape = tensor.shape();
        let mut value = ptr::null_mut();
        // SAFETY: pointer and length describe memory that outlives this value: the tensor is
        // borrowed, the vector is kept and does not reallocate. ONNX Runtime does not write to
        // inputs. A dimension is at most i64::MAX (a tensor's constructor checks it), so the shape
        // reads the same as i64.
        check(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                pointer.cast_mut().cast::<c_void>(),
                data.len(),
                shape.as_ptr().cast::<i64>(),
                shape.len(),
                element_type(tensor.datatype()).into(),
                &mut value,
            )
        })?;
        // SAFETY: the call has handed the value over.
        let value = unsafe { Value::from_raw(value) }.ok_or("no value was made")?;
        let memory = pointer.addr()..pointer.addr() + data.len();
        Ok(Self { value, memory, _aligned: aligned, _tensor: std::marker::PhantomData })
    }

    pub(super) fn pointer(&self) -> *const sys::OrtValue {
        self.value.0.as_ptr()
    }
}

/// A value with the strings of a [`DataType::Bytes`] tensor.
fn strings(tensor: &Tensor) -> Result<Value, String> {
    let api = ort::api();
    let mut allocator = ptr::null_mut();
    // SAFETY: writes a pointer to an allocator that lives as long as ONNX Runtime.
    check(unsafe { (api.GetAllocatorWithDefaultOptions)(&mut allocator) })?;
    let mut value = ptr::null_mut();
    let shape = tensor.shape();
    // SAFETY: the shape reads the same as i64, as in `Lent::new`.
    check(unsafe {
        (api.CreateTensorAsOrtValue)(
            allocator,
            shape.as_ptr().cast::<i64>(),
            shape.len(),
            element_type(DataType::Bytes).into(),
            &mut value,
        )
    })?;
    // SAFETY: the call has handed the value over.
    let value = unsafe { Value::from_raw(value) }.ok_or("no value was made")?;
    for (index, string) in tensor.byte_strings().enumerate() {
        let mut buffer: *mut c_char = ptr::null_mut();
        // SAFETY: the value is a string tensor of as many elements as the tensor has.
        check(unsafe {
            (api.GetResizedStringTensorElementBuffer)(
                value.0.as_ptr(),
                index,
                string.len(),
                &mut buffer,
            )
        })?;
        // SAFETY: the buffer has the length that was asked for.
        unsafe { ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast(), string.len()) };
    }
    Ok(value)
}

/// An output's data, kept where ONNX Runtime has put it.
struct Kept {
    pointer: NonNull<u8>,
    length: usize,
    /// Dropped before the session, whose allocator it goes back to.
    _value: Value,
    _session: Arc<Session>,
}

// SAFETY: the data is read only, and the value that owns it may be released on any thread.
unsafe impl Send for Kept {}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the value owns that many bytes there and nothing writes to them after the run.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

/// The tensor that a run on what was `lent` has put out.
pub(super) fn read(
    value: Value,
    session: &Arc<Session>,
    lent: &[Lent<'_>],
) -> Result<Tensor, String> {
    let (element, shape) = describe(&value)?;
    let datatype = datatype(element).ok_or_else(|| format!("an output of type {element}"))?;
    let count = shape.iter().product::<u64>() as usize;
    let data = match datatype.size() {
        None => read_strings(&value, count)?,
        Some(size) => {
            let length = count.checked_mul(size).ok_or("an output that is too large")?;
            let mut pointer = ptr::null_mut();
            // SAFETY: the value is a tensor of fixed-size elements in the CPU's memory.
            check(unsafe { (ort::api().GetTensorMutableData)(value.0.as_ptr(), &mut pointer) })?;
            match NonNull::new(pointer.cast::<u8>()) {
                // An empty tensor may have no memory.
                None if length == 0 => Bytes::new(),
                None => return Err("an output without data".to_owned()),
                Some(pointer) => {
                    let kept =
                        Kept { pointer, length, _value: value, _session: Arc::clone(session) };
                    // A graph may put out an input as it is, whose memory is not the value's own.
                    let is_lent =
                        lent.iter().any(|input| input.memory.contains(&pointer.addr().get()));
                    if length <= COPIED || is_lent {
                        Bytes::copy_from_slice(kept.as_ref())
                    } else {
                        Bytes::from_owner(kept)
                    }
                }
            }
        }
    };
    Tensor::new(datatype, shape, data).map_err(|error| error.to_string())
}

fn describe(value: &Value) -> Result<(TensorElementType, Vec<u64>), String> {
    let api = ort::api();
    let mut info = ptr::null_mut();
    // SAFETY: the value is valid; what is written is owned and released below.
    check(unsafe { (api.GetTensorTypeAndShape)(value.0.as_ptr(), &mut info) })?;
    let described = (|| {
        let mut element = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        // SAFETY: `info` is valid until it is released.
        check(unsafe { (api.GetTensorElementType)(info, &mut element) })?;
        let mut rank = 0;
        // SAFETY: as above.
        check(unsafe { (api.GetDimensionsCount)(info, &mut rank) })?;
        let mut shape = vec![0i64; rank];
        // SAFETY: as above, and the vector has room for `rank` dimensions.
        check(unsafe { (api.GetDimensions)(info, shape.as_mut_ptr(), rank) })?;
        let shape = shape
            .into_iter()
            .map(u64::try_from)
            .collect::<Result<_, _>>()
            .map_err(|_| "an output of unknown shape".to_owned())?;
        Ok((element.into(), shape))
    })();
    // SAFETY: `info` was handed over by the first call and is not used again.
    unsafe { (api.ReleaseTensorTypeAndShapeInfo)(info) };
    described
}

fn read_strings(value: &Value, count: usize) -> Result<Bytes, String> {
    let api = ort::api();
    let pointer = value.0.as_ptr();
    let mut length = 0;
    // SAFETY: the value is a string tensor.
    check(unsafe { (api.GetStringTensorDataLength)(pointer, &mut length) })?;
    let mut content = vec![0u8; length];
    let mut offsets = vec![0usize; count];
    // SAFETY: both buffers have the lengths given, which are what the tensor needs.
    check(unsafe {
        (api.GetStringTensorContent)(
            pointer,
            content.as_mut_ptr().cast(),
            length,
            offsets.as_mut_ptr(),
            count,
        )
    })?;
    let mut data = Vec::with_capacity(length + 4 * count);
    for (index, &start) in offsets.iter().enumerate() {
        let end = offsets.get(index + 1).copied().unwrap_or(length);
        let string = content.get(start..end).ok_or("strings that overlap")?;
        let size = u32::try_from(string.len()).map_err(|_| "a string that is too large")?;
        data.extend_from_slice(&size.to_le_bytes());
        data.extend_from_slice(string);
    }
    Ok(data.into())
}
