//! Cases of `tests/CASES.md`, one page each, that a few inputs in a row show. Those that hang on the order of inputs are
//! explored in `exhaustive.rs`.

use std::time::Duration;

use plateau_common::failure::FailureClass;
use plateau_common::limits;
use plateau_common::trial::{Ending, TrialState};
use proptest::prelude::*;

use super::world::{World, specification, trial};
use crate::core::*;

fn one_trial() -> World {
    let mut world = World::new();
    world.submit("s", vec![specification(1, 10, 0)]);
    world
}

fn stored(lease: LeaseKey, step: u64) -> Input {
    Input::CheckpointStored { lease, step, weights_hash: "w".to_owned(), bytes: 1 }
}

/// The connection of an agent breaks.
fn cut_off(world: &mut World, name: &str) {
    let session = world.state.agents[name].session.unwrap();
    world.apply(Input::Disconnected { session, agent: name.to_owned() });
}

fn explain(world: &World, name: &str) -> String {
    explain_agent(&world.state, name, world.now).unwrap().summary
}

#[test]
fn case_2_a_lease_that_nobody_heard_of_lives_a_full_term_and_its_attempt_is_not_granted_again() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    world.pass(50);
    world.restart();
    // Killed before the grant left: the agent comes back without it, or not at all.
    world.pass(limits::LEASE_SECONDS);
    assert_eq!(world.state_of(1), TrialState::Leased);
    world.pass(10);
    assert_eq!(world.state_of(1), TrialState::Pending);
    world.connect("b", "1", vec![]);
    let next = world.idle("b").remove(0).1;
    assert_eq!((lease.attempt, next.attempt), (1, 2));
}

#[test]
fn case_15_two_machines_of_one_name_are_drained_and_both_named() {
    let mut world = one_trial();
    let start = |world: &mut World, number: usize| {
        let host = if number.is_multiple_of(2) { "node1" } else { "node2" };
        world.connect_with("a", &number.to_string(), vec![], |agent| agent.host = host.to_owned());
        world.idle("a")
    };
    for number in 0..=limits::MAX_SUPERSESSIONS {
        assert_eq!(start(&mut world, number).len(), 1, "start {number}");
    }
    assert!(start(&mut world, limits::MAX_SUPERSESSIONS + 1).is_empty());
    let said = explain(&world, "a");
    assert!(said.contains("`node1`") && said.contains("`node2`"), "{said}");
    // Whoever has the name, the trial is not to blame.
    assert_eq!((world.state_of(1), world.state.trials[&trial(1)].crashes), (TrialState::Pending, 0));
    world.restart();
    start(&mut world, 100);
    assert!(world.idle("a").is_empty(), "a restart forgets no drain");
    let grants = world.granted.len();
    world.apply(Input::Undrain { agent: "a".to_owned() });
    assert_eq!(world.granted.len(), grants + 1);
}

#[test]
fn case_15_starts_that_are_far_apart_or_follow_a_disconnection_are_no_rivals() {
    let mut world = one_trial();
    for number in 0..10 {
        world.connect("a", &number.to_string(), vec![]);
        world.pass(limits::SUPERSESSION_WINDOW_SECONDS);
        world.connect("b", &number.to_string(), vec![]);
        cut_off(&mut world, "b");
    }
    assert!(world.state.agents.values().all(|agent| agent.drained.is_none()));
}

#[test]
fn case_19_a_trial_that_many_agents_die_with_is_quarantined_and_one_that_few_die_with_is_not() {
    let mut world = one_trial();
    for number in 0..limits::MAX_LOSSES_PER_TRIAL {
        assert_ne!(world.state_of(1), TrialState::Quarantined, "after {number} lost agents");
        world.connect("a", &number.to_string(), vec![]);
        assert_eq!(world.idle("a").len(), 1);
        cut_off(&mut world, "a");
    }
    world.connect("a", "again", vec![]);
    assert_eq!(world.state_of(1), TrialState::Quarantined);
}

