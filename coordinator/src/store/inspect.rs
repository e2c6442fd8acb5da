//! The tables of a directory at rest, row by row as they are, for [`crate::verify`]. Changes nothing, repairs nothing.

use std::path::{Path, PathBuf};

use plateau_common::identity::TrialId;
use rusqlite::{Connection, OpenFlags};

use super::lock::ReadingLock;
use super::{DATABASE_FILE, Reader, StoreError, VERSION, load};
use crate::core::{Now, State};

/// A data directory that no coordinator uses, opened for reading only.
pub struct Inspection {
    reader: Reader,
    path: PathBuf,
    _lock: ReadingLock,
}

/// A trial as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialRow {
    /// Its id, as text.
    pub id: String,
    /// The word for its state.
    pub state: String,
    /// Number of its last attempt.
    pub attempt: i64,
    /// Largest step at which it was recorded as completed.
    pub completed_step: i64,
    /// Step at which it diverged.
    pub diverged_at: Option<i64>,
    /// Attempt that ended it last.
    pub ending_attempt: Option<i64>,
    /// The word for how.
    pub ending_kind: Option<String>,
    /// Updates made by then.
    pub ending_step: Option<i64>,
    /// Who holds its lease.
    pub lease_agent: Option<String>,
}

/// A checkpoint as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointRow {
    /// The number of its trial in the tables.
    pub number: i64,
    /// Its trial, as text.
    pub trial: String,
    /// Attempt that made it.
    pub attempt: i64,
    /// Updates made.
    pub step: i64,
    /// Hash of the parameters.
    pub weights_hash: String,
    /// Size of its files.
    pub bytes: i64,
}

/// A chunk of metrics as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectedChunk {
    /// Attempt that reported it.
    pub attempt: u64,
    /// Its number within the attempt.
    pub chunk: i64,
    /// Digest of its canonical bytes.
    pub digest: Vec<u8>,
    /// Its stored form.
    pub data: Vec<u8>,
}

impl Inspection {
    /// Opens the database of `directory`; refused while a coordinator uses it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let lock = ReadingLock::take(directory)?;
        let path = directory.join(DATABASE_FILE);
        let connection = open_unchanged(&path).map_err(|error| error.at(&path))?;
        Ok(Inspection { reader: Reader { connection }, path, _lock: lock })
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Questions about single trials.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Refuses the file of another version or another program.
    pub fn check_version(&self) -> Result<(), StoreError> {
        let found: i64 = self.reader.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let path = self.path.display().to_string();
        match found {
            VERSION => Ok(()),
            0 => Err(StoreError::Foreign { path }),
            found if found < VERSION => Err(StoreError::Older { path, found, known: VERSION }),
            found => Err(StoreError::Version { path, found, known: VERSION }),
        }
    }

    /// What SQLite finds wrong with the file's pages and indices; at most a hundred sentences.
    pub fn integrity(&self) -> Result<Vec<String>, StoreError> {
        let lines: Vec<String> = self.all("PRAGMA integrity_check", |row| row.get(0))?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    }

    /// The state a coordinator would begin with.
    pub fn state(&self) -> Result<State, StoreError> {
        load::load(&self.reader.connection, Now::default())
    }

    /// All trials.
    pub fn trials(&self) -> Result<Vec<TrialRow>, StoreError> {
        let columns = "SELECT coalesce(id, 'number ' || trial), state, attempt, completed_step, diverged_at, \
                       ending_attempt, ending_kind, ending_step, lease_agent \
                       FROM trials LEFT JOIN trial_numbers ON number = trial ORDER BY id";
        self.all(columns, |row| {
            Ok(TrialRow {
                id: row.get(0)?,
                state: row.get(1)?,
                attempt: row.get(2)?,
                completed_step: row.get(3)?,
                diverged_at: row.get(4)?,
                ending_attempt: row.get(5)?,
                ending_kind: row.get(6)?,
                ending_step: row.get(7)?,
                lease_agent: row.get(8)?,
            })
        })
    }

