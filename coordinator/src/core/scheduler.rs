//! Which trials go to which idle agent: a pure function of the state.
//!
//! Sweeps are served in order of submission; within a sweep the costliest shape first, so that the long trials do not
//! come last. A cohort holds trials of one shape, at most as many as its agent wants, and no more than an even share
//! among the idle agents. A suspect of a crash is trained alone, and not on an agent it crashed on while another is
//! connected.

use std::collections::BTreeSet;

use plateau_common::identity::TrialId;

use super::state::{Agent, ReadyEntry, State};

/// Trials to be leased together to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The agent's name.
    pub agent: String,
    /// A cohort, at least one trial.
    pub trials: Vec<TrialId>,
}

/// What could be granted now.
pub fn place(state: &State) -> Vec<Placement> {
    if state.ready.is_empty() {
        return Vec::new();
    }
    let idle: Vec<(&String, &Agent)> = state
        .agents
        .iter()
        .filter(|(_, agent)| agent.session.is_some() && agent.idle && agent.leases.is_empty())
        .collect();
    let mut taken = BTreeSet::new();
    let mut placements = Vec::new();
    for (place, (name, agent)) in idle.iter().enumerate() {
        let share = idle.len() - place;
        let trials = cohort_for(state, name, agent, share, &taken);
        if !trials.is_empty() {
            taken.extend(trials.iter().copied());
            placements.push(Placement { agent: (*name).clone(), trials });
        }
    }
    placements
}

/// The first cohort that may go to this agent; `share` agents divide the shape among them.
fn cohort_for(
    state: &State,
    name: &str,
    agent: &Agent,
    share: usize,
    taken: &BTreeSet<TrialId>,
) -> Vec<TrialId> {
    for entries in state.ready.values() {
        let free =
            |entry: &&ReadyEntry| !taken.contains(&entry.trial) && may_run_on(state, entry.trial, name);
        let Some(first) = entries.iter().find(free) else { continue };
        if is_alone(state, first.trial) {
            return vec![first.trial];
        }
        let waiting = entries.len() - entries.iter().filter(|entry| taken.contains(&entry.trial)).count();
        let size = waiting.div_ceil(share.max(1)).clamp(1, agent.max_cohort.max(1) as usize);
        return entries
            .iter()
            .filter(free)
            .filter(|entry| !is_alone(state, entry.trial))
            .take(size)
            .map(|entry| entry.trial)
            .collect();
    }
    Vec::new()
}

fn is_alone(state: &State, id: TrialId) -> bool {
    state.trials.get(&id).is_some_and(|trial| trial.alone)
}

/// A trial keeps away from agents it crashed on while there is a connected one it did not.
fn may_run_on(state: &State, id: TrialId, agent: &str) -> bool {
    let Some(trial) = state.trials.get(&id) else { return false };
    if !trial.crashed_on.contains(agent) {
        return true;
    }
    !state.agents.iter().any(|(name, other)| other.session.is_some() && !trial.crashed_on.contains(name))
}
