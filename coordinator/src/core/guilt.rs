//! Who is to blame when training breaks: the trial, the agent, or nobody.
//!
//! What each class of failure charges is `plateau_common::failure`'s table. Owns the counts of crashes and of lost agents and what follows from them: a trial that crashes again and again, on two
//! agents where there are two, or that many agents are lost with, is quarantined; an agent on which different trials crash in a row, none of which crashed elsewhere, is
//! drained and they are acquitted; an agent whose device is unhealthy, or whose host lacks what training needs, is drained
//! whatever it trained. A trial that crashed waits before it is tried again where it crashed, longer each time.

use std::collections::BTreeSet;
use std::time::Duration;

use plateau_common::failure::{Charge, FailureClass};
use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_common::trial::TrialState;

use super::effect::{Effect, Subject, Write};
use super::state::State;

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

/// The agent that held the trial was lost. That is weak evidence against the trial, which runs in a child process: agents are
/// killed, preempted and cut off for other reasons. It is trained alone when it happens again, and quarantined only
/// after [`limits::MAX_LOSSES_PER_TRIAL`] losses, because it may be what brings their hosts down.
pub(super) fn lose(state: &mut State, id: TrialId, reason: &str, effects: &mut Vec<Effect>) {
    charge(state, id, reason, FailureClass::Lost, effects);
}

/// The trial made no progress on an agent that lives.
pub(super) fn stall(state: &mut State, id: TrialId, reason: &str, effects: &mut Vec<Effect>) {
    charge(state, id, reason, FailureClass::Stalled, effects);
}

/// Training broke on `agent` while it held these leases together: charged as its class says.
pub(super) fn broke(
    state: &mut State,
    agent: &str,
    ids: &BTreeSet<TrialId>,
    class: FailureClass,
    reason: &str,
    effects: &mut Vec<Effect>,
) {
    match class.charge() {
        Charge::TrialAndAgent => crash(state, agent, ids, reason, effects),
        Charge::Trial | Charge::TrialWeakly => {
            for id in ids {
                charge(state, *id, reason, class, effects);
            }
        }
        Charge::Agent | Charge::Nobody => {
            for id in ids {
                give_back(state, *id, &format!("{reason}; the trial is not charged"), effects);
            }
        }
    }
    if class.is_device_unhealthy() {
        // The last agent too: whatever it were given would be lost.
        super::drain::drain(state, agent, &format!("its device is unhealthy: {reason}"), effects);
    } else if class.charge() == Charge::Agent && !ids.is_empty() {
        blame(state, agent, reason, effects);
    }
}

/// An agent failed for reasons of its own. Drained after [`limits::MAX_CRASHES_PER_AGENT`] in a row, the last one too: no other
/// trial would fare better there.
fn blame(state: &mut State, name: &str, reason: &str, effects: &mut Vec<Effect>) {
    let Some(agent) = state.agents.get_mut(name) else { return };
    agent.failures += 1;
    if agent.failures >= limits::MAX_CRASHES_PER_AGENT {
        let why = format!(
            "it failed {} times in a row through no fault of a trial, last: {reason}",
            agent.failures
        );
        super::drain::drain(state, name, &why, effects);
    }
}

/// How long a trial that has crashed so often waits before it is tried again on an agent it crashed on.
pub fn pause_after(crashes: u32) -> Duration {
    let doublings = crashes.saturating_sub(1).min(u32::BITS - 1);
    let seconds = limits::FIRST_RETRY_SECONDS.saturating_mul(1 << doublings);
    Duration::from_secs(seconds.min(limits::LAST_RETRY_SECONDS))
}

/// The trainer of `agent` broke while it trained these leased trials together: charged to each of them, and noted
/// against the agent.
pub(super) fn crash(
    state: &mut State,
    agent: &str,
    ids: &BTreeSet<TrialId>,
    reason: &str,
    effects: &mut Vec<Effect>,
) {
    // A report of nothing but stale leases is no evidence.
    if ids.is_empty() {
        return;
    }
    for id in ids {
        charge(state, *id, reason, FailureClass::Exited, effects);
    }
    suspect(state, agent, ids, reason, effects);
}

