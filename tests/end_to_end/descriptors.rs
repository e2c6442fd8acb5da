//! A coordinator with few file descriptors: what cannot be accepted waits, what is connected works on.

use std::net::TcpStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use plateau_tests::{small_study, wait_for};

use crate::{bench, trials};

/// More than there is room for.
const CONNECTIONS: usize = 100;

#[test]
fn case_81_out_of_file_descriptors_a_coordinator_waits_and_goes_on() -> anyhow::Result<()> {
    let bench = bench()?;
    bench.write("study.toml", &small_study("crowd", "{ range = [0, 3] }", 1000))?;
    let log = bench.path("limited.log");
    let file = std::fs::File::create(&log)?;
    let mut coordinator = Command::new("bash")
        .args(["-c", "ulimit -n 64; exec \"$0\" coordinator --data-dir data --listen 127.0.0.1:0"])
        .arg(bench.binary())
        .current_dir(bench.path(""))
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    let result = crowd(&bench, &log, &mut coordinator);
    coordinator.kill()?;
    coordinator.wait()?;
    result.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())
}

fn crowd(
    bench: &plateau_tests::Bench,
    log: &std::path::Path,
    coordinator: &mut std::process::Child,
) -> anyhow::Result<()> {
    let address = wait_for("the coordinator's address", || {
        let Ok(text) = std::fs::read_to_string(bench.path("data/coordinator.json")) else { return Ok(None) };
        let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else { return Ok(None) };
        Ok(json["address"].as_str().map(str::to_owned))
    })?;
    let url = format!("http://{address}");
    let target = ["--coordinator", url.as_str()];
    bench.succeed(["submit", "study.toml", target[0], target[1]])?;
    // At work before the crowd comes, and through it.
    let _agent = bench.agent("early", &url)?;
    wait_for("the first lease", || {
        let all = trials(bench, target, "last")?;
        Ok(all.iter().any(|trial| trial["state"] != "pending").then_some(()))
    })?;
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS {
        // The system accepts them into its queue; the coordinator finds no descriptor for all of them.
        crowd.push(TcpStream::connect(&address)?);
    }
    wait_for("the coordinator to run out of descriptors", || {
        let said = std::fs::read_to_string(log)?;
        Ok(said.contains("could not be accepted").then_some(()))
    })?;
    ensure!(coordinator.try_wait()?.is_none(), "it ended");
    drop(crowd);
    wait_for("the sweep's end", || {
        let Ok(all) = trials(bench, target, "last") else { return Ok(None) };
        Ok(all.iter().all(|trial| trial["state"] == "completed").then_some(()))
    })?;
    ensure!(coordinator.try_wait()?.is_none(), "it ended");
    Ok(())
}
