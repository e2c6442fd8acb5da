//! What the scheduler places where.

use super::world::{World, specification, trial};
use crate::core::*;

fn cohorts(world: &World) -> Vec<(String, Vec<u8>)> {
    let mut cohorts: Vec<(String, Vec<u8>)> = Vec::new();
    for (session, message) in &world.sent {
        let ToAgent::Grant { leases: granted, .. } = message else { continue };
        let agent = world.state.agents.iter().find(|(_, agent)| agent.session == Some(*session)).unwrap();
        let numbers = granted
            .iter()
            .map(|granted| u8::from_str_radix(&granted.lease.trial.to_string()[..2], 16).unwrap());
        cohorts.push((agent.0.clone(), numbers.collect()));
    }
    cohorts
}

/// Agents that all said they were idle before there was anything to do.
fn idle_agents(names: &[&str]) -> World {
    let mut world = World::new();
    for name in names {
        world.connect(name, "1", vec![]);
        world.idle(name);
    }
    world
}

#[test]
fn idle_agents_share_a_shape_evenly() {
    let mut world = idle_agents(&["a", "b", "c"]);
    world.submit("s", (1..=7).map(|number| specification(number, 10, 0)).collect());
    let sizes: Vec<usize> = cohorts(&world).iter().map(|(_, cohort)| cohort.len()).collect();
    assert_eq!(sizes, [3, 2, 2]);
}

#[test]
fn a_cohort_is_no_larger_than_its_agent_wants_and_of_one_shape() {
    let mut world = idle_agents(&["a"]);
    world.submit("s", (1..=9).map(|number| specification(number, 10, u128::from(number % 2))).collect());
    // The agents of these tests want four; odd numbers have the costlier shape.
    assert_eq!(cohorts(&world), [("a".to_owned(), vec![1, 3, 5, 7])]);
}

#[test]
fn earlier_sweeps_first_and_the_costliest_shape_of_a_sweep_first() {
    let mut world = World::new();
    world.submit("first", vec![specification(1, 10, 0), specification(2, 500, 1)]);
    world.submit("second", vec![specification(3, 9000, 2)]);
    world.connect("a", "1", vec![]);
    for expected in [2, 1, 3] {
        let (_, lease, budget) = world.idle("a").remove(0);
        assert_eq!(lease.trial, trial(expected));
        world.complete("a", lease, budget);
    }
}

#[test]
fn one_cohort_at_a_time_whatever_the_agent_says() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0), specification(2, 10, 1)]);
    world.connect("a", "1", vec![]);
    assert_eq!(world.idle("a").len(), 1);
    assert!(world.idle("a").is_empty(), "it holds a lease");
}

#[test]
fn paused_sweeps_get_nothing_and_agents_that_are_not_idle_neither() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world.apply(Input::Pause { sweep: 1 });
    world.connect("a", "1", vec![]);
    assert!(world.idle("a").is_empty());
    world.say(
        "a",
        Report::Heartbeat { leases: vec![], speed: 0.0, idle: false, waiting: vec![], wish: Wish::default() },
    );
    world.apply(Input::Resume { sweep: 1 });
    assert!(world.granted.is_empty());
    assert_eq!(world.idle("a").len(), 1);
}

#[test]
fn suspects_are_trained_alone_and_away_from_where_they_crashed() {
    let mut world = idle_agents(&["a"]);
    world.submit("s", vec![specification(1, 10, 0), specification(2, 10, 0), specification(3, 10, 0)]);
    let leases: Vec<LeaseKey> = world.granted.iter().map(|(_, lease, _)| *lease).collect();
    assert_eq!(leases.len(), 3);
    world.connect("b", "1", vec![]);
    world.crash("a", leases);
    assert!(world.idle("a").is_empty(), "all three crashed here, and there is another agent");
    assert_eq!(world.idle("b").len(), 1);
}

#[test]
fn equal_resume_steps_go_together() {
    let mut world = World::new();
    world.submit("s", (1..=4).map(|number| specification(number, 100, 0)).collect());
    world.connect("a", "1", vec![]);
    let granted = world.idle("a");
    for (_, lease, _) in &granted {
        if lease.trial == trial(1) || lease.trial == trial(3) {
            let stored =
                Input::CheckpointStored { lease: *lease, step: 50, weights_hash: String::new(), bytes: 1 };
            world.apply(stored);
        }
        world.say("a", Report::Released { lease: *lease, reason: String::new(), train_seconds: 0.0 });
    }
    world.connect("b", "1", vec![]);
    world.apply(Input::Pause { sweep: 1 });
    world.idle("a");
    world.idle("b");
    world.sent.clear();
    world.apply(Input::Resume { sweep: 1 });
    assert_eq!(cohorts(&world), [("a".to_owned(), vec![2, 4]), ("b".to_owned(), vec![1, 3])]);
}
