//! Details that no scenario hangs on, each of which a small change of the code would break.

use plateau_common::limits;
use plateau_common::throughput::ThroughputCurve;
use plateau_common::trial::{Ending, TrialState};

use super::world::{World, specification, trial};
use crate::core::planning;
use crate::core::state::view;
use crate::core::*;

fn one_trial() -> World {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world
}

/// What was said to somebody since `seen` messages.
fn said(world: &World, seen: usize) -> Vec<&ToAgent> {
    world.sent[seen..].iter().map(|(_, message)| message).collect()
}

fn refusals(world: &World, seen: usize) -> Vec<(LeaseKey, &str)> {
    let told = said(world, seen).into_iter().filter_map(|message| match message {
        ToAgent::Refused { lease, reason, .. } => Some((*lease, reason.as_str())),
        _ => None,
    });
    told.collect()
}

fn new_trials(answer: Option<Answer>) -> u64 {
    match answer {
        Some(Answer::Submitted { new_trials, .. }) => new_trials,
        other => panic!("{other:?}"),
    }
}

#[test]
fn trials_are_found_by_the_beginning_of_their_ids() {
    let mut world = World::new();
    world.submit("s", vec![specification(0x11, 10, 0), specification(0x12, 10, 0)]);
    let whole = trial(0x11).to_string();
    assert_eq!(find_trial(&world.state, &whole), Ok(trial(0x11)));
    assert_eq!(find_trial(&world.state, "12"), Ok(trial(0x12)));
    let problem = |text: &str| find_trial(&world.state, text).unwrap_err();
    assert_eq!(problem("1"), "`1` begins more than one trial's id: give more digits");
    assert_eq!(problem("2"), "no trial's id begins with `2`");
    for text in ["", "1g", "1A", &format!("{whole}0")] {
        assert!(
            problem(text).contains("is not the beginning of a trial's id (hexadecimal digits)"),
            "{text}"
        );
    }
}

#[test]
fn what_an_agent_holds_when_it_comes_back_is_refused_unless_it_is_current_and_its_own() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0), specification(2, 10, 1)]);
    world.connect("a", "1", vec![]);
    let own = world.idle("a").remove(0).1;
    world.connect("b", "1", vec![]);
    let other = world.idle("b").remove(0).1;
    let stale = LeaseKey { attempt: own.attempt + 1, ..own };
    let seen = world.sent.len();
    world.connect("a", "1", vec![own, other, stale]);
    let reason = "the lease is no longer current";
    assert_eq!(refusals(&world, seen), [(other, reason), (stale, reason)]);
    assert_eq!(world.state.agents["a"].leases.iter().collect::<Vec<_>>(), [&own.trial]);
}

#[test]
fn after_a_pause_leases_have_a_full_term() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    world.idle("a");
    world.now.monotonic += std::time::Duration::from_secs(1000);
    world.apply(Input::Tick);
    world.pass(limits::LEASE_SECONDS);
    assert_eq!(world.state_of(1), TrialState::Leased);
    world.pass(10);
    assert_eq!(world.state_of(1), TrialState::Pending);
}

#[test]
fn what_evaluation_takes_is_learnt_and_not_forgotten() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    let seen = |world: &World| world.state.throughput.values().next().unwrap().evaluation_seconds;
    for (told, known) in [(0.25, 0.25), (0.0, 0.25), (0.5, 0.5)] {
        let mut curve = ThroughputCurve::default();
        curve.record(1, 10.0).unwrap();
        let report = Report::Throughput { cohort: 0, curve, calibrated: false, evaluation_seconds: told };
        world.say("a", report);
        assert_eq!(seen(&world), known);
    }
}

#[test]
fn metrics_repeated_are_acknowledged_and_changed_ones_refused() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    let mut say = |digest| {
        let seen = world.sent.len();
        let (recorded, data) = (None, vec![1]);
        world.say("a", Report::Metrics { lease, chunk: 0, digest, recorded, last_step: 5, data });
        let refused: Vec<_> = refusals(&world, seen).into_iter().map(|(_, why)| why.to_owned()).collect();
        (said(&world, seen).contains(&&ToAgent::Acknowledged(7)), refused)
    };
    assert_eq!(say([1; 32]), (true, vec![]));
    assert_eq!(say([1; 32]), (true, vec![]));
    assert_eq!(
        say([2; 32]),
        (false, vec!["chunk 0 of this attempt is recorded with other content".to_owned()])
    );
}

