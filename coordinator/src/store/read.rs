//! Questions that are answered from the tables, on connections of their own beside the writer.

use std::path::Path;

use plateau_common::identity::TrialId;
use rusqlite::{Connection, OptionalExtension, params};

use super::{StoreError, VERSION, open_reader};
use crate::core::Subject;

/// A read-only connection; sees what is committed.
pub struct Reader {
    pub(super) connection: Connection,
}

/// One chunk of metrics as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkRow {
    /// Attempt that reported it.
    pub attempt: u64,
    /// Its stored form.
    pub data: Vec<u8>,
}

/// One attempt of a trial.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRecord {
    /// Its number.
    pub attempt: u64,
    /// Granted to.
    pub agent: String,
    /// Step it continued from.
    pub from_step: u64,
    /// Whether it began to train.
    pub started: bool,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRow {
    /// Milliseconds since 1970 UTC on the writer's clock.
    pub at: i64,
    /// Its level.
    pub level: String,
    /// Its text.
    pub message: String,
}

/// The log of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptLog {
    /// Which attempt.
    pub attempt: AttemptRecord,
    /// Its lines.
    pub lines: Vec<LogRow>,
}

/// One event of a history.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryRow {
    /// Milliseconds since 1970 UTC.
    pub at: i64,
    /// What happened.
    pub event: String,
}

impl Reader {
    /// Opens the database at `path` for reading.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Reader { connection: open_reader(path)? })
    }

    /// Refuses the file of a newer version.
    pub fn refuse_newer(&self) -> Result<(), StoreError> {
        let found: i64 = self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > VERSION {
            let path = self.connection.path().unwrap_or_default().to_owned();
            return Err(StoreError::Version { path, found, known: VERSION });
        }
        Ok(())
    }

    /// The id of the data directory: what it keeps elsewhere lies under this name.
    pub fn directory_id(&self) -> Result<String, StoreError> {
        Ok(self.connection.query_row("SELECT id FROM directory", [], |row| row.get(0))?)
    }

    /// Writes a copy of the whole database, as it is at this moment, to a file that is replaced; the writer is not held up.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let io = |doing| {
            let path = path.display().to_string();
            move |source| StoreError::Io { doing, path, cause: source }
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("replacing")(error)),
            _ => {}
        }
        let name = path.to_str().ok_or_else(|| {
            io("copying to")(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the name is no UTF-8"))
        })?;
        self.connection
            .execute("VACUUM INTO ?1", [name])
            .map_err(|error| StoreError::from(error).at(path))?;
        crate::disk::synchronise(path).map_err(io("flushing"))
    }

    /// The study of a sweep, as stored.
    pub fn source(&self, sweep: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT source FROM sweeps WHERE number = ?1")?;
        Ok(statement.query_row([sweep as i64], |row| row.get(0)).optional()?.flatten())
    }

    /// The number of a trial in the tables; none for a trial that nothing is known of.
    pub(super) fn number(&self, trial: TrialId) -> Result<Option<i64>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT number FROM trial_numbers WHERE id = ?1")?;
        Ok(statement.query_row([trial.to_string()], |row| row.get(0)).optional()?)
    }

    /// The resolved configuration of a trial as canonical JSON.
    pub fn configuration(&self, trial: TrialId) -> Result<Option<String>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT json FROM configurations WHERE trial = ?1")?;
        Ok(statement.query_row([self.number(trial)?], |row| row.get(0)).optional()?)
    }

    /// The attempts of a trial in order.
    pub fn attempts(&self, trial: TrialId) -> Result<Vec<AttemptRecord>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT attempt, agent, from_step, started IS NOT NULL FROM attempts WHERE trial = ?1 ORDER BY attempt",
        )?;
        let rows = statement.query_map([self.number(trial)?], |row| {
            Ok(AttemptRecord {
                attempt: row.get::<_, i64>(0)?.max(0) as u64,
                agent: row.get(1)?,
                from_step: row.get::<_, i64>(2)?.max(0) as u64,
                started: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The chunks of a trial in order of attempt and number.
    pub fn chunks(&self, trial: TrialId) -> Result<Vec<ChunkRow>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT attempt, data FROM metrics WHERE trial = ?1 ORDER BY attempt, chunk")?;
        let rows = statement.query_map([self.number(trial)?], |row| {
            Ok(ChunkRow { attempt: row.get::<_, i64>(0)?.max(0) as u64, data: row.get(1)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The log of a trial, by attempt.
    pub fn logs(&self, trial: TrialId) -> Result<Vec<AttemptLog>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT at, level, message FROM logs WHERE trial = ?1 AND attempt = ?2 ORDER BY number",
        )?;
        let mut logs = Vec::new();
        let number = self.number(trial)?;
        for attempt in self.attempts(trial)? {
            let rows = statement.query_map(params![number, attempt.attempt as i64], |row| {
                Ok(LogRow { at: row.get(0)?, level: row.get(1)?, message: row.get(2)? })
            })?;
            let lines = rows.collect::<rusqlite::Result<_>>()?;
            logs.push(AttemptLog { attempt, lines });
        }
        Ok(logs)
    }

    /// The history of a trial, sweep or agent, oldest first.
    pub fn history(&self, subject: &Subject) -> Result<Vec<HistoryRow>, StoreError> {
        let read = |row: &rusqlite::Row<'_>| Ok(HistoryRow { at: row.get(0)?, event: row.get(1)? });
        if let Subject::Trial(trial) = subject {
            let mut statement = self
                .connection
                .prepare_cached("SELECT at, event FROM trial_history WHERE trial = ?1 ORDER BY number")?;
            let rows = statement.query_map([self.number(*trial)?], read)?;
            return Ok(rows.collect::<rusqlite::Result<_>>()?);
        }
        let mut statement = self
            .connection
            .prepare_cached("SELECT at, event FROM history WHERE subject = ?1 ORDER BY number")?;
        let rows = statement.query_map([subject.key()], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
