//! The part of the driver that Plateau calls.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use crate::emulation::Bound;
use crate::state::{self, Action, State, memory};

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const NOT_FOUND: c_int = 500;
const CAPTURE_UNSUPPORTED: c_int = 900;

/// Bytes between the places an allocation may begin at, as the driver promises.
const ALIGNMENT: usize = 256;

/// Counts a call and does it.
fn call(name: &str, work: impl FnOnce(&mut State) -> c_int) -> c_int {
    state::with(|state| {
        state.count(name);
        work(state)
    })
}

/// Counts a call that must not be made while a graph is captured, and does it.
fn outside_capture(name: &str, work: impl FnOnce(&mut State) -> c_int) -> c_int {
    call(name, |state| if state.is_capturing() { CAPTURE_UNSUPPORTED } else { work(state) })
}

fn answer<T>(target: *mut T, value: T) -> c_int {
    // SAFETY: the caller's promise, as in all functions of the driver.
    unsafe { target.write(value) };
    SUCCESS
}

fn take(bytes: usize) -> Option<usize> {
    let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()?;
    // SAFETY: the layout has a size above zero.
    let start = unsafe { alloc(layout) };
    if start.is_null() {
        return None;
    }
    // SAFETY: just allocated. All bits set are NaN, so that numbers nobody wrote are noticed.
    unsafe { start.write_bytes(0xff, bytes) };
    Some(start as usize)
}