#[test]
fn the_history_says_how_a_trial_ended() {
    let endings = [
        (Ending::Completed, "completed at step 10"),
        (Ending::Diverged { step: 4 }, "diverged at step 4"),
        (Ending::Failed { reason: "no such file".to_owned() }, "failed: no such file"),
    ];
    for (ending, expected) in endings {
        let mut world = one_trial();
        world.connect("a", "1", vec![]);
        let lease = world.idle("a").remove(0).1;
        let weights_hash = String::new();
        world.say("a", Report::Ended { lease, ending, step: 10, train_seconds: 1.0, weights_hash });
        let history = world.history(&Subject::Trial(trial(1)));
        assert!(history.iter().any(|event| event.contains(expected)), "{history:?}");
    }
}

#[test]
fn an_agent_that_holds_a_cohort_has_room_for_more() {
    let mut world = World::new();
    let trials = (1..=16).map(|number| specification(number, 10, 0)).collect();
    world.submit("s", trials);
    world.connect_with("a", "1", vec![], |agent| agent.max_cohort = 8);
    let held: Vec<LeaseKey> = world.idle("a").into_iter().map(|granted| granted.1).collect();
    assert!(held.len() >= 5, "{}", held.len());
    assert!(held.len() * limits::MAX_COHORT + limits::MAX_COHORT > limits::MAX_HELD_LEASES);
    let leases = held.iter().map(|lease| (*lease, 0)).collect();
    let wish = Wish { grants: 1, places: Some((0, 2)), ..Wish::default() };
    let granted = world.granted.len();
    world.say("a", Report::Heartbeat { leases, speed: 1.0, idle: false, waiting: vec![], wish });
    assert_eq!(world.granted.len() - granted, 2);
}

#[test]
fn divergence_at_the_last_step_asked_for_is_a_divergence() {
    for (step, shown) in [(10, TrialState::Diverged), (11, TrialState::Completed)] {
        let mut world = World::new();
        world.submit("s", vec![specification(1, 20, 0)]);
        world.connect("a", "1", vec![]);
        let lease = world.idle("a").remove(0).1;
        let weights_hash = String::new();
        let ending = Ending::Diverged { step };
        world.say("a", Report::Ended { lease, ending, step, train_seconds: 1.0, weights_hash });
        assert_eq!(view(&world.state.trials[&trial(1)], 10, SweepMode::Active), shown);
    }
}

#[test]
fn a_cancelled_study_that_is_submitted_again_runs_what_had_not_ended() {
    let mut world = World::new();
    let trials = vec![specification(1, 10, 0), specification(2, 10, 1)];
    world.submit("s", trials.clone());
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    world.complete("a", lease, 10);
    let (done, waits) = if lease.trial == trial(1) { (1, 2) } else { (2, 1) };
    world.apply(Input::Cancel { sweep: 1, reason: String::new() });
    assert_eq!(world.state_of(waits), TrialState::Cancelled);
    let answer = world.submit("s", trials);
    assert!(matches!(answer, Answer::Submitted { existing: true, new_trials: 1, .. }), "{answer:?}");
    assert_eq!(
        [done, waits].map(|number| world.state_of(number)),
        [TrialState::Completed, TrialState::Pending]
    );
}

#[test]
fn a_trial_that_another_sweep_cancelled_is_new_to_the_next() {
    let mut world = one_trial();
    world.apply(Input::Cancel { sweep: 1, reason: String::new() });
    let answer = world.submit("t", vec![specification(1, 10, 0)]);
    assert_eq!(new_trials(Some(answer)), 1);
    assert_eq!(world.history(&Subject::Sweep(2)), ["submitted: 1 trials, 1 of them new"]);
}

#[test]
fn sweeps_are_found_by_id_name_and_last() {
    let mut world = World::new();
    assert_eq!(find_sweep(&world.state, "last"), Err("no sweep was submitted yet".to_owned()));
    let submit = |world: &mut World, id: &str, name: &str, number| {
        let (id, name) = (id.to_owned(), name.to_owned());
        let trials = vec![specification(number, 10, 0)];
        world.apply(Input::Submit { id, name, source: vec![1], trials });
    };
    submit(&mut world, "ab1", "grid", 1);
    submit(&mut world, "ab2", "grid", 2);
    submit(&mut world, "cd3", "ab1", 3);
    for (text, number) in [("last", 3), ("ab1", 1), ("grid", 2), ("cd", 3)] {
        assert_eq!(find_sweep(&world.state, text), Ok(number), "{text}");
    }
    let problem = |text: &str| find_sweep(&world.state, text).unwrap_err();
    assert!(problem("").contains("is not named"));
    assert_eq!(problem("x"), "there is no sweep `x`");
    assert_eq!(problem("ab"), "`ab` begins more than one sweep's id: give more characters");
}

