//! Named cases of tests/CASES.md in simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use plateau_common::limits::{LEASE_KILL_SECONDS, LEASE_SECONDS, RENEWAL_SECONDS};
use plateau_coordinator::store::{AttemptRecord, HistoryRow, Inspection};

use crate::faults::Fault;
use crate::trace::record;
use crate::world::{COORDINATOR, EPOCH, Plan, World};
use crate::{for_seeds, oracles, trace};

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The attempts of every trial, by id.
fn attempts(world: &World) -> anyhow::Result<BTreeMap<String, Vec<AttemptRecord>>> {
    let inspection = Inspection::open(&world.data())?;
    let state = inspection.state()?;
    let of = |id| Ok::<_, anyhow::Error>((format!("{id}"), inspection.reader().attempts(id)?));
    state.trials.keys().copied().map(of).collect()
}

/// An agent's history, with its times in simulated milliseconds.
fn history(world: &World, agent: &str) -> anyhow::Result<Vec<HistoryRow>> {
    let subject = plateau_coordinator::core::Subject::Agent(agent.to_owned());
    Ok(Inspection::open(&world.data())?.reader().history(&subject)?)
}

/// Milliseconds of simulated time of the lines of the trace that contain `text`.
fn times_of(lines: &[String], text: &str) -> Vec<u64> {
    let at = |line: &String| line.trim_start().split(' ').next()?.parse().ok();
    lines.iter().filter(|line| line.contains(text)).filter_map(at).collect()
}

/// Several hundred agents, whose coordinator is killed and started anew 20 s later.
#[test]
fn case_09_and_33_a_herd_comes_back_within_its_longest_pause_and_not_in_step() -> anyhow::Result<()> {
    const AGENTS: usize = 300;
    const DOWN: u64 = 20;
    /// The longest pause of an agent between two tries is 7.5 s; the rest is for the greetings.
    const REGISTERED_WITHIN: u64 = 9_000;
    for_seeds("case_09", 1, |seed| {
        let mut plan = Plan::of(seed);
        (plan.agents, plan.agents_per_host, plan.tick) = (AGENTS, 50, Duration::from_millis(20));
        (plan.trials, plan.steps) = (20, 2000);
        let mut world = World::start(plan)?;
        world.run_until(seconds(10))?;
        Fault::CoordinatorCrash.strike(&mut world, COORDINATOR);
        world.run_until(seconds(10 + DOWN))?;
        Fault::CoordinatorCrash.heal(&mut world, COORDINATOR);
        let back = world.now().as_millis() as u64;
        world.finish()?;
        oracles::check(&mut world)?;
        let lines = trace::take();
        let mut registered = times_of(&lines, "agent connected");
        registered.retain(|at| *at >= back);
        ensure!(registered.len() == AGENTS, "{} agents came back, of {AGENTS}", registered.len());
        let last = registered.last().copied().unwrap_or(0) - back;
        ensure!(last <= REGISTERED_WITHIN, "the last agent was back after {last} ms");

        // Without a coordinator: few tries, spread out.
        let mut tries = times_of(&lines, " connects");
        tries.retain(|at| (12_000..back).contains(at));
        let each = tries.len() as f64 / AGENTS as f64;
        ensure!(each <= 12.0, "{each} tries of each agent in {DOWN} s");
        let mut together: BTreeMap<u64, usize> = BTreeMap::new();
        tries.iter().for_each(|at| *together.entry(at / 100).or_default() += 1);
        let most = together.values().max().copied().unwrap_or(0);
        ensure!(most < AGENTS / 5, "{most} of {AGENTS} agents tried within 100 ms");
        println!(
            "all {AGENTS} registered within {last} ms; {each:.1} tries of each in {DOWN} s, at most {most} in 100 ms"
        );
        Ok(())
    })
}

