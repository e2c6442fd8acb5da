//! Random interleavings of everything that can happen, stale, doubled and late, with restarts in between. The world
//! checks the invariants after every step; in the end the sweeps must finish.

use plateau_common::trial::{Ending, TrialState};
use proptest::prelude::*;

use super::world::{World, specification};
use crate::core::*;

const AGENTS: [&str; 3] = ["a", "b", "c"];

fn members(variant: u8) -> Vec<Specification> {
    let longer = u64::from(variant / 3) * 20;
    match variant % 3 {
        0 => (1..=4).map(|number| specification(number, 20 + longer, 0)).collect(),
        1 => (3..=6).map(|number| specification(number, 30 + longer, u128::from(number % 2))).collect(),
        _ => (1..=6).map(|number| specification(number, 25 + longer, 1)).collect(),
    }
}

/// Any lease ever granted, or one that never was.
fn lease(world: &World, choice: u8) -> (String, LeaseKey, u64) {
    let never = ("a".to_owned(), LeaseKey { trial: super::world::trial(1), attempt: 999 }, 10);
    if world.granted.is_empty() || choice == 255 {
        return never;
    }
    // Recent ones are more interesting.
    let back = (choice as usize / 2) % world.granted.len().min(8);
    world.granted[world.granted.len() - 1 - back].clone()
}

fn step(world: &mut World, kind: u8, first: u8, second: u8) {
    let (holder, key, budget) = lease(world, first);
    // Mostly the holder speaks, sometimes another.
    let name = if second < 230 { holder } else { AGENTS[second as usize % 3].to_owned() };
    match kind {
        0 => drop(world.submit(&format!("s{}", first % 3), members(first % 3))),
        1 => {
            let sweep = u64::from(first % 3) + 1;
            let trials = members(second % 6);
            world.apply(Input::Extend { sweep, source: vec![2], trials, what: "more".to_owned() });
        }
        2 => {
            let sweep = u64::from(first % 3) + 1;
            world.apply(match second % 4 {
                0 => Input::Cancel { sweep, reason: String::new() },
                1 => Input::Pause { sweep },
                _ => Input::Resume { sweep },
            });
        }
        3 | 4 => {
            let name = AGENTS[first as usize % 3];
            let held: Vec<LeaseKey> = world
                .granted
                .iter()
                .rev()
                .filter(|(agent, ..)| agent == name)
                .map(|(_, key, _)| *key)
                .take(second as usize % 6)
                .collect();
            let incarnation = if second < 200 { "1".to_owned() } else { second.to_string() };
            world.connect(name, &incarnation, held);
        }
        5 => {
            let name = AGENTS[first as usize % 3].to_owned();
            let session = world.state.agents.get(&name).and_then(|agent| agent.session).unwrap_or(1);
            // Now and then the news of an old session arrives late.
            let session = if second < 40 { session.saturating_sub(1) } else { session };
            world.apply(Input::Disconnected { session, agent: name });
        }
        6..=9 => drop(world.idle(AGENTS[first as usize % 3])),
        10 => world.say(&name, Report::Started { lease: key, from_step: u64::from(second % 5) }),
        11 | 12 => {
            let chunk = u64::from(second % 3);
            let digest = [second / 3 % 2; 32];
            let report = Report::Metrics {
                lease: key,
                chunk,
                digest,
                recorded: None,
                last_step: chunk * 5,
                data: vec![0],
            };
            world.say(&name, report);
        }
        13..=15 => {
            let (ending, step) = match second % 8 {
                0 => (Ending::Diverged { step: 7 }, 7),
                1 => (Ending::Failed { reason: "bad".to_owned() }, 0),
                2 => (Ending::Completed, budget - 1),
                _ => (Ending::Completed, budget),
            };
            let report =
                Report::Ended { lease: key, ending, step, train_seconds: 1.0, weights_hash: String::new() };
            world.say(&name, report);
        }
        16 => world.say(&name, Report::Released { lease: key, reason: String::new(), train_seconds: 1.0 }),
        17 => {
            let leases =
                world.granted.iter().rev().filter(|(agent, ..)| *agent == name).map(|(_, key, _)| *key);
            let leases = leases.take(second as usize % 5).collect();
            world.crash(&name, leases);
        }
        18 | 19 if second >= 235 => {
            let (attempt, step) = (key.attempt, u64::from(first % 20) + 1);
            let problem = "bit rot".to_owned();
            world.apply(Input::CheckpointDamaged { trial: key.trial, attempt, step, problem });
        }
        18 | 19 => {
            let stored = Input::CheckpointStored {
                lease: key,
                step: u64::from(second % 20) + 1,
                weights_hash: String::new(),
                bytes: 1,
            };
            world.apply(stored);
        }
        20 => world.pass(u64::from(second)),
        21 => world.restart(),
        22 => world.say(&name, Report::Goodbye),
        23 | 24 => {
            let grants = world.state.agents.get(&name).map_or(0, |agent| agent.grants);
            let places = second.is_multiple_of(2).then_some((u128::from(first % 2), u32::from(second % 5)));
            let wish = Wish { grants, next: second.is_multiple_of(3), places };
            let waiting = vec![key];
            let report = Report::Heartbeat { leases: vec![(key, 1)], speed: 1.0, idle: false, waiting, wish };
            world.say(&name, report);
        }
        25 => {
            let leases =
                world.granted.iter().rev().filter(|(agent, ..)| *agent == name).map(|(_, key, _)| *key);
            let leases: Vec<LeaseKey> = leases.take(second as usize % 5).collect();
            let cohort_size = u32::from(first % 5);
            let (suspected, reason) = (second.is_multiple_of(2), "full".to_owned());
            world.say(&name, Report::OutOfMemory { leases, cohort_size, suspected, reason });
        }
        26 => {
            let points = [(1, f64::from(first) + 1.0), (2, f64::from(second) + 1.0)];
            world.say(
                &name,
                Report::Throughput {
                    cohort: u128::from(first % 3),
                    curve: plateau_common::throughput::ThroughputCurve::new(points).unwrap(),
                    calibrated: second.is_multiple_of(2),
                    evaluation_seconds: 0.1,
                },
            );
        }
        _ => {
            world.say(&name, Report::Log { lease: key, lines: vec![(0, "info".to_owned(), "x".to_owned())] })
        }
    }
}