#[test]
fn a_refused_report_says_what_is_wrong_with_its_lease() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0), specification(2, 10, 1)]);
    world.connect("a", "1", vec![]);
    let first = world.idle("a").remove(0).1;
    world.connect("b", "1", vec![]);
    let other = world.idle("b").remove(0).1;
    let lost = Report::Released { lease: first, reason: "by hand".to_owned(), train_seconds: 0.0 };
    world.say("a", lost);
    let ended = first;
    let mut why = |lease: LeaseKey| {
        let seen = world.sent.len();
        world.say("a", Report::Started { lease, from_step: 0 });
        refusals(&world, seen).remove(0).1.to_owned()
    };
    assert_eq!(why(LeaseKey { trial: trial(9), attempt: 1 }), "no such trial");
    assert_eq!(why(LeaseKey { attempt: 9, ..first }), "attempt 9 was never granted");
    assert_eq!(why(other), "agent b holds this lease");
    assert_eq!(why(ended), "the lease of attempt 1 has ended: the trial is pending");
    let again = world.idle("a").remove(0).1;
    assert_eq!((again.trial, again.attempt), (first.trial, 2));
    let seen = world.sent.len();
    world.say("a", Report::Started { lease: first, from_step: 0 });
    assert_eq!(refusals(&world, seen)[0].1, "attempt 1 is superseded by attempt 2");
}

#[test]
fn a_lease_that_neither_trains_nor_waits_for_its_turn_stalls() {
    for waits in [false, true] {
        let mut world = one_trial();
        world.connect("a", "1", vec![]);
        let lease = world.idle("a").remove(0).1;
        let beat = |world: &mut World| {
            let waiting = if waits { vec![lease] } else { vec![] };
            let (leases, wish) = (vec![(lease, 0)], Wish::default());
            world.say("a", Report::Heartbeat { leases, speed: 1.0, idle: false, waiting, wish });
            world.pass(10);
        };
        (0..limits::STALL_SECONDS / 10).for_each(|_| beat(&mut world));
        assert_eq!(world.state_of(1), TrialState::Leased, "not before the time is over");
        beat(&mut world);
        assert_eq!(world.state_of(1) == TrialState::Leased, waits);
    }
}

#[test]
fn a_trial_that_was_lost_twice_is_trained_alone() {
    let mut world = one_trial();
    for (incarnation, alone) in [("2", false), ("3", true)] {
        world.connect("a", incarnation, vec![]);
        world.idle("a");
        let session = world.state.agents["a"].session.unwrap();
        world.apply(Input::Disconnected { session, agent: "a".to_owned() });
        world.connect("a", &format!("{incarnation} again"), vec![]);
        assert_eq!(world.state.trials[&trial(1)].alone, alone, "{incarnation}");
    }
}

#[test]
fn places_are_filled_from_several_sweeps_and_no_more_than_asked_for() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    world.submit("t", vec![specification(2, 10, 0)]);
    world.submit("u", (3..=6).map(|number| specification(number, 10, 0)).collect());
    let granted = world.granted.len();
    let (leases, wish) = (vec![(lease, 0)], Wish { grants: 1, places: Some((0, 2)), ..Wish::default() });
    world.say("a", Report::Heartbeat { leases, speed: 1.0, idle: false, waiting: vec![], wish });
    let joined: Vec<_> = world.granted[granted..].iter().map(|granted| granted.1.trial).collect();
    assert_eq!(joined, [trial(2), trial(3)]);
}

#[test]
fn a_lease_knows_its_shape_after_a_restart() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 5)]);
    world.connect("a", "1", vec![]);
    world.idle("a");
    world.restart();
    assert_eq!(world.state.trials[&trial(1)].lease.as_ref().unwrap().cohort, 5);
}

#[test]
fn watchers_are_told_which_sweeps_changed() {
    let mut state = State::default();
    let trials = vec![specification(1, 10, 0)];
    let submit = Input::Submit { id: "s".to_owned(), name: "s".to_owned(), source: vec![1], trials };
    let effects = apply(&mut state, submit, Now::default());
    assert!(effects.contains(&Effect::Changed(vec![1])), "{effects:?}");
    let effects = apply(&mut state, Input::Tick, Now::default());
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Changed(_))), "{effects:?}");
}

#[test]
fn a_checkpoint_found_damaged_after_training_began_from_it_costs_no_lease() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    world.say("a", Report::Started { lease, from_step: 0 });
    world.apply(Input::CheckpointStored { lease, step: 4, weights_hash: "w".to_owned(), bytes: 1 });
    let problem = "torn".to_owned();
    world.apply(Input::CheckpointDamaged { trial: trial(1), attempt: 1, step: 4, problem });
    assert_eq!(world.state_of(1), TrialState::Running);
    assert!(world.state.trials[&trial(1)].checkpoints.is_empty());
}

