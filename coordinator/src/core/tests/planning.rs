//! How large cohorts become: from given curves, from memory, after running out of it; and who is given work although it
//! trains.

use plateau_common::limits;
use plateau_common::throughput::ThroughputCurve;
use plateau_common::trial::TrialState;

use super::world::{World, specification, trial};
use crate::core::*;

/// Sizes of the cohorts granted so far.
fn sizes(world: &World) -> Vec<usize> {
    let leases = world.sent.iter().filter_map(|(_, message)| match message {
        ToAgent::Grant { leases, .. } => Some(leases.len()),
        _ => None,
    });
    leases.collect()
}

fn trials(numbers: std::ops::RangeInclusive<u8>, budget: u64, cohort: u128) -> Vec<Specification> {
    numbers.map(|number| specification(number, budget, cohort)).collect()
}

fn curve(points: &[(u32, f64)]) -> ThroughputCurve {
    ThroughputCurve::new(points.iter().copied()).unwrap()
}

fn measured(cohort: u128, points: &[(u32, f64)]) -> Report {
    Report::Throughput { cohort, curve: curve(points), calibrated: true, evaluation_seconds: 0.5 }
}

fn wish(world: &mut World, name: &str, next: bool, places: Option<(u128, u32)>) {
    let grants = world.state.agents[name].grants;
    let wish = Wish { grants, next, places };
    world.say(name, Report::Heartbeat { leases: vec![], speed: 1.0, idle: false, waiting: vec![], wish });
}

/// A card that wants up to 64, and a study of 40 trials of 1000 steps for it.
fn card() -> World {
    let mut world = World::new();
    world.submit("s", trials(1..=40, 1000, 0));
    world.connect_with("card", "1", vec![], |card| {
        card.device = "cuda:0".to_owned();
        card.max_cohort = 64;
    });
    world
}

#[test]
fn the_curve_decides_the_size() {
    let points = [(1, 100.0), (2, 190.0), (4, 300.0), (8, 310.0), (16, 315.0)];
    let mut world = card();
    world.say("card", measured(0, &points));
    assert_eq!(world.idle("card").len(), 4, "300 is 95 % of 315");
    // Not measured yet, or in vain: as many as such devices usually want.
    let mut world = card();
    assert_eq!(world.idle("card").len(), 40);
    let mut world = card();
    world.say("card", measured(0, &[]));
    assert_eq!(world.idle("card").len(), 40);
    // A curve of another shape says nothing, nor one of another kind of device.
    let mut world = card();
    world.connect("other", "1", vec![]);
    world.say("other", measured(0, &points));
    world.say("card", measured(1, &points));
    assert_eq!(world.idle("card").len(), 40);
}

#[test]
fn cohorts_of_short_trials_last_a_moment_and_none_is_larger_than_its_share() {
    // 8000 steps a second make two seconds of 16 trials of 1000 steps.
    let mut world = card();
    world.say("card", measured(0, &[(1, 8000.0), (2, 8000.0)]));
    assert_eq!(world.idle("card").len(), 16);
    let mut world = card();
    world.say("card", measured(0, &[(1, 1.0), (32, 32.0)]));
    world.connect_with("card 2", "1", vec![], |card| {
        card.device = "cuda:0".to_owned();
        card.max_cohort = 64;
    });
    world.apply(Input::Pause { sweep: 1 });
    world.idle("card");
    world.idle("card 2");
    world.apply(Input::Resume { sweep: 1 });
    assert_eq!(sizes(&world), [20, 20]);
}

#[test]
fn what_was_placed_in_this_round_no_longer_waits() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.connect_with(name, "1", vec![], |agent| agent.max_cohort = 64);
        assert!(world.idle(name).is_empty());
    }
    world.submit("s", trials(1..=9, 10, 0));
    assert_eq!(sizes(&world), [3, 3, 3]);
}

#[test]
fn what_was_observed_in_training_never_replaces_a_measurement_and_both_survive_a_restart() {
    let mut world = card();
    let observed = |size, rate| Report::Throughput {
        cohort: 0,
        curve: curve(&[(size, rate)]),
        calibrated: false,
        evaluation_seconds: 0.0,
    };
    let key = (0, world.state.agents["card"].kind());
    world.say("card", observed(8, 10.0));
    world.say("card", observed(4, 9.0));
    assert_eq!(world.state.throughput[&key].curve, curve(&[(4, 9.0), (8, 10.0)]));
    world.restart();
    world.connect_with("card", "1", vec![], |card| card.device = "cuda:0".to_owned());
    world.say("card", measured(0, &[(1, 5.0)]));
    world.say("card", observed(8, 10.0));
    assert_eq!(world.state.throughput[&key].curve, curve(&[(1, 5.0)]));
    world.restart();
    assert_eq!(world.state.throughput[&key].evaluation_seconds, 0.5);
    // A shape that no study has is not kept.
    world.say("card", measured(99, &[(1, 5.0)]));
    assert_eq!(world.state.throughput.len(), 1);
}

