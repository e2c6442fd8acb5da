//! Where checkpoints lie: an object store, a folder by default.
//!
//! An upload goes to temporary keys, is verified against its manifest (sizes, BLAKE3), moves under
//! `trials/<id>/attempts/<n>/step-<s>/` with the manifest last, and counts only when the database names it. In a folder
//! every file and directory is synchronised to the disk, and no symbolic link is followed (`links`). One that turns out to be damaged moves under `damaged/`, where it
//! is kept for inspection and read by nobody. Whether an attempt may store anything is the core's decision.

mod forked;
mod links;
mod on_the_spot;
mod whole;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use plateau_common::checkpoint::{MANIFEST_FILE, Manifest};
use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_machine::{Execution, Names};

use crate::core::LeaseKey;
use crate::failpoint;
use crate::machine::Machine;

/// Parts of an upload on their way to the store at once.
const PARTS_IN_FLIGHT: usize = 4;

/// Where damaged checkpoints are kept.
pub const DAMAGED: &str = "damaged";

/// Why a checkpoint cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The sender's fault: it does not match its manifest or the rules.
    #[error("the checkpoint is not accepted: {0}")]
    Invalid(String),
    /// The store failed.
    #[error("the checkpoint store, {doing}: {source}")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: object_store::Error,
    },
    /// The file system failed.
    #[error("the checkpoint folder, {doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The stored bytes are not those that were accepted.
    #[error("the stored checkpoint {path} is damaged: {problem}")]
    Damaged {
        /// Which.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

impl CheckpointError {
    /// Whether it is the stored checkpoint that is wrong, not the way to it.
    pub fn is_damage(&self) -> bool {
        matches!(self, CheckpointError::Damaged { .. })
    }
}

fn store_error(doing: &'static str) -> impl Fn(object_store::Error) -> CheckpointError {
    move |source| CheckpointError::Store { doing, source }
}

/// Comes by a place where tests make uploads fail.
fn fail_at(place: &'static str, key: &Path) -> Result<(), CheckpointError> {
    let path = key.to_string();
    failpoint::pass(place).map_err(|source| CheckpointError::Io { doing: "writing", path, source })
}

/// A piece of an upload after the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// File it belongs to.
    pub name: String,
    /// Place in the file; pieces come in order, without gaps.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
}

/// A verified upload that is not yet in its place.
#[derive(Debug)]
pub struct Staged {
    folder: Path,
    manifest: Manifest,
    manifest_bytes: Bytes,
}

impl Staged {
    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Size of its files, without the manifest.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.bytes).sum()
    }
}

/// The checkpoint store; cheap to clone.
#[derive(Clone)]
pub struct Checkpoints {
    store: Arc<dyn ObjectStore>,
    /// The folder, where the store is one.
    folder: Option<PathBuf>,
    /// Names of uploads.
    names: Names,
    /// Where files are synchronised.
    execution: Execution,
}

impl Checkpoints {
    /// The store in a folder, which is created.
    pub fn in_folder(folder: PathBuf) -> Result<Self, CheckpointError> {
        std::fs::create_dir_all(&folder).map_err(|source| CheckpointError::Io {
            doing: "creating",
            path: folder.display().to_string(),
            source,
        })?;
        Self::in_existing_folder(&folder)
    }

    /// The store in a folder that exists; nothing is made.
    pub fn in_existing_folder(folder: &std::path::Path) -> Result<Self, CheckpointError> {
        // The store resolves the folder; ours must be the same to find the files again.
        let folder = folder.canonicalize().map_err(|source| CheckpointError::Io {
            doing: "opening",
            path: folder.display().to_string(),
            source,
        })?;
        let store =
            object_store::local::LocalFileSystem::new_with_prefix(&folder).map_err(store_error("opening"))?;
        Ok(Self::of(Arc::new(store), Some(folder)))
    }

    fn of(store: Arc<dyn ObjectStore>, folder: Option<PathBuf>) -> Self {
        Checkpoints { store, folder, names: Names::random(), execution: Execution::Threads }
    }

    /// The same store on this machine.
    pub fn on(self, machine: &Machine) -> Result<Self, CheckpointError> {
        let store = match (&self.folder, machine.execution) {
            (Some(folder), Execution::OnTheSpot) => {
                let local = object_store::local::LocalFileSystem::new_with_prefix(folder);
                Arc::new(on_the_spot::OnTheSpot(Arc::new(local.map_err(store_error("opening"))?)))
            }
            _ => self.store,
        };
        let (names, execution) = (machine.names.clone(), machine.execution);
        Ok(Checkpoints { store, folder: self.folder, names, execution })
    }

