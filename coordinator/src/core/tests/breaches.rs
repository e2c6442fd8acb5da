//! The invariants themselves: a state that breaks one of them is found out, by the words of that one.

use std::collections::BTreeSet;

use plateau_common::trial::{Ending, TrialState};

use super::world::{World, specification, trial};
use crate::core::*;

/// Trial 1 trains on agent `a` at its second checkpoint, trial 2 waits, trial 3 is completed; `b` is connected and idle.
fn healthy() -> State {
    let mut world = World::new();
    world.submit("s", vec![specification(3, 10, 2), specification(1, 10, 1), specification(2, 10, 0)]);
    world.connect_with("a", "1", vec![], |agent| agent.max_cohort = 1);
    let lease = world.idle("a").remove(0).1;
    world.say("a", Report::Started { lease, from_step: 0 });
    world.complete("a", lease, 10);
    let lease = world.idle("a").remove(0).1;
    world.say("a", Report::Started { lease, from_step: 0 });
    for step in [2, 4] {
        let stored = Input::CheckpointStored { lease, step, weights_hash: format!("{step}"), bytes: 1 };
        world.apply(stored);
    }
    world.connect("b", "1", vec![]);
    assert_eq!(
        [1, 2, 3].map(|number| world.state_of(number)),
        [TrialState::Running, TrialState::Pending, TrialState::Completed]
    );
    world.state
}

/// What the invariants say after `change`.
fn breach(change: impl FnOnce(&mut State)) -> String {
    let mut state = healthy();
    assert_eq!(invariants::check(&state), Ok(()));
    change(&mut state);
    invariants::check(&state).expect_err("the breach was not noticed")
}

fn of(state: &mut State, number: u8) -> &mut Trial {
    state.trials.get_mut(&trial(number)).unwrap()
}

fn agent<'a>(state: &'a mut State, name: &str) -> &'a mut Agent {
    state.agents.get_mut(name).unwrap()
}

fn says(expected: &str, change: impl FnOnce(&mut State)) {
    let said = breach(change);
    assert!(said.contains(expected), "{said:?} instead of {expected:?}");
}

#[test]
fn a_lease_without_a_holder_is_a_breach() {
    says("is running but its lease is None", |state| of(state, 1).lease = None);
    says("is completed but its lease is Some", |state| of(state, 3).lease = of(state, 1).lease.clone());
    says("is leased without an attempt", |state| of(state, 1).attempt = 0);
    says("or an agent", |state| {
        let agents = &mut state.agents;
        agents.remove("a");
    });
    says("not of the running process of its holder", |state| agent(state, "a").incarnation = "2".to_owned());
    says("not of the running process of its holder", |state| of(state, 1).holder = "b".to_owned());
    says("disagree about its leases", |state| agent(state, "a").leases.clear());
    says("disagree about its leases", |state| {
        agent(state, "b").leases = BTreeSet::from([trial(1)]);
    });
}

#[test]
fn an_ending_without_its_step_or_attempt_is_a_breach() {
    says("diverged at no step", |state| of(state, 3).state = TrialState::Diverged);
    says("completed at no step", |state| of(state, 3).completed_step = 0);
    says("was ended by an attempt that was never granted", |state| {
        let last = of(state, 3).attempt;
        let ending = Ending::Completed;
        of(state, 3).ending =
            Some(RecordedEnding { attempt: last + 1, ending, step: 10, weights_hash: String::new() });
    });
}

#[test]
fn checkpoints_out_of_order_or_of_no_attempt_are_a_breach() {
    says("out of order", |state| of(state, 1).checkpoints.reverse());
    says("out of order", |state| {
        let first = of(state, 1).checkpoints[0].clone();
        of(state, 1).checkpoints[1] = first;
    });
    says("of no attempt", |state| of(state, 1).checkpoints[1].attempt = 2);
}

#[test]
fn a_trial_that_waits_stands_among_the_ready() {
    says("its place among the ready is None", |state| of(state, 2).ready = None);
    says("its place among the ready is Some", |state| of(state, 3).ready = of(state, 2).ready);
    says("the ready trials are not those that wait", |state| state.ready.clear());
}

#[test]
fn sweeps_and_trials_agree() {
    says("wanted by sweep 9, which does not exist", |state| of(state, 1).wants[0].sweep = 9);
    says("disagree about its place", |state| of(state, 1).wants[0].position = 7);
    says("disagree about its place", |state| of(state, 1).wants[0].budget = 7);
    says("disagree about its place", |state| {
        let sweep = state.sweeps.get_mut(&1).unwrap();
        sweep.members[1].trial = trial(3);
    });
    fn sweep(state: &mut State) -> &mut Sweep {
        state.sweeps.get_mut(&1).unwrap()
    }
    says("sweep 1 counts", |state| sweep(state).counts[0] += 1);
    says("sweep 1 counts", |state| sweep(state).total_steps += 1);
    says("sweep 1 counts", |state| sweep(state).done_steps += 1);
    says("has 4 members", |state| {
        let again = sweep(state).members[0];
        sweep(state).members.push(again);
    });
}

#[test]
fn an_agent_asks_only_while_it_is_connected_and_is_charged_once() {
    let asks = |how: fn(&mut Agent)| {
        says("is not connected, yet asks", |state| {
            state.asking.insert("b".to_owned());
            let agent = agent(state, "b");
            (agent.session, agent.idle) = (None, false);
            how(agent);
        });
    };
    asks(|agent| agent.idle = true);
    asks(|agent| agent.wants_next = true);
    asks(|agent| agent.free_places = Some((0, 1)));
    says("ask for trials, and they are not all", |state| agent(state, "b").idle = true);
    says("ask for trials, and they are not all", |state| {
        state.asking.insert("nobody".to_owned());
    });
    says("charged twice with one trial", |state| {
        agent(state, "b").crashed = vec![BTreeSet::from([trial(1)]), BTreeSet::from([trial(1)])];
    });
}
