//! What must hold of the state after every step, recomputed from scratch.

use std::collections::{BTreeMap, BTreeSet};

use plateau_common::trial::TrialState;

use super::state::{State, contribution, place};

/// Checks every cross-reference and index; the error names the first breach.
pub fn check(state: &State) -> Result<(), String> {
    let mut leases: BTreeMap<&str, BTreeSet<_>> = BTreeMap::new();
    let mut ready: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let mut sums: BTreeMap<u64, ([u64; 8], u128, u128)> = BTreeMap::new();
    for (id, trial) in &state.trials {
        let holds = matches!(trial.state, TrialState::Leased | TrialState::Running);
        if holds != trial.lease.is_some() {
            return Err(format!("trial {id} is {} but its lease is {:?}", trial.state, trial.lease));
        }
        if let Some(lease) = &trial.lease {
            if trial.attempt == 0 || !state.agents.contains_key(&lease.agent) {
                return Err(format!("trial {id} is leased without an attempt or an agent"));
            }
            let holder = state.agents.get(&lease.agent).map(|agent| agent.incarnation.as_str());
            if holder != Some(&lease.incarnation) || trial.holder != lease.agent {
                return Err(format!("the lease of trial {id} is not of the running process of its holder"));
            }
            leases.entry(&lease.agent).or_default().insert(*id);
        }
        if trial.state == TrialState::Diverged && trial.diverged_at.is_none() {
            return Err(format!("trial {id} diverged at no step"));
        }
        if trial.state == TrialState::Completed && trial.completed_step == 0 {
            return Err(format!("trial {id} is completed at no step"));
        }
        let ordered = trial
            .checkpoints
            .windows(2)
            .all(|pair| (pair[0].step, pair[0].attempt) < (pair[1].step, pair[1].attempt));
        if !ordered || trial.checkpoints.iter().any(|checkpoint| checkpoint.attempt > trial.attempt) {
            return Err(format!("checkpoints of trial {id} are out of order or of no attempt"));
        }
        if trial.ending.as_ref().is_some_and(|ending| ending.attempt > trial.attempt) {
            return Err(format!("trial {id} was ended by an attempt that was never granted"));
        }
        let wanted = trial.state == TrialState::Pending && state.best_want(trial).is_some();
        if wanted != trial.ready.is_some() {
            return Err(format!(
                "trial {id} is {} and its place among the ready is {:?}",
                trial.state, trial.ready
            ));
        }
        if let Some((key, entry)) = &trial.ready {
            ready.entry(*key).or_default().insert(*entry);
        }
        for want in &trial.wants {
            let Some(sweep) = state.sweeps.get(&want.sweep) else {
                return Err(format!("trial {id} is wanted by sweep {}, which does not exist", want.sweep));
            };
            let member = sweep.members.get(want.position as usize);
            if member.is_none_or(|member| member.trial != *id || member.budget != want.budget) {
                return Err(format!("sweep {} and trial {id} disagree about its place", want.sweep));
            }
            let (shown, total, done) = contribution(trial, want.budget, sweep.mode);
            let sum = sums.entry(want.sweep).or_default();
            sum.0[place(shown)] += 1;
            sum.1 += total;
            sum.2 += done;
        }
    }
    if ready != state.ready {
        return Err("the ready trials are not those that wait and are wanted".to_owned());
    }
    let asking = state.agents.iter().filter(|(_, agent)| agent.asks()).map(|(name, _)| name);
    if !asking.eq(&state.asking) {
        return Err(format!("{:?} ask for trials, and they are not all", state.asking));
    }
    for (name, agent) in &state.agents {
        if agent.session.is_none() && agent.asks() {
            return Err(format!("agent {name} is not connected, yet asks for trials"));
        }
        let row: usize = agent.crashed.iter().map(BTreeSet::len).sum();
        if row != agent.crashed.iter().flatten().collect::<BTreeSet<_>>().len() {
            return Err(format!("agent {name} is charged twice with one trial: {:?}", agent.crashed));
        }
        if agent.leases != leases.remove(name.as_str()).unwrap_or_default() {
            return Err(format!("agent {name} and the trials disagree about its leases"));
        }
    }
    for (number, sweep) in &state.sweeps {
        let (counts, total, done) = sums.remove(number).unwrap_or_default();
        if counts != sweep.counts || total != sweep.total_steps || done != sweep.done_steps {
            return Err(format!("sweep {number} counts {:?}, its trials {counts:?}", sweep.counts));
        }
        if counts.iter().sum::<u64>() != sweep.members.len() as u64 {
            return Err(format!("sweep {number} has {} members, {counts:?} are shown", sweep.members.len()));
        }
    }
    Ok(())
}
