//! A checkpoint on its way to a folder: pieces are written as they come and believed only once every digest is right.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use plateau_common::checkpoint::{MANIFEST_FILE, Manifest};
use plateau_common::limits;
use plateau_proto::v1::{CheckpointChunk, checkpoint_chunk::Part};

/// Receives the pieces of one checkpoint. Until [`Download::finish`] they lie in a folder beside the final one, which is
/// deleted if the download fails.
pub struct Download {
    out: PathBuf,
    folder: tempfile::TempDir,
    manifest: Option<(Manifest, Vec<u8>)>,
    /// Files of the manifest that are whole.
    complete: usize,
    open: Option<OpenFile>,
}

struct OpenFile {
    file: File,
    hasher: blake3::Hasher,
    written: u64,
}

impl Download {
    /// Prepares to fill `out`, which must not exist yet or be an empty folder.
    pub fn new(out: &Path) -> anyhow::Result<Self> {
        if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) || out.is_file() {
            bail!("{} exists already; name another folder with --out", out.display());
        }
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| format!("making the folder {}", parent.display()))?;
        let folder = tempfile::Builder::new()
            .prefix(".plateau-checkpoint-")
            .tempdir_in(parent)
            .with_context(|| format!("making a folder in {}", parent.display()))?;
        Ok(Download { out: out.to_owned(), folder, manifest: None, complete: 0, open: None })
    }

    /// Takes the next piece.
    pub fn push(&mut self, chunk: CheckpointChunk) -> anyhow::Result<()> {
        match (chunk.part, &self.manifest) {
            (Some(Part::Manifest(bytes)), None) => {
                let manifest =
                    Manifest::parse(&bytes).map_err(|problem| anyhow!("the checkpoint's {problem}"))?;
                if let Some(file) =
                    manifest.files.iter().find(|file| file.bytes > limits::MAX_CHECKPOINT_BYTES)
                {
                    bail!(
                        "{} has {} bytes; at most {} are taken",
                        file.name,
                        file.bytes,
                        limits::MAX_CHECKPOINT_BYTES
                    );
                }
                self.manifest = Some((manifest, bytes));
                self.complete_files()
            }
            (Some(Part::Manifest(_)), Some(_)) => bail!("the checkpoint has two manifests"),
            (Some(Part::Data(_)), None) => bail!("the checkpoint does not begin with its manifest"),
            (Some(Part::Data(data)), Some((manifest, _))) => {
                let expected = manifest
                    .files
                    .get(self.complete)
                    .context("the checkpoint goes on after its last file")?;
                let written = self.open.as_ref().map_or(0, |open| open.written);
                if data.name != expected.name || data.offset != written {
                    bail!(
                        "the checkpoint has a gap: expected {} at byte {written}, got {} at byte {}",
                        expected.name,
                        data.name.escape_debug(),
                        data.offset
                    );
                }
                if data.data.len() as u64 > expected.bytes - written {
                    bail!("{} is longer than its manifest says", expected.name);
                }
                let open = match &mut self.open {
                    Some(open) => open,
                    None => self.open.insert(create(&self.folder.path().join(&expected.name))?),
                };
                open.file.write_all(&data.data).with_context(|| format!("writing {}", expected.name))?;
                open.hasher.update(&data.data);
                open.written += data.data.len() as u64;
                self.complete_files()
            }
            (None, _) => bail!("an empty piece of a checkpoint"),
        }
    }

    /// Closes and checks every file that has all its bytes.
    fn complete_files(&mut self) -> anyhow::Result<()> {
        let Some((manifest, _)) = &self.manifest else { return Ok(()) };
        while let Some(expected) = manifest.files.get(self.complete) {
            if self.open.as_ref().map_or(0, |open| open.written) < expected.bytes {
                break;
            }
            let open = match self.open.take() {
                Some(open) => open,
                None => create(&self.folder.path().join(&expected.name))?,
            };
            open.file.sync_all().with_context(|| format!("writing {}", expected.name))?;
            let found = open.hasher.finalize().to_hex();
            if found.as_str() != expected.blake3 {
                bail!(
                    "{} is damaged: its digest is {found}, its manifest says {}",
                    expected.name,
                    expected.blake3.escape_debug()
                );
            }
            self.complete += 1;
        }
        Ok(())
    }

    /// Checks that all is there, and moves the folder to its place.
    pub fn finish(self) -> anyhow::Result<Manifest> {
        let (manifest, bytes) = self.manifest.context("the checkpoint is empty")?;
        if self.complete < manifest.files.len() {
            bail!("the checkpoint ended after {} of its {} files", self.complete, manifest.files.len());
        }
        let path = self.folder.path().join(MANIFEST_FILE);
        fs::write(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
        let folder = self.folder.keep();
        fs::rename(&folder, &self.out).or_else(|error| {
            let _ = fs::remove_dir_all(&folder);
            Err(error).with_context(|| format!("moving the checkpoint to {}", self.out.display()))
        })?;
        Ok(manifest)
    }
}