#[test]
fn case_19_one_agent_alone_does_not_convict_a_trial_where_there_is_another() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    for crashes in 1..=limits::MAX_CRASHES_PER_TRIAL {
        let lease = world.idle("a").remove(0).1;
        if crashes == limits::MAX_CRASHES_PER_TRIAL {
            world.connect("b", "1", vec![]);
        }
        world.crash("a", vec![lease]);
        world.pass(10);
    }
    assert_eq!(world.state_of(1), TrialState::Pending);
    let lease = world.idle("b").remove(0).1;
    world.crash("b", vec![lease]);
    assert_eq!(world.state_of(1), TrialState::Quarantined);
}

#[test]
fn case_20_an_agent_on_which_different_trials_crash_is_drained_and_they_are_not_charged() {
    let mut world = World::new();
    world.submit("s", (1..=6).map(|number| specification(number, 100, u128::from(number))).collect());
    world.connect("bad", "1", vec![]);
    world.connect("good", "1", vec![]);
    let good = world.idle("good").remove(0).1;
    for crashes in 1..=limits::MAX_CRASHES_PER_AGENT {
        assert!(world.state.agents["bad"].drained.is_none());
        let lease = world.idle("bad").remove(0).1;
        world.crash("bad", vec![lease]);
        assert!(world.state.agents["bad"].crashed.len() < limits::MAX_CRASHES_PER_AGENT, "{crashes}");
    }
    let said = explain(&world, "bad");
    assert!(said.contains("3 different trials crashed on it in a row"), "{said}");
    assert!(world.idle("bad").is_empty());
    assert!(world.state.trials.values().all(|trial| trial.crashes == 0 && trial.crashed_on.is_empty()));
    assert!(world.history(&Subject::Trial(trial(5))).iter().any(|event| event.contains("not charged")));
    // Somebody repaired it.
    world.restart();
    world.connect("bad", "2", vec![]);
    assert!(world.idle("bad").is_empty());
    let grants = world.granted.len();
    assert_eq!(world.apply(Input::Undrain { agent: "bad".to_owned() }), Some(Answer::Done));
    assert_eq!(world.granted.len(), grants + 1);
    world.connect("good", "1", vec![good]);
    world.complete("good", good, 100);
}

#[test]
fn case_20_a_trial_that_crashes_elsewhere_too_clears_the_agents_it_crashed_on() {
    let mut world = World::new();
    world.submit("s", (1..=4).map(|number| specification(number, 100, u128::from(number))).collect());
    world.connect("a", "1", vec![]);
    world.connect("b", "1", vec![]);
    for name in ["a", "b"] {
        let lease = world.idle(name).remove(0).1;
        assert_eq!(lease.trial, trial(4));
        world.crash(name, vec![lease]);
    }
    assert!(world.state.agents.values().all(|agent| agent.crashed.is_empty()));
}

#[test]
fn case_20_progress_ends_a_row_of_crashes_and_the_last_agent_is_not_drained() {
    let mut world = World::new();
    world.submit("s", (1..=8).map(|number| specification(number, 100, u128::from(number))).collect());
    world.connect("a", "1", vec![]);
    world.connect("b", "1", vec![]);
    for round in 0..4u64 {
        let lease = world.idle("a").remove(0).1;
        match round {
            2 => assert_eq!(world.apply(stored(lease, 10)), Some(Answer::Done)),
            _ => world.crash("a", vec![lease]),
        }
        if round == 2 {
            world.crash("a", vec![lease]);
        }
    }
    assert!(world.state.agents["a"].drained.is_none(), "the checkpoint shows that it works");
    cut_off(&mut world, "b");
    for _ in 0..3 {
        let lease = world.idle("a").remove(0).1;
        world.crash("a", vec![lease]);
    }
    assert!(world.state.agents["a"].drained.is_none(), "nobody else is left");
}

