//! Rows of retention: what is kept around transitions, what is deleted, and the numbers that never come again.

use plateau_common::config::KeepAround;
use plateau_common::identity::TrialId;
use rusqlite::{Transaction, params};

use super::write::number;
use super::{Store, StoreError};
use crate::core::{Fence, State, Subject, SweepNumber};

/// The row of the trial `id`, whose number in the tables is `trial_number`.
pub(super) fn retention(
    transaction: &Transaction<'_>,
    trial_number: i64,
    id: TrialId,
    state: &State,
) -> Result<(), StoreError> {
    let Some(trial) = state.trials.get(&id) else { return Ok(()) };
    let Some(policy) = &trial.keep_around else {
        transaction.prepare_cached("DELETE FROM retention WHERE trial = ?1")?.execute([trial_number])?;
        return Ok(());
    };
    let policy = serde_json::to_string(policy)
        .map_err(|error| StoreError::Damaged { table: "retention", problem: error.to_string() })?;
    transaction.prepare_cached("INSERT OR REPLACE INTO retention VALUES (?1, ?2, ?3)")?.execute(params![
        trial_number,
        policy,
        trial.transition.map(number)
    ])?;
    Ok(())
}

/// A stored policy.
pub(super) fn parse(text: &str) -> Result<KeepAround, String> {
    let json: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    KeepAround::from_json(&json).map_err(|error| error.to_string())
}

/// All rows about the trial of this number but its configuration, and its number: both are dropped at the next start.
pub(super) fn trial(transaction: &Transaction<'_>, trial_number: i64) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM trials WHERE trial = ?1",
        "DELETE FROM attempts WHERE trial = ?1",
        "DELETE FROM checkpoints WHERE trial = ?1",
        "DELETE FROM metrics WHERE trial = ?1",
        "DELETE FROM logs WHERE trial = ?1",
        "DELETE FROM retention WHERE trial = ?1",
        "DELETE FROM forks WHERE trial = ?1",
        "DELETE FROM trial_history WHERE trial = ?1",
    ] {
        transaction.prepare_cached(statement)?.execute([trial_number])?;
    }
    Ok(())
}

pub(super) fn sweep(transaction: &Transaction<'_>, sweep: SweepNumber) -> Result<(), StoreError> {
    for statement in ["DELETE FROM sweeps WHERE number = ?1", "DELETE FROM members WHERE sweep = ?1"] {
        transaction.prepare_cached(statement)?.execute([number(sweep)])?;
    }
    let subject = Subject::Sweep(sweep).key();
    transaction.prepare_cached("DELETE FROM history WHERE subject = ?1")?.execute([subject])?;
    Ok(())
}

pub(super) fn fence(transaction: &Transaction<'_>, fence: Fence) -> Result<(), StoreError> {
    let mut statement = transaction.prepare_cached("UPDATE fence SET attempt = ?1, sweep = ?2")?;
    statement.execute(params![number(fence.attempt), number(fence.sweep)])?;
    Ok(())
}

impl Store {
    /// Drops the configurations and numbers of trials that do not exist: those of deleted trials, and of submissions that a
    /// kill cut off. Only at start, when no submission is on its way.
    pub fn drop_unused_configurations(&self) -> Result<usize, StoreError> {
        let unused = "NOT IN (SELECT trial FROM trials)";
        let dropped =
            self.connection.execute(&format!("DELETE FROM configurations WHERE trial {unused}"), [])?;
        self.connection.execute(&format!("DELETE FROM trial_numbers WHERE number {unused}"), [])?;
        Ok(dropped)
    }
}