fn give(start: usize, bytes: usize) {
    if let Ok(layout) = Layout::from_size_align(bytes.max(1), ALIGNMENT) {
        // SAFETY: allocated by `take` with this layout, and taken off the list of live allocations.
        unsafe { dealloc(start as *mut u8, layout) };
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    answer(version, 13_000)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(_error: c_int, name: *mut *const c_char) -> c_int {
    answer(name, c"PRETENDED".as_ptr())
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(error: c_int, words: *mut *const c_char) -> c_int {
    let text = match error {
        INVALID_VALUE => c"invalid argument",
        OUT_OF_MEMORY => c"out of memory",
        NOT_FOUND => c"named symbol not found",
        CAPTURE_UNSUPPORTED => c"operation not permitted when stream is capturing",
        _ => c"unknown error",
    };
    answer(words, text.as_ptr())
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    answer(count, 1)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    if ordinal == 0 { answer(device, 0) } else { 101 }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> c_int {
    let text = c"Pretended card".to_bytes_with_nul();
    for (at, byte) in text.iter().take(usize::try_from(length).unwrap_or(0)).enumerate() {
        // SAFETY: the caller promises `length` bytes.
        unsafe { name.add(at).write(*byte as c_char) };
    }
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> c_int {
    // Compute capability 9.0; 132 multiprocessors.
    answer(
        value,
        match attribute {
            75 => 9,
            76 => 0,
            16 => 132,
            _ => 1,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> c_int {
    answer(bytes, memory())
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> c_int {
    answer(context, 0x100 as *mut c_void)
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(_context: *mut c_void) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    call("cuMemGetInfo_v2", |state| {
        answer(free, memory() - state.used().min(memory()));
        answer(total, memory())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: *mut c_ulonglong, bytes: usize) -> c_int {
    outside_capture("cuMemAlloc_v2", |state| {
        if bytes == 0 {
            return INVALID_VALUE;
        }
        if state.used() + bytes > memory() {
            return OUT_OF_MEMORY;
        }
        let Some(start) = take(bytes) else { return OUT_OF_MEMORY };
        state.memory.insert(start, bytes);
        answer(address, start as c_ulonglong)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: c_ulonglong) -> c_int {
    outside_capture("cuMemFree_v2", |state| {
        let Some(bytes) = state.memory.remove(&(address as usize)) else { return INVALID_VALUE };
        give(address as usize, bytes);
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _flags: c_uint) -> c_int {
    outside_capture("cuMemHostAlloc", |state| {
        let Some(start) = take(bytes) else { return OUT_OF_MEMORY };
        state.pinned.insert(start, bytes);
        answer(address, start as *mut c_void)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: *mut c_void) -> c_int {
    outside_capture("cuMemFreeHost", |state| {
        let Some(bytes) = state.pinned.remove(&(address as usize)) else { return INVALID_VALUE };
        give(address as usize, bytes);
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(start: c_ulonglong, value: u8, bytes: usize, stream: *mut c_void) -> c_int {
    call("cuMemsetD8Async", |state| {
        if !state.owns(start as usize, bytes) {
            return INVALID_VALUE;
        }
        state.queue(stream as usize, Action::Fill { start: start as usize, value, bytes });
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(
    to: c_ulonglong,
    from: *const c_void,
    bytes: usize,
    stream: *mut c_void,
) -> c_int {
    call("cuMemcpyHtoDAsync_v2", |state| {
        // A captured copy happens later, when pageable memory may be gone.
        let lasting = !state.is_capturing() || state.owns_pinned(from as usize, bytes);
        if !lasting || !state.owns(to as usize, bytes) {
            return INVALID_VALUE;
        }
        state.queue(stream as usize, Action::Copy { to: to as usize, from: from as usize, bytes });
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: c_ulonglong,
    bytes: usize,
    stream: *mut c_void,
) -> c_int {
    call("cuMemcpyDtoHAsync_v2", |state| {
        let lasting = !state.is_capturing() || state.owns_pinned(to as usize, bytes);
        if !lasting || !state.owns(from as usize, bytes) {
            return INVALID_VALUE;
        }
        state.queue(stream as usize, Action::Copy { to: to as usize, from: from as usize, bytes });
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(
    to: c_ulonglong,
    from: c_ulonglong,
    bytes: usize,
    stream: *mut c_void,
) -> c_int {
    call("cuMemcpyDtoDAsync_v2", |state| {
        if !state.owns(to as usize, bytes) || !state.owns(from as usize, bytes) {
            return INVALID_VALUE;
        }
        state.queue(stream as usize, Action::Copy { to: to as usize, from: from as usize, bytes });
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) -> c_int {
    state::with(|state| {
        state.streams += 1;
        answer(stream, (0x200 + state.streams) as *mut c_void)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(_stream: *mut c_void) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(_stream: *mut c_void) -> c_int {
    outside_capture("cuStreamSynchronize", |_| SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) -> c_int {
    outside_capture("cuEventCreate", |_| answer(event, 0x300 as *mut c_void))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(_event: *mut c_void, _stream: *mut c_void) -> c_int {
    call("cuEventRecord", |_| SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(_event: *mut c_void) -> c_int {
    outside_capture("cuEventSynchronize", |_| SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(_event: *mut c_void) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> c_int {
    outside_capture("cuModuleLoadData", |_| {
        // SAFETY: PTX is given as a text that ends in zero.
        let text = unsafe { CStr::from_ptr(image.cast()) };
        if !text.to_bytes().windows(6).any(|part| part == b".entry") {
            return INVALID_VALUE;
        }
        answer(module, image.cast_mut())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(_module: *mut c_void) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    _module: *mut c_void,
    name: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    outside_capture("cuModuleGetFunction", |state| {
        let known = state.kernels.iter().position(|other| *other == name);
        let place = known.unwrap_or_else(|| {
            state.kernels.push(name);
            state.kernels.len() - 1
        });
        answer(function, (place + 1) as *mut c_void)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: *mut c_void,
    arguments: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> c_int {
    let extents = [grid_x, grid_y, grid_z, block_x, block_y, block_z];
    let threads = u64::from(block_x) * u64::from(block_y) * u64::from(block_z);
    call("kernels", |state| {
        let Some(name) =
            (function as usize).checked_sub(1).and_then(|place| state.kernels.get(place)).cloned()
        else {
            return NOT_FOUND;
        };
        state.count(&format!("kernel:{name}"));
        let beyond =
            grid_x > i32::MAX as u32 || grid_y > 65_535 || grid_z > 65_535 || threads > 1024 || shared > 0;
        if extents.contains(&0) || beyond || arguments.is_null() || !extra.is_null() {
            return INVALID_VALUE;
        }
        // SAFETY: the caller's promise.
        let bound = unsafe { Bound::new(&name, arguments, extents) };
        state.queue(stream as usize, Action::Kernel(bound));
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, _mode: c_int) -> c_int {
    outside_capture("cuStreamBeginCapture_v2", |state| {
        match state.captures.insert(stream as usize, (std::thread::current().id(), Vec::new())) {
            None => SUCCESS,
            Some(_) => CAPTURE_UNSUPPORTED,
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) -> c_int {
    call("cuStreamEndCapture", |state| {
        let Some((_, captured)) = state.captures.remove(&(stream as usize)) else { return INVALID_VALUE };
        state.graphs.push(captured);
        answer(graph, state.graphs.len() as *mut c_void)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut *mut c_void,
    graph: *mut c_void,
    _flags: c_ulonglong,
) -> c_int {
    outside_capture("cuGraphInstantiateWithFlags", |_| answer(executable, graph))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: *mut c_void, _stream: *mut c_void) -> c_int {
    outside_capture("cuGraphLaunch", |state| {
        let graph = (executable as usize).checked_sub(1).and_then(|place| state.graphs.get(place));
        let Some(graph) = graph else { return INVALID_VALUE };
        graph.iter().for_each(Action::run);
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(_executable: *mut c_void) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: *mut c_void) -> c_int {
    call("cuGraphDestroy", |state| {
        match (graph as usize).checked_sub(1).and_then(|place| state.graphs.get_mut(place)) {
            Some(graph) => {
                graph.clear();
                SUCCESS
            }
            None => INVALID_VALUE,
        }
    })
}
