//! Submitting, extending, cancelling, pausing and resuming sweeps.

use std::collections::BTreeSet;

use plateau_common::identity::TrialId;
use plateau_common::trial::TrialState;

use super::effect::{Answer, Effect, Refusal, Subject, ToAgent, Write};
use super::fork::{self, Roots};
use super::input::Specification;
use super::requeue::{is_failed, reset};
use super::state::{LeaseKey, Member, Now, State, Sweep, SweepMode, SweepNumber, Trial, Want};

fn history(sweep: SweepNumber, event: String) -> Effect {
    Effect::Write(Write::History(Subject::Sweep(sweep), event))
}

/// Accepts a study. The same id again is the same sweep: if it was cancelled it becomes active again, and its failed
/// and quarantined trials are requeued once per submission; nothing else changes.
pub(super) fn submit(
    state: &mut State,
    id: String,
    name: String,
    source: Vec<u8>,
    trials: &[Specification],
    now: Now,
    effects: &mut Vec<Effect>,
) {
    let roots = match fork::roots(state, trials) {
        Ok(roots) => roots,
        Err(problem) => {
            effects.push(Effect::Answer(Answer::Refused(Refusal::Precondition, problem)));
            return;
        }
    };
    if let Some((number, sweep)) = state.sweep_by_id(&id) {
        let total = sweep.members.len() as u64;
        let requeued = resubmit(state, number, &roots, effects);
        effects.push(Effect::Answer(Answer::Submitted {
            sweep: id,
            existing: true,
            trials: total,
            new_trials: requeued,
        }));
        return;
    }
    if trials.is_empty() {
        // It was known when the study arrived, so it was not expanded, and is gone now.
        let problem = "the sweep was deleted meanwhile: submit it once more".to_owned();
        effects.push(Effect::Answer(Answer::Refused(Refusal::Precondition, problem)));
        return;
    }
    let last = state.sweeps.keys().next_back().copied().unwrap_or(0);
    let number = last.max(state.fence.sweep) + 1;
    let sweep = Sweep {
        id: id.clone(),
        name,
        mode: SweepMode::Active,
        reason: String::new(),
        submitted_unix_milliseconds: now.unix_milliseconds,
        members: Vec::new(),
        counts: [0; 8],
        total_steps: 0,
        done_steps: 0,
        last_failure: None,
    };
    state.sweeps.insert(number, sweep);
    let (added, continued) = set_members(state, number, source, trials, &roots, effects);
    effects.push(Effect::Write(Write::Sweep(number)));
    effects.push(history(number, format!("submitted: {} trials, {added} of them new", trials.len())));
    effects.push(Effect::Answer(Answer::Submitted {
        sweep: id,
        existing: false,
        trials: trials.len() as u64,
        new_trials: added + continued,
    }));
}

fn resubmit(state: &mut State, number: SweepNumber, roots: &Roots<'_>, effects: &mut Vec<Effect>) -> u64 {
    let Some(sweep) = state.sweeps.get(&number) else { return 0 };
    let mode = sweep.mode;
    let ids: BTreeSet<TrialId> = sweep
        .members
        .iter()
        .map(|member| member.trial)
        .filter(|id| {
            mode == SweepMode::Cancelled || state.trials.get(id).is_some_and(|trial| is_failed(trial.state))
        })
        .collect();
    let ended_before: Vec<TrialId> = ids
        .iter()
        .filter(|id| state.trials.get(id).is_some_and(|trial| trial.state.is_ending()))
        .copied()
        .collect();
    let mut requeued_trials = Vec::new();
    state.update_many(
        &ids,
        effects,
        |state| {
            if let Some(sweep) = state.sweeps.get_mut(&number)
                && mode == SweepMode::Cancelled
            {
                sweep.mode = SweepMode::Active;
                sweep.reason.clear();
            }
        },
        |id, trial| {
            fork::adopt(roots, id, trial);
            if is_failed(trial.state) {
                reset(trial);
                requeued_trials.push(id);
            }
        },
    );
    fork::record(roots, effects);
    let waits = |id: &&TrialId| state.trials.get(id).is_some_and(|trial| trial.state == TrialState::Pending);
    let requeued = ended_before.iter().filter(waits).count() as u64;
    for id in requeued_trials {
        let event = "requeued: its sweep was submitted again".to_owned();
        effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
    }
    if mode == SweepMode::Cancelled {
        effects.push(Effect::Write(Write::Sweep(number)));
        effects.push(history(number, "submitted again after it was cancelled: active".to_owned()));
    } else if requeued > 0 {
        effects.push(history(
            number,
            format!("submitted again: {requeued} failed or quarantined trials requeued"),
        ));
    }
    requeued
}

