//! A stored checkpoint turned out to be damaged: it is forgotten, said so in the trial's history, and the trial continues
//! from the one before it, or from the beginning. Nobody's fault, so nobody is charged.

use plateau_common::identity::TrialId;
use plateau_common::trial::TrialState;

use super::effect::{Answer, Effect, Refusal, Subject, ToAgent, Write};
use super::guilt::give_back;
use super::state::{Checkpoint, LeaseKey, State};

/// Forgets the checkpoint of `attempt` at `step`, whose files the shell has already put out of everybody's reach. A lease
/// that was to continue from it and has not begun is taken back; one that has begun read it while it was whole.
pub(super) fn checkpoint_damaged(
    state: &mut State,
    id: TrialId,
    attempt: u64,
    step: u64,
    problem: &str,
    effects: &mut Vec<Effect>,
) {
    let Some(trial) = state.trials.get(&id) else {
        effects.push(Effect::Answer(Answer::Refused(Refusal::NotFound, "no such trial".to_owned())));
        return;
    };
    let is_meant = |known: &Checkpoint| (known.attempt, known.step) == (attempt, step);
    let Some(damaged) = trial.checkpoints.iter().find(|known| is_meant(known)).cloned() else {
        // Two readers found it at once, or it was surplus meanwhile.
        effects.push(Effect::Answer(Answer::Done));
        return;
    };
    let waits_for_it = trial.lease.as_ref().filter(|lease| {
        trial.state == TrialState::Leased && trial.resume(lease.budget).is_some_and(is_meant)
    });
    let lost =
        waits_for_it.map(|lease| (LeaseKey { trial: id, attempt: trial.attempt }, lease.agent.clone()));
    state.update(id, Some(effects), |trial| {
        trial.checkpoints.retain(|known| !is_meant(known));
        if trial.lease.is_none() && trial.state == TrialState::Pending {
            trial.step = trial.newest_step();
        }
    });
    effects.push(Effect::Write(Write::CheckpointForgotten(id, damaged)));
    let fallback = match state.trials.get(&id).map_or(0, |trial| trial.newest_step()) {
        0 if state.trials.get(&id).is_some_and(|trial| trial.fork.is_some()) => {
            "no other is left, and a fork cannot begin anew".to_owned()
        }
        0 => "no other is left, so training would begin anew".to_owned(),
        newest => format!("the newest is now that of step {newest}"),
    };
    let event = format!(
        "checkpoint at step {step} of attempt {attempt} is damaged and was set aside ({problem}); {fallback}"
    );
    effects.push(Effect::Write(Write::History(Subject::Trial(id), event)));
    if let Some((lease, agent)) = lost {
        let reason = format!("the checkpoint at step {step} that it was to continue from is damaged");
        give_back(state, id, &reason, effects);
        if let Some(session) = state.agents.get(&agent).and_then(|agent| agent.session) {
            let message = ToAgent::Refused { sequence: 0, lease, reason };
            effects.push(Effect::Send { session, message });
        }
    }
    effects.push(Effect::Answer(Answer::Done));
}
