//! What can go wrong in training, apart from divergence (which is a result).

use std::path::PathBuf;

/// Why a cohort could not be trained, or a checkpoint not be read.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The members of a cohort cannot be trained together.
    #[error(
        "trials {first} and {other} cannot be trained in one cohort: they differ in more than seed, learning rate, weight decay and clipping; train them separately"
    )]
    MixedCohort {
        /// The first member.
        first: String,
        /// A member that does not fit it.
        other: String,
    },
    /// A checkpoint is damaged, foreign or of another trial.
    #[error("checkpoint {path}: {problem}")]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done, e.g. `writing`.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The cohort takes more memory than there is.
    #[error(
        "out of memory: the cohort takes about {needed} bytes and {available} are allowed; train fewer replicas together, or allow more memory"
    )]
    OutOfMemory {
        /// Estimated bytes of the cohort.
        needed: u64,
        /// Bytes it may take; 0: the device refused, whatever was allowed.
        available: u64,
    },
    /// The card's driver refused or failed, apart from a lack of memory.
    #[error("training on a card: {message}")]
    Card {
        /// What was being done, and what the driver said.
        message: String,
        /// The driver's number for it (`CUresult`).
        code: u32,
    },
    /// The device or an operation on it failed.
    #[error("{doing}: {message}")]
    Compute {
        /// What was being done.
        doing: &'static str,
        /// What the tensor library said.
        message: String,
    },
}

impl LabError {
    pub(crate) fn checkpoint(path: &std::path::Path, problem: impl Into<String>) -> Self {
        LabError::Checkpoint { path: path.to_owned(), problem: problem.into() }
    }
}

/// Names what was being done when the tensor library or the operating system failed.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, LabError>;
}

impl<T> Doing<T> for candle_core::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, LabError> {
        self.map_err(|error| {
            // candle appends a backtrace when RUST_BACKTRACE is set; the first line says it all.
            let message = error.to_string().lines().next().unwrap_or_default().to_owned();
            LabError::Compute { doing, message }
        })
    }
}

/// Names the file an input or output operation failed on.
pub(crate) trait DoingTo<T> {
    fn doing_to(self, doing: &'static str, path: &std::path::Path) -> Result<T, LabError>;
}

impl<T> DoingTo<T> for std::io::Result<T> {
    fn doing_to(self, doing: &'static str, path: &std::path::Path) -> Result<T, LabError> {
        self.map_err(|source| LabError::Io { doing, path: path.to_owned(), source })
    }
}
