//! One opened card: context, stream, kernels, cuBLAS.

use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result, sys};

use super::error::{CudaError, DoingOnCard as _, driver_error};
use super::kernels::Kernels;
use super::library::{self, Card};

/// Oldest compute capability the kernels run on.
const NEEDED_CAPABILITY: (i32, i32) = (8, 0);

/// Bytes cuBLAS may use on the side, as it recommends for Hopper. Its own would be allocated on the way, which a captured
/// graph must not do.
const BLAS_WORKSPACE: usize = 32 << 20;

/// An opened card. Everything asked of it happens on one stream, in the order asked.
#[derive(Clone)]
pub struct CudaDevice {
    inner: Arc<Inner>,
}

struct Inner {
    card: Card,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    kernels: Option<Kernels>,
    blas: blas_sys::cublasHandle_t,
    blas_workspace: sys::CUdeviceptr,
    /// Held while commands are queued: a capture takes everything that is queued on the stream.
    queue: Mutex<()>,
}

// SAFETY: driver handles may be used from any thread whose current context is theirs, which `enter` sees to; cuBLAS's handle
// is used only under the queue's lock.
#[allow(unsafe_code, reason = "driver handles are plain pointers to the compiler")]
unsafe impl Send for Inner {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "driver handles are plain pointers to the compiler")]
unsafe impl Sync for Inner {}

impl CudaDevice {
    /// Opens card number `ordinal` and loads the kernels; says what is missing if it cannot.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let card = library::card_of(ordinal)?;
        if card.capability < NEEDED_CAPABILITY {
            let (major, minor) = card.capability;
            return Err(CudaError::CardTooOld {
                ordinal,
                name: card.name,
                found: format!("{major}.{minor}"),
                needed: "8.0 (Ampere) or later",
            });
        }
        library::require_cublas()?;
        let handle = library::handle(ordinal)?;
        // SAFETY: the handle came from the driver; the context is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(handle) }.doing("opening a card's context")?;
        // What is made so far is undone by `drop` if a later part fails.
        let mut inner = Inner {
            card,
            handle,
            context,
            stream: null_mut(),
            kernels: None,
            blas: null_mut(),
            blas_workspace: 0,
            queue: Mutex::new(()),
        };
        inner.enter()?;
        inner.stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).doing("making a stream")?;
        inner.kernels = Some(Kernels::load()?);
        inner.blas = blas::create_handle().doing("opening")?;
        // SAFETY: fresh device memory, freed in `drop`; the handle and the stream are ours and live.
        unsafe {
            inner.blas_workspace =
                result::malloc_sync(BLAS_WORKSPACE).doing("allocating cuBLAS's workspace")?;
            blas::set_stream(inner.blas, inner.stream.cast()).doing("choosing the stream")?;
            blas_sys::cublasSetWorkspace_v2(inner.blas, inner.blas_workspace as *mut _, BLAS_WORKSPACE)
                .result()
                .doing("handing over the workspace")?;
        }
        Ok(CudaDevice { inner: Arc::new(inner) })
    }

    /// What the driver says of the card.
    pub fn card(&self) -> &Card {
        &self.inner.card
    }

    /// The card in words, for people: name, number, compute capability.
    pub fn describe(&self) -> String {
        let Card { ordinal, name, capability: (major, minor), .. } = &self.inner.card;
        format!("{name} (cuda:{ordinal}, compute capability {major}.{minor})")
    }

    /// Bytes free and in all.
    pub fn memory(&self) -> Result<(u64, u64), CudaError> {
        self.inner.enter()?;
        let (free, total) = result::mem_get_info().doing("asking for free memory")?;
        Ok((free as u64, total as u64))
    }

    /// Waits until everything asked for has been done.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.wait(&self.queue())
    }

    /// The same for who holds the right to queue commands already.
    pub(super) fn wait(&self, _queue: &MutexGuard<'_, ()>) -> Result<(), CudaError> {
        self.inner.enter()?;
        // SAFETY: the stream is ours and live.
        unsafe { result::stream::synchronize(self.inner.stream) }.doing("waiting")
    }

    pub(super) fn kernels(&self) -> Result<&Kernels, CudaError> {
        let missing = || CudaError::Unsupported("the card was not opened to its end".to_owned());
        self.inner.kernels.as_ref().ok_or_else(missing)
    }

    /// Makes the card's context current in this thread.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        self.inner.enter()
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.inner.stream
    }

    /// The right to queue commands, one thread at a time: while a graph is captured, nobody else's may come between.
    pub(super) fn queue(&self) -> MutexGuard<'_, ()> {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// cuBLAS's handle, to be used under the queue's lock.
    pub(super) fn blas(&self) -> blas_sys::cublasHandle_t {
        self.inner.blas
    }
}

impl Inner {
    fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|error| driver_error(format!("entering card cuda:{}", self.card.ordinal), error))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: each was made by `open` or is null, and nothing uses it after the last handle of the device is gone. Errors
        // cannot be acted upon here; the driver reports a broken context at the next call anyway.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            if !self.stream.is_null() {
                let _ = result::stream::synchronize(self.stream);
            }
            if !self.blas.is_null() {
                let _ = blas::destroy_handle(self.blas);
            }
            if self.blas_workspace != 0 {
                let _ = result::free_sync(self.blas_workspace);
            }
            self.kernels = None;
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.handle);
        }
    }
}