/// Replaces a sweep's members; returns (trials that were new to it and will run, ended trials that go on).
fn set_members(
    state: &mut State,
    number: SweepNumber,
    source: Vec<u8>,
    trials: &[Specification],
    roots: &Roots<'_>,
    effects: &mut Vec<Effect>,
) -> (u64, u64) {
    let old: BTreeSet<TrialId> = state
        .sweeps
        .get(&number)
        .map(|sweep| sweep.members.iter().map(|member| member.trial).collect())
        .unwrap_or_default();
    let mut ids = old.clone();
    let mut unknown = BTreeSet::new();
    for specification in trials {
        ids.insert(specification.trial);
        let trial = state.trials.entry(specification.trial).or_insert_with(|| {
            unknown.insert(specification.trial);
            Trial::new(specification.keep)
        });
        trial.keep = specification.keep;
        trial.keep_every = specification.keep_every;
        trial.fork = specification.fork;
        if trial.keep_around != specification.keep_around {
            trial.keep_around.clone_from(&specification.keep_around);
            // Another metric or level is reached elsewhere.
            trial.transition = None;
            effects.push(Effect::Write(Write::Retention(specification.trial)));
        }
        if state.shapes.insert(specification.cohort, specification.shape).is_none() {
            effects.push(Effect::Write(Write::Shape(specification.cohort, specification.shape)));
        }
    }
    let mut wants: std::collections::BTreeMap<TrialId, Vec<Want>> = std::collections::BTreeMap::new();
    for (position, trial) in trials.iter().enumerate() {
        wants.entry(trial.trial).or_default().push(Want {
            sweep: number,
            position: position as u64,
            budget: trial.budget,
            cohort: trial.cohort,
            cost: trial.cost,
        });
    }
    let members = trials.iter().map(|trial| Member { trial: trial.trial, budget: trial.budget }).collect();
    let before: std::collections::BTreeMap<TrialId, TrialState> =
        ids.iter().filter_map(|id| state.trials.get(id).map(|trial| (*id, trial.state))).collect();
    state.update_many(
        &ids,
        effects,
        |state| {
            if let Some(sweep) = state.sweeps.get_mut(&number) {
                sweep.members = members;
            }
        },
        |id, trial| {
            fork::adopt(roots, id, trial);
            trial.wants.retain(|want| want.sweep != number);
            trial.wants.extend(wants.remove(&id).unwrap_or_default());
            // In the order in which they are loaded, so that a restart changes no choice among them.
            trial.wants.sort_by_key(|want| (want.sweep, want.position));
        },
    );
    fork::record(roots, effects);
    let (mut added, mut continued) = (0, 0);
    for id in &ids {
        let Some(trial) = state.trials.get(id) else { continue };
        let will_run = trial.state == TrialState::Pending;
        let was = before.get(id).copied().unwrap_or(TrialState::Pending);
        if will_run && (unknown.contains(id) || was == TrialState::Cancelled) {
            added += 1;
        } else if will_run && was.is_ending() {
            continued += 1;
        }
    }
    let shapes = trials.iter().map(|trial| (trial.cohort, trial.cost)).collect();
    effects.push(Effect::Write(Write::SweepStudy { sweep: number, source, shapes }));
    revoke_unwanted(state, &ids, "no sweep wants it any more", effects);
    (added, continued)
}

/// Adds seeds or steps: the sweep gets the new list of trials, and only the difference runs.
pub(super) fn extend(
    state: &mut State,
    number: SweepNumber,
    source: Vec<u8>,
    trials: &[Specification],
    what: &str,
    effects: &mut Vec<Effect>,
) {
    let Some(sweep) = state.sweeps.get(&number) else {
        effects
            .push(Effect::Answer(Answer::Refused(Refusal::NotFound, "the sweep does not exist".to_owned())));
        return;
    };
    if sweep.mode == SweepMode::Cancelled {
        let reason = format!("sweep {} is cancelled: submit its study again first", sweep.id);
        effects.push(Effect::Answer(Answer::Refused(Refusal::Precondition, reason)));
        return;
    }
    let roots = match fork::roots(state, trials) {
        Ok(roots) => roots,
        Err(problem) => {
            effects.push(Effect::Answer(Answer::Refused(Refusal::Precondition, problem)));
            return;
        }
    };
    let (new_trials, continued_trials) = set_members(state, number, source, trials, &roots, effects);
    effects.push(Effect::Write(Write::Sweep(number)));
    let event = format!("extended by {what}: {new_trials} new trials, {continued_trials} go on");
    effects.push(history(number, event));
    effects.push(Effect::Answer(Answer::Extended { new_trials, continued_trials }));
}

