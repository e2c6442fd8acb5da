//! What is kept around transitions, what is collected, and what a deleted sweep leaves: nothing, and no way back for its
//! messages.

use plateau_common::config::{KeepAround, TransitionMetric, Window};
use plateau_common::trial::TrialState;
use proptest::prelude::*;

use super::world::{World, specification, trial};
use crate::core::*;

fn store(world: &mut World, lease: LeaseKey, step: u64) {
    let input = Input::CheckpointStored { lease, step, weights_hash: "w".to_owned(), bytes: 10 };
    assert_eq!(world.apply(input), Some(Answer::Done));
}

fn steps(world: &World, number: u8) -> Vec<u64> {
    world.state.trials[&trial(number)].checkpoints.iter().map(|known| known.step).collect()
}

fn around(within: Window) -> KeepAround {
    KeepAround { metric: TransitionMetric::TestAccuracy, level: 0.9, within, budget: None }
}

/// One trial in training to 1000 steps that keeps one intermediate state and those around its transition.
fn training(within: Window) -> (World, LeaseKey) {
    let mut world = World::new();
    let policy = Specification { keep_around: Some(around(within)), ..specification(1, 1000, 0) };
    world.submit("s", vec![policy]);
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    (world, lease)
}

#[test]
fn checkpoints_around_a_transition_are_kept_from_before_it_was_known() {
    let (mut world, lease) = training(Window::Steps(150));
    for step in (50..=400).step_by(50) {
        store(&mut world, lease, step);
    }
    // The transition may come at any moment: the last 150 steps, and one more as ever.
    assert_eq!(steps(&world, 1), [200, 250, 300, 350, 400]);
    world.apply(Input::TransitionReached { lease, step: 420 });
    // Said twice, or later again: the first counts.
    world.apply(Input::TransitionReached { lease, step: 900 });
    assert_eq!(world.state.trials[&trial(1)].transition, Some(420));
    world.restart();
    world.connect("a", "1", vec![lease]);
    for step in (450..=1000).step_by(50) {
        store(&mut world, lease, step);
    }
    assert_eq!(steps(&world, 1), [300, 350, 400, 450, 500, 550, 950, 1000]);
    world.complete("a", lease, 1000);
    // For good: collecting leaves them, and the result.
    world.apply(Input::Collect { keep: 1, older_than_milliseconds: 0, dry_run: false });
    assert_eq!(steps(&world, 1), [300, 350, 400, 450, 500, 550, 1000]);
    let history = world.history(&Subject::Trial(trial(1)));
    assert!(history.iter().any(|event| event.starts_with("test_accuracy ≥ 0.9 at step 420")), "{history:#?}");
}

#[test]
fn a_share_of_the_transitions_step_is_a_window_too() {
    let (mut world, lease) = training(Window::Share(0.25));
    for step in (50..=400).step_by(50) {
        store(&mut world, lease, step);
    }
    assert_eq!(steps(&world, 1), [250, 300, 350, 400]);
    world.apply(Input::TransitionReached { lease, step: 400 });
    for step in (450..=1000).step_by(50) {
        store(&mut world, lease, step);
    }
    assert_eq!(steps(&world, 1), [300, 350, 400, 450, 500, 950, 1000]);
}

