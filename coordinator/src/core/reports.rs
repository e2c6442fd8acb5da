//! What agents report of their leases. A report under a stale attempt, or by an agent that does not hold the lease, is
//! refused by value and changes nothing; a repeated report of something already recorded is acknowledged again.

use std::collections::BTreeSet;

use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_common::trial::{Ending, TrialState};

use super::effect::{Answer, Effect, Refusal, Subject, ToAgent, Write};
use super::guilt::{broke, crash, give_back, vindicate};
use super::input::Report;
use super::retention::{forget, take_surplus};
use super::state::{Agent, Checkpoint, LeaseKey, Now, RecordedEnding, State, lease_term};

/// Why a report about `lease` by `agent` must be refused, if it must.
fn objection(state: &State, lease: LeaseKey, agent: &str) -> Option<String> {
    let Some(trial) = state.trials.get(&lease.trial) else {
        return Some("no such trial".to_owned());
    };
    match &trial.lease {
        _ if lease.attempt > trial.attempt => Some(format!("attempt {} was never granted", lease.attempt)),
        _ if lease.attempt < trial.attempt => {
            Some(format!("attempt {} is superseded by attempt {}", lease.attempt, trial.attempt))
        }
        None => {
            Some(format!("the lease of attempt {} has ended: the trial is {}", lease.attempt, trial.state))
        }
        Some(current) if current.agent != agent => Some(format!("agent {} holds this lease", current.agent)),
        Some(_) => None,
    }
}