    /// The store at a URL: `file:///…`, or with the feature `cloud` also `s3://…`, `gs://…`, `az://…`, whose
    /// credentials come from the environment. Everything lies under `owner`, the id of the data directory, so that
    /// directories may share a store: each sweeps away only what is its own.
    pub fn at_url(url: &str, owner: &str) -> Result<Self, CheckpointError> {
        Self::of_url(url, owner, Self::in_folder)
    }

    /// [`Checkpoints::at_url`] for reading only: nothing is made.
    pub fn at_existing_url(url: &str, owner: &str) -> Result<Self, CheckpointError> {
        Self::of_url(url, owner, |folder| Self::in_existing_folder(&folder))
    }

    fn of_url(
        url: &str,
        owner: &str,
        in_folder: impl FnOnce(PathBuf) -> Result<Self, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let parsed = url::Url::parse(url).map_err(|error| {
            CheckpointError::Invalid(format!(
                "`{}` is not the URL of a checkpoint store: {error}",
                url.escape_debug()
            ))
        })?;
        if let Ok(folder) = parsed.to_file_path() {
            return in_folder(folder.join(owner));
        }
        let options = std::env::vars().map(|(name, value)| (name.to_lowercase(), value));
        let (store, prefix) =
            object_store::parse_url_opts(&parsed, options).map_err(store_error("opening"))?;
        let store = object_store::prefix::PrefixStore::new(store, prefix.join(owner));
        Ok(Self::of(Arc::new(store), None))
    }

    fn place(trial: TrialId, attempt: u64, step: u64) -> Path {
        Path::from(format!("trials/{trial}/attempts/{attempt}/step-{step}"))
    }

    /// Receives an upload into temporary keys and verifies it against its manifest.
    pub async fn stage<E>(
        &self,
        lease: LeaseKey,
        step: u64,
        manifest_bytes: Bytes,
        pieces: impl Stream<Item = Result<Piece, E>> + Unpin,
    ) -> Result<Result<Staged, E>, CheckpointError> {
        let invalid = |problem: String| CheckpointError::Invalid(problem);
        if manifest_bytes.len() > limits::MAX_MANIFEST_BYTES {
            let problem = format!("the manifest is longer than {} bytes", limits::MAX_MANIFEST_BYTES);
            return Err(invalid(problem));
        }
        let manifest = Manifest::parse(&manifest_bytes).map_err(invalid)?;
        if manifest.trial != lease.trial.to_string() || manifest.step != step {
            return Err(invalid(format!(
                "the manifest is of trial {} at step {}, the upload of trial {} at step {step}",
                manifest.trial, manifest.step, lease.trial
            )));
        }
        if let Some(file) = manifest.files.iter().find(|file| file.bytes > limits::MAX_CHECKPOINT_BYTES) {
            return Err(invalid(format!(
                "{} is larger than {} bytes",
                file.name,
                limits::MAX_CHECKPOINT_BYTES
            )));
        }
        let folder = Path::from(format!("uploads/{}", self.names.draw()));
        self.refuse_links(&folder).await?;
        let staged = Staged { folder, manifest, manifest_bytes };
        let received = self.receive(&staged, pieces).await;
        if !matches!(received, Ok(Ok(()))) {
            self.discard(&staged).await;
        }
        Ok(received?.map(|()| staged))
    }

    async fn receive<E>(
        &self,
        staged: &Staged,
        mut pieces: impl Stream<Item = Result<Piece, E>> + Unpin,
    ) -> Result<Result<(), E>, CheckpointError> {
        let invalid = |problem: String| Err(CheckpointError::Invalid(problem));
        let mut next: Option<Piece> = None;
        for file in &staged.manifest.files {
            let target = staged.folder.clone().join(file.name.as_str());
            let upload =
                self.store.put_multipart(&target).await.map_err(store_error("beginning an upload"))?;
            let mut writer = WriteMultipart::new(upload);
            let mut hasher = blake3::Hasher::new();
            let mut written = 0;
            while written < file.bytes {
                let piece = match next.take() {
                    Some(piece) => piece,
                    None => match pieces.next().await {
                        Some(Ok(piece)) => piece,
                        Some(Err(error)) => return Ok(Err(error)),
                        None => {
                            return invalid(format!(
                                "{} ends after {written} of {} bytes",
                                file.name, file.bytes
                            ));
                        }
                    },
                };
                let length = piece.data.len() as u64;
                if piece.name != file.name
                    || piece.offset != written
                    || length == 0
                    || written + length > file.bytes
                {
                    return invalid(format!(
                        "expected byte {written} of {} of {}, found {length} bytes at {} of {}",
                        file.bytes,
                        file.name,
                        piece.offset,
                        piece.name.chars().take(64).collect::<String>().escape_debug()
                    ));
                }
                hasher.update(&piece.data);
                written += length;
                writer.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(store_error("writing"))?;
                writer.put(piece.data);
            }
            writer.finish().await.map_err(store_error("finishing an upload"))?;
            if hasher.finalize().to_hex().as_str() != file.blake3 {
                return invalid(format!("the digest of {} is not that of the manifest", file.name));
            }
            self.synchronise(&target).await?;
        }
        match pieces.next().await {
            None => Ok(Ok(())),
            Some(Err(error)) => Ok(Err(error)),
            Some(Ok(piece)) => {
                invalid(format!("{} bytes beyond the files of the manifest", piece.data.len()))
            }
        }
    }

