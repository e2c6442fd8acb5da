//! Chaos: real sweeps of real training under random faults, which must end with the bits and metrics of a sweep in peace
//! and leave a data directory in which `plateau verify` finds nothing.
//!
//! The schedule of faults comes from a seed; when each strikes depends on the machine, so a seed repeats the kinds and
//! their order, not every interleaving. Settings, by environment:
//!
//! - `PLATEAU_CHAOS_SEED`: the seed (default 1);
//! - `PLATEAU_CHAOS_SECONDS`: sweeps are run one after another until this long has passed (default 0: one sweep);
//! - `PLATEAU_CHAOS_TRIALS`, `PLATEAU_CHAOS_STEPS`: size of a sweep (defaults 12 and 3000);
//! - `PLATEAU_CHAOS_KILLS`: kills of the coordinator in the test of its acknowledgements (default 20).
//!
//! ```sh
//! PLATEAU_CHAOS_SECONDS=1800 PLATEAU_CHAOS_TRIALS=120 cargo test -p plateau-tests --test chaos -- --nocapture
//! ```

mod cluster;
mod kills;
mod proxy;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cluster::{Cluster, Event, FAULTS, Fault};
use plateau_common::random::Stream;
use plateau_tests::outcome::{Results, all_different, metrics, results};
use plateau_tests::{Bench, PATIENCE, small_study};

const AGENTS: usize = 3;
/// How often the state of the sweep is looked at between faults.
const LOOK: Duration = Duration::from_millis(100);

/// A setting of the environment, or what it is without.
pub fn setting(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(format!("PLATEAU_CHAOS_{name}")) {
        Ok(text) => {
            text.parse().with_context(|| format!("PLATEAU_CHAOS_{name}={text} is not a whole number"))
        }
        Err(_) => Ok(default),
    }
}

/// What a sweep must end with.
struct Peace {
    results: Results,
    metrics: Vec<String>,
}

#[test]
fn sweeps_under_faults_end_with_the_bits_of_a_sweep_in_peace() -> anyhow::Result<()> {
    let seed = setting("SEED", 1)?;
    let lasts = Duration::from_secs(setting("SECONDS", 0)?);
    let (trials, steps) = (setting("TRIALS", 12)?, setting("STEPS", 3000)?);
    let bench = Bench::new(env!("CARGO_BIN_EXE_plateau-tested"))?;
    let seeds: Vec<String> = (0..trials).map(|seed| seed.to_string()).collect();
    bench.write(
        "study.toml",
        &small_study("chaos", &format!("[{}]", seeds.join(", ")), u32::try_from(steps)?),
    )?;

    bench.succeed(["run", "study.toml", "--agents", "2", "--data-dir", "peace"])?;
    let target = ["--data-dir", "peace"];
    let peace = Peace {
        results: results(&bench, target, "last")?,
        metrics: metrics(&bench, target, "last", "metrics-peace")?,
    };
    ensure!(peace.results.len() as u64 == trials, "{} trials in peace", peace.results.len());

    let mut counts: BTreeMap<Fault, u64> = BTreeMap::new();
    let start = Instant::now();
    let mut round = 0;
    loop {
        let stream = &mut Stream::new(seed, "chaos", round);
        one_sweep(&bench, &format!("round-{round}"), stream, &peace, &mut counts)
            .with_context(|| format!("seed {seed}, round {round}, faults so far {counts:?}"))?;
        round += 1;
        if start.elapsed() >= lasts {
            break;
        }
    }
    let faults: u64 = counts.values().sum();
    println!(
        "chaos, seed {seed}: {round} sweeps of {trials} trials, {faults} faults of {} kinds in {} s: {counts:?}; \
         every sweep has the weights and metrics of the one in peace",
        counts.len(),
        start.elapsed().as_secs()
    );
    Ok(())
}

