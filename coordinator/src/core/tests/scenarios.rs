//! One page per situation.

use std::time::Duration;

use plateau_common::limits;
use plateau_common::trial::TrialState;

use super::world::{World, specification, trial};
use crate::core::*;

#[test]
fn case_13_a_silent_agents_lease_expires_after_its_term_and_is_granted_under_a_new_attempt() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    let session = world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.apply(Input::Disconnected { session, agent: "a".to_owned() });
    world.pass(limits::LEASE_SECONDS);
    assert_eq!(world.state_of(1), TrialState::Leased);
    world.pass(10);
    assert_eq!(world.state_of(1), TrialState::Pending);
    world.connect("b", "1", vec![]);
    let (_, next, _) = world.idle("b").remove(0);
    assert_eq!((next.trial, next.attempt), (lease.trial, 2));
    // The first agent was only slow.
    world.connect("a", "1", vec![lease]);
    world.complete("a", lease, 10);
    assert_eq!(world.state_of(1), TrialState::Leased);
    world.complete("b", next, 10);
    assert_eq!(world.state_of(1), TrialState::Completed);
}

#[test]
fn case_8_a_coordinator_that_stood_still_expires_nothing() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world.connect("a", "1", vec![]);
    world.idle("a");
    world.apply(Input::Tick);
    world.now.monotonic += Duration::from_secs(600);
    world.apply(Input::Tick);
    assert_eq!(world.state_of(1), TrialState::Leased);
    world.pass(limits::LEASE_SECONDS + 10);
    assert_eq!(world.state_of(1), TrialState::Pending);
}

#[test]
fn case_3_a_completion_whose_acknowledgement_was_lost_is_acknowledged_again_after_a_restart() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.pass(50);
    world.restart();
    world.pass(50);
    assert_eq!(world.state_of(1), TrialState::Leased);
    world.connect("a", "1", vec![lease]);
    world.complete("a", lease, 10);
    assert_eq!(world.state_of(1), TrialState::Completed);
    world.restart();
    // The acknowledgement was lost: the same again is acknowledged, another ending is refused.
    world.connect("a", "1", vec![]);
    world.sent.clear();
    world.complete("a", lease, 10);
    assert!(matches!(world.sent.last(), Some((_, ToAgent::Acknowledged(7)))));
    world.complete("a", lease, 11);
    assert!(matches!(world.sent.last(), Some((_, ToAgent::Refused { .. }))));
}

#[test]
fn case_16_a_trial_that_stalls_is_taken_away_although_its_agent_lives() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.say("a", Report::Started { lease, from_step: 0 });
    let beats = limits::STALL_SECONDS / 10 + 1;
    for beat in 0..=beats {
        let step = u64::from(beat >= 3) * 3;
        world.say(
            "a",
            Report::Heartbeat {
                leases: vec![(lease, step)],
                speed: 0.0,
                idle: false,
                waiting: vec![],
                wish: Wish::default(),
            },
        );
        world.pass(10);
    }
    assert_eq!(world.state_of(1), TrialState::Running, "it moved at the third beat");
    for _ in 0..3 {
        world.say(
            "a",
            Report::Heartbeat {
                leases: vec![(lease, 3)],
                speed: 0.0,
                idle: false,
                waiting: vec![],
                wish: Wish::default(),
            },
        );
        world.pass(10);
    }
    assert_eq!(world.state_of(1), TrialState::Pending);
    assert!(world.state.trials[&trial(1)].reason.contains("no progress"));
}

#[test]
fn case_19_poison_is_quarantined_on_two_agents_and_not_retried_on_every_one() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    for name in ["a", "b", "c", "d"] {
        world.connect(name, "1", vec![]);
    }
    for name in ["a", "b", "c", "d"] {
        world.idle(name);
    }
    let mut crashed_on = Vec::new();
    for _ in 0..limits::MAX_CRASHES_PER_TRIAL {
        // Each crash sends it to the next idle agent at once.
        let (agent, lease, _) = world.granted.last().cloned().unwrap();
        world.crash(&agent, vec![lease]);
        crashed_on.push(agent);
    }
    assert_eq!(world.state_of(1), TrialState::Quarantined);
    crashed_on.dedup();
    assert_eq!(crashed_on.len(), 3, "each time on another agent");
    for name in ["a", "b", "c", "d"] {
        assert!(world.idle(name).is_empty());
    }
    world.restart();
    assert_eq!(world.state_of(1), TrialState::Quarantined);
}

#[test]
fn a_new_checkpoint_acquits_a_trial_of_earlier_crashes() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 100, 0)]);
    world.connect("a", "1", vec![]);
    for round in 1..=5u64 {
        let (_, lease, _) = world.idle("a").remove(0);
        let stored =
            Input::CheckpointStored { lease, step: 10 * round, weights_hash: "w".to_owned(), bytes: 1 };
        assert_eq!(world.apply(stored), Some(Answer::Done));
        world.crash("a", vec![lease]);
        assert_eq!(world.state_of(1), TrialState::Pending);
        world.pass(10);
    }
    assert_eq!(world.state.trials[&trial(1)].newest_step(), 50);
}

#[test]
fn case_45_the_checkpoint_a_live_lease_continues_from_is_not_deleted() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 100, 0)]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    let stored =
        |lease, step| Input::CheckpointStored { lease, step, weights_hash: "w".to_owned(), bytes: 1 };
    world.apply(stored(lease, 10));
    world.say("a", Report::Released { lease, reason: String::new(), train_seconds: 1.0 });
    let (_, next, _) = world.idle("a").remove(0);
    for step in [20, 30, 40] {
        world.apply(stored(next, step));
    }
    let steps = |world: &World| -> Vec<u64> {
        world.state.trials[&trial(1)].checkpoints.iter().map(|checkpoint| checkpoint.step).collect()
    };
    assert_eq!(steps(&world), [10, 40]);
    world.say("a", Report::Released { lease: next, reason: String::new(), train_seconds: 1.0 });
    let (_, last, _) = world.idle("a").remove(0);
    world.apply(stored(last, 50));
    assert_eq!(steps(&world), [40, 50]);
    // Under a stale attempt: refused.
    assert!(matches!(world.apply(stored(lease, 60)), Some(Answer::Refused(Refusal::Precondition, _))));
}

