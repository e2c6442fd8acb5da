//! Sessions of agents: coming, going, silence.

use std::time::Duration;

use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_common::trial::TrialState;

use super::effect::{Effect, Subject, ToAgent, Write};
use super::input::Introduction;
use super::state::{Agent, LeaseKey, Now, State, lease_term};

/// A gap between ticks longer than this means that the coordinator itself stood still, so silence proves nothing.
const PAUSE: Duration = Duration::from_secs(limits::RENEWAL_SECONDS);

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
    };
    effects.push(Effect::Write(Write::Agent(name.clone(), Box::new(agent.clone()))));
    let event = format!("connected from {} ({})", agent.host, agent.device);
    effects.push(Effect::Write(Write::History(Subject::Agent(name.clone()), event)));
    state.agents.insert(name.clone(), agent);
    effects.push(Effect::Send { session, message: ToAgent::Welcome });

    for id in leases {
        let Some(trial) = state.trials.get(&id) else { continue };
        let key = LeaseKey { trial: id, attempt: trial.attempt };
        if !same {
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
}

/// A session ended; the agent's leases live on until they expire, so that it may come back.
pub(super) fn disconnect(state: &mut State, session: u64, name: &str, effects: &mut Vec<Effect>) {
    if !is_current(state, session, name) {
        return;
    }
    if let Some(agent) = state.agents.get_mut(name) {
        agent.hang_up();
        mark_changed(state, name);
    }
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

/// Time passed: leases that were not renewed end, agents that are long gone are forgotten.
pub(super) fn tick(state: &mut State, now: Now, effects: &mut Vec<Effect>) {
    let gap = now.monotonic.saturating_sub(state.last_tick);
    state.last_tick = now.monotonic;
    let leased: Vec<TrialId> = state.agents.values().flat_map(|agent| agent.leases.iter().copied()).collect();
    if gap > PAUSE {
        for id in leased {
            state.update(id, None, |trial| {
                if let Some(lease) = &mut trial.lease {
                    lease.deadline = now.monotonic + lease_term();
                    lease.progress_at = now.monotonic;
                }
            });
        }
        return;
    }
    forget(state, now, effects);
    for id in leased {
        let Some((trial, lease)) =
            state.trials.get(&id).and_then(|trial| Some((trial, trial.lease.as_ref()?)))
        else {
            continue;
        };
        let key = LeaseKey { trial: id, attempt: trial.attempt };
        let agent = lease.agent.clone();
        let session = state.agents.get(&agent).and_then(|agent| agent.session);
        let stalled =
            now.monotonic.saturating_sub(lease.progress_at) > Duration::from_secs(limits::STALL_SECONDS);
        let reason = if now.monotonic > lease.deadline {
            format!("agent {agent} was not heard of for {} s", limits::LEASE_SECONDS)
        } else if stalled {
            format!("no progress on agent {agent} for {} s", limits::STALL_SECONDS)
        } else {
            continue;
        };
        lose(state, id, &reason, effects);
        if let Some(session) = session {
            effects.push(Effect::Send {
                session,
                message: ToAgent::Refused { sequence: 0, lease: key, reason },
            });
        }
    }
}

/// Forgets agents that are gone and hold nothing: names of preempted machines would pile up for ever.
fn forget(state: &mut State, now: Now, effects: &mut Vec<Effect>) {
    let term = Duration::from_secs(limits::FORGET_AGENT_SECONDS);
    state.agents.retain(|name, agent| {
        let silence = now.monotonic.saturating_sub(agent.last_heard);
        let kept = agent.session.is_some() || !agent.leases.is_empty() || silence <= term;
        if !kept {
            effects.push(Effect::Write(Write::AgentForgotten(name.clone())));
        }
        kept
    });
}

/// A lease ends without fault of the trial.
pub(super) fn give_back(state: &mut State, id: TrialId, reason: &str, effects: &mut Vec<Effect>) {
    state.update(id, Some(effects), |trial| {
        trial.lease = None;
        trial.state = TrialState::Pending;
        trial.step = trial.newest_step();
        trial.reason = reason.to_owned();
    });
    effects.push(Effect::Write(Write::History(Subject::Trial(id), format!("waits again: {reason}"))));
}

/// The agent that held the trial was lost: charged to the trial, because the trial may be what killed it. Suspected in
/// earnest, and trained alone, only when it happens again: agents are also preempted.
pub(super) fn lose(state: &mut State, id: TrialId, reason: &str, effects: &mut Vec<Effect>) {
    charge(state, id, reason, false, effects);
}

/// Charges a crash to a trial: it waits for its next attempt, or is quarantined after
/// [`limits::MAX_CRASHES_PER_TRIAL`] crashes without a new checkpoint between them, on at least two agents where more
/// than one is connected.
pub(super) fn charge(state: &mut State, id: TrialId, reason: &str, suspect: bool, effects: &mut Vec<Effect>) {
    let connected = state.agents.values().filter(|agent| agent.session.is_some()).count();
    let mut event = String::new();
    let mut sweeps = Vec::new();
    let mut quarantined = false;
    state.update(id, Some(effects), |trial| {
        let attempt = trial.attempt;
        if let Some(lease) = trial.lease.take() {
            trial.crashed_on.insert(lease.agent);
        }
        trial.crashes = trial.crashes.saturating_add(1);
        trial.alone |= suspect || trial.crashes > 1;
        trial.step = trial.newest_step();
        trial.reason = reason.to_owned();
        let proven = connected <= 1 || trial.crashed_on.len() >= 2;
        quarantined = trial.crashes >= limits::MAX_CRASHES_PER_TRIAL && proven;
        trial.state = if quarantined { TrialState::Quarantined } else { TrialState::Pending };
        event = format!("attempt {attempt} lost ({} in a row): {reason}", trial.crashes);
        sweeps.extend(trial.wants.iter().map(|want| want.sweep));
    });
    effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
    if quarantined {
        let event = format!("quarantined after {} crashes", limits::MAX_CRASHES_PER_TRIAL);
        effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
    }
    super::reports::note_failure(state, id, reason, effects);
}
