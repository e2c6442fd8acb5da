//! Exit codes, and the error of a command: what went wrong and which code says so.

use std::process::ExitCode;

/// How the program ends, as scripts see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for was done.
    Done = 0,
    /// Something went wrong.
    Error = 1,
    /// The command line was not understood.
    Usage = 2,
    /// The sweep ended, but with failed, quarantined or cancelled trials.
    FailedTrials = 3,
    /// The study file is not valid.
    InvalidStudy = 4,
    /// Interrupted by Ctrl-C; the work done so far is kept.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The exit codes as shown at the end of `plateau --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  error
    2  the command line was not understood
    3  the sweep ended with failed, quarantined or cancelled trials
    4  the study file is not valid
  130  interrupted; what was done is kept";

/// Why a command failed, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// The code to leave with.
    pub exit: Exit,
    /// What was being done to what, and what to do about it.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure with a code of its own.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Failure { exit, error: error.into() }
    }

    /// A command line that clap accepts but that makes no sense.
    pub fn usage(problem: impl std::fmt::Display) -> Self {
        Failure { exit: Exit::Usage, error: anyhow::anyhow!("{problem}") }
    }
}

// `Failure` is deliberately no `std::error::Error`, so that `?` turns every other error into one.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { exit: Exit::Error, error: error.into() }
    }
}

/// What a command comes to.
pub type Outcome = Result<Exit, Failure>;
