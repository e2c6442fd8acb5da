//! What earlier versions wrote: opened, migrated, verified, read and continued by this one. What a later version wrote is
//! refused and left as it is.
//!
//! The files and how they were made: README.md beside this file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use plateau_tests::Bench;
use plateau_tests::outcome::{all_different, metrics, results, trials};

/// Formats of data directories there has been a program for before this one's.
const FORMATS: [&str; 5] = ["1", "2", "3", "4", "6"];
/// The trial that had ended in every recorded directory.
const ENDED: &str = "910fb053d25ee678e24540bd8fac9bae";
/// A trial that had a checkpoint at step 1000 in every one of them and none after.
const SAVED: &str = "5276b13ebed489ecda2450197910e9c7";
/// A trial that had made no checkpoint in any of them: today's program trains all of it.
const AFRESH: &str = "52a66acd5d9bd2803af58f1d3eb79e59";
/// Where SQLite keeps `user_version`, the format, in a database file.
const VERSION_AT: usize = 60;

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compat").join(name)
}

/// A copy of a recorded directory and of its study.
fn copy_of(format: &str) -> anyhow::Result<Bench> {
    let bench = Bench::new(env!("CARGO_BIN_EXE_plateau-tested"))?;
    for (path, bytes) in files(&recorded(format))? {
        let to = bench.path("data").join(path);
        std::fs::create_dir_all(to.parent().context("a folder")?)?;
        std::fs::write(to, bytes)?;
    }
    std::fs::copy(recorded("study.toml"), bench.path("study.toml"))?;
    Ok(bench)
}

/// Every file below a folder, by its path within, with its bytes.
fn files(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root)?.to_owned(), std::fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

#[test]
fn case_78_directories_of_every_format_are_migrated_read_and_continued() -> anyhow::Result<()> {
    let mut afresh = Vec::new();
    for format in FORMATS {
        let hash = continued(format).with_context(|| format!("the directory of format {format}"))?;
        afresh.push(hash);
    }
    afresh.dedup();
    ensure!(afresh.len() == 1, "one trial, trained by one program, and different weights: {afresh:?}");
    Ok(())
}

/// Finishes the study of a recorded directory; the hash of the weights of [`AFRESH`].
fn continued(format: &str) -> anyhow::Result<String> {
    let bench = copy_of(format)?;
    // What is there before anything is trained: all of it, and the trial that had ended.
    let offline = ["--data-dir", "data"];
    let before = trials(&bench, offline, "last")?;
    ensure!(before.len() == 4, "{before:?}");
    let of = |list: &[serde_json::Value], id: &str| list.iter().find(|trial| trial["trial"] == id).cloned();
    let ended = of(&before, ENDED).context("the trial that had ended")?;
    ensure!(ended["state"] == "completed" && ended["step"] == 4000, "{ended}");

    let mut coordinator = bench.coordinator("data")?;
    let url = coordinator.url.clone();
    let target = ["--coordinator", url.as_str()];
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    ensure!(submitted["existing"] == true && submitted["new_trials"] == 0, "{submitted}");
    // Of the name that holds the recorded leases: they are fenced at once and need not expire.
    let mut agent = bench.agent("one", &url)?;
    bench.succeed(["watch", "last", target[0], target[1]])?;
    let after = trials(&bench, target, "last")?;
    ensure!(of(&after, ENDED) == Some(ended), "what had ended was touched: {after:?}");
    let history = bench.succeed(["explain", SAVED, target[0], target[1]])?;
    ensure!(history.contains("attempt 2 granted to agent one, from step 1000"), "{history}");
    let found = metrics(&bench, target, "last", "metrics")?;
    all_different(&found)?;
    ensure!(found.len() == 357, "{} lines of metrics", found.len());
    let results = results(&bench, target, "last")?;
    let (step, hash) = results.get(AFRESH).context("the trial that was trained afresh")?;
    ensure!(*step == 4000, "{results:?}");
    for process in [&mut agent, &mut coordinator.process] {
        process.signal("TERM")?;
        ensure!(process.wait()? == Some(0), "{}", process.log_text());
    }
    let verified = bench.json(["verify", "data"])?;
    ensure!(verified["clean"] == true && verified["trials"] == 4, "{verified}");
    Ok(hash.clone())
}

#[test]
fn case_79_a_directory_of_a_newer_format_is_refused_and_not_a_byte_of_it_changes() -> anyhow::Result<()> {
    let bench = copy_of("4")?;
    let database = bench.path("data/coordinator.sqlite");
    let mut bytes = std::fs::read(&database)?;
    let version = bytes.get_mut(VERSION_AT..VERSION_AT + 4).context("a header")?;
    version.copy_from_slice(&1000u32.to_be_bytes());
    std::fs::write(&database, bytes)?;
    let before = files(&bench.path("data"))?;
    for arguments in [
        ["coordinator", "--listen", "127.0.0.1:0", "--data-dir", "data"].as_slice(),
        ["run", "study.toml", "--data-dir", "data"].as_slice(),
        ["verify", "data"].as_slice(),
        ["backup", "data", "copy"].as_slice(),
    ] {
        let output = bench.run(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{arguments:?} was accepted");
        ensure!(said.contains("format 1000") && said.contains("format 7"), "{arguments:?}: {said}");
    }
    let mut after = files(&bench.path("data"))?;
    // The lock is taken before the database is looked at, and `run` writes down where it logs.
    after.retain(|path, _| before.contains_key(path));
    ensure!(after == before, "the directory was changed");
    Ok(())
}

#[test]
fn every_recorded_format_is_tested() -> anyhow::Result<()> {
    let mut folders: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(recorded(""))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_ok() {
            folders.push(name);
        }
    }
    folders.sort();
    ensure!(folders == FORMATS, "{folders:?}");
    Ok(())
}