#[test]
fn a_stale_attempt_reports_no_transition_and_another_policy_forgets_the_old_one() {
    let (mut world, lease) = training(Window::Steps(150));
    let stale = LeaseKey { attempt: lease.attempt + 1, ..lease };
    world.apply(Input::TransitionReached { lease: stale, step: 100 });
    assert_eq!(world.state.trials[&trial(1)].transition, None);
    world.apply(Input::TransitionReached { lease, step: 100 });
    let policy = KeepAround { level: 0.5, ..around(Window::Steps(150)) };
    let again = Specification { keep_around: Some(policy.clone()), ..specification(1, 1000, 0) };
    world.submit("other", vec![again]);
    assert_eq!(world.state.trials[&trial(1)].transition, None);
    world.restart();
    assert_eq!(world.state.trials[&trial(1)].keep_around, Some(policy));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the transition and however dense the checkpoints: in the end exactly those in the window, and the newest.
    #[test]
    fn exactly_the_window_is_kept(
        every in 1u64..40, within in 1u64..400, transition in 1u64..1000, by_share: bool, keep in 0u32..3,
    ) {
        let within = if by_share { Window::Share(within as f64 / 500.0) } else { Window::Steps(within) };
        let mut record = Trial::new(keep);
        record.keep_around = Some(around(within));
        record.attempt = 1;
        let mut transition_due = Some(transition);
        for step in (every..=1000).step_by(every as usize) {
            // The evaluation at a step is reported before the checkpoint at it.
            if let Some(at) = transition_due.take_if(|at| *at <= step) {
                record.transition = Some(at);
            }
            record.checkpoints.push(Checkpoint { attempt: 1, step, weights_hash: String::new(), bytes: 1 });
            retention::take_surplus(&mut record, 1000, 0);
        }
        let kept: Vec<u64> = record.checkpoints.iter().map(|known| known.step).collect();
        let near = (every..=1000).step_by(every as usize).filter(|step| around(within).is_near(transition, *step));
        for step in near {
            prop_assert!(record.transition.is_none() || kept.contains(&step), "{step} of {kept:?}");
        }
        let policy = record.kept();
        let others = kept.iter().filter(|step| !policy.contains(step)).count();
        prop_assert!(others <= keep as usize + 1, "{kept:?}");
    }
}

#[test]
fn a_budget_thins_out_what_is_far_and_leaves_what_is_near() {
    let near: Vec<(u64, u64)> = (1..=20).map(|step| (50 * step, 10)).collect();
    let steps =
        |transition, budget| thinned(near.clone(), transition, budget).into_iter().collect::<Vec<_>>();
    assert_eq!(steps(1000, 60), [50, 450, 650, 850, 950, 1000]);
    assert_eq!(steps(510, 70), [50, 350, 450, 500, 550, 700, 1000]);
    assert_eq!(steps(510, 25), [50, 500]);
    assert_eq!(steps(510, 19), [500]);
    assert!(steps(510, 9).is_empty());
    assert_eq!(steps(510, 200).len(), 20);
}

#[test]
fn states_around_a_transition_keep_to_their_budget_before_and_after_it_is_known() {
    let mut world = World::new();
    let policy = KeepAround { budget: Some(50), ..around(Window::Steps(500)) };
    world.submit("s", vec![Specification { keep_around: Some(policy), ..specification(1, 1000, 0) }]);
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    let bytes = |world: &World| world.state.trials[&trial(1)].kept().len() * 10;
    for step in (20..=1000).step_by(20) {
        store(&mut world, lease, step);
        assert!(bytes(&world) <= 50, "at {step}");
        assert!(steps(&world, 1).len() <= 7, "five of them, the newest and one more: {:?}", steps(&world, 1));
        if step == 600 {
            world.apply(Input::TransitionReached { lease, step: 610 });
            assert_eq!(world.state.trials[&trial(1)].kept_for_good().last(), Some(&600));
            world.restart();
            world.connect("a", "1", vec![lease]);
        }
    }
    let kept: Vec<u64> = world.state.trials[&trial(1)].kept_for_good().into_iter().collect();
    assert_eq!(kept.len(), 5);
    assert!(kept.contains(&600) && kept.contains(&620), "{kept:?}");
    assert!(kept.first() < Some(&500) && kept.last() > Some(&720), "both sides are shown: {kept:?}");
}

proptest! {
    #[test]
    fn what_is_thinned_out_fits_and_the_nearest_stays(
        gaps in proptest::collection::vec((1u64..100, 1u64..50), 1..60), at in 0u64..4000, budget in 1u64..2000,
    ) {
        let mut near = Vec::new();
        for (gap, bytes) in gaps {
            near.push((near.last().map_or(0, |(step, _)| *step) + gap, bytes));
        }
        let kept = thinned(near.clone(), at, budget);
        let total: u64 = near.iter().filter(|(step, _)| kept.contains(step)).map(|(_, bytes)| bytes).sum();
        prop_assert!(total <= budget);
        prop_assert!(kept.iter().all(|step| near.iter().any(|(known, _)| known == step)));
        // More room keeps what less room kept.
        let more = thinned(near.clone(), at, budget * 2);
        prop_assert!(kept.is_subset(&more), "{kept:?} {more:?}");
        let nearest = near.iter().map(|(step, _)| step.abs_diff(at)).min();
        prop_assert!(kept.is_empty() || kept.iter().map(|step| step.abs_diff(at)).min() == nearest);
    }

    #[test]
    fn gaps_between_those_kept_grow_with_the_distance(every in 1u64..30, count in 20u64..200, kept in 6u64..20) {
        let near: Vec<(u64, u64)> = (1..=count).map(|step| (step * every, 1)).collect();
        let transition = count * every;
        let left: Vec<u64> = thinned(near, transition, kept).into_iter().collect();
        prop_assert_eq!(left.len() as u64, kept.min(count));
        let gaps: Vec<u64> = left.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // The first gap ends at what is kept to show where the window begins.
        let (far, close) = gaps[1..].split_at((gaps.len() - 1) / 2);
        let mean = |gaps: &[u64]| gaps.iter().sum::<u64>() as f64 / gaps.len() as f64;
        prop_assert!(mean(far) >= mean(close), "{:?}", left);
    }
}

