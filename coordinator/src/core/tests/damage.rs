//! Damaged checkpoints in the core: who is blamed (nobody), what the trial continues from, what is said.

use plateau_common::trial::TrialState;

use super::world::{World, specification, trial};
use crate::core::*;

fn store(world: &mut World, lease: LeaseKey, step: u64) {
    let input = Input::CheckpointStored { lease, step, weights_hash: format!("w{step}"), bytes: 10 };
    assert_eq!(world.apply(input), Some(Answer::Done));
}

fn damaged(world: &mut World, attempt: u64, step: u64) -> Option<Answer> {
    let problem = "its digest does not hold".to_owned();
    world.apply(Input::CheckpointDamaged { trial: trial(1), attempt, step, problem })
}

/// A world with one trial that has checkpoints at steps 4 and 8 and is granted anew.
fn granted_again() -> (World, LeaseKey) {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 20, 0)]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.say("a", Report::Started { lease, from_step: 0 });
    store(&mut world, lease, 4);
    store(&mut world, lease, 8);
    let reason = "asked to".to_owned();
    world.say("a", Report::Released { lease, reason, train_seconds: 1.0 });
    let (_, lease, _) = world.idle("a").remove(0);
    (world, lease)
}

#[test]
fn case_43_a_damaged_checkpoint_costs_its_steps_and_nobody_is_charged() {
    let (mut world, lease) = granted_again();
    assert_eq!(world.state.trials[&trial(1)].lease.as_ref().unwrap().from_step, 8);
    assert_eq!(damaged(&mut world, 1, 8), Some(Answer::Done));
    let after = &world.state.trials[&trial(1)];
    assert_eq!((after.state, after.crashes, after.step), (TrialState::Pending, 0, 4));
    assert_eq!(after.checkpoints.iter().map(|known| known.step).collect::<Vec<_>>(), [4]);
    let refused = world.sent.iter().any(
        |(_, message)| matches!(message, ToAgent::Refused { sequence: 0, lease: told, .. } if *told == lease),
    );
    assert!(refused, "the agent was not told that its lease is over");
    // What an agent that knows no better reports of the lease charges nobody.
    world.crash("a", vec![lease]);
    assert_eq!(world.state.trials[&trial(1)].crashes, 0);
    world.restart();
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    assert_eq!(world.state.trials[&trial(1)].lease.as_ref().unwrap().from_step, 4);
    // The older one too: from the beginning.
    assert_eq!(damaged(&mut world, 1, 4), Some(Answer::Done));
    assert_eq!(lease.attempt, 3);
    world.idle("a");
    assert_eq!(world.state.trials[&trial(1)].lease.as_ref().unwrap().from_step, 0);
}

#[test]
fn case_43_damage_found_twice_or_of_an_unknown_checkpoint_changes_nothing() {
    let (mut world, _) = granted_again();
    assert_eq!(damaged(&mut world, 1, 5), Some(Answer::Done));
    assert_eq!(world.state_of(1), TrialState::Leased);
    assert_eq!(damaged(&mut world, 1, 8), Some(Answer::Done));
    let once = world.state.trials[&trial(1)].clone();
    assert_eq!(damaged(&mut world, 1, 8), Some(Answer::Done));
    assert_eq!(world.state.trials[&trial(1)], once);
    let unknown = Input::CheckpointDamaged { trial: trial(9), attempt: 1, step: 1, problem: String::new() };
    assert!(matches!(world.apply(unknown), Some(Answer::Refused(Refusal::NotFound, _))));
}

#[test]
fn case_43_a_training_that_has_begun_goes_on_when_an_older_checkpoint_is_found_damaged() {
    let (mut world, lease) = granted_again();
    world.say("a", Report::Started { lease, from_step: 8 });
    assert_eq!(damaged(&mut world, 1, 8), Some(Answer::Done));
    assert_eq!(world.state_of(1), TrialState::Running);
    store(&mut world, lease, 12);
    world.complete("a", lease, 20);
    assert_eq!(world.state_of(1), TrialState::Completed);
}

#[test]
fn checkpoints_at_multiples_of_keep_every_outlive_those_that_only_were_new() {
    let mut world = World::new();
    let specification = Specification { keep_every: Some(4), ..specification(1, 20, 0) };
    world.submit("s", vec![specification]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.say("a", Report::Started { lease, from_step: 0 });
    let kept = |world: &World| -> Vec<u64> {
        world.state.trials[&trial(1)].checkpoints.iter().map(|known| known.step).collect()
    };
    for (step, expected) in [
        (2, vec![2]),
        (4, vec![2, 4]),
        (6, vec![2, 4, 6]),
        (7, vec![4, 6, 7]),
        (8, vec![4, 7, 8]),
        (10, vec![4, 7, 8, 10]),
        (11, vec![4, 8, 10, 11]),
        (12, vec![4, 8, 11, 12]),
    ] {
        store(&mut world, lease, step);
        assert_eq!(kept(&world), expected, "after step {step}");
    }
    world.restart();
    assert_eq!(world.state.trials[&trial(1)].keep_every, Some(4));
}
