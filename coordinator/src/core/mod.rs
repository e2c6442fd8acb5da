//! The coordinator's decisions: a pure state machine.
//!
//! [`apply`] takes what happened and returns what to do. It owns trials, sweeps, agents, leases, attempts and crash
//! counts. It reads no clock, performs no input or output, and forgets nothing between calls but what [`State`] holds;
//! the engine around it stores the writes and only then lets anything else out.

mod agents;
mod damage;
mod drain;
mod effect;
mod expiry;
mod explain;
mod fork;
mod guilt;
mod input;
pub mod invariants;
pub mod planning;
mod reports;
mod requeue;
mod retention;
pub mod scheduler;
mod state;
mod sweeps;
#[cfg(test)]
pub(crate) mod tests;

pub use effect::{Answer, Effect, Granted, Refusal, Subject, ToAgent, Write};
pub use expiry::Brake;
pub use explain::{Explanation, explain_agent, explain_sweep, explain_trial};
pub use fork::{InheritedChunk, Root, place_for_root};
pub use guilt::pause_after;
pub use input::{Input, Introduction, Report, Specification, Wish};
pub use retention::{Freed, thinned};
pub use state::{
    Agent, Checkpoint, Fence, Lease, LeaseKey, Member, Now, ReadyEntry, ReadyKey, RecordedEnding, Shape,
    State, Sweep, SweepMode, SweepNumber, Throughput, ThroughputKey, Trial, Want, place, view,
};

/// Lets one thing happen: changes `state` and says what is to be done about it. Requests (submit, extend, cancel,
/// pause, resume, requeue, drain, undrain, collect, delete, checkpoints) get exactly one [`Effect::Answer`].
pub fn apply(state: &mut State, input: Input, now: Now) -> Vec<Effect> {
    let mut effects = Vec::new();
    let out = &mut effects;
    state.wall = now.unix_milliseconds;
    match input {
        Input::Submit { id, name, source, trials } => {
            sweeps::submit(state, id, name, source, &trials, now, out)
        }
        Input::Extend { sweep, source, trials, what } => {
            sweeps::extend(state, sweep, source, &trials, &what, out)
        }
        Input::Cancel { sweep, reason } => sweeps::set_mode(state, sweep, SweepMode::Cancelled, &reason, out),
        Input::Pause { sweep } => sweeps::set_mode(state, sweep, SweepMode::Paused, "", out),
        Input::Resume { sweep } => sweeps::set_mode(state, sweep, SweepMode::Active, "", out),
        Input::RequeueTrial { trial } => requeue::trial(state, trial, out),
        Input::RequeueSweep { sweep, diverged } => requeue::sweep(state, sweep, diverged, out),
        Input::Drain { agent, reason } => drain::asked(state, &agent, &reason, out),
        Input::Undrain { agent } => drain::undrain(state, &agent, out),
        Input::Connected { session, sequence, agent } => {
            agents::connect(state, session, sequence, agent, now, out)
        }
        Input::Disconnected { session, agent } => agents::disconnect(state, session, &agent, out),
        Input::Said { session, agent, sequence, report } => {
            if agents::is_current(state, session, &agent) {
                reports::receive(state, session, &agent, sequence, report, now, out);
            }
        }
        Input::CheckpointStored { lease, step, weights_hash, bytes } => {
            reports::checkpoint(
                state,
                lease,
                Checkpoint { attempt: lease.attempt, step, weights_hash, bytes },
                out,
            );
        }
        Input::CheckpointDamaged { trial, attempt, step, problem } => {
            damage::checkpoint_damaged(state, trial, attempt, step, &problem, out);
        }
        Input::TransitionReached { lease, step } => retention::transition(state, lease, step, out),
        Input::Collect { keep, older_than_milliseconds, dry_run } => {
            retention::collect(state, keep, older_than_milliseconds, dry_run, now, out);
        }
        Input::Delete { sweep, dry_run } => retention::delete(state, sweep, dry_run, out),
        Input::Tick => expiry::tick(state, now, out),
    }
    grant(state, now, out);
    if !state.changed.is_empty() {
        out.push(Effect::Changed(std::mem::take(&mut state.changed).into_iter().collect()));
    }
    effects
}

