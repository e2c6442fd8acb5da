//! What `explain` says, word for word: of every state that a trial, a sweep or an agent can be in.

use plateau_common::limits;
use plateau_common::trial::Ending;

use super::world::{World, specification, trial};
use crate::core::*;

fn of_trial(world: &World, number: u8) -> String {
    let explanation = explain_trial(&world.state, trial(number)).unwrap();
    assert_eq!(explanation.kind, "trial");
    explanation.summary
}

fn of_sweep(world: &World) -> String {
    let explanation = explain_sweep(&world.state, 1).unwrap();
    assert_eq!(explanation.kind, "sweep");
    explanation.summary
}

fn of_agent(world: &World, name: &str) -> String {
    let explanation = explain_agent(&world.state, name, world.now).unwrap();
    assert_eq!(explanation.kind, "agent");
    explanation.summary
}

/// Trials 1, 2, … of shapes of their own, in this order of cost.
fn world(trials: u8) -> World {
    let mut world = World::new();
    let shape = |number: u8| specification(number, 10, u128::from(trials - number));
    world.submit("s", (1..=trials).map(shape).collect());
    world
}

fn cut_off(world: &mut World, name: &str) {
    let session = world.state.agents[name].session.unwrap();
    world.apply(Input::Disconnected { session, agent: name.to_owned() });
}

#[test]
fn nothing_is_said_of_what_is_not_there() {
    let world = world(1);
    assert_eq!(explain_trial(&world.state, trial(9)), None);
    assert_eq!(explain_sweep(&world.state, 9), None);
    assert_eq!(explain_agent(&world.state, "nobody", world.now), None);
}

#[test]
fn a_trial_from_waiting_to_its_end() {
    let mut world = world(3);
    assert_eq!(of_trial(&world, 1), "Waits: no agent is connected.");
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    assert_eq!(of_trial(&world, 1), "Promised to agent a as attempt 1, at step 0 of 10.");
    world.say("a", Report::Started { lease, from_step: 0 });
    let hash = "w".to_owned();
    world.apply(Input::CheckpointStored { lease, step: 4, weights_hash: hash, bytes: 1 });
    assert_eq!(of_trial(&world, 1), "Trains on agent a as attempt 1, at step 4 of 10.");
    assert_eq!(of_trial(&world, 2), "Waits: all 1 available agents are busy, 0 trials are ahead of it.");
    assert_eq!(of_trial(&world, 3), "Waits: all 1 available agents are busy, 1 trials are ahead of it.");
    cut_off(&mut world, "a");
    assert_eq!(
        of_trial(&world, 1),
        "Trains on agent a as attempt 1, at step 4 of 10; the agent is not connected, the lease ends unless it comes back."
    );
    world.connect("a", "1", vec![lease]);
    world.apply(Input::Pause { sweep: 1 });
    assert_eq!(
        of_trial(&world, 1),
        "Trains on agent a as attempt 1, at step 4 of 10; it was asked to stop and give the trial back."
    );
    assert_eq!(of_trial(&world, 2), "Waits: its sweep s is paused.");
    world.complete("a", lease, 10);
    assert_eq!(of_trial(&world, 1), "Completed at step 10.");
}

