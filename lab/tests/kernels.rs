//! The checked-in PTX is what the kernels' sources say.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Every source and every module is in `kernels/ptx/DIGEST`, with the digest it has today.
#[test]
fn sources_and_ptx_belong_together() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let digest = |name: &str| {
        let bytes = fs::read(folder.join(name)).unwrap();
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let names = |sub: &str, endings: &[&str]| -> Vec<String> {
        let files = fs::read_dir(folder.join(sub)).unwrap().map(|entry| entry.unwrap().file_name());
        let files = files.map(|name| name.into_string().unwrap());
        files
            .filter(|name| endings.iter().any(|ending| name.ends_with(ending)))
            .map(|name| format!("{sub}{name}"))
            .collect()
    };
    let text = fs::read_to_string(folder.join("ptx/DIGEST")).unwrap();
    let recorded: BTreeMap<&str, &str> = text
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(digest, name)| (name, digest))
        .collect();
    let present = [names("", &[".cu", ".cuh"]), names("ptx/", &[".ptx"])].concat();
    for name in &present {
        assert_eq!(
            recorded.get(name.as_str()).copied(),
            Some(digest(name).as_str()),
            "{name} is not what the PTX was made of; run lab/kernels/build.sh"
        );
    }
    assert_eq!(recorded.len(), present.len(), "a recorded file is gone; run lab/kernels/build.sh");
    assert!(present.len() > 10, "the kernels were not found: {present:?}");
}
