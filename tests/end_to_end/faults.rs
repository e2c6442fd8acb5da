//! Processes killed in the middle of a sweep: it completes, with the bits of a sweep in peace, nothing counted twice.

use anyhow::{Context as _, ensure};
use plateau_tests::{Bench, small_study, wait_for};

use crate::{Results, all_different, bench, metrics, results, trials};

const STEPS: u32 = 3000;

/// The results and metrics of the study without faults.
fn in_peace(bench: &Bench) -> anyhow::Result<(Results, Vec<String>)> {
    bench.succeed(["run", "study.toml", "--agents", "2", "--data-dir", "peace"])?;
    let target = ["--data-dir", "peace"];
    Ok((results(bench, target, "last")?, metrics(bench, target, "last", "metrics-peace")?))
}

/// Waits until some trial has made more than `steps` steps.
fn wait_for_steps(bench: &Bench, target: [&str; 2], sweep: &str, steps: u64) -> anyhow::Result<()> {
    wait_for("training to get somewhere", || {
        let all = trials(bench, target, sweep)?;
        ensure!(all.iter().any(|trial| trial["state"] != "completed"), "the sweep ended before the fault");
        Ok(all.iter().any(|trial| trial["step"].as_u64() > Some(steps)).then_some(()))
    })
}

#[test]
fn a_killed_coordinator_comes_back_and_finishes_the_sweep() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("coordinator-killed", "[0, 1, 2, 3]", STEPS))?;
    let (expected, expected_metrics) = in_peace(&bench)?;

    let mut coordinator = bench.coordinator("data")?;
    let (address, url) = (coordinator.address.clone(), coordinator.url.clone());
    let target = ["--coordinator", url.as_str()];
    let _agents = [bench.agent("one", &url)?, bench.agent("two", &url)?];
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    for steps in [300, 1200] {
        wait_for_steps(&bench, target, &sweep, steps)?;
        coordinator.process.kill()?;
        coordinator = bench.coordinator_at("data", &address)?;
    }
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    ensure!(results(&bench, target, &sweep)? == expected, "other bits than in peace");
    let found = metrics(&bench, target, &sweep, "metrics-killed")?;
    all_different(&found)?;
    ensure!(found == expected_metrics, "other metrics than in peace");
    Ok(())
}

#[test]
fn a_killed_agent_costs_only_unsaved_steps() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("agent-killed", "[0, 1]", STEPS))?;
    let (expected, expected_metrics) = in_peace(&bench)?;

    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let mut agent = bench.agent("mortal", &coordinator.url)?;
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    wait_for_steps(&bench, target, &sweep, 600)?;
    agent.kill()?;
    // The same name with a new incarnation fences the dead one at once.
    let mut agent = bench.agent("mortal", &coordinator.url)?;
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    ensure!(results(&bench, target, &sweep)? == expected, "other bits than in peace");
    let found = metrics(&bench, target, &sweep, "metrics-killed")?;
    all_different(&found)?;
    ensure!(found == expected_metrics, "other metrics than in peace");

    agent.signal("TERM")?;
    ensure!(agent.wait()? == Some(0), "{}", agent.log_text());
    Ok(())
}

#[test]
fn a_killed_trainer_costs_one_child() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("trainer-killed", "[0, 1]", STEPS))?;
    let (expected, _) = in_peace(&bench)?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let agent = bench.agent("parent", &coordinator.url)?;
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    wait_for_steps(&bench, target, &sweep, 600)?;
    let killed =
        std::process::Command::new("pkill").args(["-KILL", "-P", &agent.id().to_string()]).status()?;
    ensure!(killed.success(), "the agent had no trainer child");
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    ensure!(results(&bench, target, &sweep)? == expected, "other bits than in peace");
    let all = trials(&bench, target, &sweep)?;
    let id = all[0]["trial"].as_str().context("an id")?;
    let explained = bench.succeed(["explain", id, target[0], target[1]])?;
    ensure!(explained.contains("signal"), "the crash is not explained: {explained}");
    Ok(())
}

#[test]
fn a_second_agent_of_the_same_name_takes_over_and_the_first_leaves() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("two-of-a-name", "[0, 1]", STEPS))?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let mut first = bench.agent("same", &coordinator.url)?;
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    wait_for_steps(&bench, target, &sweep, 300)?;
    // In a folder of its own, as on another host.
    let arguments = [
        "agent",
        "--coordinator",
        &coordinator.url,
        "--name",
        "same",
        "--device",
        "cpu",
        "--work-dir",
        "elsewhere",
    ];
    let _second = bench.spawn("second", &arguments)?;
    ensure!(first.wait()? == Some(1), "{}", first.log_text());
    ensure!(first.log_text().contains("took over the name"), "{}", first.log_text());
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    ensure!(results(&bench, target, &sweep)?.len() == 2);
    Ok(())
}

#[test]
fn an_agent_leaves_when_told_even_while_the_coordinator_is_away() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("orphaned", "[0]", 1_000_000))?;
    let mut coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let mut agent = bench.agent("left-alone", &coordinator.url)?;
    bench.succeed(["submit", "study.toml", target[0], target[1]])?;
    wait_for_steps(&bench, target, "last", 300)?;
    coordinator.process.kill()?;
    agent.signal("TERM")?;
    ensure!(agent.wait()? == Some(0), "{}", agent.log_text());
    Ok(())
}
