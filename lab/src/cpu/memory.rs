//! Numbers that the parts of a team share, each part writing its own share.
//!
//! Unsafe code lives here and not in operations: slices are handed out by [`super::Call`], which sees to it that the shares
//! of different parts never overlap and that no part holds a share twice.

use crate::float::Float;

/// Bytes a cache line begins at a multiple of.
const LINE: usize = 64;
/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// From so many bytes on numbers begin at a huge page, and the system is asked for such pages: streaming through weights and
/// moments then stops at a page's end 512 times less often.
const LARGE: usize = 2 * HUGE_PAGE;

/// Zeroed numbers that begin at a cache line; many at a huge page.
pub(crate) struct Numbers<T> {
    memory: Vec<T>,
    start: usize,
    count: usize,
}

impl<T: Float> Numbers<T> {
    /// `count` zeros.
    pub fn zeros(count: usize) -> Self {
        let is_large = count * size_of::<T>() >= LARGE;
        let alignment = if is_large { HUGE_PAGE } else { LINE };
        let spare = alignment / size_of::<T>();
        let memory = vec![T::ZERO; count + spare];
        let start = memory.as_ptr().align_offset(alignment).min(spare);
        let numbers = Numbers { memory, start, count };
        if is_large {
            numbers.ask_for_huge_pages();
        }
        numbers
    }

    /// A wish: where it is not granted, pages are small.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code, reason = "advice about memory goes by its address")]
    fn ask_for_huge_pages(&self) {
        let slice = self.slice();
        let advice = rustix::mm::Advice::LinuxHugepage;
        // SAFETY: the range is our own allocation, and this advice changes no content.
        let outcome =
            unsafe { rustix::mm::madvise(slice.as_ptr().cast_mut().cast(), size_of_val(slice), advice) };
        if let Err(error) = outcome {
            tracing::debug!(%error, "no huge pages");
        }
    }

    /// Only Linux is asked.
    #[cfg(not(target_os = "linux"))]
    fn ask_for_huge_pages(&self) {}

    /// All of them.
    pub fn slice(&self) -> &[T] {
        &self.memory[self.start..self.start + self.count]
    }

    /// All of them, to change.
    pub fn slice_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.count]
    }

    /// All of them, for a team to share while `self` is borrowed.
    pub fn share(&mut self) -> Shared<T> {
        let slice = self.slice_mut();
        Shared { pointer: slice.as_mut_ptr(), count: slice.len() }
    }
}

/// Numbers that several threads read and write in different places.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    pointer: *mut T,
    count: usize,
}

#[allow(unsafe_code, reason = "shares of one buffer are handed to several threads")]
// SAFETY: the pointer is only followed by the two methods below, whose callers promise that threads do not collide.
unsafe impl<T: Send> Send for Shared<T> {}
#[allow(unsafe_code, reason = "shares of one buffer are handed to several threads")]
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Numbers `offset..offset + count`.
    ///
    /// # Safety
    /// The numbers shared must outlive `'a`, and nobody may write these while the slice lives.
    #[allow(unsafe_code, reason = "see the safety section")]
    pub unsafe fn read<'a>(self, offset: usize, count: usize) -> &'a [T] {
        assert!(offset + count <= self.count, "numbers {offset}.. ({count}) of {}", self.count);
        // SAFETY: within the allocation by the assertion; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer.add(offset), count) }
    }

    /// Numbers `offset..offset + count`, to change.
    ///
    /// # Safety
    /// The numbers shared must outlive `'a`, and nobody else may read or write these while the slice lives.
    #[allow(unsafe_code, reason = "see the safety section")]
    pub unsafe fn write<'a>(self, offset: usize, count: usize) -> &'a mut [T] {
        assert!(offset + count <= self.count, "numbers {offset}.. ({count}) of {}", self.count);
        // SAFETY: within the allocation by the assertion; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(offset), count) }
    }
}
