//! Finding what a request names, and describing it.

use std::collections::BTreeSet;

use plateau_common::identity::TrialId;
use plateau_common::trial::TrialState;
use plateau_proto::{convert, v1};
use tonic::Status;

use super::Context;
use crate::core::{Agent, Now, State, Sweep, SweepMode, SweepNumber, Trial, find_sweep, find_trial, view};
use crate::wire;

/// Applies `question` to the sweep that `selector` names.
pub async fn with_sweep<T: Send + 'static>(
    context: &Context,
    selector: String,
    question: impl FnOnce(&State, Now, SweepNumber, &Sweep) -> T + Send + 'static,
) -> Result<T, Status> {
    let found = context.engine.query(move |state, now| {
        let number = find_sweep(state, &selector)?;
        let sweep = state.sweeps.get(&number).ok_or("the sweep does not exist")?;
        Ok::<_, String>(question(state, now, number, sweep))
    });
    found.await?.map_err(Status::not_found)
}

/// Applies `question` to the trial that `selector` names.
pub async fn with_trial<T: Send + 'static>(
    context: &Context,
    selector: String,
    question: impl FnOnce(&State, TrialId, &Trial) -> T + Send + 'static,
) -> Result<T, Status> {
    let found = context.engine.query(move |state, _| {
        let id = find_trial(state, &selector)?;
        let trial = state.trials.get(&id).ok_or("the trial does not exist")?;
        Ok::<_, String>(question(state, id, trial))
    });
    found.await?.map_err(Status::not_found)
}

/// A sweep in numbers.
pub fn summary(sweep: &Sweep) -> v1::SweepSummary {
    let state = match sweep.mode {
        SweepMode::Cancelled => v1::SweepState::Cancelled,
        SweepMode::Paused => v1::SweepState::Paused,
        SweepMode::Active if sweep.is_finished() => v1::SweepState::Finished,
        SweepMode::Active => v1::SweepState::Active,
    };
    let steps = |steps: u128| u64::try_from(steps).unwrap_or(u64::MAX);
    v1::SweepSummary {
        sweep: sweep.id.clone(),
        name: sweep.name.clone(),
        state: state.into(),
        counts: Some(v1::TrialCounts {
            pending: sweep.count(TrialState::Pending),
            leased: sweep.count(TrialState::Leased),
            running: sweep.count(TrialState::Running),
            completed: sweep.count(TrialState::Completed),
            diverged: sweep.count(TrialState::Diverged),
            failed: sweep.count(TrialState::Failed),
            cancelled: sweep.count(TrialState::Cancelled),
            quarantined: sweep.count(TrialState::Quarantined),
        }),
        submitted_unix_milliseconds: sweep.submitted_unix_milliseconds,
        total_steps: steps(sweep.total_steps),
        done_steps: steps(sweep.done_steps),
    }
}

/// A sweep's last failure.
pub fn failure(sweep: &Sweep) -> Option<v1::Failure> {
    sweep.last_failure.as_ref().map(|(trial, reason, at)| v1::Failure {
        trial: trial.to_string(),
        reason: reason.clone(),
        unix_milliseconds: *at,
    })
}

/// One trial as a sweep sees it, without its configuration.
pub fn trial_summary(
    sweep: &Sweep,
    position: usize,
    id: TrialId,
    trial: &Trial,
    budget: u64,
) -> v1::TrialSummary {
    let state = view(trial, budget, sweep.mode);
    let diverged = state == TrialState::Diverged;
    v1::TrialSummary {
        trial: id.to_string(),
        index: position as u64,
        state: convert::trial_state_to_wire(state).into(),
        attempt: trial.attempt,
        agent: trial.lease.as_ref().map(|lease| lease.agent.clone()).unwrap_or_default(),
        step: if state == TrialState::Completed { budget } else { trial.step.min(budget) },
        budget,
        config_json: String::new(),
        reason: if state == TrialState::Completed { String::new() } else { trial.reason.clone() },
        diverged_at: trial.diverged_at.filter(|_| diverged).unwrap_or_default(),
        train_seconds: trial.train_seconds,
    }
}

