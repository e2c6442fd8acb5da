//! Why things are where they are, in a sentence, from the very state the scheduler reads.

use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_common::trial::TrialState;

use super::state::{Now, State, SweepMode, SweepNumber, Trial};

/// What something is and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// "trial", "sweep" or "agent".
    pub kind: &'static str,
    /// One sentence.
    pub summary: String,
}

/// Why a trial is where it is.
pub fn explain_trial(state: &State, id: TrialId) -> Option<Explanation> {
    let trial = state.trials.get(&id)?;
    let summary = match trial.state {
        TrialState::Pending => format!("Waits: {}.", waiting_reason(state, trial)),
        TrialState::Leased | TrialState::Running => {
            let lease = trial.lease.as_ref()?;
            let doing = if trial.state == TrialState::Leased { "Promised to" } else { "Trains on" };
            let revoked = if lease.revoked { "; it was asked to stop and give the trial back" } else { "" };
            let connected = state.agents.get(&lease.agent).is_some_and(|agent| agent.session.is_some());
            let silent = match state.brake.as_ref().filter(|brake| brake.silent.contains(&lease.agent)) {
                Some(brake) => format!("; the agent is silent, but {}", brake.reason()),
                None if connected => String::new(),
                None => "; the agent is not connected, the lease ends unless it comes back".to_owned(),
            };
            format!(
                "{doing} agent {} as attempt {}, at step {} of {}{revoked}{silent}.",
                lease.agent, trial.attempt, trial.step, lease.budget
            )
        }
        TrialState::Completed => format!("Completed at step {}.", trial.completed_step),
        TrialState::Diverged => {
            format!(
                "Diverged at step {}: a result, so it is not repeated.",
                trial.diverged_at.unwrap_or(trial.step)
            )
        }
        TrialState::Failed => {
            format!("Failed: {}. `plateau requeue` tries it once more.", trial.reason)
        }
        TrialState::Cancelled => "Cancelled: no sweep wants it any more.".to_owned(),
        TrialState::Quarantined => format!(
            "Quarantined after {} crashes{} and {} lost agents: last, {}. `plateau requeue` tries it once more.",
            trial.crashes,
            match trial.crashed_on.iter().cloned().collect::<Vec<_>>().join(", ") {
                agents if agents.is_empty() => String::new(),
                agents => format!(" on {agents}"),
            },
            trial.losses,
            trial.reason
        ),
    };
    let origin = trial
        .fork
        .map(|fork| format!(" It was forked from trial {} at step {}.", fork.trial.short(), fork.step));
    Some(Explanation { kind: "trial", summary: summary + &origin.unwrap_or_default() })
}

fn waiting_reason(state: &State, trial: &Trial) -> String {
    let mut parts = Vec::new();
    if trial.ready.is_none() {
        let paused = trial.wants.iter().filter_map(|want| state.sweeps.get(&want.sweep));
        let paused = paused.filter(|sweep| sweep.mode == SweepMode::Paused).map(|sweep| sweep.id.as_str());
        parts.push(format!("its sweep {} is paused", paused.collect::<Vec<_>>().join(", ")));
    } else {
        let connected = state.agents.values().filter(|agent| agent.session.is_some()).count();
        let available: Vec<_> = state.agents.values().filter(|agent| agent.is_available()).collect();
        let idle: Vec<_> = available.iter().filter(|agent| agent.idle && agent.leases.is_empty()).collect();
        if connected == 0 {
            parts.push("no agent is connected".to_owned());
        } else if available.is_empty() {
            parts.push(format!("all {connected} connected agents are drained (`plateau undrain`)"));
        } else if idle.is_empty() {
            let ahead = trial.ready.as_ref().map_or(0, |(key, entry)| {
                let before: usize = state.ready.range(..*key).map(|(_, entries)| entries.len()).sum();
                before + state.ready.get(key).map_or(0, |entries| entries.range(..*entry).count())
            });
            parts.push(format!(
                "all {} available agents are busy, {ahead} trials are ahead of it",
                available.len()
            ));
        } else {
            parts.push("for an idle agent other than those it crashed on".to_owned());
        }
    }
    let pause = trial.retry_at.saturating_sub(state.last_tick);
    if !pause.is_zero() {
        let agents = trial.crashed_on.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let seconds = pause.as_secs_f64().ceil();
        parts.push(format!("for {seconds} s more it is not tried again on {agents}, where it crashed"));
    }
    if trial.crashes + trial.losses > 0 {
        let (crashes, losses) = (limits::MAX_CRASHES_PER_TRIAL, limits::MAX_LOSSES_PER_TRIAL);
        parts.push(format!(
            "crashed {} of {crashes} times, its agent lost {} of {losses} times, last: {}",
            trial.crashes, trial.losses, trial.reason
        ));
    } else if !trial.reason.is_empty() {
        parts.push(trial.reason.clone());
    }
    // A paused sweep's budget counts too: it will go on.
    let asked = trial.wants.iter().map(|want| want.budget).max().unwrap_or_default();
    let budget = state.best_want(trial).map_or(asked, |want| want.budget);
    match trial.resume_step(budget) {
        0 => {}
        step => parts.push(format!("it will continue from step {step}")),
    }
    parts.join("; ")
}

