//! Time passes: leases that were not renewed end, agents that are long gone are forgotten.
//!
//! Owns the two suspicions a coordinator must have of itself before it believes that agents are silent: that it stood
//! still, and, where most of a fleet falls silent at once, that it is the coordinator's side that is cut off (the brake).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plateau_common::identity::TrialId;
use plateau_common::limits;

use super::effect::{Effect, Subject, ToAgent, Write};
use super::guilt::{give_back, lose, stall};
use super::state::{LeaseKey, Now, State, lease_term};

/// A gap between ticks longer than this means that the coordinator itself stood still, so silence proves nothing.
const PAUSE: Duration = Duration::from_secs(limits::RENEWAL_SECONDS);
/// An agent whose leases have less than this left has missed two renewals.
const SILENT: Duration = Duration::from_secs(limits::LEASE_SECONDS - 2 * limits::RENEWAL_SECONDS);

/// The brake on a mass expiry: most agents fell silent at once, which may be a fault on the coordinator's side.
#[derive(Clone, Debug, PartialEq)]
pub struct Brake {
    /// The silent agents, whose leases end one agent at a time.
    pub silent: BTreeSet<String>,
    /// Agents that held leases when it was put on, silent or not.
    pub holders: usize,
    /// When the leases of the next agent may end.
    pub next: Duration,
}

impl Brake {
    /// Why leases are kept, for a person.
    pub fn reason(&self) -> String {
        format!(
            "{} of {} agents fell silent at once, which may be a fault on the coordinator's side, so their leases end one \
             agent every {} s",
            self.silent.len(),
            self.holders,
            limits::EXPIRY_BRAKE_SECONDS
        )
    }
}

/// Time passed.
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
    let chosen = brake(state, now, effects);
    for id in leased {
        let Some((trial, lease)) =
            state.trials.get(&id).and_then(|trial| Some((trial, trial.lease.as_ref()?)))
        else {
            continue;
        };
        let spared = state.brake.as_ref().is_some_and(|brake| brake.silent.contains(&lease.agent));
        if spared && chosen.as_ref() != Some(&lease.agent) {
            continue;
        }
        let key = LeaseKey { trial: id, attempt: trial.attempt };
        let agent = lease.agent.clone();
        let stalled =
            now.monotonic.saturating_sub(lease.progress_at) > Duration::from_secs(limits::STALL_SECONDS);
        let silent = now.monotonic > lease.deadline;
        let reason = if silent {
            format!("agent {agent} was not heard of for {} s", limits::LEASE_SECONDS)
        } else if stalled {
            format!("no progress on agent {agent} for {} s", limits::STALL_SECONDS)
        } else {
            continue;
        };
        if spared {
            // Whatever silenced most of the fleet, it was not this trial.
            give_back(state, id, &reason, effects);
        } else if silent {
            lose(state, id, &reason, effects);
        } else {
            stall(state, id, &reason, effects);
        }
        if let Some(session) = state.agents.get(&agent).and_then(|agent| agent.session) {
            effects.push(Effect::Send {
                session,
                message: ToAgent::Refused { sequence: 0, lease: key, reason },
            });
        }
    }
}

/// When the last of each agent's leases ends.
fn deadlines(state: &State) -> BTreeMap<&str, Duration> {
    let deadline = |id: &TrialId| state.trials.get(id)?.lease.as_ref().map(|lease| lease.deadline);
    let of = |leases: &BTreeSet<TrialId>| leases.iter().filter_map(deadline).max();
    state.agents.iter().filter_map(|(name, agent)| Some((name.as_str(), of(&agent.leases)?))).collect()
}

/// Puts the brake on when leases are about to expire and more than half of the agents that hold any, at least
/// [`limits::EXPIRY_BRAKE_AGENTS`] of them, are silent; takes it off when no more than half are. While it is on, silent
/// agents lose their leases one agent at a time: returns the one whose turn it is.
fn brake(state: &mut State, now: Now, effects: &mut Vec<Effect>) -> Option<String> {
    let deadlines = deadlines(state);
    let holders = deadlines.len();
    let silent = deadlines.iter().filter(|(_, deadline)| **deadline < now.monotonic + SILENT);
    let silent: BTreeSet<String> = silent.map(|(name, _)| (*name).to_owned()).collect();
    let overdue = deadlines.iter().filter(|(_, deadline)| **deadline < now.monotonic);
    let longest = overdue.min_by_key(|(_, deadline)| **deadline).map(|(name, _)| (*name).to_owned());
    if silent.len() * 2 <= holders {
        state.brake = None;
        return None;
    }
    let interval = Duration::from_secs(limits::EXPIRY_BRAKE_SECONDS);
    match &mut state.brake {
        None if holders >= limits::EXPIRY_BRAKE_AGENTS && longest.is_some() => {
            let brake = Brake { silent, holders, next: now.monotonic + interval };
            for name in &brake.silent {
                let event = format!("silent; {}", brake.reason());
                effects.push(Effect::Write(Write::History(Subject::Agent(name.clone()), event)));
            }
            state.brake = Some(brake);
            None
        }
        None => None,
        Some(brake) => {
            brake.silent = silent;
            let due = longest.filter(|_| now.monotonic >= brake.next)?;
            brake.next = now.monotonic + interval;
            Some(due)
        }
    }
}

/// Forgets agents that are gone, hold nothing and are not drained: names of preempted machines would pile up for ever.
fn forget(state: &mut State, now: Now, effects: &mut Vec<Effect>) {
    let term = Duration::from_secs(limits::FORGET_AGENT_SECONDS);
    state.agents.retain(|name, agent| {
        let silence = now.monotonic.saturating_sub(agent.last_heard);
        let idle = agent.session.is_none() && agent.leases.is_empty() && agent.drained.is_none();
        let kept = !idle || silence <= term;
        if !kept {
            effects.push(Effect::Write(Write::AgentForgotten(name.clone())));
        }
        kept
    });
}