#[test]
fn case_14_an_agent_started_anew_while_its_lease_lives_gets_its_trials_at_once() -> anyhow::Result<()> {
    for_seeds("case_14", 3, |seed| {
        let mut world = World::start(Plan::of(seed))?;
        world.run_until(seconds(20))?;
        // The coordinator is not told of the end of the first process.
        Fault::PowerLoss.strike(&mut world, "host-1");
        world.run_until(seconds(23))?;
        Fault::PowerLoss.heal(&mut world, "host-1");
        world.finish()?;
        oracles::check(&mut world)?;
        let lines = trace::take();
        let received = times_of(&lines, "lease received agent=\"agent-1\"");
        let again =
            received.iter().find(|at| **at > 23_000).context("nothing was granted to the new process")?;
        ensure!(*again < 27_000, "its first lease came at {again} ms: it waited for the old ones to expire");
        Ok(())
    })
}

#[test]
fn case_16_a_trial_that_stalls_is_taken_away_and_its_trainer_killed() -> anyhow::Result<()> {
    for_seeds("case_16", 1, |seed| {
        let mut plan = Plan::of(seed);
        plan.tick = Duration::from_millis(50);
        let mut world = World::start(plan)?;
        world.run_until(seconds(20))?;
        world.work.set_stuck("agent-1", true);
        world.run_until(seconds(1100))?;
        // The trainer that is stuck was killed; those that follow run.
        world.work.set_stuck("agent-1", false);
        world.finish()?;
        oracles::check(&mut world)?;
        let events = history(&world, "agent-1")?;
        ensure!(
            !events.iter().any(|row| row.event.contains("disconnected")),
            "its agent was alive: {events:?}"
        );
        let lines = trace::take();
        ensure!(!times_of(&lines, "no progress on agent agent-1 for 900 s").is_empty(), "nothing stalled");
        Ok(())
    })
}

/// An agent is cut off in some way for longer than a lease, while it trains.
fn cut_off(fault: Fault, seed: u64) -> anyhow::Result<()> {
    const AT: u64 = 20;
    const FOR: u64 = 150;
    let mut plan = Plan::of(seed);
    // Its training would last longer than the cut.
    plan.steps = 12_000;
    let mut world = World::start(plan)?;
    world.run_until(seconds(AT))?;
    fault.strike(&mut world, "host-1");
    world.run_until(seconds(AT + FOR))?;
    let active = world.work.active_seconds("agent-1");
    let stopped = active.iter().filter(|second| **second < AT + FOR).max().copied().unwrap_or(0);
    fault.heal(&mut world, "host-1");
    world.finish()?;
    // No trial was trained by two at once: see the oracle.
    oracles::check(&mut world)?;

    let latest = AT + LEASE_SECONDS - LEASE_KILL_SECONDS;
    ensure!(active.contains(&(AT + 10)), "{fault:?}: it was not training");
    ensure!(stopped <= latest, "{fault:?}: it trained until {stopped} s, allowed were {latest} s");
    let again = attempts(&world)?.into_values().filter(|attempts| {
        let before = attempts.iter().take_while(|attempt| attempt.agent != "agent-1").count();
        attempts.get(before + 1).is_some_and(|next| next.agent != "agent-1")
    });
    ensure!(again.count() > 0, "{fault:?}: nobody took its trials");
    // Half-open connections are noticed by both sides.
    let events = history(&world, "agent-1")?;
    let disconnected =
        events.iter().find(|row| row.event == "disconnected").context("it was never missed")?;
    let noticed = (disconnected.at - EPOCH) / 1000 - AT as i64;
    ensure!(noticed <= LEASE_SECONDS as i64, "{fault:?}: the dead connection was noticed after {noticed} s");
    Ok(())
}

#[test]
fn case_17_an_agent_cut_off_stops_before_its_trials_go_to_others() -> anyhow::Result<()> {
    for_seeds("case_17", 2, |seed| cut_off(Fault::Cut, seed))
}

