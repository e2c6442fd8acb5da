//! A stored checkpoint under another trial's name: what a fork begins with.

use object_store::ObjectStoreExt as _;
use plateau_common::checkpoint::{MANIFEST_FILE, Manifest};

use super::{CheckpointError, Checkpoints, fail_at, store_error};
use crate::core::LeaseKey;
use crate::failpoint;

impl Checkpoints {
    /// Gives the checkpoint of `parent` at the manifest's step to the trial of `child` as well, under the manifest given, which
    /// lists the same files. In a folder the files are linked, so they take room once; each place can go without the other.
    pub async fn give(
        &self,
        parent: LeaseKey,
        child: LeaseKey,
        manifest: &Manifest,
    ) -> Result<(), CheckpointError> {
        let source = Self::place(parent.trial, parent.attempt, manifest.step);
        let place = Self::place(child.trial, child.attempt, manifest.step);
        self.refuse_links(&source).await?;
        self.refuse_links(&place).await?;
        for file in &manifest.files {
            let (from, to) =
                (source.clone().join(file.name.as_str()), place.clone().join(file.name.as_str()));
            self.store.copy(&from, &to).await.map_err(store_error("copying a checkpoint"))?;
            self.synchronise(&to).await?;
            fail_at(failpoint::FORK_COPIED, &to)?;
        }
        let target = place.join(MANIFEST_FILE);
        let bytes = serde_json::to_vec_pretty(manifest)
            .map_err(|error| CheckpointError::Invalid(format!("its manifest cannot be written: {error}")))?;
        self.store.put(&target, bytes.into()).await.map_err(store_error("writing the manifest"))?;
        self.synchronise(&target).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use plateau_common::checkpoint::{FORMAT, ManifestFile, OPTIMIZER_FILE, WEIGHTS_FILE};
    use plateau_common::identity::TrialId;

    use super::*;

    fn lease(digit: &str, attempt: u64) -> LeaseKey {
        LeaseKey { trial: TrialId::parse(&digit.repeat(32)).unwrap(), attempt }
    }

    fn manifest(trial: TrialId) -> Manifest {
        let file = |name: &str, bytes: &[u8]| ManifestFile {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        Manifest {
            format: FORMAT,
            trial: trial.to_string(),
            step: 7,
            config: serde_json::json!({"of": trial.to_string()}),
            files: vec![file(WEIGHTS_FILE, b"weights"), file(OPTIMIZER_FILE, b"moments")],
            weights_hash: "hash".to_owned(),
            plateau: "1".to_owned(),
            device: "cpu".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_is_given_is_whole_and_outlives_where_it_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let store = Checkpoints::in_folder(folder.path().join("checkpoints")).unwrap();
        let (parent, child) = (lease("a", 2), lease("b", 5));
        let place = folder.path().join("checkpoints").join(Checkpoints::place_of(parent.trial, 2, 7));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(WEIGHTS_FILE), b"weights").unwrap();
        std::fs::write(place.join(OPTIMIZER_FILE), b"moments").unwrap();
        std::fs::write(place.join(MANIFEST_FILE), serde_json::to_vec(&manifest(parent.trial)).unwrap())
            .unwrap();
        let theirs = manifest(child.trial);
        store.give(parent, child, &theirs).await.unwrap();
        // Doing it again does no harm.
        store.give(parent, child, &theirs).await.unwrap();
        assert_eq!(store.verify(parent.trial, 2, 7).await.unwrap(), manifest(parent.trial));
        assert_eq!(store.verify(child.trial, 5, 7).await.unwrap(), theirs);
        store.delete(parent.trial, 2, 7).await.unwrap();
        assert!(!place.exists());
        assert_eq!(store.verify(child.trial, 5, 7).await.unwrap(), theirs);
        let weights = store.read(child.trial, 5, 7, &theirs.files[0]).await.unwrap();
        let weights: Vec<bytes::Bytes> = weights.try_collect().await.unwrap();
        assert_eq!(weights.concat(), b"weights");
    }
}
