//! A copy of a data directory, taken while its coordinator works or rests.
//!
//! The database is copied as it is at one moment, without holding up its writer; then every checkpoint that the copy names
//! is copied and held against its digests. One that the coordinator has deleted meanwhile, because newer ones took its
//! place, makes the database be copied again. The copy appears under its name only when it is whole and on the disk.
//! Restoring is starting a coordinator on the copy. Reports and logs are not copied: they can be made again, or are not
//! needed to go on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use plateau_common::checkpoint::MANIFEST_FILE;
use plateau_common::identity::TrialId;

use crate::checkpoints::{CheckpointError, Checkpoints};
use crate::store::{CheckpointRow, DATABASE_FILE, DatabaseCopy, Reader};

/// Times the database is copied anew because checkpoints of the copy before had gone.
const ROUNDS: u32 = 5;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Checkpoints.
    pub checkpoints: u64,
    /// Bytes of the checkpoints' files.
    pub checkpoint_bytes: u64,
    /// Checkpoints that were deleted or are damaged, and so are not in the copy; their trials continue from older ones.
    pub forgotten: u64,
}

/// Copies `data_dir` to `destination`, which must not exist. `checkpoint_store` is the URL its coordinator was given, if
/// it was; the copy holds its checkpoints in a folder of its own.
pub async fn backup(data_dir: &Path, checkpoint_store: Option<&str>, destination: &Path) -> Result<Copied> {
    if destination.exists() {
        bail!("{} exists already: name a folder that does not", destination.display());
    }
    let reader = Reader::open(&data_dir.join(DATABASE_FILE))
        .with_context(|| format!("opening the database of {}", data_dir.display()))?;
    // What a newer version keeps, and where, is not known: the copy might lack some of it.
    reader.refuse_newer()?;
    let source = match checkpoint_store {
        Some(url) => Some(Checkpoints::at_existing_url(url, &reader.directory_id()?)?),
        None => {
            let folder = data_dir.join("checkpoints");
            folder.is_dir().then(|| Checkpoints::in_existing_folder(&folder)).transpose()?
        }
    };
    let mut name = destination.file_name().context("the copy needs a name")?.to_owned();
    name.push(".partial");
    let partial = destination.with_file_name(name);
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .with_context(|| format!("removing the unfinished copy {}", partial.display()))?;
    }
    std::fs::create_dir_all(partial.join("checkpoints"))
        .with_context(|| format!("making {}", partial.display()))?;
    let copied = copy(&reader, source.as_ref(), &partial).await?;
    synchronise_folders(&partial)?;
    std::fs::rename(&partial, destination).with_context(|| format!("naming {}", destination.display()))?;
    if let Some(parent) = destination.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        crate::disk::synchronise(parent).with_context(|| format!("flushing {}", parent.display()))?;
    }
    Ok(copied)
}

async fn copy(reader: &Reader, source: Option<&Checkpoints>, partial: &Path) -> Result<Copied> {
    let database = partial.join(DATABASE_FILE);
    let target = partial.join("checkpoints");
    let mut round = 0;
    loop {
        round += 1;
        reader
            .copy_to(&database)
            .with_context(|| format!("copying the database to {}", database.display()))?;
        let copy = DatabaseCopy::open(&database)?;
        let rows = copy.checkpoints()?;
        let mut copied = Copied::default();
        let mut missing = Vec::new();
        for row in &rows {
            match copy_checkpoint(source, row, &target).await? {
                Some(bytes) => {
                    copied.checkpoints += 1;
                    copied.checkpoint_bytes += bytes;
                }
                None => missing.push(row.clone()),
            }
        }
        if missing.is_empty() || round == ROUNDS {
            copied.forgotten = missing.len() as u64;
            copy.forget(&missing)?;
            copy.close()?;
            remove_unnamed(&target, &rows, &missing).await?;
            return Ok(copied);
        }
    }
}

/// Copies one checkpoint unless it is there already; `None`: it has gone, or is damaged.
async fn copy_checkpoint(
    source: Option<&Checkpoints>,
    row: &CheckpointRow,
    target: &Path,
) -> Result<Option<u64>> {
    let numbers = (u64::try_from(row.attempt), u64::try_from(row.step));
    let (Some(trial), (Ok(attempt), Ok(step))) = (TrialId::parse(&row.trial), numbers) else {
        bail!("the table of checkpoints is damaged: run `plateau verify`");
    };
    let Some(source) = source else { return Ok(None) };
    let folder = target.join(Checkpoints::place_of(trial, attempt, step));
    if folder.exists() {
        return Ok(Some(u64::try_from(row.bytes).unwrap_or(0)));
    }
    let beside = folder.with_extension("partial");
    match copy_files(source, trial, attempt, step, &beside).await {
        Ok(bytes) => {
            std::fs::rename(&beside, &folder).with_context(|| format!("naming {}", folder.display()))?;
            Ok(Some(bytes))
        }
        Err(error) => {
            std::fs::remove_dir_all(&beside)
                .with_context(|| format!("removing the unfinished {}", beside.display()))?;
            let gone = error.downcast_ref::<CheckpointError>().is_some_and(|error| {
                error.is_damage()
                    || matches!(
                        error,
                        CheckpointError::Store { source: object_store::Error::NotFound { .. }, .. }
                    )
            });
            if gone { Ok(None) } else { Err(error) }
        }
    }
}

/// Copies the files of a checkpoint, digests checked on the way, the manifest last.
async fn copy_files(
    source: &Checkpoints,
    trial: TrialId,
    attempt: u64,
    step: u64,
    folder: &Path,
) -> Result<u64> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let (manifest, manifest_bytes) = source.manifest(trial, attempt, step).await?;
    let mut bytes = 0;
    for listed in &manifest.files {
        let path = folder.join(&listed.name);
        let io = || format!("writing {}", path.display());
        let mut file = std::fs::File::create(&path).with_context(io)?;
        let mut stream = source.read(trial, attempt, step, listed).await?;
        while let Some(piece) = stream.try_next().await? {
            std::io::Write::write_all(&mut file, &piece).with_context(io)?;
            bytes += piece.len() as u64;
        }
        file.sync_all().with_context(io)?;
    }
    let path = folder.join(MANIFEST_FILE);
    std::fs::write(&path, &manifest_bytes).with_context(|| format!("writing {}", path.display()))?;
    crate::disk::synchronise(&path).with_context(|| format!("flushing {}", path.display()))?;
    Ok(bytes)
}

/// Makes the names of all files below a folder reach the disk; what is in them is there already.
fn synchronise_folders(root: &Path) -> Result<()> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let io = || format!("flushing {}", folder.display());
        for entry in std::fs::read_dir(&folder).with_context(io)? {
            let entry = entry.with_context(io)?;
            if entry.file_type().with_context(io)?.is_dir() {
                folders.push(entry.path());
            }
        }
        crate::disk::synchronise(&folder).with_context(io)?;
    }
    Ok(())
}

/// Removes what earlier rounds copied and the last copy of the database does not name.
async fn remove_unnamed(target: &Path, rows: &[CheckpointRow], missing: &[CheckpointRow]) -> Result<()> {
    let named = rows.iter().filter(|row| !missing.contains(row)).filter_map(|row| {
        let numbers = (u64::try_from(row.attempt).ok()?, u64::try_from(row.step).ok()?);
        Some((TrialId::parse(&row.trial)?, numbers.0, numbers.1))
    });
    let target: PathBuf = target.to_owned();
    Checkpoints::in_existing_folder(&target)?.sweep(&named.collect()).await?;
    Ok(())
}
