//! Storage that fails under real processes: damaged checkpoints, a file system that takes no more. The sweep ends with
//! the bits of a sweep in peace, or the coordinator stops, says why, and goes on once the cause is gone.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use plateau_tests::{small_study, wait_for};

use crate::{all_different, bench, metrics, results, trials};

#[test]
fn case_43_a_damaged_checkpoint_costs_steps_and_no_bits() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("rotten", "[0]", 3000))?;
    bench.succeed(["run", "study.toml", "--agents", "1", "--data-dir", "peace"])?;
    let peace = ["--data-dir", "peace"];
    let (expected, expected_metrics) =
        (results(&bench, peace, "last")?, metrics(&bench, peace, "last", "metrics-peace")?);

    let mut coordinator = bench.coordinator("data")?;
    let (address, url) = (coordinator.address.clone(), coordinator.url.clone());
    let target = ["--coordinator", url.as_str()];
    let mut agent = bench.agent("mortal", &url)?;
    bench.succeed(["submit", "study.toml", target[0], target[1]])?;
    wait_for("checkpoints", || {
        let all = trials(&bench, target, "last")?;
        ensure!(all.iter().any(|trial| trial["state"] != "completed"), "the sweep ended before the fault");
        Ok(all.iter().any(|trial| trial["step"].as_u64() > Some(1000)).then_some(()))
    })?;
    agent.kill()?;
    // With nobody at work what is newest stays newest.
    coordinator.process.kill()?;
    let mut coordinator = bench.coordinator_at("data", &address)?;
    let all = trials(&bench, target, "last")?;
    let id = all[0]["trial"].as_str().context("an id")?.to_owned();
    let list = bench.json(["checkpoint", "list", &id, target[0], target[1]])?;
    let newest = list["checkpoints"].as_array().and_then(|list| list.last()).context("a checkpoint")?;
    let (attempt, step) = (&newest["attempt"], &newest["step"]);
    let place = format!("data/checkpoints/trials/{id}/attempts/{attempt}/step-{step}");
    let weights = bench.path(&place).join("weights.safetensors");
    let mut bytes = std::fs::read(&weights)?;
    *bytes.last_mut().context("an empty file")? ^= 1;
    std::fs::write(&weights, bytes)?;

    let mut agent = bench.agent("mortal", &url)?;
    bench.succeed(["watch", "last", target[0], target[1]])?;
    ensure!(results(&bench, target, "last")? == expected, "other bits than in peace");
    let found = metrics(&bench, target, "last", "metrics-damaged")?;
    all_different(&found)?;
    ensure!(found == expected_metrics, "other metrics than in peace");
    let explained = bench.succeed(["explain", &id, target[0], target[1]])?;
    ensure!(
        explained.contains(&format!("checkpoint at step {step} of attempt {attempt} is damaged")),
        "{explained}"
    );
    agent.signal("TERM")?;
    ensure!(agent.wait()? == Some(0), "{}", agent.log_text());
    coordinator.process.signal("TERM")?;
    ensure!(coordinator.process.wait()? == Some(0), "{}", coordinator.process.log_text());
    let verified = bench.json(["verify", "data"])?;
    ensure!(verified["clean"] == true && verified["trials"] == 1, "{verified}");
    let left = verified["leftovers"].as_array().context("a list")?;
    ensure!(
        left.len() == 1 && left[0]["place"].as_str().is_some_and(|at| at.starts_with("damaged/")),
        "{verified}"
    );

    // What `verify` finds wrong it says, with the code for it.
    let rest = bench.path("data/checkpoints/trials");
    std::fs::rename(&rest, bench.path("away"))?;
    let output = bench.run(["verify", "data"])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("wrong"), "{said}");
    Ok(())
}

#[test]
fn case_37_a_file_that_may_not_grow_stops_the_coordinator_which_goes_on_when_it_may() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("large", "{ range = [0, 5000] }", 10))?;
    let coordinator = bench.coordinator("data")?;
    let address = coordinator.address.clone();
    drop(coordinator);
    // No file of this process grows beyond a mebibyte: a write that would fails, and no signal is sent.
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" coordinator --data-dir data --listen \"$1\"";
    let log = std::fs::File::create(bench.path("limited.log"))?;
    let mut limited = Command::new("bash")
        .args(["-c", script])
        .arg(bench.binary())
        .arg(&address)
        .current_dir(bench.path(""))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let url = format!("http://{address}");
    let target = ["--coordinator", url.as_str()];
    let submitted = wait_for("an answer", || {
        let listed = bench.run(["list", target[0], target[1]])?.status.success();
        Ok(listed.then(|| bench.run(["submit", "study.toml", target[0], target[1]])))
    })??;
    ensure!(!submitted.status.success(), "the submission was answered although it could not be recorded");
    let status = wait_for("the coordinator to stop", || Ok(limited.try_wait()?))?;
    let said = std::fs::read_to_string(bench.path("limited.log"))?;
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.contains("coordinator.sqlite cannot be written") && said.contains("os error 27"), "{said}");

    let verified = bench.json(["verify", "data"])?;
    ensure!(verified["clean"] == true, "{verified}");
    let _coordinator = bench.coordinator_at("data", &address)?;
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    ensure!(submitted["new_trials"] == 5000, "{submitted}");
    Ok(())
}