/// Three agents train eight trials to the end; who is bad breaks the trainer whenever it can.
fn train_with(bad_agents: &[&str], bad_trials: &[u8]) -> World {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let mut world = World::new();
    world.submit("s", (1..=8).map(|number| specification(number, 10, u128::from(number % 2))).collect());
    for name in NAMES {
        world.connect(name, "1", vec![]);
    }
    for _ in 0..100 {
        for name in NAMES {
            let leases: Vec<LeaseKey> = world.idle(name).into_iter().map(|(_, lease, _)| lease).collect();
            let bad = |lease: &LeaseKey| bad_trials.iter().any(|number| trial(*number) == lease.trial);
            if leases.is_empty() {
                continue;
            }
            if bad_agents.contains(&name) || leases.iter().any(bad) {
                world.crash(name, leases);
            } else {
                leases.into_iter().for_each(|lease| world.complete(name, lease, 10));
            }
        }
        world.pass(limits::FIRST_RETRY_SECONDS << limits::MAX_CRASHES_PER_TRIAL);
        if world.state.sweeps[&1].is_finished() {
            return world;
        }
    }
    panic!("the sweep does not end: {:?}", world.state.sweeps[&1].counts);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn case_20_the_charge_goes_to_the_guilty_side(first in 1u8..=8, second in 1u8..=8, agent in 0usize..3) {
        // Bad trials: each is quarantined, no other, and no agent suffers for it.
        let world = train_with(&[], &[first, second]);
        for number in 1..=8 {
            let bad = number == first || number == second;
            let expected = if bad { TrialState::Quarantined } else { TrialState::Completed };
            prop_assert_eq!(world.state_of(number), expected);
        }
        prop_assert!(world.state.agents.values().all(|agent| agent.drained.is_none()));
        // A bad agent: every trial is completed elsewhere.
        let world = train_with(&[["a", "b", "c"][agent]], &[]);
        prop_assert_eq!(world.state.sweeps[&1].count(TrialState::Completed), 8);
    }
}

/// `count` agents that hold a trial each.
fn fleet(count: u8) -> (World, Vec<String>) {
    let mut world = World::new();
    world.submit("s", (1..=count).map(|number| specification(number, 100, u128::from(number))).collect());
    let names: Vec<String> = (1..=count).map(|number| format!("agent {number}")).collect();
    for name in &names {
        world.connect_with(name, "1", vec![], |agent| agent.max_cohort = 1);
        assert_eq!(world.idle(name).len(), 1);
    }
    (world, names)
}

fn leased(world: &World) -> usize {
    world.state.trials.values().filter(|trial| trial.lease.is_some()).count()
}

/// Time passes; only these agents are heard of.
fn pass_with(world: &mut World, heard: &[String], seconds: u64) {
    for _ in 0..seconds / 10 {
        heard.iter().for_each(|name| drop(world.idle(name)));
        world.pass(10);
    }
}

#[test]
fn case_21_when_most_of_a_fleet_falls_silent_leases_end_one_agent_at_a_time_and_it_is_flagged() {
    let (mut world, names) = fleet(5);
    let (heard, silent) = names.split_at(2);
    pass_with(&mut world, heard, limits::LEASE_SECONDS + 10);
    assert_eq!(leased(&world), 5, "the brake is on");
    for name in silent {
        let said = explain(&world, name);
        assert!(
            said.contains("3 of 5 agents fell silent at once") && said.contains("coordinator's side"),
            "{said}"
        );
        assert!(
            world.history(&Subject::Agent(name.clone())).iter().any(|event| event.contains("fell silent"))
        );
    }
    for said in [explain_trial(&world.state, trial(3)), explain_sweep(&world.state, 1)] {
        let said = said.unwrap().summary;
        assert!(said.contains("coordinator's side"), "{said}");
    }
    pass_with(&mut world, heard, limits::EXPIRY_BRAKE_SECONDS);
    assert_eq!(leased(&world), 4);
    // What silences a fleet is not a trial.
    assert!(world.state.trials.values().all(|trial| trial.crashes == 0));
    // The cause is clear: one comes back, and no more than half are silent.
    let back = [heard, &silent[1..2]].concat();
    pass_with(&mut world, &back, 20);
    assert!(world.state.brake.is_none());
    assert_eq!(leased(&world), 3, "the other one was really lost");
}

#[test]
fn case_21_a_fleet_that_never_comes_back_is_given_up_in_the_end() {
    let (mut world, _) = fleet(4);
    world.pass(limits::LEASE_SECONDS + 10);
    for left in (1..4).rev() {
        world.pass(limits::EXPIRY_BRAKE_SECONDS);
        assert_eq!(leased(&world), left);
    }
    world.pass(limits::EXPIRY_BRAKE_SECONDS);
    assert_eq!(leased(&world), 0);
    world.pass(10);
    assert!(world.state.brake.is_none());
}