#[test]
fn measuring_pays_from_a_hundred_times_its_cost() {
    let mut world = World::new();
    // 2e10 operations per second are assumed, 1e6 make an update: 2e4 updates per second.
    world.submit("s", vec![specification(1, 10, 0)]);
    world.connect("a", "1", vec![]);
    let agent = &world.state.agents["a"];
    let pays = |steps| {
        let work = planning::Work { cohort: 0, steps, waiting: 100, share: 1 };
        planning::should_calibrate(&world.state, agent, work)
    };
    let enough = (plateau_common::throughput::CALIBRATION_SECONDS * 100.0 * 2e4 / 100.0).ceil() as u64;
    assert!(pays(enough));
    assert!(!pays(enough - enough / 10));
}

#[test]
fn seconds_of_training_add_up_over_attempts() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    for _ in 0..2 {
        let lease = world.idle("a").remove(0).1;
        world.say("a", Report::Released { lease, reason: "by hand".to_owned(), train_seconds: 2.5 });
    }
    let lease = world.idle("a").remove(0).1;
    let (ending, weights_hash) = (Ending::Completed, String::new());
    world.say("a", Report::Ended { lease, ending, step: 10, train_seconds: 0.5, weights_hash });
    assert_eq!(world.state.trials[&trial(1)].train_seconds, 5.5);
}

#[test]
fn a_sweep_remembers_its_last_failure() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    let ending = Ending::Failed { reason: "no such file".to_owned() };
    let weights_hash = String::new();
    world.say("a", Report::Ended { lease, ending, step: 0, train_seconds: 0.0, weights_hash });
    let (failed, why, _) = world.state.sweeps[&1].last_failure.clone().unwrap();
    assert_eq!(failed, trial(1));
    assert!(why.contains("no such file"), "{why}");
}

#[test]
fn a_result_keeps_its_step_when_its_checkpoint_is_found_damaged() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    world.apply(Input::CheckpointStored { lease, step: 10, weights_hash: "w".to_owned(), bytes: 1 });
    world.complete("a", lease, 10);
    let problem = "torn".to_owned();
    world.apply(Input::CheckpointDamaged { trial: trial(1), attempt: 1, step: 10, problem });
    let record = &world.state.trials[&trial(1)];
    assert_eq!((record.state, record.step, record.checkpoints.len()), (TrialState::Completed, 10, 0));
}

#[test]
fn of_crashes_that_share_a_trial_an_agent_is_charged_with_the_smallest() {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0), specification(2, 10, 0)]);
    world.connect("a", "1", vec![]);
    let both: Vec<LeaseKey> = world.idle("a").into_iter().map(|granted| granted.1).collect();
    assert_eq!(both.len(), 2);
    world.crash("a", both);
    world.pass(10);
    let alone = world.idle("a").remove(0).1;
    world.crash("a", vec![alone]);
    let charged = |world: &World| world.state.agents["a"].crashed.clone();
    assert_eq!(charged(&world), [[alone.trial].into()]);
    // The same trial again explains no more.
    world.pass(20);
    let again = world.idle("a").remove(0).1;
    world.crash("a", vec![again]);
    let expected: Vec<std::collections::BTreeSet<_>> = match again.trial == alone.trial {
        true => vec![[alone.trial].into()],
        false => vec![[alone.trial].into(), [again.trial].into()],
    };
    assert_eq!(charged(&world), expected);
}

#[test]
fn a_sweep_is_extended_unless_it_is_cancelled() {
    let mut world = one_trial();
    let trials = vec![specification(1, 10, 0), specification(2, 10, 0)];
    let extend = Input::Extend { sweep: 1, source: vec![2], trials, what: "a seed".to_owned() };
    let answer = world.apply(extend.clone()).unwrap();
    assert_eq!(answer, Answer::Extended { new_trials: 1, continued_trials: 0 });
    world.apply(Input::Cancel { sweep: 1, reason: String::new() });
    let reason = "sweep s is cancelled: submit its study again first".to_owned();
    assert_eq!(world.apply(extend), Some(Answer::Refused(Refusal::Precondition, reason)));
}

#[test]
fn a_sweep_changes_when_the_agent_of_its_trials_is_cut_off() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    world.idle("a");
    let session = world.state.agents["a"].session.unwrap();
    let cut = Input::Disconnected { session, agent: "a".to_owned() };
    let effects = apply(&mut world.state, cut, world.now);
    assert!(effects.contains(&Effect::Changed(vec![1])), "{effects:?}");
}

#[test]
fn ticks_that_are_late_by_less_than_a_renewal_are_no_pause() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    world.idle("a");
    let renewal = std::time::Duration::from_secs(limits::RENEWAL_SECONDS);
    let deadline = |world: &World| world.state.trials[&trial(1)].lease.as_ref().unwrap().deadline;
    let before = deadline(&world);
    world.now.monotonic += renewal;
    world.apply(Input::Tick);
    assert_eq!(deadline(&world), before);
    world.now.monotonic += renewal + std::time::Duration::from_millis(1);
    world.apply(Input::Tick);
    assert!(deadline(&world) > before);
}
