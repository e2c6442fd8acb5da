//! Stored checkpoints as wholes: whether one is what it was when it was accepted, where a damaged one goes, and what else
//! lies in the store.

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use plateau_common::checkpoint::{MANIFEST_FILE, Manifest};
use plateau_common::identity::TrialId;

use super::{CheckpointError, Checkpoints, DAMAGED, store_error};

impl Checkpoints {
    /// Reads a whole stored checkpoint and holds it against its manifest and its place. What is missing, cut off, changed
    /// or of something else is [`CheckpointError::Damaged`].
    pub async fn verify(&self, trial: TrialId, attempt: u64, step: u64) -> Result<Manifest, CheckpointError> {
        let verified = self.verify_files(trial, attempt, step).await;
        let Err(CheckpointError::Store { source: object_store::Error::NotFound { path, .. }, .. }) = verified
        else {
            return verified;
        };
        // A store that has nothing at all is one that is not there: a disk that was not mounted damages no checkpoint.
        if let Some(root) = &self.folder
            && let Err(source) = std::fs::metadata(root.join("trials"))
        {
            let path = root.join("trials").display().to_string();
            return Err(CheckpointError::Io { doing: "looking for", path, source });
        }
        Err(CheckpointError::Damaged { path, problem: "it does not exist".to_owned() })
    }

    async fn verify_files(
        &self,
        trial: TrialId,
        attempt: u64,
        step: u64,
    ) -> Result<Manifest, CheckpointError> {
        let (manifest, _) = self.manifest(trial, attempt, step).await?;
        if (manifest.trial.as_str(), manifest.step) != (trial.to_string().as_str(), step) {
            let path = Self::place(trial, attempt, step).join(MANIFEST_FILE).to_string();
            let problem = format!("it is of trial {} at step {}", manifest.trial, manifest.step);
            return Err(CheckpointError::Damaged { path, problem });
        }
        for file in &manifest.files {
            let mut bytes = self.read(trial, attempt, step, file).await?;
            while bytes.try_next().await?.is_some() {}
        }
        Ok(manifest)
    }

    /// Moves a damaged checkpoint to where nobody reads it, manifest first, and says where that is. Doing it again does
    /// no harm.
    pub async fn set_aside(
        &self,
        trial: TrialId,
        attempt: u64,
        step: u64,
    ) -> Result<String, CheckpointError> {
        let place = Self::place(trial, attempt, step);
        let name = format!("{trial}-attempt-{attempt}-step-{step}-{}", self.names.draw());
        let aside = Path::from(DAMAGED).join(name);
        self.refuse_links(&place).await?;
        self.refuse_links(&aside).await?;
        let mut found = self.names_in(&place).await?;
        found.sort_by_key(|file| file != MANIFEST_FILE);
        for file in found {
            let (from, to) = (place.clone().join(file.as_str()), aside.clone().join(file.as_str()));
            self.store.rename(&from, &to).await.map_err(store_error("setting a checkpoint aside"))?;
            self.synchronise(&to).await?;
        }
        self.delete_below(&place).await?;
        Ok(aside.to_string())
    }

    /// Everything the store holds, with its size; in a folder every file, also those that are no objects yet.
    pub async fn contents(&self) -> Result<Vec<(String, u64)>, CheckpointError> {
        if let Some(root) = &self.folder {
            return files_below(root);
        }
        let objects = self.store.list(None).map_ok(|object| (object.location.to_string(), object.size));
        objects.try_collect().await.map_err(store_error("listing"))
    }

    /// Where a checkpoint lies in the store.
    pub fn place_of(trial: TrialId, attempt: u64, step: u64) -> String {
        Self::place(trial, attempt, step).to_string()
    }

    /// Where the checkpoints of an attempt lie in the store.
    pub fn attempt_of(trial: TrialId, attempt: u64) -> String {
        format!("trials/{trial}/attempts/{attempt}")
    }

    /// The folder, where the store is one.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.folder.as_deref()
    }
}

/// The files below a folder, by their paths within it; links are named, not followed.
pub(super) fn files_below(root: &std::path::Path) -> Result<Vec<(String, u64)>, CheckpointError> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let io =
            |source| CheckpointError::Io { doing: "listing", path: folder.display().to_string(), source };
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let metadata = entry.metadata().map_err(io)?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let within = path.strip_prefix(root).unwrap_or(&path);
                found.push((within.to_string_lossy().into_owned(), metadata.len()));
            }
        }
    }
    Ok(found)
}
