//! Symbolic links in the folder of a checkpoint store: none is followed.
//!
//! The store makes none, so one that is there was planted or put there by mistake, and what it leads to is not ours to
//! read, to write or to sweep away. The folder itself may be reached through links; within it, a way that leads over one
//! is refused, and listings pass links by.

use std::io::{self, ErrorKind};
use std::path::{Path as FilePath, PathBuf};

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _};

use super::{CheckpointError, Checkpoints, store_error};

impl Checkpoints {
    /// In a folder: refuses a key that a symbolic link stands on the way to, or at.
    pub(super) async fn refuse_links(&self, key: &Path) -> Result<(), CheckpointError> {
        let Some(root) = &self.folder else { return Ok(()) };
        let mut path = root.clone();
        let parts: Vec<String> = key.parts().map(|part| part.as_ref().to_owned()).collect();
        let look = move || {
            for part in parts {
                path.push(part);
                let problem = match std::fs::symlink_metadata(&path) {
                    Ok(metadata) if !metadata.is_symlink() => continue,
                    Ok(_) => io::Error::other(
                        "it is a symbolic link, and none is followed within the store: put a folder there, or a mount",
                    ),
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                    Err(error) => error,
                };
                let path = path.display().to_string();
                return Err(CheckpointError::Io { doing: "looking at", path, source: problem });
            }
            Ok(())
        };
        self.on_disk(root, look).await
    }

    /// The names of what lies directly in the place of a checkpoint.
    pub(super) async fn names_in(&self, place: &Path) -> Result<Vec<String>, CheckpointError> {
        if let Some(root) = &self.folder {
            let files = files_without_links(&root.join(place.as_ref()))?;
            let name = |file: PathBuf| Some(file.file_name()?.to_str()?.to_owned());
            return Ok(files.into_iter().filter_map(name).collect());
        }
        let objects = self.store.list(Some(place)).map_ok(|object| object.location);
        let objects: Vec<Path> = objects.try_collect().await.map_err(store_error("listing"))?;
        Ok(objects.iter().filter_map(|object| object.filename().map(str::to_owned)).collect())
    }

    /// Deletes everything below a key.
    pub(super) async fn delete_below(&self, folder: &Path) -> Result<(), CheckpointError> {
        self.refuse_links(folder).await?;
        if let Some(root) = &self.folder {
            let folder = root.join(folder.as_ref());
            for file in files_without_links(&folder)? {
                remove(&file)?;
            }
            // An empty directory is no object; that another upload has just filled it is no failure.
            let _ = self.execution.run(move || std::fs::remove_dir(folder)).await;
            return Ok(());
        }
        let found: Vec<_> =
            self.store.list(Some(folder)).try_collect().await.map_err(store_error("listing"))?;
        for object in found {
            match self.store.delete(&object.location).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(store_error("deleting")(error)),
            }
        }
        Ok(())
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove(file: &FilePath) -> Result<(), CheckpointError> {
    match std::fs::remove_file(file) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(CheckpointError::Io { doing: "deleting", path: file.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

/// All files below a folder, which may be absent; links are passed by.
pub(super) fn files_without_links(root: &FilePath) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed =
            |source| CheckpointError::Io { doing: "listing", path: folder.display().to_string(), source };
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // Of the entry itself, not of what it may lead to.
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_symlink() {
                tracing::warn!(path = %entry.path().display(), "a symbolic link in the checkpoint store is not followed");
            } else if kind.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}