/// Charges a trial: it waits for its next attempt, or is quarantined, after [`limits::MAX_CRASHES_PER_TRIAL`] crashes on at
/// least two agents where more than one could have it, or after many more losses, without a new checkpoint between them.
fn charge(state: &mut State, id: TrialId, reason: &str, class: FailureClass, effects: &mut Vec<Effect>) {
    let (charge, now) = (class.charge(), state.last_tick);
    let available = state.agents.values().filter(|agent| agent.is_available()).count();
    let mut event = String::new();
    let (mut quarantined, mut counts) = (false, (0, 0));
    state.update(id, Some(effects), |trial| {
        let attempt = trial.attempt;
        let holder = trial.lease.take().map(|lease| lease.agent);
        if charge == Charge::TrialWeakly {
            trial.losses = trial.losses.saturating_add(1);
        } else {
            trial.crashes = trial.crashes.saturating_add(1);
            trial.crashed_on.extend(holder);
            trial.retry_at = now + pause_after(trial.crashes);
        }
        // Where it stood still its neighbours may be what stood.
        trial.alone |= charge == Charge::TrialAndAgent || trial.crashes + trial.losses > 1;
        trial.step = trial.newest_step();
        trial.reason = reason.to_owned();
        let proven = available <= 1 || trial.crashed_on.len() >= 2;
        quarantined = (trial.crashes >= limits::MAX_CRASHES_PER_TRIAL && proven)
            || trial.losses >= limits::MAX_LOSSES_PER_TRIAL;
        trial.state = if quarantined { TrialState::Quarantined } else { TrialState::Pending };
        counts = (trial.crashes, trial.losses);
        event = format!("attempt {attempt} lost ({} in a row): {reason}", trial.crashes + trial.losses);
    });
    effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
    if quarantined {
        let event = format!("quarantined after {} crashes and {} lost agents", counts.0, counts.1);
        effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
    }
    super::reports::note_failure(state, id, reason, effects);
}

/// Notes a crash of trials that were trained together in the row of an agent. The agent is drained once its row cannot be
/// explained by fewer than [`limits::MAX_CRASHES_PER_AGENT`] bad trials, unless it is the last that is left: then the
/// trials must bear it, or the sweep would wait for ever.
fn suspect(state: &mut State, name: &str, ids: &BTreeSet<TrialId>, reason: &str, effects: &mut Vec<Effect>) {
    let elsewhere = |id: &&TrialId| {
        state.trials.get(id).is_some_and(|trial| trial.crashed_on.iter().any(|agent| agent != name))
    };
    let proven: BTreeSet<TrialId> = ids.iter().filter(elsewhere).copied().collect();
    if !proven.is_empty() {
        // It is these trials: no agent is to blame for a crash they were part of.
        for agent in state.agents.values_mut() {
            agent.crashed.retain(|crash| crash.is_disjoint(&proven));
        }
        return;
    }
    let other = state.agents.iter().any(|(other, agent)| other != name && agent.is_available());
    let Some(agent) = state.agents.get_mut(name) else { return };
    let related = agent.crashed.iter().filter(|crash| !crash.is_disjoint(ids));
    if related.map(BTreeSet::len).min().is_some_and(|fewest| fewest <= ids.len()) {
        // One bad trial explains both.
        return;
    }
    agent.crashed.retain(|crash| crash.is_disjoint(ids));
    agent.crashed.push(ids.clone());
    if agent.crashed.len() < limits::MAX_CRASHES_PER_AGENT || !other || agent.drained.is_some() {
        return;
    }
    let row = std::mem::take(&mut agent.crashed);
    let why = format!("{} different trials crashed on it in a row, last: {reason}", row.len());
    super::drain::drain(state, name, &why, effects);
    for id in row.into_iter().flatten() {
        acquit(state, id, name, effects);
    }
}

/// A trial is not charged for crashes on an agent that was found guilty.
fn acquit(state: &mut State, id: TrialId, agent: &str, effects: &mut Vec<Effect>) {
    let Some(trial) = state.trials.get(&id) else { return };
    if trial.state.is_ending() || !trial.crashed_on.iter().eq([agent]) {
        return;
    }
    state.update(id, Some(effects), |trial| {
        trial.forget_crashes();
        trial.alone = false;
    });
    let event = format!("not charged for its crash: agent {agent} was drained");
    effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
}

/// A trial made progress on an agent: its row of crashes is over.
pub(super) fn vindicate(state: &mut State, agent: &str) {
    if let Some(agent) = state.agents.get_mut(agent) {
        agent.crashed.clear();
        agent.failures = 0;
    }
}
