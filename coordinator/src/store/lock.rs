//! Keeps a second coordinator off a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::StoreError;

const LOCK_FILE: &str = "coordinator.lock";

/// A claim on a data directory that is only read: while it lives no coordinator starts there. Writes nothing.
#[derive(Debug)]
pub struct ReadingLock {
    /// Absent where no coordinator has ever run, as in a copy without the lock's file.
    _file: Option<File>,
}

impl ReadingLock {
    /// Takes it, or says which coordinator is at work.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(LOCK_FILE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(ReadingLock { _file: None });
            }
            Err(source) => {
                let path = path.display().to_string();
                return Err(StoreError::Io { doing: "opening the lock file", path, cause: source });
            }
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(ReadingLock { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(locked(directory, &mut file)),
            Err(TryLockError::Error(source)) => {
                Err(StoreError::Io { doing: "locking", path: path.display().to_string(), cause: source })
            }
        }
    }
}

/// Who holds the lock, by what the holder wrote into its file.
fn locked(directory: &Path, file: &mut File) -> StoreError {
    let mut holder = String::new();
    let read = Read::by_ref(file).take(32).read_to_string(&mut holder);
    let holder = holder.trim().to_owned();
    let known = read.is_ok() && !holder.is_empty() && holder.bytes().all(|byte| byte.is_ascii_digit());
    StoreError::Locked {
        path: directory.display().to_string(),
        holder: if known { holder } else { "(unknown)".to_owned() },
    }
}

/// An exclusive lock on a data directory, held as long as this lives; the operating system releases it with the process.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, or says who holds it.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(LOCK_FILE);
        let refused =
            |source| StoreError::NotWritable { path: directory.display().to_string(), cause: source };
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(directory, &mut file)),
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::Io {
                    doing: "locking",
                    path: path.display().to_string(),
                    cause: source,
                });
            }
        }
        file.set_len(0).map_err(refused)?;
        file.rewind().map_err(refused)?;
        writeln!(file, "{}", std::process::id()).map_err(refused)?;
        Ok(DirectoryLock { _file: file })
    }
}
