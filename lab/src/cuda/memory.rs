//! Memory of the card and pinned memory of the host, taken once per program and given back when it goes.

use std::mem::size_of;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{DriverError, result, sys};

use super::device::CudaDevice;
use super::error::{CudaError, DoingOnCard as _, driver_error};

/// Numbers that may lie in device memory: plain, any bits are a value.
///
/// # Safety
/// The type has no padding, no pointers and no invalid bit patterns.
#[allow(unsafe_code, reason = "promises something about the layout of a type")]
pub(super) unsafe trait Plain: Copy + Default + 'static {}
// SAFETY: plain numbers.
#[allow(unsafe_code, reason = "plain numbers")]
mod plain {
    unsafe impl super::Plain for u8 {}
    unsafe impl super::Plain for u32 {}
    unsafe impl super::Plain for i64 {}
    unsafe impl super::Plain for f32 {}
    unsafe impl super::Plain for f64 {}
}

/// A stretch of device memory.
pub(super) struct Memory {
    device: CudaDevice,
    start: sys::CUdeviceptr,
    bytes: usize,
}

impl Memory {
    /// Takes memory and fills it with zeros.
    pub fn zeroed(device: &CudaDevice, bytes: usize) -> Result<Self, CudaError> {
        device.enter()?;
        let bytes = bytes.max(16);
        // SAFETY: the memory is owned by the value made here and freed in its `drop`.
        let start = match unsafe { result::malloc_sync(bytes) } {
            Ok(start) => start,
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let available = result::mem_get_info().map_or(0, |(free, _)| free as u64);
                return Err(CudaError::OutOfMemory { needed: bytes as u64, available });
            }
            Err(error) => return Err(driver_error(format!("allocating {bytes} bytes"), error)),
        };
        let memory = Memory { device: device.clone(), start, bytes };
        let _queue = device.queue();
        // SAFETY: the stretch is ours, and `bytes` long.
        unsafe { result::memset_d8_async(start, 0, bytes, device.stream()) }.doing("clearing memory")?;
        Ok(memory)
    }

    /// Address of byte `offset`.
    pub fn at(&self, offset: usize) -> u64 {
        self.start + offset as u64
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn check<T>(&self, offset: usize, count: usize) -> Result<(), CudaError> {
        if offset + count * size_of::<T>() <= self.bytes {
            return Ok(());
        }
        Err(CudaError::Unsupported(format!(
            "{count} numbers at byte {offset} were to be copied, but the device memory has {} bytes",
            self.bytes
        )))
    }

    /// Writes numbers at byte `offset` and waits.
    pub fn write<T: Plain>(&self, offset: usize, numbers: &[T]) -> Result<(), CudaError> {
        self.check::<T>(offset, numbers.len())?;
        self.device.enter()?;
        let queue = self.device.queue();
        // SAFETY: the target is within our memory, and the source lives until the copy is done, as we wait for it.
        unsafe { result::memcpy_htod_async(self.at(offset), numbers, self.device.stream()) }
            .doing("copying to the card")?;
        self.device.wait(&queue)
    }

    /// Queues a copy of bytes of other memory of the card to byte `to`.
    pub fn copy(&self, to: usize, other: &Memory, from: usize, bytes: usize) -> Result<(), CudaError> {
        self.check::<u8>(to, bytes)?;
        other.check::<u8>(from, bytes)?;
        self.device.enter()?;
        let _queue = self.device.queue();
        // SAFETY: both stretches are within live memory of the card; giving memory back waits for the stream.
        unsafe { result::memcpy_dtod_async(self.at(to), other.at(from), bytes, self.device.stream()) }
            .doing("copying on the card")
    }

    /// Reads numbers from byte `offset` once all earlier work is done.
    pub fn read<T: Plain>(&self, offset: usize, count: usize) -> Result<Vec<T>, CudaError> {
        self.check::<T>(offset, count)?;
        self.device.enter()?;
        let mut numbers = vec![T::default(); count];
        let queue = self.device.queue();
        // SAFETY: the source is within our memory, and the target lives until the copy is done, as we wait for it.
        unsafe { result::memcpy_dtoh_async(&mut numbers, self.at(offset), self.device.stream()) }
            .doing("copying from the card")?;
        self.device.wait(&queue)?;
        Ok(numbers)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The stream may still use it.
        let _ = self.device.synchronize();
        // SAFETY: ours, and nothing uses it any more.
        let _ = unsafe { result::free_sync(self.start) };
    }
}

/// Page-locked host memory, which copies to and from the card need in order not to hold up the host.
pub(super) struct Pinned<T: Plain> {
    device: CudaDevice,
    start: *mut T,
    count: usize,
}

// SAFETY: owned memory without ties to a thread.
#[allow(unsafe_code, reason = "a pointer to owned memory")]
unsafe impl<T: Plain + Send> Send for Pinned<T> {}

impl<T: Plain> Pinned<T> {
    /// Takes memory for `count` numbers, all zero.
    pub fn zeroed(device: &CudaDevice, count: usize) -> Result<Self, CudaError> {
        device.enter()?;
        let count = count.max(1);
        // SAFETY: the memory is owned by the value made here and freed in its `drop`; it is filled before it is read.
        let start = unsafe { result::malloc_host(count * size_of::<T>(), 0) }
            .doing("allocating page-locked memory")?
            .cast::<T>();
        for index in 0..count {
            // SAFETY: within the memory just taken, which the driver aligns to pages.
            unsafe { start.add(index).write(T::default()) };
        }
        Ok(Pinned { device: device.clone(), start, count })
    }

    /// The numbers.
    pub fn numbers(&self) -> &[T] {
        // SAFETY: ours, filled, `count` long; who queued a copy into it waits before reading.
        unsafe { std::slice::from_raw_parts(self.start, self.count) }
    }

    /// The numbers, to change; who queued a copy from them waits before.
    pub fn numbers_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.count) }
    }
}

impl<T: Plain> Drop for Pinned<T> {
    fn drop(&mut self) {
        // A copy may still be under way.
        let _ = self.device.synchronize();
        // SAFETY: ours, and nothing uses it any more.
        let _ = unsafe { result::free_host(self.start.cast()) };
    }
}
