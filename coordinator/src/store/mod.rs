//! What the coordinator knows, on disk: one SQLite file in WAL mode with full synchronisation.
//!
//! Owns the tables, their version, the lock that keeps a second coordinator out, the writing of effects in one
//! transaction per batch, and reading back. Makes no decisions.

mod deleted;
mod inspect;
mod load;
mod lock;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plateau_common::identity::TrialId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

pub use inspect::{CheckpointRow, DatabaseCopy, InspectedChunk, Inspection, TrialRow};
use lock::DirectoryLock;
pub use read::{AttemptLog, AttemptRecord, ChunkRow, HistoryRow, LogRow, Reader};
pub use schema::VERSION;
pub use write::Batch;

/// File name of the database in the data directory.
pub const DATABASE_FILE: &str = "coordinator.sqlite";

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed; a failed write is fatal to the coordinator.
    #[error("the coordinator's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file's pages are damaged.
    #[error(
        "the database {path} is damaged ({cause}): restore the data directory from a copy, or move it away to begin \
         anew; `plateau verify` says what else of it is whole"
    )]
    Malformed {
        /// The file.
        path: String,
        /// What SQLite says.
        cause: rusqlite::Error,
    },
    /// The file system does not let SQLite do what it must.
    #[error(
        "the database {path} cannot be written ({cause}; {system}): free space or restore access to its folder, then \
         start the coordinator again; what was acknowledged is kept"
    )]
    Unusable {
        /// The file.
        path: String,
        /// What SQLite says.
        cause: rusqlite::Error,
        /// What the operating system says to a small write beside the file.
        system: String,
    },
    /// Another version wrote the file.
    #[error(
        "{path} holds format {found}, this build of plateau reads format {known}: use the version of plateau that wrote \
         it, or another data directory"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file was written by an older version and is only to be looked at.
    #[error(
        "{path} holds format {found}, older than {known}, which this build of plateau reads: the next start of a coordinator \
         on it brings it up to date; until then use the version of plateau that wrote it"
    )]
    Older {
        /// The file.
        path: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is not ours.
    #[error("{path} is a database, but not one of plateau: choose another data directory")]
    Foreign {
        /// The file.
        path: String,
    },
    /// Another coordinator uses the directory.
    #[error(
        "the data directory {path} is in use by the coordinator with process id {holder}: stop it, or choose another \
         data directory"
    )]
    Locked {
        /// The directory.
        path: String,
        /// Process id of the holder, or a word if it could not be read.
        holder: String,
    },
    /// The directory does not take the lock's file.
    #[error(
        "the data directory {path} cannot be written ({cause}): free space there, mount it writable or give its owner \
         the right to write, or choose another"
    )]
    NotWritable {
        /// The directory.
        path: String,
        /// Why it failed.
        cause: std::io::Error,
    },
    /// The file system refused.
    #[error("{doing} {path}: {cause}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: String,
        /// Why it failed.
        cause: std::io::Error,
    },
    /// A row does not say what it must.
    #[error(
        "the coordinator's database is damaged: {table}: {problem}; restore the data directory from a copy"
    )]
    Damaged {
        /// In which table.
        table: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl StoreError {
    /// The same of the database at `path`, with what is to be done about it.
    pub(crate) fn at(self, path: &Path) -> Self {
        use rusqlite::ErrorCode as Code;
        let StoreError::Sqlite(source) = self else { return self };
        let named = path.display().to_string();
        match source.sqlite_error_code() {
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => {
                StoreError::Malformed { path: named, cause: source }
            }
            Some(
                Code::DiskFull
                | Code::SystemIoFailure
                | Code::ReadOnly
                | Code::CannotOpen
                | Code::PermissionDenied
                | Code::NoLargeFileSupport,
            ) => StoreError::Unusable { path: named, system: crate::disk::try_to_write(path), cause: source },
            _ => StoreError::Sqlite(source),
        }
    }
}

/// The writing end of the store; one per data directory.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Numbers of trials in the tables, as far as they were needed: most of what is written is about a trial.
    numbers: HashMap<TrialId, i64>,
    /// Released when the store is gone, not earlier: no second writer while this one may still commit.
    _lock: DirectoryLock,
}

impl Store {
    /// Locks `directory` and opens or creates the database in it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let lock = DirectoryLock::take(directory)?;
        let path = directory.join(DATABASE_FILE);
        let connection = open_writer(&path).map_err(|error| error.at(&path))?;
        Ok(Store { connection, path, numbers: HashMap::new(), _lock: lock })
    }

    /// A reading end, independent of the writer: it sees what is committed.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.path)
    }

    /// The id of the data directory, drawn when its database was made: what it keeps elsewhere lies under this name.
    pub fn directory_id(&self) -> Result<String, StoreError> {
        Ok(self.connection.query_row("SELECT id FROM directory", [], |row| row.get(0))?)
    }

    /// Where the database is, for opening further readers.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the write-ahead log into the database; at a clean stop, so that one file remains.
    pub fn close(self) -> Result<(), StoreError> {
        let closed = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .and_then(|()| self.connection.close().map_err(|(_, error)| error));
        closed.map_err(|error| StoreError::from(error).at(&self.path))
    }
}

/// Pages the writer keeps in memory: the ends of all tables, and those of the trials that run.
const CACHE_KIBIBYTES: i64 = 32 << 10;

fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIBIBYTES)?;
    keep_plans(&connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    schema::prepare(&mut connection, &path.display().to_string())?;
    Ok(connection)
}

/// Statements are planned once, not for each value they are bound to. Without this SQLite may prepare a cached statement
/// anew every time it is run.
fn keep_plans(connection: &Connection) -> Result<(), StoreError> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(Duration::from_secs(5))?;
    keep_plans(&connection)?;
    Ok(connection)
}
