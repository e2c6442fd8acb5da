//! `kill -9` of the coordinator at random moments while studies are submitted and trials end (cases 1 and 3): whatever
//! was acknowledged is there, once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use plateau_common::random::Stream;
use plateau_tests::outcome::trials;
use plateau_tests::{Bench, small_study, wait_for};
use serde_json::Value;

use crate::setting;

/// Steps of a trial: ends come as often as submissions.
const STEPS: u32 = 20;

/// Submits studies of two trials until told to stop; gives the sweep of every study that was acknowledged.
fn submit_until(bench: &Bench, url: &str, stop: &AtomicBool) -> anyhow::Result<BTreeMap<String, String>> {
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let name = format!("study-{number}");
        let file = format!("{name}.toml");
        // Each study has trials of its own.
        let seeds = format!("[{}, {}]", 2 * number, 2 * number + 1);
        bench.write(&file, &small_study(&name, &seeds, STEPS))?;
        // A request that failed may have been done: it is made again until it is acknowledged.
        while !stop.load(Ordering::SeqCst) {
            if let Ok(answer) = bench.json(["submit", file.as_str(), "--coordinator", url]) {
                let sweep = answer["sweep"].as_str().context("a sweep id")?.to_owned();
                acknowledged.insert(name.clone(), sweep);
                break;
            }
        }
        number += 1;
    }
    Ok(acknowledged)
}

/// Waits until every sweep has ended, patiently as long as more of them do; gives what `list` says of them.
fn every_sweep_ended(bench: &Bench, target: [&str; 2]) -> anyhow::Result<Vec<Value>> {
    let mut running = usize::MAX;
    loop {
        let (still, sweeps) = wait_for("another sweep to end", || {
            let listed = bench.json(["list", target[0], target[1]])?;
            let sweeps = listed["sweeps"].as_array().cloned().context("`list` prints a list")?;
            let still = sweeps.iter().filter(|sweep| sweep["state"] != "finished").count();
            Ok((still == 0 || still < running).then_some((still, sweeps)))
        })?;
        if still == 0 {
            return Ok(sweeps);
        }
        running = still;
        // There are thousands after a long run: listing them all the time would keep the coordinator from its work.
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn case_01_and_03_what_a_killed_coordinator_acknowledged_is_there_once() -> anyhow::Result<()> {
    let kills = setting("KILLS", 20)?;
    let stream = &mut Stream::new(setting("SEED", 1)?, "kills", 0);
    let bench = &Bench::new(env!("CARGO_BIN_EXE_plateau-tested"))?;
    let mut coordinator = bench.coordinator("data")?;
    let (address, url) = (coordinator.address.clone(), coordinator.url.clone());
    let _agents = [bench.agent("one", &url)?, bench.agent("two", &url)?];
    let stop = &AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let submitting = scope.spawn(|| submit_until(bench, &url, stop));
        let mut kill_all = || -> anyhow::Result<()> {
            for _ in 0..kills {
                std::thread::sleep(Duration::from_millis(u64::from(stream.below(120))));
                coordinator.process.kill()?;
                coordinator = bench.coordinator_at("data", &address)?;
            }
            Ok(())
        };
        let killed = kill_all();
        stop.store(true, Ordering::SeqCst);
        let acknowledged = submitting.join().map_err(|_| anyhow::anyhow!("the submitting thread broke"))?;
        killed.and(acknowledged)
    })?;
    ensure!(acknowledged.len() as u64 >= kills / 4, "only {} studies were acknowledged", acknowledged.len());

    let target = ["--coordinator", url.as_str()];
    let mut ended = 0;
    let listed = every_sweep_ended(bench, target)?;
    for (name, sweep) in &acknowledged {
        let there = listed.iter().filter(|listed| listed["name"] == name.as_str());
        let ids: Vec<_> = there.map(|listed| listed["sweep"].clone()).collect();
        ensure!(ids == [sweep.as_str()], "{name} was acknowledged as {sweep} and is there as {ids:?}");
        for trial in trials(bench, target, sweep)? {
            ensure!(trial["state"] == "completed", "not completed: {trial}");
            ended += 1;
        }
    }
    println!(
        "{kills} kills: {} acknowledged studies are there once, their {ended} trials ended once",
        acknowledged.len()
    );
    Ok(())
}
