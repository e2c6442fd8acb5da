//! A restart of the coordinator without a disk: what the store keeps of a state, brought back as it brings it back.
//!
//! [`super::world::World::restart`] holds this against the real store at every restart of every test, so the exhaustive
//! exploration may use it instead of one database per state.

use std::time::Duration;

use crate::core::*;

/// The state after a restart at `now`, if everything that `state` says had been committed.
pub fn restarted(state: &State, now: Now) -> State {
    let mut durable = State {
        trials: state.trials.clone(),
        sweeps: state.sweeps.clone(),
        agents: state.agents.clone(),
        shapes: state.shapes.clone(),
        throughput: state.throughput.clone(),
        fence: state.fence,
        ..State::default()
    };
    for trial in durable.trials.values_mut() {
        trial.ready = None;
        if let Some(lease) = &mut trial.lease {
            (lease.deadline, lease.progress_at, lease.cohort) = (Duration::ZERO, Duration::ZERO, 0);
        }
    }
    for agent in durable.agents.values_mut() {
        *agent = Agent {
            incarnation: agent.incarnation.clone(),
            host: agent.host.clone(),
            device: agent.device.clone(),
            description: agent.description.clone(),
            max_cohort: agent.max_cohort,
            drained: agent.drained.clone(),
            ..Agent::default()
        };
    }
    durable.restore(now)
}

/// The state without the steps that live attempts have reached: those are for display and written with the next record.
pub fn without_live_steps(mut state: State) -> State {
    let live: Vec<_> =
        state.trials.iter().filter(|(_, trial)| trial.lease.is_some()).map(|(id, _)| *id).collect();
    for id in live {
        state.update(id, None, |trial| trial.step = 0);
    }
    state.changed.clear();
    state
}