/// One report of an agent in its live session.
pub(super) fn receive(
    state: &mut State,
    session: u64,
    agent: &str,
    sequence: u64,
    report: Report,
    now: Now,
    effects: &mut Vec<Effect>,
) {
    if let Some(agent) = state.agents.get_mut(agent) {
        agent.last_heard = now.monotonic;
    }
    let refuse =
        |lease, reason| Effect::Send { session, message: ToAgent::Refused { sequence, lease, reason } };
    let acknowledge = Effect::Send { session, message: ToAgent::Acknowledged(sequence) };
    match report {
        Report::Heartbeat { leases, speed, idle, waiting, wish } => {
            state.change_wishes(agent, |agent| {
                agent.idle = idle;
                agent.speed = if speed.is_finite() { speed.max(0.0) } else { 0.0 };
                let current = wish.grants == agent.grants;
                agent.wants_next = current && wish.next;
                agent.free_places = wish.places.filter(|_| current);
            });
            heartbeat(state, session, agent, sequence, &leases, &waiting, now, effects);
            // An agent that hears nothing of its renewals must stop before its leases may end.
            effects.push(acknowledge);
        }
        Report::Started { lease, from_step } => match objection(state, lease, agent) {
            Some(reason) => effects.push(refuse(lease, reason)),
            None => {
                state.update(lease.trial, Some(effects), |trial| {
                    trial.state = TrialState::Running;
                    trial.step = from_step;
                    if let Some(lease) = &mut trial.lease {
                        lease.progress_at = now.monotonic;
                    }
                });
                effects.push(Effect::Write(Write::AttemptStarted { lease, from_step }));
                let event =
                    format!("attempt {} trains on agent {agent} from step {from_step}", lease.attempt);
                effects.push(Effect::Write(Write::History(Subject::Trial(lease.trial), event)));
                effects.push(acknowledge);
            }
        },
        Report::Metrics { lease, chunk, digest, recorded, last_step, data } => match recorded {
            Some(recorded) if recorded == digest => effects.push(acknowledge),
            Some(_) => {
                let reason = format!("chunk {chunk} of this attempt is recorded with other content");
                effects.push(refuse(lease, reason));
            }
            None => match objection(state, lease, agent) {
                Some(reason) => effects.push(refuse(lease, reason)),
                None => {
                    progress(state, lease.trial, last_step, now);
                    effects.push(Effect::Write(Write::Metrics { lease, chunk, digest, data }));
                    effects.push(acknowledge);
                }
            },
        },
        Report::Ended { lease, ending, step, train_seconds, weights_hash } => {
            let recorded = RecordedEnding { attempt: lease.attempt, ending, step, weights_hash };
            match ended(state, agent, lease.trial, recorded, train_seconds, effects) {
                Ok(()) => effects.push(acknowledge),
                Err(reason) => effects.push(refuse(lease, reason)),
            }
        }
        Report::Released { lease, reason, train_seconds } => match objection(state, lease, agent) {
            Some(refusal) => effects.push(refuse(lease, refusal)),
            None => {
                let seconds = if train_seconds.is_finite() { train_seconds.max(0.0) } else { 0.0 };
                state.update(lease.trial, None, |trial| trial.train_seconds += seconds);
                give_back(state, lease.trial, &cut(&format!("released by agent {agent}: {reason}")), effects);
                effects.push(acknowledge);
            }
        },
        Report::Log { lease, lines } => match objection(state, lease, agent) {
            // The last words of an attempt that has just ended are worth keeping.
            Some(reason) if !is_latest_and_ended(state, lease, agent) => effects.push(refuse(lease, reason)),
            _ => {
                effects.push(Effect::Write(Write::Log { lease, lines }));
                effects.push(acknowledge);
            }
        },
        Report::Crashed { leases, class, reason } => {
            let mut together = BTreeSet::new();
            for lease in leases {
                match objection(state, lease, agent) {
                    Some(refusal) => effects.push(refuse(lease, refusal)),
                    None => drop(together.insert(lease.trial)),
                }
            }
            let reason = cut(&format!("crashed on agent {agent} ({}): {reason}", class.words()));
            broke(state, agent, &together, class, &reason, effects);
            effects.push(acknowledge);
        }
        Report::OutOfMemory { leases, cohort_size, suspected, reason } => {
            for lease in leases {
                match objection(state, lease, agent) {
                    Some(refusal) => effects.push(refuse(lease, refusal)),
                    None => {
                        let reason = cut(&format!("out of memory on agent {agent}: {reason}"));
                        out_of_memory(state, agent, lease, (cohort_size, suspected), &reason, effects);
                    }
                }
            }
            effects.push(acknowledge);
        }
        Report::Throughput { cohort, curve, calibrated, evaluation_seconds } => {
            super::planning::learn(state, agent, cohort, curve, calibrated, evaluation_seconds, effects);
            effects.push(acknowledge);
        }
        Report::Goodbye => {
            let held: Vec<TrialId> = state
                .agents
                .get(agent)
                .map(|agent| agent.leases.iter().copied().collect())
                .unwrap_or_default();
            for id in held {
                give_back(state, id, &format!("agent {agent} left"), effects);
            }
            state.change_wishes(agent, Agent::hang_up);
            effects.push(Effect::Write(Write::History(Subject::Agent(agent.to_owned()), "left".to_owned())));
            effects.push(acknowledge);
            effects.push(Effect::Close { session, reason: "goodbye".to_owned() });
        }
    }
}

fn is_latest_and_ended(state: &State, lease: LeaseKey, agent: &str) -> bool {
    state
        .trials
        .get(&lease.trial)
        .is_some_and(|trial| trial.attempt == lease.attempt && trial.lease.is_none() && trial.holder == agent)
}

#[allow(clippy::too_many_arguments)] // one message with its circumstances
fn heartbeat(
    state: &mut State,
    session: u64,
    name: &str,
    sequence: u64,
    leases: &[(LeaseKey, u64)],
    waiting: &[LeaseKey],
    now: Now,
    effects: &mut Vec<Effect>,
) {
    for (lease, step) in leases {
        match objection(state, *lease, name) {
            Some(reason) => {
                let message = ToAgent::Refused { sequence, lease: *lease, reason };
                effects.push(Effect::Send { session, message });
            }
            None => {
                progress(state, lease.trial, *step, now);
                state.update(lease.trial, None, |trial| {
                    if let Some(current) = &mut trial.lease {
                        current.deadline = now.monotonic + lease_term();
                        if trial.state == TrialState::Leased && waiting.contains(lease) {
                            current.progress_at = now.monotonic;
                        }
                    }
                });
            }
        }
    }
}

