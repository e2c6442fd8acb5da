//! Forks in the core: what they begin with is theirs, and none ever begins without it.

use std::sync::Arc;

use plateau_common::config::Fork;
use plateau_common::trial::TrialState;

use super::world::{World, specification, trial};
use crate::core::*;

const FORK: Fork = Fork { trial: plateau_common::identity::TrialId::from_bytes([0xaa; 16]), step: 40 };

fn root(attempt: u64) -> Root {
    let chunk = InheritedChunk { digest: [7; 32], data: vec![1, 2, 3] };
    let metrics: Arc<[InheritedChunk]> = vec![chunk].into();
    Root { attempt, weights_hash: "parent".to_owned(), bytes: 10, metrics, transition: None }
}

/// A fork to 100 steps of a trial that is not here, with what it begins with under this attempt.
fn fork(number: u8, attempt: Option<u64>) -> Specification {
    Specification { fork: Some(FORK), root: attempt.map(root), ..specification(number, 100, 0) }
}

fn damage(world: &mut World, attempt: u64, step: u64) {
    let problem = "torn".to_owned();
    let input = Input::CheckpointDamaged { trial: trial(1), attempt, step, problem };
    assert_eq!(world.apply(input), Some(Answer::Done));
}

fn submitted(existing: bool, new_trials: u64) -> Answer {
    Answer::Submitted { sweep: "s".to_owned(), existing, trials: 1, new_trials }
}

#[test]
fn a_fork_goes_on_from_what_it_was_given() {
    let mut world = World::new();
    assert_eq!(world.submit("s", vec![fork(1, Some(1))]), submitted(false, 1));
    let record = world.state.trials[&trial(1)].clone();
    assert_eq!((record.state, record.attempt, record.step), (TrialState::Pending, 1, 40));
    assert_eq!(world.state.sweeps[&1].done_steps, 40);
    world.restart();
    assert_eq!(world.state.trials[&trial(1)].fork, Some(FORK));
    world.connect("a", "1", vec![]);
    let (_, lease, budget) = world.idle("a").remove(0);
    assert_eq!((lease.attempt, budget), (2, 100));
    assert_eq!(world.state.trials[&trial(1)].lease.as_ref().unwrap().from_step, 40);
    let history = world.history(&Subject::Trial(trial(1)));
    assert_eq!(history[0], format!("forked from trial {} at step 40", "aa".repeat(16)));
}

#[test]
fn the_same_fork_again_needs_nothing_and_runs_nothing() {
    let mut world = World::new();
    world.submit("s", vec![fork(1, Some(1))]);
    assert_eq!(world.submit("s", vec![fork(1, None)]), submitted(true, 0));
    let other = world.submit("other", vec![fork(1, None)]);
    assert!(matches!(other, Answer::Submitted { existing: false, new_trials: 0, .. }), "{other:?}");
    assert_eq!(world.state.trials[&trial(1)].checkpoints.len(), 1);
}

#[test]
fn a_fork_without_what_it_begins_with_is_not_accepted() {
    let mut world = World::new();
    for attempt in [None, Some(2)] {
        let answer = world.submit("s", vec![fork(1, attempt)]);
        assert!(matches!(answer, Answer::Refused(Refusal::Precondition, _)), "{answer:?}");
        assert!(world.state.trials.is_empty() && world.state.sweeps.is_empty());
    }
    world.submit("s", vec![specification(2, 10, 0)]);
    let trials = vec![specification(2, 10, 0), fork(1, None)];
    let extend = Input::Extend { sweep: 1, source: vec![2], trials, what: "a fork".to_owned() };
    assert!(matches!(world.apply(extend), Some(Answer::Refused(Refusal::Precondition, _))));
    assert_eq!(world.state.sweeps[&1].members.len(), 1);
}

