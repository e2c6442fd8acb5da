//! How cohorts are filled and sized, with real processes: places that are taken over, memory that does not suffice.

use anyhow::{Context as _, ensure};
use plateau_common::config::TrialConfig;
use plateau_common::cost::{Hardware, memory_need, state_bytes, workspace_bytes};
use plateau_tests::{Bench, small_study};

use crate::{bench, results, trials};

/// Starts an agent with further arguments.
fn agent(bench: &Bench, url: &str, more: [&str; 2]) -> anyhow::Result<plateau_tests::Process> {
    let arguments = ["agent", "--coordinator", url, "--name", "one", "--work-dir", "work", more[0], more[1]];
    bench.spawn("one", &arguments)
}

/// When (milliseconds since 1970) the history of a trial first tells `event`.
fn time_of(bench: &Bench, target: [&str; 2], trial: &str, event: &str) -> anyhow::Result<i64> {
    let explained = bench.json(["explain", trial, target[0], target[1]])?;
    let history = explained["history"].as_array().context("a history")?;
    let found = history.iter().find(|entry| entry["event"].as_str().is_some_and(|text| text.contains(event)));
    let found = found.with_context(|| format!("no `{event}` in {explained}"))?;
    found["unix_milliseconds"].as_i64().context("a time")
}

#[test]
fn a_waiting_trial_takes_the_place_of_one_that_diverged_with_the_same_bits() -> anyhow::Result<()> {
    let bench = bench()?;
    let study = small_study("taken-over", "[0, 1, 2, 3]", 40_000)
        .replace("kind = \"adamw\", lr = 3e-3, weight-decay = 1.0", "kind = \"sgd\", lr = 0.01")
        .replace("[axes]", "[[when]]\nmatch = { seed = 1 }\nset = { \"train.optimizer.lr\" = 1e6 }\n[axes]");
    bench.write("study.toml", &study)?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    bench.succeed(["submit", "study.toml", target[0], target[1]])?;
    let _agent = agent(&bench, &coordinator.url, ["--max-cohort", "2"])?;
    bench.succeed(["watch", "last", target[0], target[1]])?;
    let all = trials(&bench, target, "last")?;
    let states: Vec<&str> = all.iter().filter_map(|trial| trial["state"].as_str()).collect();
    ensure!(states == ["completed", "diverged", "completed", "completed"], "{all:?}");
    ensure!(all.iter().all(|trial| trial["attempt"] == 1), "{all:?}");
    let id = |place: usize| all[place]["trial"].as_str().context("an id");
    let joined = time_of(&bench, target, id(2)?, "trains on agent")?;
    let first_ended = time_of(&bench, target, id(0)?, "completed at step")?;
    ensure!(joined < first_ended, "the third trial waited for the first: {joined} {first_ended}");

    bench.succeed(["run", "study.toml", "--agents", "1", "--max-cohort", "1", "--data-dir", "alone"])?;
    for place in [0, 2, 3] {
        let list = |target: [&str; 2]| bench.json(["checkpoint", "list", id(place)?, target[0], target[1]]);
        let last = |json: serde_json::Value| {
            let all = json["checkpoints"].as_array().cloned().unwrap_or_default();
            let last = all.iter().max_by_key(|checkpoint| checkpoint["step"].as_u64()).cloned();
            last.map(|checkpoint| (checkpoint["step"].clone(), checkpoint["weights_hash"].clone()))
        };
        let (together, alone) = (last(list(target)?), last(list(["--data-dir", "alone"])?));
        ensure!(together.is_some() && together == alone, "{together:?} and {alone:?}");
    }
    Ok(())
}

#[test]
fn an_agent_with_little_memory_runs_a_study_whose_cohort_would_not_fit() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("tight", "[0, 1, 2, 3, 4]", 300))?;
    bench.succeed(["run", "study.toml", "--agents", "1", "--data-dir", "ample"])?;
    let expected = results(&bench, ["--data-dir", "ample"], "last")?;

    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    bench.succeed(["submit", "study.toml", target[0], target[1]])?;
    let config = trials(&bench, target, "last")?[0]["config"].clone();
    let config = TrialConfig::from_json(&config).map_err(|error| anyhow::anyhow!("{error}"))?;
    let hardware = Hardware::Processor { threads: 1 };
    let need = memory_need(state_bytes(&config), workspace_bytes(&config), hardware);
    let tight = (need.of(2) + need.per_replica / 2).to_string();
    let agent_process = agent(&bench, &coordinator.url, ["--memory", &tight])?;
    bench.succeed(["watch", "last", target[0], target[1]])?;
    ensure!(results(&bench, target, "last")? == expected, "other bits than with ample memory");
    ensure!(trials(&bench, target, "last")?.iter().all(|trial| trial["attempt"] == 1));
    drop(agent_process);
    Ok(())
}

#[test]
fn a_trial_that_does_not_fit_alone_fails_with_the_reason() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("too-large", "[0, 1]", 300))?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    bench.succeed(["submit", "study.toml", target[0], target[1]])?;
    let _agent = agent(&bench, &coordinator.url, ["--memory", "1M"])?;
    let watched = bench.run(["watch", "last", target[0], target[1]])?;
    ensure!(!watched.status.success(), "the sweep's trials failed");
    for trial in trials(&bench, target, "last")? {
        ensure!(trial["state"] == "failed", "{trial}");
        let reason = trial["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("out of memory") && reason.contains("1048576 are allowed"), "{reason}");
    }
    Ok(())
}
