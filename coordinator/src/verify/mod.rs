//! Looks over a data directory at rest: is everything there that the coordinator promised to keep, once and whole?
//!
//! Owns the questions and the words of what is found. Repairs nothing and writes nothing. What an abrupt end may leave
//! behind, and the next start sweeps away, is no damage: it is listed apart.

mod files;
mod metrics;
mod rows;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::checkpoints::Checkpoints;
use crate::store::{Inspection, StoreError};

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The pages of the database, or its tables as a whole.
    Database,
    /// A trial's state, ending or lease.
    Trial,
    /// The attempts of a trial.
    Attempt,
    /// A trial's configuration.
    Configuration,
    /// A trial's metrics.
    Metrics,
    /// A stored checkpoint.
    Checkpoint,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Database => "database",
            Kind::Trial => "trial",
            Kind::Attempt => "attempt",
            Kind::Configuration => "configuration",
            Kind::Metrics => "metrics",
            Kind::Checkpoint => "checkpoint",
        }
    }
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// The file or row.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Files that nothing names any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The folder, within the checkpoint store.
    pub place: String,
    /// Its size.
    pub bytes: u64,
    /// What it is, and what becomes of it.
    pub what: &'static str,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Trials looked at.
    pub trials: u64,
    /// Attempts looked at.
    pub attempts: u64,
    /// Chunks of metrics read and held against their digests.
    pub chunks: u64,
    /// Checkpoints read and held against their digests.
    pub checkpoints: u64,
    /// Bytes of these checkpoints.
    pub checkpoint_bytes: u64,
    /// What is wrong; empty: nothing.
    pub findings: Vec<Finding>,
    /// What is merely left.
    pub leftovers: Vec<Leftover>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(
        &mut self,
        kind: Kind,
        place: impl Into<String>,
        problem: impl Into<String>,
        remedy: &'static str,
    ) {
        self.findings.push(Finding { kind, place: place.into(), problem: problem.into(), remedy });
    }

    /// What a question gave; a table that cannot be read is a finding.
    fn read<T>(&mut self, place: &str, answer: Result<T, StoreError>) -> Option<T> {
        answer.map_err(|error| self.add(Kind::Database, place, error.to_string(), RESTORE)).ok()
    }
}

const RESTORE: &str = "restore the data directory from a copy";

/// Looks over `data_dir`. `checkpoint_store` is the URL its coordinator was given, if it was.
///
/// # Errors
/// When there is no data directory, a coordinator uses it, another version wrote it, or the checkpoint store cannot be
/// reached: then nothing is known. Everything else that is wrong is a [`Finding`].
pub async fn check(data_dir: &Path, checkpoint_store: Option<&str>) -> Result<Report> {
    let mut report = Report::default();
    let opened = Inspection::open(data_dir).and_then(|opened| opened.check_version().map(|()| opened));
    let inspection = match opened {
        Ok(inspection) => inspection,
        Err(error @ StoreError::Malformed { .. }) => {
            let place = data_dir.join(crate::store::DATABASE_FILE).display().to_string();
            report.add(Kind::Database, place, error.to_string(), RESTORE);
            return Ok(report);
        }
        Err(StoreError::Sqlite(error)) if is_damage(&error) => {
            let place = data_dir.join(crate::store::DATABASE_FILE).display().to_string();
            report.add(Kind::Database, place, error.to_string(), RESTORE);
            return Ok(report);
        }
        Err(error) => return Err(error).with_context(|| format!("verifying {}", data_dir.display())),
    };
    let checkpoints = match checkpoint_store {
        Some(url) => {
            let owner = inspection.reader().directory_id().context("reading the id of the data directory")?;
            Some(Checkpoints::at_existing_url(url, &owner)?)
        }
        None => {
            let folder = data_dir.join("checkpoints");
            folder.is_dir().then(|| Checkpoints::in_existing_folder(&folder)).transpose()?
        }
    };
    rows::check(&inspection, &mut report);
    metrics::check(&inspection, &mut report);
    files::check(&inspection, checkpoints.as_ref(), &mut report).await?;
    report.findings.sort_by(|a, b| (a.kind, &a.place).cmp(&(b.kind, &b.place)));
    Ok(report)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    matches!(error.sqlite_error_code(), Some(Code::DatabaseCorrupt | Code::NotADatabase))
}
