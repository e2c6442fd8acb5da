//! Whole-system tests: the real binary, real processes, real training.

mod access;
mod cohorts;
mod faults;
mod python;
mod run;
mod three_processes;

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use plateau_tests::Bench;

/// What a finished sweep left: trial -> (steps made, weights hash at the last step).
pub type Results = BTreeMap<String, (u64, String)>;

/// The binary under test in a fresh folder.
pub fn bench() -> anyhow::Result<Bench> {
    Bench::new(env!("CARGO_BIN_EXE_plateau-tested"))
}

/// The trials of a sweep as JSON objects.
pub fn trials(bench: &Bench, target: [&str; 2], sweep: &str) -> anyhow::Result<Vec<serde_json::Value>> {
    let json = bench.json(["trials", sweep, target[0], target[1]])?;
    json["trials"].as_array().cloned().context("`trials` prints a list")
}

/// The results of a sweep whose trials must all be completed. `target` is `--data-dir DIR` or `--coordinator URL`.
pub fn results(bench: &Bench, target: [&str; 2], sweep: &str) -> anyhow::Result<Results> {
    let mut results = Results::new();
    for trial in trials(bench, target, sweep)? {
        ensure!(trial["state"] == "completed", "not completed: {trial}");
        let id = trial["trial"].as_str().context("a trial has an id")?;
        let list = bench.json(["checkpoint", "list", id, target[0], target[1]])?;
        let checkpoints = list["checkpoints"].as_array().context("a list of checkpoints")?;
        let step = trial["step"].as_u64().context("a step")?;
        let at_end = checkpoints.iter().filter(|checkpoint| checkpoint["step"].as_u64() == Some(step));
        let last = at_end.max_by_key(|checkpoint| checkpoint["attempt"].as_u64());
        let last = last.with_context(|| format!("no checkpoint of the last step: {trial} {list}"))?;
        let hash = last["weights_hash"].as_str().context("a weights hash")?;
        ensure!(hash.len() == 64, "no weights hash: {last}");
        results.insert(id.to_owned(), (step, hash.to_owned()));
    }
    Ok(results)
}

/// All metrics of a sweep as exported, one line per measured value, sorted.
pub fn metrics(bench: &Bench, target: [&str; 2], sweep: &str, file: &str) -> anyhow::Result<Vec<String>> {
    bench.succeed(["export", sweep, "--format", "csv", "--out", file, target[0], target[1]])?;
    let text = std::fs::read_to_string(bench.path(file).join("metrics.csv"))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

/// Ends with the sentence of an error if lines repeat: a value that was counted twice.
pub fn all_different(lines: &[String]) -> anyhow::Result<()> {
    let keys: Vec<&str> =
        lines.iter().map(|line| line.rsplit_once(',').map_or(line.as_str(), |(key, _)| key)).collect();
    let repeated = keys.windows(2).find(|pair| pair[0] == pair[1]);
    ensure!(repeated.is_none(), "recorded twice: {repeated:?}");
    Ok(())
}
