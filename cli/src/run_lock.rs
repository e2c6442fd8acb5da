//! Keeps a second `plateau run` off a data directory: the first would end the coordinator and the agents under it.
//!
//! A coordinator that was started by hand holds no such lock (it has its own), so runs may join it one after another.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::client::shell_word;

const LOCK_FILE: &str = "run.lock";

/// The right of one `plateau run` to a data directory; the operating system gives it back with the process.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of `data_dir`, which exists; the error names who holds it.
    pub fn take(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join(LOCK_FILE);
        let doing = |what: &str| format!("{what} {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| doing("opening the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = std::io::Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
                let pid = read.ok().and_then(|_| holder.trim().parse::<u32>().ok());
                let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
                bail!(
                    "another `plateau run` is using {} (pid {pid}); wait for it, give this run another --data-dir, or \
                     hand it the study with `plateau submit --data-dir {}`",
                    data_dir.display(),
                    shell_word(&data_dir.to_string_lossy())
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| doing("locking")),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| doing("writing the lock file"))?;
        Ok(RunLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused_while_the_first_lives() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunLock::take(folder.path()).unwrap();
        let text = RunLock::take(folder.path()).unwrap_err().to_string();
        let who = format!("using {} (pid {})", folder.path().display(), std::process::id());
        assert!(text.contains(&who) && text.contains("plateau submit --data-dir"), "{text}");
        drop(first);
        RunLock::take(folder.path()).unwrap();
    }
}