/// Two sweeps: trials 1 and 2, and trials 2 and 3, each trained to its end with three checkpoints.
fn two_sweeps() -> World {
    let mut world = World::new();
    world.submit("first", vec![specification(1, 30, 1), specification(2, 30, 2)]);
    world.submit("second", vec![specification(2, 30, 2), specification(3, 30, 3)]);
    world.connect("a", "1", vec![]);
    for _ in 0..3 {
        let lease = world.idle("a").remove(0).1;
        [10, 20, 30].into_iter().for_each(|step| store(&mut world, lease, step));
        world.complete("a", lease, 30);
    }
    assert_eq!(
        (1..=3).map(|number| steps(&world, number)).collect::<Vec<_>>(),
        [[20, 30], [20, 30], [20, 30]]
    );
    world
}

fn collect(world: &mut World, keep: u32, older_than_milliseconds: u64, dry_run: bool) -> Freed {
    match world.apply(Input::Collect { keep, older_than_milliseconds, dry_run }) {
        Some(Answer::Freed(freed)) => freed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn collecting_leaves_results_and_takes_what_only_cancelled_sweeps_hold() {
    let mut world = two_sweeps();
    world.now.unix_milliseconds = 1_000_000;
    assert_eq!(collect(&mut world, 1, 1_000_001, false), Freed::default(), "the sweeps are younger");
    assert_eq!(collect(&mut world, 2, 0, false), Freed::default());
    let before = world.state.clone();
    let expected = Freed { trials: 3, checkpoints: 3, bytes: 30 };
    assert_eq!(collect(&mut world, 1, 0, true), expected);
    assert_eq!(
        (world.state.trials.clone(), world.deleted.len()),
        (before.trials, 3),
        "a dry run deletes nothing"
    );
    assert_eq!(collect(&mut world, 1, 0, false), expected);
    assert_eq!((1..=3).map(|number| steps(&world, number)).collect::<Vec<_>>(), [[30], [30], [30]]);
    assert_eq!(collect(&mut world, 1, 0, false), Freed::default(), "once");
    // Training goes on where it is left, and a sweep in training is no garbage.
    world.submit("longer", vec![specification(1, 60, 9)]);
    let lease = world.idle("a").remove(0).1;
    assert_eq!(collect(&mut world, 0, 0, true), Freed { trials: 2, checkpoints: 2, bytes: 20 });
    store(&mut world, lease, 60);
    world.complete("a", lease, 60);
    // What only a cancelled sweep holds goes to the last.
    world.submit("given up", vec![specification(4, 30, 4), specification(5, 30, 4)]);
    let lease = world.idle("a").remove(0).1;
    store(&mut world, lease, 10);
    let sweep = find_sweep(&world.state, "given up").unwrap();
    world.apply(Input::Cancel { sweep, reason: String::new() });
    assert_eq!(collect(&mut world, 1, 0, true).trials, 1, "it is still held: only trial 1 has two");
    world.say("a", Report::Released { lease, reason: String::new(), train_seconds: 0.0 });
    assert_eq!(collect(&mut world, 1, 0, false), Freed { trials: 2, checkpoints: 2, bytes: 20 });
    assert_eq!((steps(&world, 1), steps(&world, 4)), (vec![60], vec![]));
    world.restart();
}

#[test]
fn case_84_a_deleted_sweep_leaves_what_another_holds_and_nothing_else() {
    let mut world = two_sweeps();
    let deletion = |dry_run| Input::Delete { sweep: 1, dry_run };
    let expected = Some(Answer::Freed(Freed { trials: 1, checkpoints: 2, bytes: 20 }));
    assert_eq!(world.apply(deletion(true)), expected);
    assert_eq!(world.state.sweeps.len(), 2);
    let gone = world.deleted.len();
    assert_eq!(world.apply(deletion(false)), expected);
    assert_eq!(
        world.deleted[gone..].iter().map(|(id, known)| (*id, known.step)).collect::<Vec<_>>(),
        [(trial(1), 20), (trial(1), 30)]
    );
    assert_eq!(world.state.trials.keys().copied().collect::<Vec<_>>(), [trial(2), trial(3)]);
    assert!(world.state.sweeps[&2].is_finished());
    assert!(
        world.history(&Subject::Trial(trial(1))).is_empty() && world.history(&Subject::Sweep(1)).is_empty()
    );
    assert!(matches!(world.apply(deletion(false)), Some(Answer::Refused(Refusal::NotFound, _))));
    world.restart();
    // The study comes again: trial 2 is done, trial 1 begins anew.
    let answer = world.submit("first", vec![specification(1, 30, 1), specification(2, 30, 2)]);
    let Answer::Submitted { existing: false, new_trials: 1, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(world.state.sweeps.keys().copied().collect::<Vec<_>>(), [2, 3], "no number comes twice");
}

#[test]
fn case_84_a_sweep_deleted_in_the_middle_of_training_is_fenced_for_ever() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 30, 1)]);
    world.connect("a", "1", vec![]);
    let old = world.idle("a").remove(0).1;
    let told = world.sent.len();
    world.apply(Input::Delete { sweep: 1, dry_run: false });
    let refused = world.sent[told..].iter().any(|(_, message)| {
        matches!(message, ToAgent::Refused { lease, reason, .. } if *lease == old && reason.contains("deleted"))
    });
    assert!(refused, "the agent is told at once");
    assert!(world.state.trials.is_empty() && world.state.agents["a"].leases.is_empty());
    // The same trial again, on the same agent, after a restart: the old attempt's words are not taken for the new one's.
    world.restart();
    world.submit("s", vec![specification(1, 30, 1)]);
    assert_eq!(world.state.sweeps.keys().copied().collect::<Vec<_>>(), [2], "no number comes twice");
    world.complete("a", old, 30);
    assert_eq!(world.state_of(1), TrialState::Pending);
    world.connect("a", "1", vec![old]);
    let new = world.idle("a").remove(0).1;
    assert!(new.attempt > old.attempt);
    world.complete("a", old, 30);
    assert_eq!(world.state_of(1), TrialState::Leased);
    let input = Input::CheckpointStored { lease: old, step: 30, weights_hash: "w".to_owned(), bytes: 1 };
    assert!(matches!(world.apply(input), Some(Answer::Refused(..))));
    world.complete("a", new, 30);
    assert_eq!(world.state_of(1), TrialState::Completed);
}

#[test]
fn case_84_what_a_deleted_sweep_wanted_longer_than_others_is_given_back() {
    let mut world = World::new();
    world.submit("long", vec![specification(1, 90, 1)]);
    world.submit("short", vec![specification(1, 30, 1)]);
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    world.apply(Input::Delete { sweep: 1, dry_run: false });
    let revoked = world
        .sent
        .iter()
        .any(|(_, message)| matches!(message, ToAgent::Revoke { leases, .. } if leases == &[lease]));
    assert!(revoked);
    store(&mut world, lease, 20);
    world.say("a", Report::Released { lease, reason: String::new(), train_seconds: 0.0 });
    let (_, next, budget) = world.idle("a").remove(0);
    assert_eq!((next.attempt, budget), (2, 30));
}

#[test]
fn a_study_that_was_known_and_is_deleted_meanwhile_is_not_accepted_empty() {
    let mut world = World::new();
    let answer = world.submit("s", vec![]);
    assert!(
        matches!(&answer, Answer::Refused(Refusal::Precondition, problem) if problem.contains("once more")),
        "{answer:?}"
    );
    assert!(world.state.sweeps.is_empty());
}
