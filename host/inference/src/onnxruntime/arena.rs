//! What a session keeps of its runs' memory for the next ones.

use std::ffi::CStr;
use std::ptr;

use ort::AsPointer as _;
use ort::memory::MemoryInfo;
use ort::sys;

use super::check;

/// The option of a run after which the session's memory on the CPU that nothing needs is given back.
pub(super) const GIVE_BACK: [&str; 2] = ["memory.enable_memory_arena_shrinkage", "cpu:0"];

/// ONNX Runtime's allocator as it begins from 1.23 on; `ort` is told here that 1.22 is enough.
#[repr(C)]
struct Allocator {
    first: sys::OrtAllocator,
    stats: Option<
        unsafe extern "system" fn(
            *const sys::OrtAllocator,
            *mut *mut sys::OrtKeyValuePairs,
        ) -> sys::OrtStatusPtr,
    >,
}

const _: () = assert!(size_of::<Allocator>() == 6 * size_of::<usize>());

/// The version of the C API that has all of it.
const WHOLE: u32 = 23;

/// The bytes that a session has of the system and no run needs now. None, with an ONNX Runtime that
/// cannot tell.
pub(super) fn kept(
    session: &ort::session::Session,
    memory: &MemoryInfo<'static>,
) -> Result<Option<u64>, String> {
    let api = ort::api();
    let mut allocator = ptr::null_mut();
    // SAFETY: both pointers are valid; what is written is released below, before the session.
    check(unsafe { (api.CreateAllocator)(session.ptr(), memory.ptr(), &mut allocator) })?;
    // SAFETY: the allocator is valid until it is released.
    let kept = unsafe { kept_by(allocator) };
    // SAFETY: the allocator was handed over by the first call and is not used again.
    unsafe { (api.ReleaseAllocator)(allocator) };
    kept
}

/// # Safety
/// The allocator is one of ONNX Runtime's and valid.
unsafe fn kept_by(allocator: *mut sys::OrtAllocator) -> Result<Option<u64>, String> {
    // SAFETY: as the caller promises; the version says how much of it is there.
    if unsafe { (*allocator).version } < WHOLE {
        return Ok(None);
    }
    // SAFETY: it is of a version that has all of this.
    let Some(stats) = (unsafe { (*allocator.cast::<Allocator>()).stats }) else {
        return Ok(None);
    };
    let mut pairs = ptr::null_mut();
    // SAFETY: the allocator is valid; what is written is released below.
    check(unsafe { stats(allocator, &mut pairs) })?;
    let number = |key: &CStr| {
        // SAFETY: the pairs are valid until they are released; of a key that they lack they say null.
        let value = unsafe { (ort::api().GetKeyValue)(pairs, key.as_ptr()) };
        // SAFETY: else a string that lives as long as they do.
        let value = (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })?;
        value.to_str().ok()?.parse::<u64>().ok()
    };
    let kept = number(c"TotalAllocated").zip(number(c"InUse"));
    // SAFETY: the pairs were handed over by the call above and are not used again.
    unsafe { (ort::api().ReleaseKeyValuePairs)(pairs) };
    Ok(kept.map(|(all, used)| all.saturating_sub(used)))
}