#[test]
fn case_21_half_of_a_fleet_or_a_small_one_is_not_braked() {
    let (mut world, names) = fleet(4);
    pass_with(&mut world, &names[..2], limits::LEASE_SECONDS + 10);
    assert_eq!(leased(&world), 2);
    let (mut world, _) = fleet(3);
    world.pass(limits::LEASE_SECONDS + 10);
    assert_eq!(leased(&world), 0);
}

#[test]
fn case_23_reports_about_the_trials_of_others_are_refused_and_change_nothing() {
    let mut world = one_trial();
    world.submit("t", vec![specification(2, 10, 1)]);
    world.connect("owner", "1", vec![]);
    let lease = world.idle("owner").remove(0).1;
    world.connect("other", "1", vec![]);
    world.apply(Input::Pause { sweep: 2 });
    let claims = |lease: LeaseKey| {
        let (reason, weights_hash) = (String::new(), "w".to_owned());
        let ended = |ending, step| Report::Ended {
            lease,
            ending,
            step,
            train_seconds: 1.0,
            weights_hash: weights_hash.clone(),
        };
        [
            Report::Started { lease, from_step: 0 },
            Report::Metrics { lease, chunk: 0, digest: [1; 32], recorded: None, last_step: 5, data: vec![0] },
            ended(Ending::Completed, 10),
            ended(Ending::Diverged { step: 3 }, 3),
            ended(Ending::Failed { reason: "x".to_owned() }, 3),
            Report::Released { lease, reason: reason.clone(), train_seconds: 1.0 },
            Report::Log { lease, lines: vec![(0, "info".to_owned(), "x".to_owned())] },
            Report::Crashed { leases: vec![lease], class: FailureClass::Exited, reason: reason.clone() },
            Report::OutOfMemory { leases: vec![lease], cohort_size: 1, suspected: false, reason },
        ]
    };
    let never = LeaseKey { trial: trial(2), attempt: 1 };
    let unknown = LeaseKey { trial: trial(9), attempt: 1 };
    let check = |world: &mut World, lease| {
        for claim in claims(lease) {
            world.sent.clear();
            let before = world.state.clone();
            let shown = format!("{claim:?}");
            world.say("other", claim);
            assert_eq!(world.state, before, "{shown}");
            let refused = |(_, message): &(u64, ToAgent)| matches!(message, ToAgent::Refused { .. });
            assert!(world.sent.iter().any(refused), "{shown}: {:?}", world.sent);
        }
    };
    for lease in [lease, never, unknown, LeaseKey { attempt: 2, ..lease }] {
        check(&mut world, lease);
    }
    // Nor when it has ended, although its holder may still say its last words then.
    world.complete("owner", lease, 10);
    check(&mut world, lease);
    world.sent.clear();
    world.say("owner", Report::Log { lease, lines: vec![(0, "info".to_owned(), "bye".to_owned())] });
    assert!(matches!(world.sent[..], [(_, ToAgent::Acknowledged(7))]));
}

#[test]
fn case_25_a_day_without_agents_burns_no_attempt_and_says_why_nothing_happens() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    world.idle("a");
    world.say("a", Report::Goodbye);
    let before = world.state.trials.clone();
    for _ in 0..86_400 / limits::RENEWAL_SECONDS {
        world.now.monotonic += Duration::from_secs(limits::RENEWAL_SECONDS);
        assert_eq!(apply(&mut world.state, Input::Tick, world.now), []);
    }
    assert_eq!(world.state.trials, before);
    assert!(explain_trial(&world.state, trial(1)).unwrap().summary.contains("no agent is connected"));
    assert!(explain_sweep(&world.state, 1).unwrap().summary.starts_with("Waits: no agent is connected"));
}

#[test]
fn case_26_a_drained_agent_finishes_what_it_holds_and_gets_nothing_more() {
    let mut world = World::new();
    world.submit("s", (1..=2).map(|number| specification(number, 10, u128::from(number))).collect());
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    let drain = |name: &str| Input::Drain { agent: name.to_owned(), reason: "new card".to_owned() };
    assert!(matches!(world.apply(drain("b")), Some(Answer::Refused(Refusal::NotFound, _))));
    assert_eq!(world.apply(drain("a")), Some(Answer::Done));
    assert!(!world.sent.iter().any(|(_, message)| matches!(message, ToAgent::Revoke { .. })));
    world.complete("a", lease, 10);
    assert!(world.idle("a").is_empty());
    let said = explain(&world, "a");
    assert!(said.starts_with("Drained (new card)"), "{said}");
    let said = explain_trial(&world.state, trial(1)).unwrap().summary;
    assert!(said.contains("drained"), "{said}");
    assert!(explain_sweep(&world.state, 1).unwrap().summary.contains("drained"));
    // It is remembered for longer than agents that are merely gone.
    world.say("a", Report::Goodbye);
    for _ in 0..2 {
        world.now.monotonic += Duration::from_secs(2 * limits::FORGET_AGENT_SECONDS);
        world.apply(Input::Tick);
        world.apply(Input::Tick);
    }
    assert_eq!(world.state.agents["a"].drained.as_deref(), Some("new card"));
}

