//! What can go wrong on the way to a card and on it.

use cudarc::cublas::result::CublasError;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// Why something could not be done on a card.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// A library that every machine for training on cards has is not there.
    #[error("{library} was not found (looked for {names} where the system looks for libraries); {remedy}")]
    LibraryMissing {
        /// What it is, in words.
        library: &'static str,
        /// Names of the files that were looked for.
        names: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The driver is older than the kernels need.
    #[error(
        "the NVIDIA driver supports CUDA {found} and the kernels need CUDA {needed}; install driver {driver} or later"
    )]
    DriverTooOld {
        /// What it supports.
        found: String,
        /// What is needed.
        needed: &'static str,
        /// The first driver with it.
        driver: &'static str,
    },
    /// There is no such card.
    #[error(
        "card cuda:{ordinal} was asked for, but the driver shows {count} of them (CUDA_VISIBLE_DEVICES may hide cards)"
    )]
    NoSuchCard {
        /// The card's number.
        ordinal: usize,
        /// Cards there are.
        count: usize,
    },
    /// The card is older than the kernels are compiled for.
    #[error("card cuda:{ordinal} ({name}) has compute capability {found}; the kernels need {needed}")]
    CardTooOld {
        /// The card's number.
        ordinal: usize,
        /// The card's name.
        name: String,
        /// What it has.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// The card's memory does not suffice.
    #[error("the card has {available} bytes free and {needed} are needed; train fewer replicas together")]
    OutOfMemory {
        /// Bytes asked for.
        needed: u64,
        /// Bytes free at the time.
        available: u64,
    },
    /// A driver call failed.
    #[error("{doing} on the card: {words} ({code:?})")]
    Driver {
        /// What was being done.
        doing: String,
        /// The driver's words.
        words: String,
        /// The driver's code.
        code: CUresult,
    },
    /// A cuBLAS call failed.
    #[error("{doing} with cuBLAS: {0:?}", source.0)]
    Blas {
        /// What was being done.
        doing: &'static str,
        /// What cuBLAS said.
        source: CublasError,
    },
    /// A kernel does not take what it was given; an error of this program.
    #[error("kernel {kernel}: {problem}; this is an error in Plateau, please report it")]
    Kernel {
        /// Its name.
        kernel: String,
        /// What does not fit.
        problem: String,
    },
    /// What was asked for cannot be done on a card.
    #[error("{0}")]
    Unsupported(String),
}

/// Names what was being done when a driver or cuBLAS call failed.
pub(super) trait DoingOnCard<T> {
    fn doing(self, doing: &'static str) -> Result<T, CudaError>;
}

impl<T> DoingOnCard<T> for Result<T, DriverError> {
    fn doing(self, doing: &'static str) -> Result<T, CudaError> {
        self.map_err(|error| driver_error(doing, error))
    }
}

impl<T> DoingOnCard<T> for Result<T, CublasError> {
    fn doing(self, doing: &'static str) -> Result<T, CudaError> {
        self.map_err(|source| CudaError::Blas { doing, source })
    }
}

/// A driver call's failure in words.
pub(super) fn driver_error(doing: impl Into<String>, error: DriverError) -> CudaError {
    let words =
        error.error_string().map_or("unknown error".into(), |words| words.to_string_lossy().into_owned());
    CudaError::Driver { doing: doing.into(), words, code: error.0 }
}
