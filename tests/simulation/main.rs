//! Simulation: the real coordinator and real agents over real gRPC, in one thread, with turmoil's network and time and a
//! pretended trainer. One seed gives one run, to the message: a test runs a seed twice and compares the whole traces.
//!
//! What makes it so: the engine and all work on files run on the simulated hosts' own threads (`Execution::OnTheSpot`), time
//! is tokio's, names are drawn from the seed (`plateau-machine`), what is chosen among has an order (`biased`, ordered maps).
//! What stays different from run to run, and is left out of the trace: HTTP's date header, and the id of the data directory.
//!
//! Settings, by environment:
//!
//! - `PLATEAU_SIMULATION_SEEDS`: how many seeds the random scenarios run (default 4), from 1 on;
//! - `PLATEAU_SIMULATION_SEED`: only this one, to repeat a failure.
//!
//! ```sh
//! PLATEAU_SIMULATION_SEEDS=2000 cargo test -p plateau-simulation --test simulation -- under_faults --nocapture
//! ```

mod cases;
mod faults;
mod network;
mod oracles;
mod time;
mod trace;
mod trainer;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use faults::{FAULTS, Fault, Schedule};
use world::{Plan, World};

/// Faults begin within this time.
const FAULTY: Duration = Duration::from_secs(240);
/// Once faults have ceased, sweeps end within this time: a lease's term, and the work that is left on three agents.
const LIVENESS: Duration = Duration::from_secs(400);

/// The seeds to run.
pub fn seeds(default: u64) -> anyhow::Result<Vec<u64>> {
    let setting = |name: &str| -> anyhow::Result<Option<u64>> {
        match std::env::var(name) {
            Ok(text) => {
                Ok(Some(text.parse().with_context(|| format!("{name}={text} is not a whole number"))?))
            }
            Err(_) => Ok(None),
        }
    };
    if let Some(seed) = setting("PLATEAU_SIMULATION_SEED")? {
        return Ok(vec![seed]);
    }
    Ok((1..=setting("PLATEAU_SIMULATION_SEEDS")?.unwrap_or(default)).collect())
}

/// Runs a scenario over seeds; a failure says how to repeat it.
pub fn for_seeds(
    test: &str,
    default: u64,
    mut scenario: impl FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for seed in seeds(default)? {
        scenario(seed).with_context(|| {
            format!(
                "the last that happened:\n{}\nrepeat it with\nPLATEAU_SIMULATION_SEED={seed} cargo test -p \
                 plateau-simulation --test simulation -- {test}",
                trace::last(40).join("\n")
            )
        })?;
    }
    Ok(())
}

/// Two studies under the random faults of a seed; gives the trace, what is stored, and the faults.
fn sweeps_under_faults(seed: u64) -> anyhow::Result<(Vec<String>, Vec<String>, Vec<Fault>)> {
    let mut plan = Plan::of(seed);
    (plan.trials, plan.steps) = (10, 5000);
    let mut world = World::start(plan)?;
    let mut schedule = Schedule::new(seed, FAULTY);
    let mut quiet_since = None;
    loop {
        schedule.act(&mut world);
        let now = world.now();
        if schedule.is_over(now) {
            let since = *quiet_since.get_or_insert(now);
            ensure!(now - since < LIVENESS, "the sweeps have not ended {LIVENESS:?} after the last fault");
        }
        if world.step()? {
            break;
        }
    }
    oracles::check(&mut world)?;
    let contents = oracles::contents(&world, true)?;
    Ok((trace::take(), contents, schedule.struck))
}

#[test]
fn sweeps_under_faults_end_as_in_peace_with_nothing_lost_or_double() -> anyhow::Result<()> {
    let mut counts: BTreeMap<Fault, u64> = BTreeMap::new();
    let mut run = 0;
    for_seeds("sweeps_under_faults_end_as_in_peace", 4, |seed| {
        let (_, _, struck) = sweeps_under_faults(seed)?;
        struck.into_iter().for_each(|fault| *counts.entry(fault).or_default() += 1);
        run += 1;
        Ok(())
    })?;
    println!("{run} seeds, {} faults: {counts:?}", counts.values().sum::<u64>());
    ensure!(run < 4 || counts.len() == FAULTS.len(), "not every kind of fault struck: {counts:?}");
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_trace() -> anyhow::Result<()> {
    for_seeds("the_same_seed_gives_the_same_trace", 1, |seed| {
        let (first, first_contents, _) = sweeps_under_faults(seed)?;
        let (second, second_contents, _) = sweeps_under_faults(seed)?;
        for (place, (a, b)) in first.iter().zip(&second).enumerate() {
            let before = first[place.saturating_sub(10)..place].join("\n");
            ensure!(a == b, "line {place} of the trace differs, after\n{before}\nonce\n{a}\nthen\n{b}");
        }
        ensure!(first.len() == second.len(), "{} lines, then {}", first.len(), second.len());
        ensure!(first_contents == second_contents, "other rows");
        let frames = first.iter().filter(|line| line.contains(" frame data ")).count();
        ensure!(frames > 1000 && first_contents.len() > 100, "{frames} messages were compared");
        println!("{} lines, {frames} messages, {} rows are the same", first.len(), first_contents.len());
        let (other, ..) = sweeps_under_faults(seed + 1_000_000)?;
        ensure!(other != first, "another seed gives the same trace");
        Ok(())
    })
}
