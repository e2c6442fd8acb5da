//! Keeps a second coordinator off a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::StoreError;

const LOCK_FILE: &str = "coordinator.lock";

/// An exclusive lock on a data directory, held as long as this lives; the operating system releases it with the process.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, or says who holds it.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(LOCK_FILE);
        let io = |doing| {
            let path = path.display().to_string();
            move |source| StoreError::Io { doing, path, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("opening the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
                let holder = holder.trim().to_owned();
                let known =
                    read.is_ok() && !holder.is_empty() && holder.bytes().all(|byte| byte.is_ascii_digit());
                return Err(StoreError::Locked {
                    path: directory.display().to_string(),
                    holder: if known { holder } else { "(unknown)".to_owned() },
                });
            }
            Err(TryLockError::Error(source)) => return Err(io("locking")(source)),
        }
        file.set_len(0).map_err(io("writing the lock file"))?;
        file.rewind().map_err(io("writing the lock file"))?;
        writeln!(file, "{}", std::process::id()).map_err(io("writing the lock file"))?;
        Ok(DirectoryLock { _file: file })
    }
}
