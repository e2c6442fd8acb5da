//! Sessions of agents: coming and going.

use plateau_common::identity::TrialId;
use plateau_common::limits;

use super::effect::{Effect, Subject, ToAgent, Write};
use super::guilt::{give_back, lose};
use super::input::Introduction;
use super::state::{Agent, LeaseKey, Now, State, lease_term};

/// Whether `session` is the agent's live connection; whatever comes from an older one is ignored.
pub(super) fn is_current(state: &State, session: u64, agent: &str) -> bool {
    state.agents.get(agent).is_some_and(|agent| agent.session == Some(session))
}

/// An agent opens a session. The same incarnation goes on with the leases it still holds; a new incarnation fences the
/// old one at once and its leases return without waiting for their term.
pub(super) fn connect(
    state: &mut State,
    session: u64,
    sequence: u64,
    introduction: Introduction,
    now: Now,
    effects: &mut Vec<Effect>,
) {
    let Introduction {
        name,
        incarnation,
        host,
        device,
        description,
        version,
        threads,
        memory_bytes,
        max_cohort,
        held,
    } = introduction;
    let known = state.agents.get(&name);
    if let Some(old) = known.and_then(|agent| agent.session) {
        let reason = format!("another session of agent `{name}` superseded this one");
        effects.push(Effect::Close { session: old, reason });
    }
    let leases: Vec<TrialId> = known.map(|agent| agent.leases.iter().copied().collect()).unwrap_or_default();
    let same = known.is_some_and(|agent| agent.incarnation == incarnation);
    // What did not fit one process may fit another that was given more memory.
    let fitting = known.filter(|_| same).map(|agent| agent.fitting.clone()).unwrap_or_default();
    // A process that is replaced while it is connected was not killed by what it trained: two have the same name.
    let rival = known.filter(|agent| !same && agent.session.is_some()).map(|agent| agent.host.clone());
    let agent = Agent {
        incarnation: incarnation.clone(),
        host,
        device,
        description,
        version,
        threads,
        memory_bytes,
        fitting,
        wants_next: false,
        free_places: None,
        grants: 0,
        max_cohort: max_cohort.clamp(1, limits::MAX_COHORT as u32),
        session: Some(session),
        idle: false,
        last_heard: now.monotonic,
        speed: 0.0,
        leases: leases.iter().copied().collect(),
        drained: known.and_then(|agent| agent.drained.clone()),
        crashed: known.map(|agent| agent.crashed.clone()).unwrap_or_default(),
        failures: known.map_or(0, |agent| agent.failures),
        superseded: known.map(|agent| agent.superseded.clone()).unwrap_or_default(),
    };
    let host = agent.host.clone();
    effects.push(Effect::Write(Write::Agent(name.clone(), Box::new(agent.clone()))));
    let event = format!("connected from {} ({})", agent.host, agent.device);
    effects.push(Effect::Write(Write::History(Subject::Agent(name.clone()), event)));
    // It asks for nothing yet.
    state.asking.remove(&name);
    state.agents.insert(name.clone(), agent);
    effects.push(Effect::Send { session, message: ToAgent::Welcome });

    for id in leases {
        let Some(trial) = state.trials.get(&id) else { continue };
        let key = LeaseKey { trial: id, attempt: trial.attempt };
        if rival.is_some() {
            give_back(state, id, &format!("another process took the name of agent {name}"), effects);
        } else if !same {
            lose(state, id, &format!("agent {name} was started anew"), effects);
        } else if held.contains(&key) {
            let revoked = trial.lease.as_ref().is_some_and(|lease| lease.revoked);
            state.update(id, None, |trial| {
                if let Some(lease) = &mut trial.lease {
                    lease.deadline = now.monotonic + lease_term();
                }
            });
            if revoked {
                let reason = "no active sweep wants it".to_owned();
                effects
                    .push(Effect::Send { session, message: ToAgent::Revoke { leases: vec![key], reason } });
            }
        } else {
            // The grant never reached it, so nothing was run and nobody is to blame.
            give_back(state, id, &format!("agent {name} does not hold it"), effects);
        }
    }
    for key in held {
        let current = state.trials.get(&key.trial).and_then(|trial| trial.current(key.attempt));
        if current.is_none_or(|lease| lease.agent != name || lease.incarnation != incarnation) {
            let reason = "the lease is no longer current".to_owned();
            effects
                .push(Effect::Send { session, message: ToAgent::Refused { sequence, lease: key, reason } });
        }
    }
    if let Some(previous) = rival {
        super::drain::superseded(state, &name, &previous, &host, now, effects);
    }
}

/// A session ended; the agent's leases live on until they expire, so that it may come back.
pub(super) fn disconnect(state: &mut State, session: u64, name: &str, effects: &mut Vec<Effect>) {
    if !is_current(state, session, name) {
        return;
    }
    state.change_wishes(name, Agent::hang_up);
    mark_changed(state, name);
    effects.push(Effect::Write(Write::History(Subject::Agent(name.to_owned()), "disconnected".to_owned())));
}

/// Every sweep of the trials an agent holds shows the agent, so it changes with it.
fn mark_changed(state: &mut State, name: &str) {
    let Some(agent) = state.agents.get(name) else { return };
    let sweeps: Vec<u64> = agent
        .leases
        .iter()
        .filter_map(|id| state.trials.get(id))
        .flat_map(|trial| trial.wants.iter().map(|want| want.sweep))
        .collect();
    state.changed.extend(sweeps);
}