/// A trial's cohort took too much memory. Nobody is to blame while the cohort can be halved; a trial that does not fit
/// alone goes to another agent, and fails where no connected agent is left that it might fit.
fn out_of_memory(
    state: &mut State,
    name: &str,
    lease: LeaseKey,
    (cohort_size, suspected): (u32, bool),
    reason: &str,
    effects: &mut Vec<Effect>,
) {
    let current = state.trials.get(&lease.trial).and_then(|trial| trial.lease.as_ref());
    let Some(cohort) = current.map(|lease| lease.cohort) else { return };
    if cohort_size <= 1 && suspected {
        crash(state, name, &BTreeSet::from([lease.trial]), reason, effects);
        return;
    }
    if let Some(agent) = state.agents.get_mut(name) {
        // Not even one trial fits where one alone did not.
        let fits = cohort_size / 2;
        let known = agent.fitting.entry(cohort).or_insert(fits);
        *known = fits.min(*known);
    }
    if cohort_size > 1 || super::planning::fits_elsewhere(state, cohort, name) {
        give_back(state, lease.trial, reason, effects);
        return;
    }
    let step = state.trials.get(&lease.trial).map_or(0, |trial| trial.step);
    let ending = Ending::Failed { reason: reason.to_owned() };
    let recorded = RecordedEnding { attempt: lease.attempt, ending, step, weights_hash: String::new() };
    // The lease is current, so the ending is recorded.
    let _ = ended(state, name, lease.trial, recorded, 0.0, effects);
}

/// A leased trial has reached `step`.
fn progress(state: &mut State, id: TrialId, step: u64, now: Now) {
    if state.trials.get(&id).is_some_and(|trial| step > trial.step) {
        state.update(id, None, |trial| {
            trial.step = step;
            if let Some(lease) = &mut trial.lease {
                lease.progress_at = now.monotonic;
            }
        });
    }
}

/// Records an ending once. `Err` is the reason of the refusal.
fn ended(
    state: &mut State,
    agent: &str,
    id: TrialId,
    recorded: RecordedEnding,
    train_seconds: f64,
    effects: &mut Vec<Effect>,
) -> Result<(), String> {
    let lease = LeaseKey { trial: id, attempt: recorded.attempt };
    let Some(trial) = state.trials.get(&id) else { return Err("no such trial".to_owned()) };
    if let Some(known) = &trial.ending
        && known.attempt == recorded.attempt
        && trial.holder == agent
    {
        return if *known == recorded {
            Ok(())
        } else {
            Err(format!("attempt {} is recorded with another ending", recorded.attempt))
        };
    }
    if let Some(reason) = objection(state, lease, agent) {
        return Err(reason);
    }
    let granted = trial.lease.as_ref().map_or(0, |lease| lease.budget);
    if recorded.ending == Ending::Completed && recorded.step < granted {
        let reason = format!("completed at step {} of {granted}", recorded.step);
        crash(state, agent, &BTreeSet::from([id]), &reason, effects);
        return Err(reason);
    }
    vindicate(state, agent);
    let (step, event) = (recorded.step, describe(&recorded));
    state.update(id, Some(effects), |trial| {
        trial.lease = None;
        trial.step = step;
        trial.train_seconds += if train_seconds.is_finite() { train_seconds.max(0.0) } else { 0.0 };
        trial.forget_crashes();
        trial.alone = false;
        match &recorded.ending {
            Ending::Completed => {
                trial.state = TrialState::Completed;
                trial.completed_step = trial.completed_step.max(step);
                trial.reason.clear();
            }
            Ending::Diverged { step } => {
                trial.state = TrialState::Diverged;
                trial.diverged_at = Some(*step);
                trial.reason = format!("diverged at step {step}");
            }
            Ending::Failed { reason } => {
                trial.state = TrialState::Failed;
                trial.reason = cut(reason);
            }
        }
        trial.ending = Some(recorded);
    });
    effects.push(Effect::Write(Write::History(
        Subject::Trial(id),
        format!("attempt {} on agent {agent}: {event}", lease.attempt),
    )));
    if let Some(TrialState::Failed) = state.trials.get(&id).map(|trial| trial.state) {
        note_failure(state, id, &event, effects);
    }
    Ok(())
}