/// Why a sweep is where it is.
pub fn explain_sweep(state: &State, number: SweepNumber) -> Option<Explanation> {
    let sweep = state.sweeps.get(&number)?;
    let count = |state| sweep.count(state);
    let running = count(TrialState::Running) + count(TrialState::Leased);
    let ended = sweep.members.len() as u64 - running - count(TrialState::Pending);
    let connected = state.agents.values().filter(|agent| agent.session.is_some()).count();
    let available = state.agents.values().filter(|agent| agent.is_available()).count();
    let summary = match sweep.mode {
        SweepMode::Cancelled if sweep.reason.is_empty() => "Cancelled.".to_owned(),
        SweepMode::Cancelled => format!("Cancelled: {}.", sweep.reason),
        SweepMode::Paused => format!("Paused, {running} trials still stopping; `resume` goes on."),
        SweepMode::Active if sweep.is_finished() => format!("Finished: all {ended} trials have ended."),
        SweepMode::Active if connected == 0 => {
            format!("Waits: no agent is connected; {ended} of {} trials have ended.", sweep.members.len())
        }
        SweepMode::Active if available == 0 && running == 0 => format!(
            "Waits: all {connected} connected agents are drained; {ended} of {} trials have ended.",
            sweep.members.len()
        ),
        SweepMode::Active => format!(
            "Runs: {ended} of {} trials have ended, {running} are with agents, {} wait; {connected} agents connected.",
            sweep.members.len(),
            count(TrialState::Pending)
        ),
    };
    let summary = match state.brake.as_ref().filter(|_| running > 0) {
        Some(brake) => format!("{summary} But {}.", brake.reason()),
        None => summary,
    };
    Some(Explanation { kind: "sweep", summary })
}

/// Why an agent does what it does.
pub fn explain_agent(state: &State, name: &str, now: Now) -> Option<Explanation> {
    let agent = state.agents.get(name)?;
    let silence = now.monotonic.saturating_sub(agent.last_heard).as_secs();
    let drained =
        agent.drained.as_ref().map(|reason| format!("Drained ({reason}), so it is given nothing more. "));
    let brake = state.brake.as_ref().filter(|brake| brake.silent.contains(name));
    let doing = if let Some(brake) = brake {
        let held = agent.leases.len();
        format!("Silent, last heard of {silence} s ago; it holds {held} leases: {}.", brake.reason())
    } else if agent.session.is_none() {
        format!("Not connected, last heard of {silence} s ago; it holds {} leases.", agent.leases.len())
    } else if !agent.leases.is_empty() {
        format!("Trains {} trials at {:.0} replica steps per second.", agent.leases.len(), agent.speed)
    } else if !agent.idle {
        "Connected, but has not said that it is idle.".to_owned()
    } else if agent.drained.is_some() {
        "Idle.".to_owned()
    } else if state.ready.is_empty() {
        "Idle: no trial waits.".to_owned()
    } else {
        "Idle: the trials that wait crashed on it and wait for another agent.".to_owned()
    };
    let summary = format!("{}{doing}", drained.unwrap_or_default());
    Some(Explanation { kind: "agent", summary })
}