/// Everything goes well from now on: every active sweep must finish.
fn drive_to_the_end(world: &mut World) {
    for name in AGENTS {
        let session = world.state.agents.get(name).and_then(|agent| agent.session);
        if let Some(session) = session {
            world.apply(Input::Disconnected { session, agent: name.to_owned() });
        }
    }
    let sweeps: Vec<SweepNumber> = world.state.sweeps.keys().copied().collect();
    for sweep in &sweeps {
        world.apply(Input::Resume { sweep: *sweep });
    }
    world.pass(80);
    world.connect("healthy", "1", vec![]);
    for _ in 0..200 {
        let granted = world.idle("healthy");
        if granted.is_empty() {
            break;
        }
        for (_, lease, budget) in granted {
            world.complete("healthy", lease, budget);
        }
    }
    for sweep in sweeps {
        let sweep = &world.state.sweeps[&sweep];
        assert!(sweep.mode == SweepMode::Cancelled || sweep.is_finished(), "{:?}", sweep.counts);
        assert_eq!(sweep.count(TrialState::Leased) + sweep.count(TrialState::Running), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_breaks_an_invariant_and_every_sweep_ends(
        steps in prop::collection::vec((0u8..28, any::<u8>(), any::<u8>()), 1..120)
    ) {
        let mut world = World::new();
        world.submit("s0", members(0));
        world.connect("a", "1", vec![]);
        for (kind, first, second) in steps {
            step(&mut world, kind, first, second);
        }
        drive_to_the_end(&mut world);
    }
}