/// A sweep in a fresh data directory, under faults until it is done.
fn one_sweep(
    bench: &Bench,
    data: &str,
    stream: &mut Stream,
    peace: &Peace,
    counts: &mut BTreeMap<Fault, u64>,
) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(bench, data, AGENTS)?;
    let url = cluster.url();
    let target = ["--coordinator", url.as_str()];
    let submitted = bench.json(["submit", "study.toml", target[0], target[1]])?;
    let sweep = submitted["sweep"].as_str().context("a sweep id")?.to_owned();
    let mut healing: Vec<(Instant, Event)> = Vec::new();
    let begin = Instant::now();
    while !is_finished(bench, &cluster, target, &sweep)? {
        ensure!(begin.elapsed() < 4 * PATIENCE, "the sweep does not end");
        let event = Event::draw(stream, AGENTS);
        let is_free = healing.iter().all(|(_, other)| other.place != event.place);
        if is_free && cluster.strike(event)? {
            *counts.entry(event.fault).or_default() += 1;
            healing.push((Instant::now() + event.lasts, event));
        }
        let pause = Instant::now() + Duration::from_millis(u64::from(200 + stream.below(1200)));
        while Instant::now() < pause {
            heal_due(&mut cluster, &mut healing, Instant::now())?;
            std::thread::sleep(LOOK);
        }
    }
    let last = healing.iter().map(|(due, _)| *due).max().unwrap_or(begin);
    heal_due(&mut cluster, &mut healing, last)?;

    ensure!(results(bench, target, &sweep)? == peace.results, "other bits than in peace");
    let found = metrics(bench, target, &sweep, &format!("metrics-{data}"))?;
    all_different(&found)?;
    ensure!(found == peace.metrics, "other metrics than in peace");
    let again = bench.json(["submit", "study.toml", target[0], target[1]])?;
    ensure!(again["sweep"] == sweep.as_str(), "the same study became another sweep: {again}");
    let lost = cluster.lost_bytes();
    cluster.stop()?;
    bench.succeed(["verify", data])?;
    let orphans = orphans(bench)?;
    ensure!(orphans.is_empty(), "processes were left behind: {orphans:?}");
    println!("{data}: done in {} s, {lost} bytes were lost on the way", begin.elapsed().as_secs());
    Ok(())
}

/// Heals what has lasted long enough.
fn heal_due(
    cluster: &mut Cluster<'_>,
    healing: &mut Vec<(Instant, Event)>,
    now: Instant,
) -> anyhow::Result<()> {
    let (due, rest): (Vec<_>, Vec<_>) = healing.drain(..).partition(|(due, _)| *due <= now);
    *healing = rest;
    for (_, event) in due {
        cluster.heal(event)?;
    }
    Ok(())
}

/// Whether the sweep has ended; false while the coordinator cannot say.
fn is_finished(bench: &Bench, cluster: &Cluster<'_>, target: [&str; 2], sweep: &str) -> anyhow::Result<bool> {
    if !cluster.is_answering() {
        return Ok(false);
    }
    let Ok(shown) = bench.json(["show", sweep, target[0], target[1]]) else { return Ok(false) };
    Ok(shown["state"] == "finished")
}

/// Processes of the binary under test that work in this test's folder.
fn orphans(bench: &Bench) -> anyhow::Result<BTreeSet<String>> {
    let folder = std::fs::canonicalize(bench.path("."))?;
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?.path();
        // Processes end while we look.
        let Ok(place) = std::fs::read_link(entry.join("cwd")) else { continue };
        if place.starts_with(&folder) {
            let command = std::fs::read(entry.join("cmdline")).unwrap_or_default();
            found.insert(String::from_utf8_lossy(&command).replace('\0', " "));
        }
    }
    Ok(found)
}

#[test]
fn a_seed_repeats_its_faults_and_has_all_kinds() {
    let draw = |seed: u64| -> Vec<String> {
        let stream = &mut Stream::new(seed, "chaos", 0);
        (0..200).map(|_| format!("{:?}", Event::draw(stream, AGENTS))).collect()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let stream = &mut Stream::new(1, "chaos", 0);
    let kinds: BTreeSet<Fault> = (0..200).map(|_| Event::draw(stream, AGENTS).fault).collect();
    assert_eq!(kinds.len(), FAULTS.len());
}