#[test]
fn only_long_work_is_worth_a_measurement_and_one_agent_of_a_kind_makes_it() {
    let flags = |world: &World| -> Vec<bool> {
        let grants = world.sent.iter().filter_map(|(_, message)| match message {
            ToAgent::Grant { calibrate, .. } => Some(*calibrate),
            _ => None,
        });
        grants.collect()
    };
    let mut world = World::new();
    // A million operations per update: seconds at most. A hundred thousand times as many steps: hours.
    world.submit("short", trials(1..=4, 1000, 0));
    world.submit("long", trials(5..=20, 100_000_000, 1));
    world.connect("a", "1", vec![]);
    world.connect("b", "1", vec![]);
    world.connect("c", "1", vec![]);
    for name in ["a", "b", "c"] {
        world.idle(name);
    }
    assert_eq!(flags(&world), [false, true, false]);
    // It measured nothing and is gone: another one does.
    world.crash("b", world.granted.iter().filter(|(name, ..)| name == "b").map(|(_, key, _)| *key).collect());
    world.sent.clear();
    world.idle("b");
    assert_eq!(flags(&world), [true]);
    world.say("b", measured(1, &[(1, 100.0), (2, 101.0)]));
    world.connect("d", "1", vec![]);
    world.sent.clear();
    world.idle("d");
    assert_eq!((flags(&world), sizes(&world)), (vec![false], vec![1]));
}

#[test]
fn a_cohort_that_would_not_fit_is_split() {
    let mut world = World::new();
    world.submit("s", trials(1..=9, 1000, 0));
    let shape = world.state.shapes[&0];
    world.connect_with("a", "1", vec![], |agent| agent.max_cohort = 64);
    let need = world.state.agents["a"].memory_need(&shape);
    world.connect_with("a", "2", vec![], |agent| {
        (agent.max_cohort, agent.memory_bytes) = (64, need.of(3) + 1)
    });
    assert_eq!(world.idle("a").len(), 3);
    // The estimate says that not one fits: the trainer is to find out.
    world.connect_with("b", "1", vec![], |agent| agent.memory_bytes = 1);
    assert_eq!(world.idle("b").len(), 1);
}

fn run_out(world: &mut World, name: &str, leases: Vec<LeaseKey>, suspected: bool) {
    let cohort_size = leases.len() as u32;
    world.say(name, Report::OutOfMemory { leases, cohort_size, suspected, reason: "full".to_owned() });
}

fn keys(granted: Vec<(String, LeaseKey, u64)>) -> Vec<LeaseKey> {
    granted.into_iter().map(|(_, key, _)| key).collect()
}

#[test]
fn running_out_of_memory_halves_the_cohort_and_blames_nobody_until_one_trial_does_not_fit() {
    let mut world = World::new();
    world.submit("s", trials(1..=4, 1000, 0));
    world.connect("a", "1", vec![]);
    for expected in [4, 2, 1] {
        let granted = keys(world.idle("a"));
        assert_eq!(granted.len(), expected);
        run_out(&mut world, "a", granted, false);
    }
    let states: Vec<TrialState> = (1..=4).map(|number| world.state_of(number)).collect();
    let pending = TrialState::Pending;
    assert_eq!(states, [TrialState::Failed, pending, pending, pending]);
    assert!(world.state.trials[&trial(1)].reason.contains("out of memory on agent a"));
    assert!((2..=4).all(|number| world.state.trials[&trial(number)].crashes == 0));
    // Nobody else is there, so the next is tried all the same; with another agent it goes there.
    assert_eq!(keys(world.idle("a"))[0].trial, trial(2));
    world.connect("b", "1", vec![]);
    run_out(&mut world, "a", vec![LeaseKey { trial: trial(2), attempt: 3 }], false);
    assert_eq!(world.state_of(2), TrialState::Pending);
    assert!(world.idle("a").is_empty());
    assert_eq!(world.idle("b").len(), 3);
    // A new process may have been given more memory.
    assert!(world.state.agents["a"].fitting.contains_key(&0));
    world.connect("a", "2", vec![]);
    assert!(world.state.agents["a"].fitting.is_empty());
}