#[test]
fn case_66_a_divergence_is_recorded_once_with_its_step_and_only_a_requeue_tries_it_again() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    let (ending, weights_hash) = (Ending::Diverged { step: 7 }, String::new());
    world.say("a", Report::Ended { lease, ending, step: 7, train_seconds: 1.0, weights_hash });
    let diverged = |world: &World| (world.state_of(1), world.state.trials[&trial(1)].diverged_at);
    assert_eq!(diverged(&world), (TrialState::Diverged, Some(7)));
    assert!(world.idle("a").is_empty());
    world.submit("s", vec![specification(1, 10, 0)]);
    world.restart();
    assert_eq!(diverged(&world), (TrialState::Diverged, Some(7)));
    assert_eq!(
        world.apply(Input::RequeueSweep { sweep: 1, diverged: false }),
        Some(Answer::Requeued { trials: 0 })
    );
    assert_eq!(
        world.apply(Input::RequeueSweep { sweep: 1, diverged: true }),
        Some(Answer::Requeued { trials: 1 })
    );
    assert_eq!(diverged(&world), (TrialState::Pending, None));
}

#[test]
fn a_requeue_forgets_crashes_and_is_refused_where_there_is_nothing_to_requeue() {
    let mut world = one_trial();
    let requeue = Input::RequeueTrial { trial: trial(1) };
    let refused = |answer| matches!(answer, Some(Answer::Refused(Refusal::Precondition, _)));
    assert!(refused(world.apply(requeue.clone())), "it waits");
    world.connect("a", "1", vec![]);
    for _ in 0..limits::MAX_CRASHES_PER_TRIAL {
        let lease = world.idle("a").remove(0).1;
        world.crash("a", vec![lease]);
        world.pass(10);
    }
    assert_eq!(world.state_of(1), TrialState::Quarantined);
    assert_eq!(world.apply(requeue.clone()), Some(Answer::Requeued { trials: 1 }));
    world.restart();
    let known = &world.state.trials[&trial(1)];
    assert_eq!((known.state, known.crashes, known.alone), (TrialState::Pending, 0, false));
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    assert_eq!(lease.attempt, 4);
    world.say(
        "a",
        Report::Ended {
            lease,
            ending: Ending::Failed { reason: "no such shape".to_owned() },
            step: 0,
            train_seconds: 0.0,
            weights_hash: String::new(),
        },
    );
    world.submit("t", vec![specification(2, 10, 0)]);
    world.apply(Input::Cancel { sweep: 2, reason: String::new() });
    assert!(refused(world.apply(Input::RequeueSweep { sweep: 2, diverged: false })), "it is cancelled");
    assert!(matches!(
        world.apply(Input::RequeueTrial { trial: trial(9) }),
        Some(Answer::Refused(Refusal::NotFound, _))
    ));
}

#[test]
fn case_84_the_same_study_is_the_same_sweep_and_says_so() {
    let mut world = one_trial();
    world.connect("a", "1", vec![]);
    world.idle("a");
    let before = world.state.clone();
    let again = world.submit("s", vec![specification(1, 10, 0)]);
    assert_eq!(again, Answer::Submitted { sweep: "s".to_owned(), existing: true, trials: 1, new_trials: 0 });
    assert_eq!(world.state, before);
    // An edited study has another id: another sweep, which shares what is the same.
    world.submit("edited", vec![specification(1, 10, 0), specification(2, 10, 0)]);
    assert_eq!(world.state.sweeps.len(), 2);
    assert_eq!(world.state.trials[&trial(1)].attempt, 1);
}
