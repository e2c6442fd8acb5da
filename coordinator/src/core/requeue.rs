//! The explicit way out of failure, quarantine and divergence.

use std::collections::BTreeSet;

use plateau_common::identity::TrialId;
use plateau_common::trial::TrialState;

use super::effect::{Answer, Effect, Refusal, Subject, Write};
use super::state::{State, SweepMode, SweepNumber, Trial};

/// Whether a trial ended in a way that can be undone by a requeue.
pub(super) fn is_failed(state: TrialState) -> bool {
    matches!(state, TrialState::Failed | TrialState::Quarantined)
}

/// Makes a trial pending again and forgets what was held against it.
pub(super) fn reset(trial: &mut Trial) {
    trial.state = TrialState::Pending;
    trial.reason = "requeued".to_owned();
    trial.forget_crashes();
    trial.alone = false;
    trial.diverged_at = None;
    // The old ending stays on record as history only; a new attempt will end the trial anew.
    trial.ending = None;
}

fn refuse(refusal: Refusal, problem: String, effects: &mut Vec<Effect>) {
    effects.push(Effect::Answer(Answer::Refused(refusal, problem)));
}

/// One trial that failed, diverged or was quarantined is to be tried again.
pub(super) fn trial(state: &mut State, id: TrialId, effects: &mut Vec<Effect>) {
    let Some(trial) = state.trials.get(&id) else {
        refuse(Refusal::NotFound, format!("there is no trial {id}"), effects);
        return;
    };
    if !is_failed(trial.state) && trial.state != TrialState::Diverged {
        let problem = format!(
            "trial {id} is {}: only failed, quarantined and diverged trials can be requeued",
            trial.state
        );
        refuse(Refusal::Precondition, problem, effects);
        return;
    }
    let mode = |sweep| state.sweeps.get(&sweep).map(|sweep| sweep.mode);
    if trial.wants.iter().all(|want| mode(want.sweep) == Some(SweepMode::Cancelled)) {
        let problem = format!("every sweep of trial {id} is cancelled: submit its study again");
        refuse(Refusal::Precondition, problem, effects);
        return;
    }
    requeue(state, &BTreeSet::from([id]), effects);
}

/// Every failed and quarantined trial of a sweep is to be tried again; those that diverged too if `diverged`.
pub(super) fn sweep(state: &mut State, number: SweepNumber, diverged: bool, effects: &mut Vec<Effect>) {
    let Some(sweep) = state.sweeps.get(&number) else {
        refuse(Refusal::NotFound, "the sweep does not exist".to_owned(), effects);
        return;
    };
    if sweep.mode == SweepMode::Cancelled {
        let problem = format!("sweep {} is cancelled: submit its study again", sweep.id);
        refuse(Refusal::Precondition, problem, effects);
        return;
    }
    let chosen = |id: &TrialId| {
        let state = state.trials.get(id).map(|trial| trial.state);
        state.is_some_and(|state| is_failed(state) || (diverged && state == TrialState::Diverged))
    };
    let ids = sweep.members.iter().map(|member| member.trial).filter(chosen).collect();
    requeue(state, &ids, effects);
}

fn requeue(state: &mut State, ids: &BTreeSet<TrialId>, effects: &mut Vec<Effect>) {
    state.update_many(ids, effects, |_| {}, |_, trial| reset(trial));
    for id in ids {
        let event = "requeued by hand".to_owned();
        effects.push(Effect::Write(Write::History(Subject::Trial(*id), event)));
    }
    effects.push(Effect::Answer(Answer::Requeued { trials: ids.len() as u64 }));
}