/// Cancels, pauses or resumes a sweep. Running trials that no active sweep wants any more are revoked: their agents
/// checkpoint and release them.
pub(super) fn set_mode(
    state: &mut State,
    number: SweepNumber,
    mode: SweepMode,
    reason: &str,
    effects: &mut Vec<Effect>,
) {
    let Some(sweep) = state.sweeps.get(&number) else {
        effects
            .push(Effect::Answer(Answer::Refused(Refusal::NotFound, "the sweep does not exist".to_owned())));
        return;
    };
    if sweep.mode == mode {
        effects.push(Effect::Answer(Answer::Done));
        return;
    }
    if sweep.mode == SweepMode::Cancelled {
        let problem = format!("sweep {} is cancelled: submit its study again to go on", sweep.id);
        effects.push(Effect::Answer(Answer::Refused(Refusal::Precondition, problem)));
        return;
    }
    if sweep.is_finished() && mode != SweepMode::Active {
        let problem = format!("sweep {} is finished", sweep.id);
        effects.push(Effect::Answer(Answer::Refused(Refusal::Precondition, problem)));
        return;
    }
    let ids: BTreeSet<TrialId> = sweep.members.iter().map(|member| member.trial).collect();
    state.update_many(
        &ids,
        effects,
        |state| {
            if let Some(sweep) = state.sweeps.get_mut(&number) {
                sweep.mode = mode;
                sweep.reason = reason.to_owned();
            }
        },
        |_, _| {},
    );
    effects.push(Effect::Write(Write::Sweep(number)));
    let (event, revocation) = match mode {
        SweepMode::Active => ("resumed".to_owned(), ""),
        SweepMode::Paused => ("paused".to_owned(), "its sweep is paused"),
        SweepMode::Cancelled if reason.is_empty() => ("cancelled".to_owned(), "its sweep was cancelled"),
        SweepMode::Cancelled => (format!("cancelled: {reason}"), "its sweep was cancelled"),
    };
    effects.push(history(number, event));
    state.changed.insert(number);
    revoke_unwanted(state, &ids, revocation, effects);
    effects.push(Effect::Answer(Answer::Done));
}

/// Asks agents to give back those of `ids` that no active sweep wants trained as far as they were granted for. (One that
/// is still wanted, with fewer steps, comes again with that budget.)
pub(super) fn revoke_unwanted(
    state: &mut State,
    ids: &BTreeSet<TrialId>,
    reason: &str,
    effects: &mut Vec<Effect>,
) {
    let unwanted: Vec<TrialId> = ids
        .iter()
        .filter(|id| {
            state.trials.get(id).is_some_and(|trial| {
                let wanted = state.best_want(trial).map_or(0, |want| want.budget);
                trial.lease.as_ref().is_some_and(|lease| !lease.revoked && wanted < lease.budget)
            })
        })
        .copied()
        .collect();
    let mut per_session: std::collections::BTreeMap<u64, Vec<LeaseKey>> = std::collections::BTreeMap::new();
    for id in unwanted {
        let mut holder = None;
        state.update(id, Some(effects), |trial| {
            if let Some(lease) = &mut trial.lease {
                lease.revoked = true;
                holder = Some((lease.agent.clone(), trial.attempt));
            }
        });
        let Some((agent, attempt)) = holder else { continue };
        let event = format!("attempt {attempt} revoked: {reason}");
        effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
        if let Some(session) = state.agents.get(&agent).and_then(|agent| agent.session) {
            per_session.entry(session).or_default().push(LeaseKey { trial: id, attempt });
        }
    }
    for (session, leases) in per_session {
        effects
            .push(Effect::Send { session, message: ToAgent::Revoke { leases, reason: reason.to_owned() } });
    }
}