#[test]
fn case_27_a_half_open_connection_is_noticed_and_what_it_held_changes_nothing() -> anyhow::Result<()> {
    for_seeds("case_27", 2, |seed| cut_off(Fault::Hold, seed))
}

#[test]
fn case_30_one_direction_lost_ends_like_both() -> anyhow::Result<()> {
    for_seeds("case_30", 2, |seed| {
        cut_off(Fault::CutTo, seed)?;
        cut_off(Fault::CutFrom, seed)
    })
}

/// The other half of case 17's rule: where nobody else can get the trials, training goes on.
#[test]
fn case_04_agents_train_on_while_no_coordinator_runs() -> anyhow::Result<()> {
    const AT: u64 = 15;
    const DOWN: u64 = 120;
    for_seeds("case_04_agents_train_on", 1, |seed| {
        let mut plan = Plan::of(seed);
        (plan.trials, plan.steps) = (8, 10_000);
        let mut world = World::start(plan)?;
        world.run_until(seconds(AT))?;
        Fault::CoordinatorCrash.strike(&mut world, COORDINATOR);
        world.run_until(seconds(AT + DOWN))?;
        for agent in world.agents.clone() {
            let active = world.work.active_seconds(&agent);
            let all: BTreeSet<u64> = (AT + 1..AT + DOWN).collect();
            ensure!(active.is_superset(&all), "{agent} stood still in {:?}", all.difference(&active));
        }
        Fault::CoordinatorCrash.heal(&mut world, COORDINATOR);
        world.finish()?;
        oracles::check(&mut world)?;
        let once = attempts(&world)?.into_values().all(|attempts| attempts.len() == 1);
        ensure!(once, "a lease was not taken up again");
        Ok(())
    })
}

/// Where nobody answers, agents cannot know: they stop, keep what they have, and go on from it.
#[test]
fn case_04_agents_that_hear_nothing_at_all_save_and_stop_and_lose_no_step() -> anyhow::Result<()> {
    const AT: u64 = 15;
    const DOWN: u64 = 120;
    for_seeds("case_04_agents_that_hear_nothing", 2, |seed| {
        let mut world = World::start(Plan::of(seed))?;
        world.run_until(seconds(AT))?;
        Fault::CoordinatorPowerLoss.strike(&mut world, COORDINATOR);
        world.run_until(seconds(AT + DOWN))?;
        for agent in world.agents.clone() {
            let active = world.work.active_seconds(&agent);
            ensure!(active.contains(&(AT + 30)), "{agent} gave up too early");
            ensure!(active.last() <= Some(&(AT + LEASE_SECONDS - LEASE_KILL_SECONDS)), "{agent} trained on");
        }
        Fault::CoordinatorPowerLoss.heal(&mut world, COORDINATOR);
        world.finish()?;
        oracles::check(&mut world)?;
        let stopped_at = 5 * 10 * (LEASE_SECONDS - 20);
        let continued = attempts(&world)?;
        let second = continued.values().filter_map(|attempts| attempts.get(1));
        let from: Vec<u64> = second.map(|attempt| attempt.from_step).collect();
        ensure!(!from.is_empty() && from.iter().all(|step| *step >= stopped_at), "continued from {from:?}");
        Ok(())
    })
}