#[test]
fn a_fork_that_lost_its_root_fails_and_never_begins_anew() {
    let mut world = World::new();
    world.submit("s", vec![fork(1, Some(1))]);
    world.connect("a", "1", vec![]);
    // While it waits for it, and by hand once more: nothing is granted.
    let (_, lease, _) = world.idle("a").remove(0);
    damage(&mut world, 1, 40);
    assert_eq!(world.state_of(1), TrialState::Failed);
    assert!(world.idle("a").is_empty());
    world.apply(Input::RequeueTrial { trial: trial(1) });
    assert_eq!(world.state_of(1), TrialState::Failed);
    let reason = world.state.trials[&trial(1)].reason.clone();
    assert!(reason.contains("of trial aaaaaaaa") && reason.contains("submit the fork again"), "{reason}");
    world.restart();
    assert_eq!(world.state_of(1), TrialState::Failed);
    // Given one again, under the next attempt, it goes on from there.
    assert_eq!(world.submit("s", vec![fork(1, Some(lease.attempt + 1))]), submitted(true, 1));
    world.connect("a", "1", vec![]);
    let (_, again, _) = world.idle("a").remove(0);
    assert_eq!(again.attempt, lease.attempt + 2);
    assert_eq!(world.state.trials[&trial(1)].lease.as_ref().unwrap().from_step, 40);
    world.complete("a", again, 100);
    assert_eq!(world.state_of(1), TrialState::Completed);
}

#[test]
fn a_forks_first_state_outlives_newer_ones() {
    let mut world = World::new();
    world.submit("s", vec![fork(1, Some(1))]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    for step in [50, 60, 70, 80] {
        let input = Input::CheckpointStored { lease, step, weights_hash: "w".to_owned(), bytes: 10 };
        assert_eq!(world.apply(input), Some(Answer::Done));
    }
    let steps: Vec<u64> = world.state.trials[&trial(1)].checkpoints.iter().map(|known| known.step).collect();
    assert_eq!(steps, [40, 70, 80]);
    damage(&mut world, lease.attempt, 80);
    damage(&mut world, lease.attempt, 70);
    assert_eq!(world.state.trials[&trial(1)].resume_step(100), 40);
}

#[test]
fn a_deleted_fork_comes_back_under_a_new_attempt() {
    let mut world = World::new();
    world.submit("s", vec![fork(1, Some(1))]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.apply(Input::Delete { sweep: 1, dry_run: false });
    assert_eq!(world.deleted.len(), 1);
    // What was put into the place of the old one would be deleted with it.
    assert!(matches!(world.submit("s", vec![fork(1, Some(1))]), Answer::Refused(..)));
    let attempt = place_for_root(&world.state, trial(1), 100).unwrap();
    assert_eq!(attempt, lease.attempt + 1);
    assert_eq!(world.submit("s", vec![fork(1, Some(attempt))]), submitted(false, 1));
    world.restart();
}

#[test]
fn cancelled_and_collected_forks_are_given_their_beginning_again() {
    let mut world = World::new();
    world.submit("s", vec![fork(1, Some(1))]);
    world.apply(Input::Cancel { sweep: 1, reason: String::new() });
    world.apply(Input::Collect { keep: 1, older_than_milliseconds: 0, dry_run: false });
    assert!(world.state.trials[&trial(1)].checkpoints.is_empty());
    assert!(matches!(world.submit("s", vec![fork(1, None)]), Answer::Refused(..)));
    assert_eq!(world.submit("s", vec![fork(1, Some(2))]), submitted(true, 1));
    world.connect("a", "1", vec![]);
    assert_eq!(world.idle("a").remove(0).1.attempt, 3);
}

#[test]
fn what_is_completed_needs_no_beginning() {
    let mut world = World::new();
    world.submit("s", vec![fork(1, Some(1))]);
    world.connect("a", "1", vec![]);
    let (_, lease, _) = world.idle("a").remove(0);
    world.complete("a", lease, 100);
    damage(&mut world, 1, 40);
    assert_eq!(world.state_of(1), TrialState::Completed);
    assert_eq!(place_for_root(&world.state, trial(1), 100), None);
    assert_eq!(place_for_root(&world.state, trial(1), 200), Some(3));
}
