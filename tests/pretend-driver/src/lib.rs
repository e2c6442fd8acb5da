//! A pretended NVIDIA driver and cuBLAS, for machines without a card.
//!
//! Built as a shared library, found under the names `libcuda.so.1` and `libcublas.so.13` (two links in a folder on
//! `LD_LIBRARY_PATH`), it answers the calls that Plateau makes: device memory is host memory, every call is counted by its
//! name and every kernel by its own, and what a real driver would refuse is refused (launches beyond a card's limits,
//! copies outside an allocation, allocating or waiting while a graph is captured).
//!
//! Kernels do nothing, unless `PRETEND_KERNELS` names a library made by `emulation/build.sh` from the kernels' sources: then
//! they run on the processor, and so do matrix products. Fresh memory is filled with NaN.
//!
//! Counts are read with `pretend_driver_count(name)`; names are those of the driver's functions, `kernel:NAME` for a kernel
//! and `kernels` for all of them. What a graph does when it is launched counts as one `cuGraphLaunch`.

#![allow(unsafe_code, non_snake_case, reason = "the driver's interface is C")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the functions are NVIDIA's, documented in the CUDA driver API"
)]

mod blas;
mod driver;
mod emulation;
mod state;

use std::ffi::{CStr, c_char};

/// How often something was asked for since the last reset.
///
/// # Safety
/// `name` must be a text that ends in zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pretend_driver_count(name: *const c_char) -> u64 {
    // SAFETY: promised by the caller.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    state::with(|state| state.counts.get(&name).copied().unwrap_or(0))
}

/// Forgets all counts.
#[unsafe(no_mangle)]
pub extern "C" fn pretend_driver_reset() {
    state::with(|state| state.counts.clear());
}

/// Prints all counts, to standard error.
#[unsafe(no_mangle)]
pub extern "C" fn pretend_driver_print() {
    state::with(|state| {
        for (name, count) in &state.counts {
            eprintln!("{count:>8} {name}");
        }
    });
}