fn create(path: &Path) -> anyhow::Result<OpenFile> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    Ok(OpenFile { file, hasher: blake3::Hasher::new(), written: 0 })
}

#[cfg(test)]
mod tests {
    use plateau_common::checkpoint::{FORMAT, ManifestFile, OPTIMIZER_FILE, WEIGHTS_FILE};
    use plateau_proto::v1::checkpoint_chunk::FileBytes;

    use super::*;

    const WEIGHTS: &[u8] = b"weights of some model";

    fn manifest() -> CheckpointChunk {
        let file = |name: &str, bytes: &[u8]| ManifestFile {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        let manifest = Manifest {
            format: FORMAT,
            trial: "0".repeat(32),
            step: 5,
            config: serde_json::json!({}),
            files: vec![file(WEIGHTS_FILE, WEIGHTS), file(OPTIMIZER_FILE, b"")],
            weights_hash: String::new(),
            plateau: String::new(),
            device: String::new(),
        };
        CheckpointChunk { part: Some(Part::Manifest(serde_json::to_vec(&manifest).unwrap())) }
    }

    fn data(name: &str, offset: usize, data: &[u8]) -> CheckpointChunk {
        let part = FileBytes { name: name.to_owned(), offset: offset as u64, data: data.to_vec() };
        CheckpointChunk { part: Some(Part::Data(part)) }
    }

    #[test]
    fn a_whole_checkpoint_arrives_and_nothing_else_is_left() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("a/b");
        let mut download = Download::new(&out).unwrap();
        download.push(manifest()).unwrap();
        download.push(data(WEIGHTS_FILE, 0, &WEIGHTS[..7])).unwrap();
        download.push(data(WEIGHTS_FILE, 7, &WEIGHTS[7..])).unwrap();
        assert_eq!(download.finish().unwrap().step, 5);
        assert_eq!(fs::read(out.join(WEIGHTS_FILE)).unwrap(), WEIGHTS);
        assert_eq!(fs::read(out.join(OPTIMIZER_FILE)).unwrap(), b"");
        assert!(Manifest::parse(&fs::read(out.join(MANIFEST_FILE)).unwrap()).is_ok());
        assert_eq!(fs::read_dir(home.path().join("a")).unwrap().count(), 1);
        assert!(Download::new(&out).is_err(), "an existing checkpoint is not overwritten");
    }

    #[test]
    fn damage_gaps_and_early_ends_are_refused_and_leave_nothing() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("c");
        let problem = |pieces: Vec<CheckpointChunk>| {
            let mut download = Download::new(&out).unwrap();
            let pushed = pieces.into_iter().try_for_each(|piece| download.push(piece));
            pushed.and_then(|()| download.finish().map(|_| ())).unwrap_err().to_string()
        };
        let mut damaged = WEIGHTS.to_vec();
        damaged[3] ^= 1;
        assert!(problem(vec![manifest(), data(WEIGHTS_FILE, 0, &damaged)]).contains("is damaged"));
        assert!(problem(vec![manifest(), data(WEIGHTS_FILE, 1, WEIGHTS)]).contains("gap"));
        assert!(problem(vec![manifest(), data("../escape", 0, WEIGHTS)]).contains("gap"));
        assert!(problem(vec![manifest(), data(WEIGHTS_FILE, 0, &WEIGHTS[1..])]).contains("ended after 0"));
        assert!(problem(vec![manifest(), data(WEIGHTS_FILE, 0, &[0; 99])]).contains("longer"));
        assert!(problem(vec![data(WEIGHTS_FILE, 0, WEIGHTS)]).contains("does not begin"));
        assert!(problem(vec![manifest(), manifest()]).contains("two manifests"));
        assert!(problem(Vec::new()).contains("empty"));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
