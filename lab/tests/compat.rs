//! Checkpoints of every format there has been, recorded in `tests/compat`, are read; those of a later one are refused.

// Helper functions of tests are no `#[test]` themselves, so clippy's exception for tests does not reach them.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};

use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_lab::checkpoint::load;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/compat/checkpoint-1")
}

#[test]
fn case_78_a_checkpoint_of_format_1_is_read_for_ever() {
    let checkpoint = load(&recorded()).unwrap();
    let manifest = &checkpoint.manifest;
    assert_eq!((manifest.format, manifest.step), (1, 4000));
    // The configuration that it holds is still read, and is still the trial it was.
    let config = TrialConfig::from_json(&manifest.config).unwrap();
    assert_eq!(TrialId::of(&config).to_string(), "910fb053d25ee678e24540bd8fac9bae");
    assert_eq!(manifest.trial, TrialId::of(&config).to_string());
    let values: usize = checkpoint.weights.iter().map(|(_, tensor)| tensor.elem_count()).sum();
    // AdamW keeps two moments of each.
    let moments: usize = checkpoint.optimizer.iter().map(|(_, tensor)| tensor.elem_count()).sum();
    assert_eq!(moments / values, 2, "{moments} of {values}");
}

#[test]
fn case_79_a_checkpoint_of_a_newer_format_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(recorded()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("manifest.json");
    let newer = std::fs::read_to_string(&path).unwrap().replacen("\"format\": 1", "\"format\": 2", 1);
    std::fs::write(&path, newer).unwrap();
    let problem = load(folder.path()).unwrap_err().to_string();
    assert!(problem.contains("format 2 is not 1"), "{problem}");
}
