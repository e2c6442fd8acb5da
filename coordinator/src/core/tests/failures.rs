//! Whom each class of failure is held against, and how long a trial waits after a crash.

use std::time::Duration;

use plateau_common::failure::{Charge, FailureClass};
use plateau_common::limits;
use plateau_common::trial::TrialState;

use super::world::{World, specification, trial};
use crate::core::*;

fn world_of(trials: u8) -> World {
    let mut world = World::new();
    let shapes = (1..=trials).map(|number| specification(number, 100, u128::from(number)));
    world.submit("s", shapes.collect());
    world
}

/// The agent is idle, gets one trial, and its training breaks.
fn breaks(world: &mut World, name: &str, class: FailureClass) -> LeaseKey {
    let lease = world.idle(name).remove(0).1;
    world.broke(name, vec![lease], class);
    lease
}

fn explain(world: &World, number: u8) -> String {
    explain_trial(&world.state, trial(number)).unwrap().summary
}

#[test]
fn case_70_a_sick_card_is_drained_with_its_reason_and_its_trial_returns_uncharged() {
    for class in FailureClass::ALL.into_iter().filter(|class| class.is_device_unhealthy()) {
        let mut world = world_of(1);
        world.connect("card", "1", vec![]);
        let lease = world.idle("card").remove(0).1;
        let reason = "cuda:0 (H200) at 0000:3b:00: Xid 79, GPU has fallen off the bus.".to_owned();
        world.say("card", Report::Crashed { leases: vec![lease], class, reason });
        let record = &world.state.trials[&trial(1)];
        assert_eq!((record.state, record.crashes, record.losses), (TrialState::Pending, 0, 0), "{class:?}");
        assert!(record.crashed_on.is_empty() && !record.alone);
        // Although it is the only agent.
        let said = explain_agent(&world.state, "card", world.now).unwrap().summary;
        assert!(said.contains("unhealthy") && said.contains("0000:3b:00: Xid 79"), "{said}");
        assert!(world.idle("card").is_empty());
        assert!(explain(&world, 1).contains("not charged"), "{}", explain(&world, 1));
        world.restart();
        world.connect("card", "2", vec![]);
        assert!(world.idle("card").is_empty(), "a restart forgets no drain");
    }
}

#[test]
fn case_70_a_card_that_falls_sick_while_it_trains_nothing_is_drained_too() {
    let mut world = world_of(1);
    world.connect("card", "1", vec![]);
    world.broke("card", vec![], FailureClass::DeviceLost);
    assert!(world.idle("card").is_empty());
    // A crash of nothing says nothing.
    world.connect("other", "1", vec![]);
    world.broke("other", vec![], FailureClass::Exited);
    assert_eq!(world.idle("other").len(), 1);
}

#[test]
fn case_70_a_contained_error_costs_one_attempt_and_nothing_else() {
    let mut world = world_of(1);
    world.connect("card", "1", vec![]);
    for attempt in 1..=9 {
        assert_eq!(breaks(&mut world, "card", FailureClass::Contained).attempt, attempt);
    }
    assert_eq!((world.state_of(1), world.state.trials[&trial(1)].crashes), (TrialState::Pending, 0));
    assert!(world.state.agents["card"].drained.is_none());
}

#[test]
fn case_52_an_agent_whose_host_lacks_room_is_charged_and_its_trials_are_not() {
    let mut world = world_of(1);
    world.connect("full", "1", vec![]);
    for failures in 1..=limits::MAX_CRASHES_PER_AGENT {
        assert!(world.state.agents["full"].drained.is_none(), "after {failures}");
        breaks(&mut world, "full", FailureClass::Environment);
    }
    // One and the same trial, on the only agent: it is not the trial.
    let said = world.state.agents["full"].drained.clone().unwrap();
    assert!(said.contains("3 times in a row") && said.contains("broke"), "{said}");
    assert_eq!((world.state_of(1), world.state.trials[&trial(1)].crashes), (TrialState::Pending, 0));
    world.apply(Input::Undrain { agent: "full".to_owned() });
    let lease = world.granted.last().unwrap().1;
    world.apply(Input::CheckpointStored { lease, step: 10, weights_hash: "w".to_owned(), bytes: 1 });
    world.broke("full", vec![lease], FailureClass::Environment);
    assert!(world.state.agents["full"].drained.is_none(), "somebody made room");
}

