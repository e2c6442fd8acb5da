//! Trials, attempts and configurations: one state each, at most one ending, attempts that only grow.

use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::trial::TrialState;

use super::{Kind, RESTORE, Report};
use crate::store::{Inspection, TrialRow};

pub(super) fn check(inspection: &Inspection, report: &mut Report) {
    let database = inspection.path().display().to_string();
    for problem in report.read(&database, inspection.integrity()).unwrap_or_default() {
        report.add(Kind::Database, &*database, problem, RESTORE);
    }
    report.read(&database, inspection.state());
    for (table, trial) in report.read(&database, inspection.strays()).unwrap_or_default() {
        let problem = format!("it is about trial {}, which does not exist", trial.escape_debug());
        report.add(Kind::Database, format!("table {table}"), problem, RESTORE);
    }
    for row in report.read("table trials", inspection.trials()).unwrap_or_default() {
        report.trials += 1;
        let place = format!("table trials, trial {}", row.id.escape_debug());
        let Some(id) = TrialId::parse(&row.id) else {
            report.add(Kind::Trial, place, "the id is not one", RESTORE);
            continue;
        };
        for problem in contradictions(&row) {
            report.add(Kind::Trial, &*place, problem, RESTORE);
        }
        attempts(inspection, &row, id, report);
        configuration(inspection, id, report);
    }
}

/// What of a row cannot be true together.
fn contradictions(row: &TrialRow) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(state) = TrialState::from_name(&row.state) else {
        return vec![format!("`{}` is no state", row.state.escape_debug())];
    };
    let held = matches!(state, TrialState::Leased | TrialState::Running);
    if held != row.lease_agent.is_some() {
        let lease = if row.lease_agent.is_some() { "held" } else { "not held" };
        problems.push(format!("it is {state}, and its lease is {lease}"));
    }
    let parts = [row.ending_attempt.is_some(), row.ending_kind.is_some(), row.ending_step.is_some()];
    if parts != [row.ending_kind.is_some(); 3] {
        problems.push("its ending is recorded in part".to_owned());
        return problems;
    }
    if row.ending_attempt.is_some_and(|ended| ended < 1 || ended > row.attempt) {
        problems
            .push(format!("it was ended by an attempt that was never granted (the last is {})", row.attempt));
    }
    let ending = row.ending_kind.as_deref();
    let fits = match state {
        TrialState::Completed => row.completed_step > 0 && ending.is_some(),
        TrialState::Diverged => row.diverged_at.is_some() && ending == Some("diverged"),
        TrialState::Failed => ending == Some("failed"),
        TrialState::Pending
        | TrialState::Leased
        | TrialState::Running
        | TrialState::Cancelled
        | TrialState::Quarantined => true,
    };
    if !fits {
        problems.push(format!("it is {state}, and its recorded ending is {}", ending.unwrap_or("none")));
    }
    problems
}

/// Attempts are numbered without a gap to the trial's last, each once.
fn attempts(inspection: &Inspection, row: &TrialRow, id: TrialId, report: &mut Report) {
    let place = format!("table attempts, trial {id}");
    let Some(attempts) = report.read(&place, inspection.reader().attempts(id)) else { return };
    report.attempts += attempts.len() as u64;
    let last = u64::try_from(row.attempt).unwrap_or(0);
    // Above those of trials that were deleted, so not always from 1.
    let fence = report.read("table fence", inspection.fence()).unwrap_or(0);
    let first = attempts.first().map_or(1, |record| record.attempt.clamp(1, fence + 1));
    for (expected, record) in (first..).zip(&attempts) {
        if record.attempt != expected {
            let problem = format!("attempt {expected} is missing: the next is {}", record.attempt);
            report.add(Kind::Attempt, place, problem, RESTORE);
            return;
        }
    }
    if attempts.last().map_or(0, |record| record.attempt) != last {
        let found = attempts.last().map_or(0, |record| record.attempt);
        let problem = format!("the last is {found}, the trial counts {last}");
        report.add(Kind::Attempt, place, problem, RESTORE);
    }
}

/// The configuration is there and is the one that the trial's id is the hash of.
fn configuration(inspection: &Inspection, id: TrialId, report: &mut Report) {
    let place = format!("table configurations, trial {id}");
    let Some(stored) = report.read(&place, inspection.reader().configuration(id)) else { return };
    let problem = match stored.map(|stored| serde_json::from_str(&stored)) {
        None => "it is missing".to_owned(),
        Some(Err(error)) => format!("it is no JSON: {error}"),
        Some(Ok(json)) => match TrialConfig::from_json(&json) {
            Err(error) => format!("it is no configuration: {error}"),
            Ok(config) if TrialId::of(&config) == id => return,
            Ok(config) => format!("it is that of trial {}", TrialId::of(&config)),
        },
    };
    report.add(
        Kind::Configuration,
        place,
        problem,
        "submit its study again, or restore the directory from a copy",
    );
}