#[test]
fn case_21_when_most_of_a_fleet_vanishes_few_leases_end_and_it_is_flagged() -> anyhow::Result<()> {
    for_seeds("case_21", 1, |seed| {
        let mut plan = Plan::of(seed);
        (plan.agents, plan.trials) = (8, 16);
        let mut world = World::start(plan)?;
        world.run_until(seconds(20))?;
        let gone: Vec<String> = world.hosts.iter().take(6).cloned().collect();
        gone.iter().for_each(|host| Fault::Cut.strike(&mut world, host));
        // The leases of all would have ended by now; the brake lets go of one agent's after a while, then of the next.
        world.run_until(seconds(20 + LEASE_SECONDS + RENEWAL_SECONDS))?;
        gone.iter().for_each(|host| Fault::Cut.heal(&mut world, host));
        world.finish()?;
        oracles::check(&mut world)?;
        let flagged = gone.iter().filter(|host| {
            let agent = host.replace("host", "agent");
            let events = history(&world, &agent).unwrap_or_default();
            events.iter().any(|row| row.event.contains("fell silent at once"))
        });
        ensure!(flagged.count() == gone.len(), "the brake was not put on");
        let lines = trace::take();
        // An agent that comes back last, when the others are heard of again, is judged alone.
        let lost = gone.iter().filter(|host| {
            let expired = format!("agent {} was not heard of for", host.replace("host", "agent"));
            !times_of(&lines, &expired).is_empty()
        });
        let lost = lost.count();
        ensure!(lost <= 2, "{lost} of {} agents lost their leases", gone.len());
        Ok(())
    })
}

#[test]
fn case_28_replies_that_are_lost_change_nothing() -> anyhow::Result<()> {
    for_seeds("case_28", 3, |seed| {
        let mut world = World::start(Plan::of(seed))?;
        let mut stream = plateau_common::random::Stream::new(seed, "simulation/replies", 0);
        let everybody: Vec<String> = world.hosts.iter().cloned().chain(["client".to_owned()]).collect();
        let mut begins = Duration::ZERO;
        while world.now() < seconds(200) {
            let host = everybody[stream.below(everybody.len() as u32) as usize].clone();
            begins += Duration::from_millis(u64::from(stream.below(5000)));
            if world.run_until(begins)? {
                break;
            }
            Fault::CutFrom.strike(&mut world, &host);
            begins += Duration::from_millis(u64::from(50 + stream.below(1500)));
            let over = world.run_until(begins)?;
            Fault::CutFrom.heal(&mut world, &host);
            if over {
                break;
            }
        }
        if world.told().finished.is_none() {
            world.finish()?;
        }
        oracles::check(&mut world)
    })
}

/// What an agent's process sent before it died arrives after its successor has registered.
#[test]
fn case_29_bytes_of_an_old_session_after_the_new_registration_change_nothing() -> anyhow::Result<()> {
    for_seeds("case_29", 3, |seed| {
        let mut world = World::start(Plan::of(seed))?;
        world.run_until(seconds(20))?;
        world.sim.hold("host-1", COORDINATOR);
        world.run_until(seconds(23))?;
        let mut old = BTreeSet::new();
        world.sim.links(|links| {
            for sent in links.flatten() {
                let (from, to) = sent.pair();
                old.extend([from, to]);
            }
        });
        let coordinator = world.sim.lookup(COORDINATOR);
        old.retain(|address| address.ip() != coordinator);
        ensure!(!old.is_empty(), "nothing was on its way");
        world.sim.crash("host-1");
        world.sim.bounce("host-1");
        record(format_args!("the successor begins"));
        // Only what belongs to the successor's connections gets through.
        while world.now() < seconds(30) {
            world.step()?;
            world.sim.links(|links| {
                for sent in links.flatten() {
                    let (from, to) = sent.pair();
                    let held = from.ip() == coordinator || to.ip() == coordinator;
                    if held && !old.contains(&from) && !old.contains(&to) {
                        sent.deliver();
                    }
                }
            });
        }
        let before = trace::last(100_000);
        let began = before.iter().position(|line| line.contains("the successor begins")).unwrap_or(0);
        let registered =
            before[began..].iter().any(|line| line.contains("agent connected agent=\"agent-1\""));
        ensure!(registered, "the successor has not registered");
        world.sim.release("host-1", COORDINATOR);
        world.finish()?;
        oracles::check(&mut world)?;
        let events = history(&world, "agent-1")?;
        ensure!(!events.iter().any(|row| row.event.contains("took")), "{events:?}");
        Ok(())
    })
}