#[test]
fn a_suspicion_is_charged_only_to_a_trial_that_was_alone() {
    let mut world = World::new();
    world.submit("s", trials(1..=2, 1000, 0));
    world.connect("a", "1", vec![]);
    let granted = keys(world.idle("a"));
    run_out(&mut world, "a", granted, true);
    assert_eq!(world.state.trials[&trial(1)].crashes, 0);
    let granted = keys(world.idle("a"));
    assert_eq!(granted.len(), 1);
    run_out(&mut world, "a", granted, true);
    assert_eq!(world.state.trials[&trial(1)].crashes, 1);
    assert_eq!(world.state_of(1), TrialState::Pending);
}

#[test]
fn free_places_are_taken_by_trials_of_the_same_cohort_under_attempts_of_their_own() {
    let mut world = World::new();
    world.submit("s", [trials(1..=6, 1000, 0), trials(7..=9, 1000, 1)].concat());
    world.connect_with("a", "1", vec![], |agent| agent.max_cohort = 3);
    let first = keys(world.idle("a"));
    assert_eq!(first.len(), 3);
    assert_eq!(first[0].trial, trial(7));
    let ended = Report::Ended {
        lease: first[0],
        ending: plateau_common::trial::Ending::Diverged { step: 3 },
        step: 3,
        train_seconds: 1.0,
        weights_hash: String::new(),
    };
    world.say("a", ended);
    // Nothing else has its shape.
    wish(&mut world, "a", false, Some((1, 1)));
    assert_eq!(sizes(&world), [3]);
    world.connect_with("b", "1", vec![], |agent| agent.max_cohort = 3);
    assert_eq!(keys(world.idle("b")).len(), 3);
    // Alone now, so its share is all there is; but nothing of another shape.
    world.say("a", Report::Goodbye);
    world.sent.clear();
    wish(&mut world, "b", false, Some((0, 2)));
    let Some((_, ToAgent::Grant { leases, join: true, .. })) = world.sent.last() else {
        panic!("{:?}", world.sent)
    };
    assert_eq!(leases.len(), 2);
    assert!(leases.iter().all(|granted| granted.lease.attempt == 1));
    let holders: Vec<_> = (1..=6).map(|number| world.state.trials[&trial(number)].lease.is_some()).collect();
    assert_eq!(holders.iter().filter(|held| **held).count(), 5);
}

#[test]
fn free_places_take_no_more_than_an_even_share() {
    let mut world = World::new();
    world.submit("s", trials(1..=10, 1000, 0));
    for name in ["a", "b"] {
        world.connect_with(name, "1", vec![], |agent| agent.max_cohort = 3);
        assert_eq!(world.idle(name).len(), 3);
    }
    // Two of a's have ended: eight are held or wait, four for each.
    for (_, lease, budget) in world.granted.clone().into_iter().take(2) {
        world.complete("a", lease, budget);
    }
    // Those that join are its next ones too.
    wish(&mut world, "a", true, Some((0, 3)));
    assert_eq!(world.state.agents["a"].leases.len(), 4);
    wish(&mut world, "a", false, Some((0, 3)));
    assert_eq!(world.state.agents["a"].leases.len(), 4);
}

#[test]
fn an_agent_about_to_finish_gets_its_next_cohort_once_and_after_the_idle_ones() {
    let mut world = World::new();
    world.submit("s", trials(1..=10, 1000, 0));
    world.connect("a", "1", vec![]);
    world.connect("b", "1", vec![]);
    assert_eq!(world.idle("a").len(), 4);
    // Said before the grant was received: nothing comes of it.
    let report = |grants| Report::Heartbeat {
        leases: vec![],
        speed: 1.0,
        idle: false,
        waiting: vec![],
        wish: Wish { grants, next: true, places: None },
    };
    world.say("a", report(0));
    assert_eq!(sizes(&world), [4]);
    world.say("a", report(1));
    assert_eq!(sizes(&world), [4, 3], "half of the six that wait: the other agent will want some too");
    world.say("a", report(1));
    assert_eq!(sizes(&world), [4, 3]);
    assert_eq!(world.idle("b").len(), 3);
}

#[test]
fn a_lease_that_waits_for_the_cohort_before_it_does_not_stall() {
    let mut world = World::new();
    world.submit("s", [trials(1..=1, 1000, 0), trials(2..=2, 1000, 1)].concat());
    world.connect("a", "1", vec![]);
    let first = keys(world.idle("a"))[0];
    wish(&mut world, "a", true, None);
    let next = world.granted.last().unwrap().1;
    assert_ne!(first, next);
    for beat in 0..limits::STALL_SECONDS / 10 + 10 {
        let leases = vec![(first, beat + 1), (next, 0)];
        let (waiting, wish) = (vec![next], Wish::default());
        world.say("a", Report::Heartbeat { leases, speed: 1.0, idle: false, waiting, wish });
        world.pass(10);
    }
    assert_eq!(world.state_of(1), TrialState::Leased);
    assert_eq!(world.state_of(2), TrialState::Leased);
}