fn describe(recorded: &RecordedEnding) -> String {
    match &recorded.ending {
        Ending::Completed => format!("completed at step {}", recorded.step),
        Ending::Diverged { step } => format!("diverged at step {step}"),
        Ending::Failed { reason } => format!("failed: {}", cut(reason)),
    }
}

/// At most [`limits::MAX_REPORTED_REASON_BYTES`] of a text, cut between characters.
fn cut(text: &str) -> String {
    let mut end = text.len().min(limits::MAX_REPORTED_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Remembers the last failure of each sweep that wants the trial.
pub(super) fn note_failure(state: &mut State, id: TrialId, reason: &str, effects: &mut Vec<Effect>) {
    let Some(trial) = state.trials.get(&id) else { return };
    let sweeps: BTreeSet<u64> = trial.wants.iter().map(|want| want.sweep).collect();
    for number in sweeps {
        if let Some(sweep) = state.sweeps.get_mut(&number) {
            sweep.last_failure = Some((id, reason.to_owned(), state.wall));
            effects.push(Effect::Write(Write::Sweep(number)));
        }
    }
}

/// A checkpoint was stored by a lease: recorded if the lease is current, then the surplus is given up for deletion.
pub(super) fn checkpoint(
    state: &mut State,
    lease: LeaseKey,
    checkpoint: Checkpoint,
    effects: &mut Vec<Effect>,
) {
    let refuse = |reason| Effect::Answer(Answer::Refused(Refusal::Precondition, reason));
    let Some(trial) = state.trials.get(&lease.trial) else {
        effects.push(refuse("no such trial".to_owned()));
        return;
    };
    if trial.checkpoints.contains(&checkpoint) {
        effects.push(Effect::Answer(Answer::Done));
        return;
    }
    let Some(current) = trial.current(lease.attempt) else {
        let reason = format!("attempt {} is not current: the checkpoint is not accepted", lease.attempt);
        effects.push(refuse(reason));
        return;
    };
    if trial
        .checkpoints
        .iter()
        .any(|known| (known.attempt, known.step) == (checkpoint.attempt, checkpoint.step))
    {
        effects.push(refuse(format!("step {} is recorded with other content", checkpoint.step)));
        return;
    }
    let (resume, budget) = (current.from_step, current.budget);
    let advances = checkpoint.step > trial.resume_step(budget);
    if advances {
        let holder = current.agent.clone();
        vindicate(state, &holder);
    }
    let mut surplus = Vec::new();
    state.update(lease.trial, Some(effects), |trial| {
        trial.checkpoints.push(checkpoint.clone());
        trial.checkpoints.sort_by_key(|known| (known.step, known.attempt));
        trial.step = trial.step.max(checkpoint.step);
        if advances {
            trial.forget_crashes();
        }
        surplus = take_surplus(trial, budget, resume);
    });
    effects.push(Effect::Write(Write::Checkpoint(lease.trial, checkpoint.clone())));
    let event = format!("checkpoint at step {} of attempt {}", checkpoint.step, lease.attempt);
    effects.push(Effect::Write(Write::History(Subject::Trial(lease.trial), event)));
    forget(lease.trial, surplus, effects);
    effects.push(Effect::Answer(Answer::Done));
}