#[test]
fn case_73_what_a_trainer_does_is_held_against_trial_and_agent() {
    for class in FailureClass::ALL.into_iter().filter(|class| class.charge() == Charge::TrialAndAgent) {
        let mut world = world_of(1);
        world.connect("a", "1", vec![]);
        breaks(&mut world, "a", class);
        let record = &world.state.trials[&trial(1)];
        assert_eq!((record.crashes, record.alone), (1, true), "{class:?}");
        assert_eq!(world.state.agents["a"].crashed.len(), 1);
        assert!(explain(&world, 1).contains(class.words()), "{}", explain(&world, 1));
    }
}

#[test]
fn after_a_crash_a_trial_waits_longer_each_time_and_says_until_when() {
    let mut world = world_of(1);
    world.connect("a", "1", vec![]);
    let tick = |world: &mut World, seconds: u64| {
        world.now.monotonic += Duration::from_secs(seconds);
        world.apply(Input::Tick);
    };
    for pause in [2, 4] {
        breaks(&mut world, "a", FailureClass::Signalled);
        assert!(world.idle("a").is_empty(), "it waits {pause} s");
        let said = explain(&world, 1);
        assert!(said.contains(&format!("for {pause} s more it is not tried again on a")), "{said}");
        tick(&mut world, pause - 1);
        assert!(world.idle("a").is_empty());
        assert!(explain(&world, 1).contains("for 1 s more"));
        let grants = world.granted.len();
        // The agent has said that it is idle: time alone brings the grant.
        tick(&mut world, 1);
        assert_eq!(world.granted.len(), grants + 1);
        let lease = world.granted.last().unwrap().1;
        world.say("a", Report::Released { lease, reason: String::new(), train_seconds: 0.0 });
    }
    assert_eq!(
        [1, 2, 8, 9, 40, u32::MAX].map(guilt::pause_after).map(|pause| pause.as_secs()),
        [2, 4, 256, 300, 300, 300]
    );
}

#[test]
fn an_agent_that_has_not_seen_it_crash_takes_a_trial_at_once() {
    let mut world = world_of(1);
    for name in ["a", "b"] {
        world.connect(name, "1", vec![]);
    }
    breaks(&mut world, "a", FailureClass::Signalled);
    assert!(world.idle("a").is_empty());
    let lease = world.idle("b").remove(0).1;
    // Both have seen it crash: it waits for both, the longer time.
    world.broke("b", vec![lease], FailureClass::Signalled);
    assert!(world.idle("a").is_empty() && world.idle("b").is_empty());
    world.connect("c", "1", vec![]);
    assert_eq!(world.idle("c").len(), 1);
}

#[test]
fn neither_a_requeue_nor_a_restart_leaves_a_trial_waiting() {
    let mut world = world_of(1);
    world.connect("a", "1", vec![]);
    breaks(&mut world, "a", FailureClass::Signalled);
    world.restart();
    world.connect("a", "2", vec![]);
    assert_eq!(world.idle("a").len(), 1);
    let lease = world.granted.last().unwrap().1;
    world.broke("a", vec![lease], FailureClass::Signalled);
    world.pass(10);
    let lease = world.idle("a").pop().or(world.granted.last().cloned()).unwrap().1;
    world.broke("a", vec![lease], FailureClass::Signalled);
    assert_eq!(world.state_of(1), TrialState::Quarantined);
    world.apply(Input::RequeueTrial { trial: trial(1) });
    let waits = world.state.trials[&trial(1)].retry_at;
    assert_eq!((world.state_of(1), waits), (TrialState::Pending, Duration::ZERO));
    assert_eq!(world.idle("a").len(), 1);
}
