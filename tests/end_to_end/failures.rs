//! Trainers that break and cards that fall sick, with real processes: who is charged, what is explained, what goes on.

use anyhow::{Context as _, ensure};
use plateau_tests::{Bench, small_study, wait_for};

use crate::{bench, results, trials};

const STEPS: u32 = 20_000;
/// The card that an agent of these tests owns, on paper.
const CARD: &str = "0000:3b:00";

/// Sends a signal to the trainer of an agent.
fn hit_trainer(agent: u32, signal: &str) -> anyhow::Result<()> {
    let sent = std::process::Command::new("pkill")
        .args([format!("-{signal}"), "-P".to_owned(), agent.to_string()])
        .status()?;
    ensure!(sent.success(), "the agent {agent} had no trainer child");
    Ok(())
}

/// Waits until some trial in training has made more than `steps` steps, and gives its id.
fn wait_for_steps(bench: &Bench, target: [&str; 2], sweep: &str, steps: u64) -> anyhow::Result<String> {
    wait_for("training to get somewhere", || {
        let all = trials(bench, target, sweep)?;
        ensure!(all.iter().any(|trial| trial["state"] != "completed"), "the sweep ended before the fault");
        let training = all.iter().filter(|trial| trial["state"] == "running");
        let found = training.into_iter().find(|trial| trial["step"].as_u64() > Some(steps));
        Ok(found.and_then(|trial| trial["trial"].as_str()).map(str::to_owned))
    })
}

#[test]
fn case_71_an_abort_in_mid_step_costs_one_child_and_the_next_starts_clean() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("aborted", "[0, 1]", STEPS))?;
    bench.succeed(["run", "study.toml", "--agents", "1", "--data-dir", "peace"])?;
    let expected = results(&bench, ["--data-dir", "peace"], "last")?;

    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let mut agent = bench.agent("parent", &coordinator.url)?;
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    let trial = wait_for_steps(&bench, target, &sweep, 600)?;
    hit_trainer(agent.id(), "ABRT")?;
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    ensure!(results(&bench, target, &sweep)? == expected, "other bits than in peace");
    let explained = bench.succeed(["explain", &trial, target[0], target[1]])?;
    ensure!(explained.contains("a signal ended the trainer"), "{explained}");
    ensure!(!agent.has_ended()?, "the agent lives on: {}", agent.log_text());
    Ok(())
}