/// Leases ready trials to idle agents, as the scheduler places them.
fn grant(state: &mut State, now: Now, effects: &mut Vec<Effect>) {
    for placement in scheduler::place(state) {
        let Some(agent) = state.agents.get(&placement.agent) else { continue };
        let Some(session) = agent.session else { continue };
        let incarnation = agent.incarnation.clone();
        // Whatever it asked for, it asked for before this grant.
        state.change_wishes(&placement.agent, |agent| {
            (agent.idle, agent.wants_next, agent.free_places) = (false, false, None);
        });
        let mut granted = Vec::with_capacity(placement.trials.len());
        for id in placement.trials {
            let Some(want) = state.trials.get(&id).and_then(|trial| state.best_want(trial)) else { continue };
            let mut attempt = 0;
            let mut resume = None;
            let fence = state.fence;
            state.update(id, Some(effects), |trial| {
                trial.attempt = fence.next_attempt(trial.attempt);
                attempt = trial.attempt;
                resume = trial.resume(want.budget).cloned();
                trial.state = plateau_common::trial::TrialState::Leased;
                trial.step = trial.resume_step(want.budget);
                trial.reason.clear();
                trial.holder = placement.agent.clone();
                trial.lease = Some(Lease {
                    agent: placement.agent.clone(),
                    incarnation: incarnation.clone(),
                    budget: want.budget,
                    cohort: want.cohort,
                    from_step: trial.resume_step(want.budget),
                    revoked: false,
                    deadline: now.monotonic + state::lease_term(),
                    progress_at: now.monotonic,
                });
            });
            let lease = LeaseKey { trial: id, attempt };
            let from_step = resume.as_ref().map_or(0, |checkpoint: &Checkpoint| checkpoint.step);
            effects.push(Effect::Write(Write::Attempt { lease, agent: placement.agent.clone(), from_step }));
            let event =
                format!("attempt {attempt} granted to agent {}, from step {from_step}", placement.agent);
            effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
            let sweep =
                state.trials.get(&id).map(|trial| state.first_sweep(trial).to_owned()).unwrap_or_default();
            granted.push(Granted { lease, budget: want.budget, resume, sweep });
        }
        if !granted.is_empty() {
            if let Some(agent) = state.agents.get_mut(&placement.agent) {
                agent.grants += 1;
                if let Some(cohort) = placement.calibrate {
                    state.calibrating.insert((cohort, agent.kind()), placement.agent.clone());
                }
            }
            let calibrate = placement.calibrate.is_some();
            let message = ToAgent::Grant { leases: granted, join: placement.join, calibrate };
            effects.push(Effect::Send { session, message });
        }
    }
}

/// The trial whose id is, or uniquely begins with, `text`; the error says what was found instead.
pub fn find_trial(state: &State, text: &str) -> Result<plateau_common::identity::TrialId, String> {
    use plateau_common::identity::TrialId;
    let shown: String = text.chars().take(64).collect();
    let shown = shown.escape_debug();
    if text.is_empty()
        || text.len() > 32
        || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(format!("`{shown}` is not the beginning of a trial's id (hexadecimal digits)"));
    }
    let Some(first) = TrialId::parse(&format!("{text:0<32}")) else {
        return Err(format!("`{shown}` is not the beginning of a trial's id"));
    };
    let mut matching =
        state.trials.range(first..).map(|(id, _)| *id).take_while(|id| id.to_string().starts_with(text));
    match (matching.next(), matching.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(format!("no trial's id begins with `{shown}`")),
        (Some(_), Some(_)) => Err(format!("`{shown}` begins more than one trial's id: give more digits")),
    }
}

/// The sweep named by `text`: "last", an id, a unique beginning of an id, or a study's name (its newest sweep).
pub fn find_sweep(state: &State, text: &str) -> Result<SweepNumber, String> {
    let shown: String = text.chars().take(64).collect();
    let shown = shown.escape_debug();
    if text == "last" {
        return state
            .sweeps
            .keys()
            .next_back()
            .copied()
            .ok_or_else(|| "no sweep was submitted yet".to_owned());
    }
    if text.is_empty() {
        return Err("the sweep is not named: give its id, its study's name or `last`".to_owned());
    }
    if let Some((number, _)) = state.sweep_by_id(text) {
        return Ok(number);
    }
    if let Some((number, _)) = state.sweeps.iter().rev().find(|(_, sweep)| sweep.name == text) {
        return Ok(*number);
    }
    let mut matching = state.sweeps.iter().filter(|(_, sweep)| sweep.id.starts_with(text));
    match (matching.next(), matching.next()) {
        (Some((number, _)), None) => Ok(*number),
        (None, _) => Err(format!("there is no sweep `{shown}`")),
        (Some(_), Some(_)) => Err(format!("`{shown}` begins more than one sweep's id: give more characters")),
    }
}
