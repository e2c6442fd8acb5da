//! The corpus of every fuzz target, replayed: what fuzzing has found once is looked at in every ordinary test.

// Helper functions of tests are no `#[test]` themselves, so clippy's exception for tests does not reach them.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_target_holds_for_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, run) in plateau_fuzz::TARGETS {
        let files = files(&corpus.join(name));
        assert!(files.len() >= 10, "{name}: a corpus of {} files", files.len());
        for file in files {
            let data = std::fs::read(&file).unwrap();
            // The harness shows what is printed here where the target panics.
            println!("{}", file.display());
            run(&data);
        }
    }
}

#[test]
fn every_target_is_built_by_cargo_fuzz_and_has_a_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<&str> = plateau_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let stems = |folder: PathBuf| {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        files(&folder).into_iter().map(stem).collect::<Vec<String>>()
    };
    assert_eq!(stems(root.join("fuzz_targets")), names);
    assert_eq!(stems(root.join("corpus")), names);
}