#[test]
fn case_73_a_trainer_that_breaks_is_told_from_one_that_is_killed() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("broken", "[0, 1]", 1_000_000))?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let agent = bench.agent("parent", &coordinator.url)?;
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    // (Of a SEGV from outside the runtime would take no notice.)
    for (signal, words) in [("ILL", "a signal ended the trainer"), ("KILL", "out of memory")] {
        let trial = wait_for_steps(&bench, target, &sweep, 0)?;
        hit_trainer(agent.id(), signal)?;
        wait_for(words, || {
            let explained = bench.succeed(["explain", &trial, target[0], target[1]])?;
            Ok(explained.contains(words).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn case_70_a_card_that_falls_off_the_bus_gives_its_trial_back_and_is_named() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("sick-card", "[0]", STEPS))?;
    bench.succeed(["run", "study.toml", "--agents", "1", "--data-dir", "peace"])?;
    let expected = results(&bench, ["--data-dir", "peace"], "last")?;

    // Nobody's card can be thrown off the bus for a test: the driver's words are written in their published form, everything else is real.
    let log =
        bench.write("kern.log", "kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=1, before the agent began\n")?;
    let coordinator = bench.coordinator("data")?;
    let target = ["--coordinator", coordinator.url.as_str()];
    let options = plateau_agent::AgentOptions {
        coordinator: coordinator.url.clone(),
        credentials: plateau_proto::connection::Credentials::default(),
        name: "sick".to_owned(),
        device: "cpu".to_owned(),
        device_description: "a processor that stands in for a card".to_owned(),
        threads: 1,
        max_cohort: 1,
        memory_bytes: None,
        work_dir: bench.path("sick-work"),
        trainer_program: bench.binary().to_owned(),
        log_file: None,
        driver_log: Some(plateau_agent::DriverLog { file: log.clone(), card: CARD.to_owned() }),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let sick = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(plateau_agent::run(options, async {
            // A dropped sender means the same as a sent word.
            let _ = stopped.await;
        }))
    });
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    let trial = wait_for_steps(&bench, target, &sweep, 600)?;
    let append = |line: &str| {
        use std::io::Write as _;
        std::fs::OpenOptions::new().append(true).open(&log)?.write_all(line.as_bytes())
    };
    append("kernel: NVRM: Xid (PCI:0000:af:00): 79, pid=1, GPU has fallen off the bus.\n")?;
    append("kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.\n")?;
    let drained = wait_for("the agent to be drained", || {
        let agents = bench.json(["agents", target[0], target[1]])?;
        let reason = agents["agents"][0]["drained"].as_str().unwrap_or_default().to_owned();
        Ok((!reason.is_empty()).then_some(reason))
    })?;
    ensure!(drained.contains("unhealthy") && drained.contains("at 0000:3b:00: Xid 79"), "{drained}");
    let explained = bench.succeed(["explain", &trial, target[0], target[1]])?;
    ensure!(explained.contains("not charged") && explained.contains("the card is lost"), "{explained}");
    // Another agent goes on from what was saved.
    let _healthy = bench.agent("healthy", &coordinator.url)?;
    bench.succeed(["watch", &sweep, target[0], target[1]])?;
    ensure!(results(&bench, target, &sweep)? == expected, "other bits than in peace");
    drop(stop);
    sick.join().map_err(|_| anyhow::anyhow!("the agent panicked"))??;
    Ok(())
}

#[test]
fn states_around_a_transition_survive_training_and_gc_and_delete_leaves_nothing() -> anyhow::Result<()> {
    let bench = bench()?;
    let study = small_study("transition", "[0]", 1000).replace(
        "every = 200",
        "every = 50\nseconds = 0\nkeep-around = { metric = \"train_accuracy\", level = 0.5, within = 100 }",
    );
    bench.write("study.toml", &study)?;
    bench.succeed(["run", "study.toml", "--agents", "1"])?;
    let target = ["--data-dir", "plateau-data"];
    let trial = trials(&bench, target, "last")?[0]["trial"].as_str().context("an id")?.to_owned();
    let steps = || -> anyhow::Result<Vec<u64>> {
        let listed = bench.json(["checkpoint", "list", &trial, target[0], target[1]])?;
        let listed = listed["checkpoints"].as_array().context("a list")?.iter();
        let mut steps: Vec<u64> = listed.filter_map(|known| known["step"].as_u64()).collect();
        steps.sort_unstable();
        Ok(steps)
    };
    let explained = bench.succeed(["explain", &trial, target[0], target[1]])?;
    let (_, rest) = explained.split_once("train_accuracy ≥ 0.5 at step ").context("a transition")?;
    let at: u64 = rest.split(':').next().context("its step")?.parse()?;
    let near: Vec<u64> =
        (1u64..=20).map(|place| 50 * place).filter(|step| step.abs_diff(at) <= 100).collect();
    ensure!(
        !near.is_empty() && near.iter().all(|step| steps().is_ok_and(|kept| kept.contains(step))),
        "{near:?}"
    );
    bench.succeed(["gc", target[0], target[1]])?;
    let mut expected = near;
    expected.push(1000);
    expected.sort_unstable();
    expected.dedup();
    ensure!(steps()? == expected, "{:?} instead of {expected:?}", steps()?);
    bench.succeed(["verify", "plateau-data"])?;
    let said = bench.succeed(["delete", "last", target[0], target[1]])?;
    ensure!(said.contains("deleted, with 1 trial that no other sweep holds"), "{said}");
    let checked = bench.json(["verify", "plateau-data"])?;
    ensure!(checked["trials"] == 0 && checked["checkpoints"] == 0, "{checked}");
    Ok(())
}