/// A trial with its id and its largest budget, without its configuration; `None` where no sweep holds it.
pub fn describe_trial(
    state: &State,
    id: TrialId,
    trial: &Trial,
) -> Option<(TrialId, u64, v1::DescribeTrialResponse)> {
    let largest = trial.wants.iter().max_by_key(|want| want.budget)?;
    let sweep = state.sweeps.get(&largest.sweep)?;
    let summary = trial_summary(sweep, largest.position as usize, id, trial, largest.budget);
    let sweeps: BTreeSet<SweepNumber> = trial.wants.iter().map(|want| want.sweep).collect();
    let sweeps = sweeps.iter().filter_map(|number| state.sweeps.get(number)).map(|sweep| sweep.id.clone());
    let is_fork = |other: &Trial| other.fork.is_some_and(|fork| fork.trial == id);
    let forks = state.trials.iter().filter(|(_, other)| is_fork(other)).map(|(id, _)| id.to_string());
    let checkpoints = trial.checkpoints.iter().map(|known| wire::checkpoint_to_wire(id, known));
    let answer = v1::DescribeTrialResponse {
        trial: Some(summary),
        sweeps: sweeps.collect(),
        checkpoints: checkpoints.collect(),
        forks: forks.collect(),
    };
    Some((id, largest.budget, answer))
}

/// The trials of a sweep from `offset` on, at most `limit`, in the states asked for; and the offset of the next page.
pub fn page(
    state: &State,
    sweep: &Sweep,
    offset: usize,
    limit: usize,
    states: &[TrialState],
) -> (Vec<(TrialId, u64, v1::TrialSummary)>, Option<usize>) {
    let mut found = Vec::new();
    for (position, member) in sweep.members.iter().enumerate().skip(offset) {
        if found.len() == limit {
            return (found, Some(position));
        }
        let Some(trial) = state.trials.get(&member.trial) else { continue };
        if states.is_empty() || states.contains(&view(trial, member.budget, sweep.mode)) {
            let summary = trial_summary(sweep, position, member.trial, trial, member.budget);
            found.push((member.trial, member.budget, summary));
        }
    }
    (found, None)
}

/// All agents.
pub fn agents(state: &State, now: Now) -> Vec<v1::AgentSummary> {
    state.agents.iter().map(|(name, agent)| agent_summary(name, agent, now)).collect()
}

/// One agent.
pub fn agent_summary(name: &str, agent: &Agent, now: Now) -> v1::AgentSummary {
    v1::AgentSummary {
        name: name.to_owned(),
        device: agent.device.clone(),
        host: agent.host.clone(),
        connected: agent.session.is_some(),
        running_trials: agent.leases.len() as u32,
        seconds_since_heard: now.monotonic.saturating_sub(agent.last_heard).as_secs_f64(),
        device_kind: agent.kind(),
        max_cohort: agent.max_cohort,
        drained: agent.drained.clone().unwrap_or_default(),
    }
}

/// What is known of the speed of these cohorts (of none: of all) on the connected agents' kinds of device.
pub fn throughput(state: &State, cohorts: &BTreeSet<u128>) -> Vec<v1::KnownThroughput> {
    let connected = state.agents.values().filter(|agent| agent.session.is_some());
    let kinds: BTreeSet<String> = connected.map(|agent| agent.kind()).collect();
    let asked = state.throughput.iter().filter(|((cohort, kind), _)| {
        kinds.contains(kind) && (cohorts.is_empty() || cohorts.contains(cohort))
    });
    asked
        .map(|((cohort, kind), known)| v1::KnownThroughput {
            cohort: convert::cohort_key_to_wire(*cohort),
            device_kind: kind.clone(),
            points: convert::throughput_to_wire(&known.curve),
            calibrated: known.calibrated,
            evaluation_seconds: known.evaluation_seconds,
            flops_per_update: state.shapes.get(cohort).map_or(0.0, |shape| shape.flops_per_update),
        })
        .collect()
}