#[test]
fn a_trial_shared_by_two_sweeps_goes_on_when_one_is_cancelled() {
    let mut world = World::new();
    world.submit("short", vec![specification(1, 10, 0)]);
    world.submit("long", vec![specification(1, 30, 1)]);
    world.connect("a", "1", vec![]);
    let (_, lease, budget) = world.idle("a").remove(0);
    assert_eq!(budget, 30, "one attempt serves both");
    world.apply(Input::Cancel { sweep: 1, reason: String::new() });
    assert!(!world.sent.iter().any(|(_, message)| matches!(message, ToAgent::Revoke { .. })));
    world.complete("a", lease, 30);
    assert_eq!(world.state_of(1), TrialState::Completed);
    assert!(world.state.sweeps[&2].is_finished());
}

#[test]
fn a_longer_budget_continues_and_giving_it_up_restores_the_result() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.complete("a", lease, 10);
    world.submit("longer", vec![specification(1, 20, 1)]);
    assert_eq!(world.state_of(1), TrialState::Pending);
    assert!(world.state.sweeps[&1].is_finished());
    let (_, lease, budget) = world.idle("a").remove(0);
    assert_eq!((lease.attempt, budget), (2, 20));
    world.apply(Input::Cancel { sweep: 2, reason: String::new() });
    world.say("a", Report::Released { lease, reason: String::new(), train_seconds: 0.0 });
    assert_eq!(world.state_of(1), TrialState::Completed);
    assert_eq!(world.state.sweeps[&2].count(TrialState::Cancelled), 1);
}

#[test]
fn completed_below_the_granted_budget_is_a_broken_agent() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.complete("a", lease, 9);
    assert_eq!(world.state_of(1), TrialState::Pending);
    assert!(world.state.trials[&trial(1)].ending.is_none());
}

#[test]
fn a_shorter_sweep_never_continues_from_beyond_its_budget() {
    let mut world = World::new();
    let stored =
        |lease, step| Input::CheckpointStored { lease, step, weights_hash: "w".to_owned(), bytes: 1 };
    let steps = |world: &World| -> Vec<u64> {
        world.state.trials[&trial(1)].checkpoints.iter().map(|checkpoint| checkpoint.step).collect()
    };
    let from = |world: &World| world.state.trials[&trial(1)].lease.as_ref().unwrap().from_step;
    world.submit("long", vec![specification(1, 100, 0)]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    for step in [40, 60] {
        world.apply(stored(lease, step));
    }
    world.apply(Input::Pause { sweep: 1 });
    world.say("a", Report::Released { lease, reason: String::new(), train_seconds: 1.0 });

    world.submit("short", vec![specification(1, 30, 0)]);
    let (_, lease, budget) = world.idle("a").remove(0);
    assert_eq!((budget, from(&world)), (30, 0), "both checkpoints are of later steps");
    for step in [10, 20, 30] {
        world.apply(stored(lease, step));
    }
    assert_eq!(steps(&world), [20, 30, 40, 60], "the longer sweep's are kept beside");
    world.restart();
    world.connect("a", "1", vec![lease]);
    world.complete("a", lease, 30);
    assert_eq!(world.state.sweeps[&2].count(TrialState::Completed), 1);

    world.submit("middle", vec![specification(1, 50, 0)]);
    let (_, lease, budget) = world.idle("a").remove(0);
    assert_eq!((budget, from(&world)), (50, 40));
    world.complete("a", lease, 50);
    world.apply(Input::Resume { sweep: 1 });
    let (_, lease, budget) = world.idle("a").remove(0);
    assert_eq!((budget, from(&world)), (100, 60));
    world.complete("a", lease, 100);
    assert!(world.state.sweeps.values().all(Sweep::is_finished));
}

#[test]
fn an_agent_that_is_gone_for_long_is_forgotten_unless_it_holds_a_lease() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    let gone = world.connect("gone", "1", vec![]);
    world.connect("here", "1", vec![]);
    world.apply(Input::Disconnected { session: gone, agent: "gone".to_owned() });
    let names = |world: &World| world.state.agents.keys().cloned().collect::<Vec<_>>();
    let advance = |world: &mut World, seconds| {
        world.now.monotonic += Duration::from_secs(seconds);
        // The first tick sees that the coordinator stood still, the second counts.
        world.apply(Input::Tick);
        world.apply(Input::Tick);
    };
    advance(&mut world, limits::FORGET_AGENT_SECONDS);
    assert_eq!(names(&world), ["gone", "here"]);
    advance(&mut world, 1);
    assert_eq!(names(&world), ["here"]);
    world.restart();
    assert_eq!(names(&world), ["here"], "not on disk either");

    let session = world.connect("holder", "1", vec![]);
    assert_eq!(world.idle("holder").len(), 1);
    world.apply(Input::Disconnected { session, agent: "holder".to_owned() });
    advance(&mut world, limits::FORGET_AGENT_SECONDS + 1);
    assert_eq!(names(&world), ["holder"]);
    world.pass(limits::LEASE_SECONDS + 20);
    assert_eq!((names(&world).len(), world.state_of(1)), (0, TrialState::Pending));
}