    /// Moves a staged upload into its place, the manifest last.
    pub async fn commit(&self, lease: LeaseKey, step: u64, staged: &Staged) -> Result<(), CheckpointError> {
        let place = Self::place(lease.trial, lease.attempt, step);
        self.refuse_links(&place).await?;
        for file in &staged.manifest.files {
            let from = staged.folder.clone().join(file.name.as_str());
            let to = place.clone().join(file.name.as_str());
            self.store.rename(&from, &to).await.map_err(store_error("moving an upload into its place"))?;
            fail_at(failpoint::UPLOAD_MOVED, &to)?;
        }
        let manifest = place.join(MANIFEST_FILE);
        let bytes = staged.manifest_bytes.clone();
        self.store.put(&manifest, bytes.into()).await.map_err(store_error("writing the manifest"))?;
        fail_at(failpoint::UPLOAD_MANIFEST, &manifest)?;
        self.synchronise(&manifest).await?;
        self.discard(staged).await;
        Ok(())
    }

    /// Deletes what is left of an upload.
    pub async fn discard(&self, staged: &Staged) {
        if let Err(error) = self.delete_below(&staged.folder).await {
            tracing::warn!(%error, "a given-up upload was not deleted; the next start sweeps it away");
        }
    }

    /// Deletes a checkpoint, its manifest first, so that it is never half there.
    pub async fn delete(&self, trial: TrialId, attempt: u64, step: u64) -> Result<(), CheckpointError> {
        let place = Self::place(trial, attempt, step);
        self.refuse_links(&place).await?;
        match self.store.delete(&place.clone().join(MANIFEST_FILE)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(store_error("deleting a checkpoint")(error)),
        }
        self.delete_below(&place).await
    }