#[test]
fn a_trial_that_waits_says_where_it_will_go_on() {
    let mut world = world(1);
    world.connect("a", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    world.say("a", Report::Started { lease, from_step: 0 });
    world.apply(Input::CheckpointStored { lease, step: 4, weights_hash: "w".to_owned(), bytes: 1 });
    cut_off(&mut world, "a");
    world.connect("a", "2", vec![]);
    let said = of_trial(&world, 1);
    assert!(said.ends_with("; it will continue from step 4."), "{said}");
    let limit = limits::MAX_LOSSES_PER_TRIAL;
    assert!(said.contains(&format!("its agent lost 1 of {limit} times")), "{said}");
}

#[test]
fn endings_say_what_can_be_done() {
    let mut world = world(3);
    world.connect_with("a", "1", vec![], |agent| agent.max_cohort = 1);
    let lease = world.idle("a").remove(0).1;
    let end = |world: &mut World, lease, ending, step| {
        let weights_hash = "w".to_owned();
        world.say("a", Report::Ended { lease, ending, step, train_seconds: 1.0, weights_hash });
    };
    end(&mut world, lease, Ending::Diverged { step: 5 }, 5);
    assert_eq!(of_trial(&world, 1), "Diverged at step 5: a result, so it is not repeated.");
    let lease = world.idle("a").remove(0).1;
    end(&mut world, lease, Ending::Failed { reason: "no such task".to_owned() }, 0);
    assert_eq!(of_trial(&world, 2), "Failed: no such task. `plateau requeue` tries it once more.");
    world.apply(Input::Cancel { sweep: 1, reason: "enough".to_owned() });
    assert_eq!(of_trial(&world, 3), "Cancelled: no sweep wants it any more.");
    assert_eq!(of_sweep(&world), "Cancelled: enough.");
}

#[test]
fn a_sweep_counts_where_its_trials_are() {
    let mut world = world(2);
    assert_eq!(of_sweep(&world), "Waits: no agent is connected; 0 of 2 trials have ended.");
    world.connect_with("a", "1", vec![], |agent| agent.max_cohort = 1);
    let lease = world.idle("a").remove(0).1;
    assert_eq!(
        of_sweep(&world),
        "Runs: 0 of 2 trials have ended, 1 are with agents, 1 wait; 1 agents connected."
    );
    world.apply(Input::Pause { sweep: 1 });
    assert_eq!(of_sweep(&world), "Paused, 1 trials still stopping; `resume` goes on.");
    world.apply(Input::Resume { sweep: 1 });
    world.complete("a", lease, 10);
    world.apply(Input::Drain { agent: "a".to_owned(), reason: "by hand".to_owned() });
    assert_eq!(of_sweep(&world), "Waits: all 1 connected agents are drained; 1 of 2 trials have ended.");
    assert_eq!(of_trial(&world, 2), "Waits: all 1 connected agents are drained (`plateau undrain`).");
    world.apply(Input::Undrain { agent: "a".to_owned() });
    let lease = world.idle("a").remove(0).1;
    world.complete("a", lease, 10);
    assert_eq!(of_sweep(&world), "Finished: all 2 trials have ended.");
}

#[test]
fn an_agent_says_what_it_does() {
    let mut world = world(1);
    world.connect("a", "1", vec![]);
    assert_eq!(of_agent(&world, "a"), "Connected, but has not said that it is idle.");
    let lease = world.idle("a").remove(0).1;
    assert!(of_agent(&world, "a").starts_with("Trains 1 trials at"), "{}", of_agent(&world, "a"));
    world.complete("a", lease, 10);
    world.idle("a");
    assert_eq!(of_agent(&world, "a"), "Idle: no trial waits.");
    world.apply(Input::Drain { agent: "a".to_owned(), reason: "by hand".to_owned() });
    assert_eq!(of_agent(&world, "a"), "Drained (by hand), so it is given nothing more. Idle.");
    world.apply(Input::Undrain { agent: "a".to_owned() });
    cut_off(&mut world, "a");
    world.pass(20);
    assert_eq!(of_agent(&world, "a"), "Not connected, last heard of 20 s ago; it holds 0 leases.");
}

#[test]
fn an_agent_whose_waiting_trials_crashed_on_it_says_so() {
    let mut world = world(1);
    world.connect("a", "1", vec![]);
    world.connect("b", "1", vec![]);
    let lease = world.idle("a").remove(0).1;
    world.crash("a", vec![lease]);
    assert!(world.idle("a").is_empty());
    assert_eq!(of_agent(&world, "a"), "Idle: the trials that wait crashed on it and wait for another agent.");
    let limit = limits::MAX_CRASHES_PER_TRIAL;
    let said = of_trial(&world, 1);
    assert!(said.starts_with("Waits: for an idle agent other than those it crashed on;"), "{said}");
    assert!(said.contains(&format!("crashed 1 of {limit} times")) && said.ends_with("broke."), "{said}");
}

#[test]
fn an_agent_that_has_not_asked_is_busy_for_those_who_wait() {
    let mut world = world(1);
    world.connect("a", "1", vec![]);
    assert_eq!(of_trial(&world, 1), "Waits: all 1 available agents are busy, 0 trials are ahead of it.");
}

#[test]
fn a_sweep_without_a_reason_or_with_its_last_agent_drained_says_no_more_than_is_so() {
    let mut world = world(2);
    world.connect_with("a", "1", vec![], |agent| agent.max_cohort = 1);
    world.idle("a");
    world.apply(Input::Drain { agent: "a".to_owned(), reason: "by hand".to_owned() });
    let runs = "Runs: 0 of 2 trials have ended, 1 are with agents, 1 wait; 1 agents connected.";
    assert_eq!(of_sweep(&world), runs);
    world.apply(Input::Cancel { sweep: 1, reason: String::new() });
    assert_eq!(of_sweep(&world), "Cancelled.");
}
