//! The manifest of a checkpoint: what the safetensors files beside it are, and whose.
//!
//! A checkpoint is a folder `manifest.json`, `weights.safetensors`, `optimizer.safetensors`. It belongs to one trial and
//! does not depend on the cohort the trial was trained in. The manifest is written last.

use serde::{Deserialize, Serialize};

use crate::limits::MAX_NAME_BYTES;

/// Version of the format written by this build.
pub const FORMAT: u32 = 1;
/// File name of the manifest.
pub const MANIFEST_FILE: &str = "manifest.json";
/// File name of the parameters.
pub const WEIGHTS_FILE: &str = "weights.safetensors";
/// File name of the optimiser's state.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Id of the trial (hex).
    pub trial: String,
    /// Updates made.
    pub step: u64,
    /// The trial's whole resolved configuration, so that a checkpoint explains itself.
    pub config: serde_json::Value,
    /// The files beside the manifest.
    pub files: Vec<ManifestFile>,
    /// BLAKE3 of all parameters in name order (name, shape and little-endian values): the trial's weights hash.
    pub weights_hash: String,
    /// Version of Plateau that wrote it.
    pub plateau: String,
    /// The device, in words (equal bits are promised on one CPU type only).
    pub device: String,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ManifestFile {
    /// [`WEIGHTS_FILE`] or [`OPTIMIZER_FILE`].
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes, hex.
    pub blake3: String,
}

impl Manifest {
    /// Parses and checks a manifest: known format, known file names, a well-formed trial id.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| {
            format!("manifest.json is not a manifest: {}", shown(&error.to_string(), 300))
        })?;
        if manifest.format != FORMAT {
            return Err(format!(
                "manifest format {} is not {FORMAT}, which this version reads",
                manifest.format
            ));
        }
        if crate::identity::TrialId::parse(&manifest.trial).is_none() {
            return Err(format!("`{}` is not a trial id", shown(&manifest.trial, 64)));
        }
        if manifest.weights_hash.len() > MAX_NAME_BYTES || manifest.weights_hash.chars().any(char::is_control)
        {
            return Err(format!("`{}` is not the hash of weights", shown(&manifest.weights_hash, 64)));
        }
        let mut names: Vec<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
        names.sort_unstable();
        if names != [OPTIMIZER_FILE, WEIGHTS_FILE] {
            let found: Vec<String> = names.iter().take(4).map(|name| shown(name, 64)).collect();
            return Err(format!(
                "expected the files {WEIGHTS_FILE} and {OPTIMIZER_FILE}, found {} files: {}",
                names.len(),
                found.join(", ")
            ));
        }
        Ok(manifest)
    }
}

/// The beginning of a text of others, on one line: a manifest may hold a megabyte of it, an answer has room for less.
fn shown(text: &str, characters: usize) -> String {
    text.chars().take(characters).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_quote_no_more_than_the_beginning_of_a_text() {
        let long = "x".repeat(100_000);
        let file = |name: &str| serde_json::json!({ "name": name, "bytes": 1, "blake3": "" });
        let manifest = |trial: &str, name: &str, hash: &str| {
            serde_json::json!({
                "format": FORMAT,
                "trial": trial,
                "step": 1,
                "config": {},
                "files": [file(WEIGHTS_FILE), file(name)],
                "weights-hash": hash,
                "plateau": "1",
                "device": "cpu",
            })
        };
        let id = "0123456789abcdef0123456789abcdef";
        let mut unknown = manifest(id, OPTIMIZER_FILE, "ab");
        unknown[&long] = 1.into();
        for wrong in [
            manifest(&long, OPTIMIZER_FILE, "ab"),
            manifest(id, &long, "ab"),
            manifest(id, OPTIMIZER_FILE, &long),
            unknown,
        ] {
            let error = Manifest::parse(wrong.to_string().as_bytes()).unwrap_err();
            assert!((10..1000).contains(&error.len()), "{} bytes: {:.200}", error.len(), error);
        }
        assert!(Manifest::parse(manifest(id, OPTIMIZER_FILE, "ab").to_string().as_bytes()).is_ok());
    }
}