    /// Deletes one file that no record names, and the folders that it leaves empty.
    pub async fn delete_orphan(&self, place: &str) -> Result<(), CheckpointError> {
        let Some(root) = &self.folder else {
            return match self.store.delete(&Path::from(place)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(store_error("deleting")(error)),
            };
        };
        // What is half received is a file and no object yet.
        let (root, file) = (root.clone(), root.join(place));
        let folder = root.clone();
        let delete = move || {
            match std::fs::remove_file(&file) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    let path = file.display().to_string();
                    return Err(CheckpointError::Io { doing: "deleting", path, source });
                }
                _ => {}
            }
            let inside = |folder: &&std::path::Path| folder.starts_with(&root) && **folder != *root;
            for folder in file.ancestors().skip(1).take_while(inside) {
                // One that is not empty stays, and so do those above it.
                if std::fs::remove_dir(folder).is_err() {
                    break;
                }
            }
            Ok(())
        };
        self.on_disk(&folder, delete).await
    }

    /// Does something with files where it may block.
    async fn on_disk<T: Send + 'static>(
        &self,
        folder: &std::path::Path,
        work: impl FnOnce() -> Result<T, CheckpointError> + Send + 'static,
    ) -> Result<T, CheckpointError> {
        self.execution.run(work).await.unwrap_or_else(|error| {
            let (path, source) = (folder.display().to_string(), std::io::Error::other(error));
            Err(CheckpointError::Io { doing: "working in", path, source })
        })
    }

    /// Deletes everything that `referenced` does not name: uploads that were cut off, checkpoints that were forgotten.
    /// Only at start, when nothing is on its way.
    pub async fn sweep(&self, referenced: &HashSet<(TrialId, u64, u64)>) -> Result<u64, CheckpointError> {
        let kept: HashSet<String> =
            referenced.iter().map(|(trial, attempt, step)| Self::place_of(*trial, *attempt, *step)).collect();
        let mut deleted = 0;
        if let Some(root) = &self.folder {
            // What a kill leaves of a file half received is no object yet, so no listing shows it.
            let uploads = root.join("uploads");
            deleted += match std::fs::exists(&uploads) {
                Ok(true) => whole::files_below(&uploads)?.len() as u64,
                _ => 0,
            };
            match std::fs::remove_dir_all(&uploads) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    let path = uploads.display().to_string();
                    return Err(CheckpointError::Io { doing: "sweeping", path, source });
                }
                _ => {}
            }
        }
        if let Some(root) = &self.folder {
            for file in links::files_without_links(&root.join("trials"))? {
                let folder = file.parent().and_then(|folder| folder.strip_prefix(root).ok());
                if !folder.is_some_and(|folder| kept.contains(&*folder.to_string_lossy())) {
                    links::remove(&file)?;
                    deleted += 1;
                }
            }
            return Ok(deleted);
        }
        for root in ["uploads", "trials"] {
            let root = Path::from(root);
            let mut objects = self.store.list(Some(&root));
            while let Some(object) = objects.try_next().await.map_err(store_error("listing"))? {
                let parts: Vec<_> = object.location.parts().collect();
                let folder: Path = parts.iter().take(parts.len().saturating_sub(1)).cloned().collect();
                if !kept.contains(folder.as_ref()) {
                    match self.store.delete(&object.location).await {
                        // A deletion that was on its way got there first.
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => deleted += 1,
                        Err(error) => return Err(store_error("sweeping")(error)),
                    }
                }
            }
        }
        Ok(deleted)
    }

    /// The manifest of a stored checkpoint, with its exact bytes.
    pub async fn manifest(
        &self,
        trial: TrialId,
        attempt: u64,
        step: u64,
    ) -> Result<(Manifest, Bytes), CheckpointError> {
        let path = Self::place(trial, attempt, step).join(MANIFEST_FILE);
        self.refuse_links(&path).await?;
        let bytes = self.store.get(&path).await.map_err(store_error("reading a manifest"))?;
        let bytes = bytes.bytes().await.map_err(store_error("reading a manifest"))?;
        let manifest = Manifest::parse(&bytes)
            .map_err(|problem| CheckpointError::Damaged { path: path.to_string(), problem })?;
        Ok((manifest, bytes))
    }

    /// The bytes of one file of a stored checkpoint, checked against its manifest: the last item is an error where the
    /// digest does not hold.
    pub async fn read(
        &self,
        trial: TrialId,
        attempt: u64,
        step: u64,
        file: &plateau_common::checkpoint::ManifestFile,
    ) -> Result<BoxStream<'static, Result<Bytes, CheckpointError>>, CheckpointError> {
        let path = Self::place(trial, attempt, step).join(file.name.as_str());
        self.refuse_links(&path).await?;
        let object = self.store.get(&path).await.map_err(store_error("reading a checkpoint"))?;
        let expected = (file.bytes, file.blake3.clone());
        let stream = object.into_stream().map_err(store_error("reading a checkpoint")).boxed();
        let state = Some((stream, blake3::Hasher::new(), 0u64));
        Ok(futures::stream::unfold(state, move |state| {
            let (expected, path) = (expected.clone(), path.to_string());
            async move {
                let (mut stream, mut hasher, mut read) = state?;
                match stream.next().await {
                    Some(Ok(bytes)) => {
                        hasher.update(&bytes);
                        read += bytes.len() as u64;
                        Some((Ok(bytes), Some((stream, hasher, read))))
                    }
                    Some(Err(error)) => Some((Err(error), None)),
                    None if (read, hasher.finalize().to_hex().as_str())
                        == (expected.0, expected.1.as_str()) =>
                    {
                        None
                    }
                    None => {
                        let problem = if read == expected.0 {
                            "its bytes do not have the digest of its manifest".to_owned()
                        } else {
                            format!("it has {read} bytes, by its manifest {}", expected.0)
                        };
                        Some((Err(CheckpointError::Damaged { path, problem }), None))
                    }
                }
            }
        })
        .boxed())
    }

    /// In a folder: the file and every directory above it reach the disk.
    async fn synchronise(&self, key: &Path) -> Result<(), CheckpointError> {
        let Some(root) = self.folder.clone() else { return Ok(()) };
        let file = root.join(key.as_ref());
        let synchronise = move || {
            let mut path = file.as_path();
            loop {
                std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(|source| {
                    CheckpointError::Io { doing: "synchronising", path: path.display().to_string(), source }
                })?;
                if path == root {
                    return Ok(());
                }
                match path.parent() {
                    Some(parent) => path = parent,
                    None => return Ok(()),
                }
            }
        };
        self.execution.run(synchronise).await.map_err(|error| CheckpointError::Io {
            doing: "synchronising",
            path: key.to_string(),
            source: std::io::Error::other(error),
        })?
    }
}
