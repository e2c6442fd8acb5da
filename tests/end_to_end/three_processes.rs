//! A coordinator and two agents started by hand, a study submitted from a fourth process.

use anyhow::{Context as _, ensure};
use plateau_tests::small_study;

use crate::{bench, metrics, results, trials};

#[test]
fn by_hand_equals_run_resubmitting_runs_nothing_and_extending_only_the_difference() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("by-hand", "[0, 1, 2, 3]", 500))?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let _agents = [bench.agent("one", &coordinator.url)?, bench.agent("two", &coordinator.url)?];

    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    ensure!(submitted["new_trials"] == 4 && submitted["existing"] == false, "{submitted}");
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    let watched = bench.succeed(["watch", &sweep, target[0], target[1]])?;
    let by_hand = results(&bench, target, &sweep)?;
    ensure!(by_hand.len() == 4, "{watched}");

    bench.succeed(["run", "study.toml", "--agents", "1"])?;
    ensure!(by_hand == results(&bench, ["--data-dir", "plateau-data"], "last")?, "by hand and by run differ");
    ensure!(
        metrics(&bench, target, &sweep, "hand")?
            == metrics(&bench, ["--data-dir", "plateau-data"], "last", "run")?
    );

    let again = bench.json(["submit", "study.toml", target[0], target[1]])?;
    ensure!(
        again["new_trials"] == 0 && again["existing"] == true && again["sweep"] == submitted["sweep"],
        "{again}"
    );

    let extended = bench.json(["extend", &sweep, "--seeds", "4,5", target[0], target[1]])?;
    ensure!(extended["new_trials"] == 2, "{extended}");
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    let more = results(&bench, target, &sweep)?;
    ensure!(more.len() == 6 && by_hand.iter().all(|(id, result)| more.get(id) == Some(result)));
    ensure!(trials(&bench, target, &sweep)?.iter().all(|trial| trial["attempt"] == 1));

    let explained = bench.succeed(["explain", &sweep, target[0], target[1]])?;
    ensure!(!explained.trim().is_empty());
    let id = more.keys().next().context("a trial")?;
    let logs = bench.succeed(["logs", id, target[0], target[1]])?;
    ensure!(logs.contains("step 500"), "{logs}");
    Ok(())
}

#[test]
fn pause_holds_and_resume_finishes_and_cancel_ends() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("pausing", "[0, 1]", 4000))?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    bench.succeed(["pause", &sweep, target[0], target[1]])?;
    let _agent = bench.agent("one", &coordinator.url)?;
    plateau_tests::wait_for("the agent to be listed", || {
        let agents = bench.json(["agents", target[0], target[1]])?;
        Ok(agents.to_string().contains("\"one\"").then_some(()))
    })?;
    ensure!(trials(&bench, target, &sweep)?.iter().all(|trial| trial["state"] == "pending"));
    bench.succeed(["resume", &sweep, target[0], target[1]])?;
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    ensure!(results(&bench, target, &sweep)?.len() == 2);

    bench.write("long.toml", &small_study("cancelled", "[7]", 1_000_000))?;
    let submitted = bench.json(["submit", "long.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    bench.succeed(["cancel", &sweep, "--reason", "enough", target[0], target[1]])?;
    // A trial in training ends once its agent has given the lease back.
    plateau_tests::wait_for("the cancelled trial to end", || {
        Ok(trials(&bench, target, &sweep)?.iter().all(|trial| trial["state"] == "cancelled").then_some(()))
    })?;
    let list = bench.json(["list", target[0], target[1]])?.to_string();
    ensure!(list.contains("cancelled"), "{list}");
    Ok(())
}

#[test]
fn cancelling_a_long_sweep_leaves_a_short_one_of_the_same_trials_to_finish() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("long.toml", &small_study("long", "[0, 1]", 10_000_000))?;
    bench.write("short.toml", &small_study("short", "[0, 1]", 800))?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let _agent = bench.agent("one", &coordinator.url)?;
    bench.succeed(["submit", "long.toml", target[0], target[1]])?;
    plateau_tests::wait_for("the long sweep to train", || {
        Ok(trials(&bench, target, "long")?.iter().any(|trial| trial["state"] == "running").then_some(()))
    })?;
    bench.succeed(["submit", "short.toml", target[0], target[1]])?;
    bench.succeed(["cancel", "long", target[0], target[1]])?;
    bench.succeed(["watch", "short", target[0], target[1]])?;
    let shared = results(&bench, target, "short")?;
    bench.succeed(["run", "short.toml", "--agents", "1"])?;
    ensure!(
        shared == results(&bench, ["--data-dir", "plateau-data"], "last")?,
        "not the bits of a run of its own"
    );
    Ok(())
}