    /// All checkpoints that the tables name.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointRow>, StoreError> {
        checkpoints(&self.reader.connection)
    }

    /// The chunks of a trial in order of attempt and number.
    pub fn chunks(&self, trial: TrialId) -> Result<Vec<InspectedChunk>, StoreError> {
        let mut statement = self.reader.connection.prepare_cached(
            "SELECT attempt, chunk, digest, data FROM metrics WHERE trial = ?1 ORDER BY attempt, chunk",
        )?;
        let rows = statement.query_map([self.reader.number(trial)?], |row| {
            Ok(InspectedChunk {
                attempt: row.get::<_, i64>(0)?.max(0) as u64,
                chunk: row.get(1)?,
                digest: row.get(2)?,
                data: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// (table, trial) of rows about trials that do not exist.
    pub fn strays(&self) -> Result<Vec<(String, String)>, StoreError> {
        let of = |table: &str| {
            format!(
                "SELECT DISTINCT '{table}', coalesce(id, 'number ' || trial) FROM {table} \
                 LEFT JOIN trial_numbers ON trial_numbers.number = trial \
                 WHERE trial NOT IN (SELECT trial FROM trials)"
            )
        };
        let tables =
            ["members", "attempts", "checkpoints", "metrics", "logs", "trial_history", "retention", "forks"]
                .map(of);
        self.all(&tables.join(" UNION ALL "), |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// The largest attempt of a deleted trial.
    pub fn fence(&self) -> Result<u64, StoreError> {
        let fence: i64 =
            self.reader.connection.query_row("SELECT attempt FROM fence", [], |row| row.get(0))?;
        Ok(fence.max(0) as u64)
    }

    fn all<T>(
        &self,
        query: &str,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.reader.connection.prepare(query)?;
        let rows = statement.query_map([], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

fn checkpoints(connection: &Connection) -> Result<Vec<CheckpointRow>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT trial, coalesce(id, 'number ' || trial), attempt, step, weights_hash, bytes
         FROM checkpoints LEFT JOIN trial_numbers ON number = trial ORDER BY id, step, attempt",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(CheckpointRow {
            number: row.get(0)?,
            trial: row.get(1)?,
            attempt: row.get(2)?,
            step: row.get(3)?,
            weights_hash: row.get(4)?,
            bytes: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A copy of a database that nobody uses yet.
pub struct DatabaseCopy {
    connection: Connection,
}

impl DatabaseCopy {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(DatabaseCopy { connection: Connection::open(path)? })
    }

    /// All checkpoints that its tables name.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointRow>, StoreError> {
        checkpoints(&self.connection)
    }

    /// Drops rows of checkpoints whose files are not in the copy.
    pub fn forget(&self, rows: &[CheckpointRow]) -> Result<(), StoreError> {
        let mut statement = self
            .connection
            .prepare("DELETE FROM checkpoints WHERE trial = ?1 AND attempt = ?2 AND step = ?3")?;
        for row in rows {
            statement.execute(rusqlite::params![row.number, row.attempt, row.step])?;
        }
        Ok(())
    }

    /// Closes it, whole.
    pub fn close(self) -> Result<(), StoreError> {
        self.connection.close().map_err(|(_, error)| error.into())
    }
}

/// Opens a database so that no file of the directory changes. What a killed coordinator left in the write-ahead log is
/// read too, for which SQLite makes an index file beside it; without such a log nothing at all is written.
fn open_unchanged(path: &Path) -> Result<Connection, StoreError> {
    let log = path.with_extension("sqlite-wal");
    let has_log = std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    let resolved = path.canonicalize().map_err(|source| StoreError::Io {
        doing: "opening the database",
        path: path.display().to_string(),
        cause: source,
    })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let url = url::Url::from_file_path(&resolved).ok().filter(|_| !has_log);
    let connection = match url {
        Some(mut url) => {
            url.set_query(Some("immutable=1"));
            Connection::open_with_flags(url.as_str(), flags | OpenFlags::SQLITE_OPEN_URI)?
        }
        None => Connection::open_with_flags(&resolved, flags)?,
    };
    Ok(connection)
}
