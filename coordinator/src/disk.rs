//! Room on the disk: how much there is, and what is refused when it runs low.
//!
//! New studies and checkpoints are refused while there is still room for what must be recorded: endings and metrics of
//! what already trains. Owns no file.

use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plateau_common::limits::MIN_FREE_DISK_BYTES;

/// Too little room for something that can wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of {path} has {free} bytes free, and {wanted} more would leave less than {MIN_FREE_DISK_BYTES}: {what} is \
     refused until space is freed there; what trains is still recorded"
)]
pub struct Low {
    /// Where.
    pub path: String,
    /// What was refused.
    pub what: &'static str,
    /// Bytes free.
    pub free: u64,
    /// Bytes it would take.
    pub wanted: u64,
}

/// Bytes that may still be written at `path`.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let system = rustix::fs::statvfs(path)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Whether `what`, which takes `wanted` bytes at `path`, leaves room for what must be recorded. A disk that does not say
/// how much is free refuses nothing: a write that fails is noticed anyway.
fn check_room(path: &Path, what: &'static str, wanted: u64) -> Result<(), Low> {
    let Ok(free) = free_bytes(path) else { return Ok(()) };
    if free.saturating_sub(wanted) >= MIN_FREE_DISK_BYTES {
        return Ok(());
    }
    Err(Low { path: path.display().to_string(), what, free, wanted })
}

/// Refuses what would not leave the reserve, and remembers it for who asks why nothing gets on; one per coordinator.
#[derive(Clone, Default)]
pub struct Room(Arc<Mutex<BTreeMap<&'static str, Low>>>);

impl Room {
    /// By what was refused.
    fn last(&self) -> MutexGuard<'_, BTreeMap<&'static str, Low>> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `what`, which takes `wanted` bytes at `path`, leaves room for what must be recorded. The first refusal after
    /// there was room is logged, and that there is room again.
    pub fn check(&self, path: &Path, what: &'static str, wanted: u64) -> Result<(), Low> {
        let checked = check_room(path, what, wanted);
        let mut refused = self.last();
        match &checked {
            Err(low) => {
                if refused.insert(what, low.clone()).is_none() {
                    tracing::warn!("{low}");
                }
            }
            Ok(()) => {
                if let Some(before) = refused.remove(what) {
                    tracing::info!("the disk of {} has room for {what} again", before.path);
                }
            }
        }
        checked
    }

    /// What was refused and still would be, as it is now.
    pub fn refused(&self) -> Vec<Low> {
        let refused = self.last().clone();
        let still = |low: &Low| check_room(Path::new(&low.path), low.what, low.wanted).err();
        refused.values().filter_map(still).collect()
    }
}

/// What the operating system says to a small write beside the database at `path`, as far into a file as its own files
/// reach. SQLite does not pass the system's error on, and a person wants to know which it was.
pub fn try_to_write(path: &Path) -> String {
    let beside = path.with_extension("trial-write");
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let reach = length(path).max(length(&path.with_extension("sqlite-wal")));
    let write = || {
        let mut file = std::fs::File::create(&beside)?;
        file.seek(std::io::SeekFrom::Start(reach))?;
        file.write_all(&[0; 64 << 10])?;
        file.sync_all()
    };
    let said = match write() {
        Ok(()) => "a small write beside it succeeds".to_owned(),
        Err(error) => format!("a small write beside it: {error}"),
    };
    // Where it could not be made there is nothing to remove.
    let _ = std::fs::remove_file(&beside);
    said
}

/// Makes what was written to a file or a folder reach the disk.
pub fn synchronise(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_34_what_would_not_leave_the_reserve_is_refused_and_the_refusal_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_bytes(folder.path()).unwrap();
        assert!(free > MIN_FREE_DISK_BYTES, "this test needs room");
        assert_eq!(check_room(folder.path(), "a checkpoint", 0), Ok(()));
        let low = check_room(folder.path(), "a checkpoint", u64::MAX).unwrap_err();
        let text = low.to_string();
        assert!(
            text.contains(&folder.path().display().to_string()) && text.contains("a checkpoint"),
            "{text}"
        );
    }

    #[test]
    fn case_38_the_system_is_asked_where_sqlite_is_silent() {
        let folder = tempfile::tempdir().unwrap();
        let fine = try_to_write(&folder.path().join("x.sqlite"));
        assert!(fine.contains("succeeds"), "{fine}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let gone = try_to_write(&folder.path().join("gone/x.sqlite"));
        assert!(gone.contains("os error 2"), "{gone}");
    }
}
