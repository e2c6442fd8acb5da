//! Rows of retention: what is kept around transitions, what is deleted, and the numbers that never come again.

use plateau_common::config::KeepAround;
use plateau_common::identity::TrialId;
use rusqlite::{Transaction, params};

use super::write::number;
use super::{Store, StoreError};
use crate::core::{Fence, State, Subject, SweepNumber};

pub(super) fn retention(transaction: &Transaction<'_>, id: TrialId, state: &State) -> Result<(), StoreError> {
    let Some(trial) = state.trials.get(&id) else { return Ok(()) };
    let Some(policy) = &trial.keep_around else {
        transaction.prepare_cached("DELETE FROM retention WHERE trial = ?1")?.execute([id.to_string()])?;
        return Ok(());
    };
    let policy = serde_json::to_string(policy)
        .map_err(|error| StoreError::Damaged { table: "retention", problem: error.to_string() })?;
    transaction.prepare_cached("INSERT OR REPLACE INTO retention VALUES (?1, ?2, ?3)")?.execute(params![
        id.to_string(),
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

/// All rows about a trial but its configuration.
pub(super) fn trial(transaction: &Transaction<'_>, id: TrialId) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM trials WHERE id = ?1",
        "DELETE FROM attempts WHERE trial = ?1",
        "DELETE FROM checkpoints WHERE trial = ?1",
        "DELETE FROM metrics WHERE trial = ?1",
        "DELETE FROM logs WHERE trial = ?1",
        "DELETE FROM retention WHERE trial = ?1",
    ] {
        transaction.prepare_cached(statement)?.execute([id.to_string()])?;
    }
    forget_history(transaction, &Subject::Trial(id))
}

pub(super) fn sweep(transaction: &Transaction<'_>, sweep: SweepNumber) -> Result<(), StoreError> {
    for statement in ["DELETE FROM sweeps WHERE number = ?1", "DELETE FROM members WHERE sweep = ?1"] {
        transaction.prepare_cached(statement)?.execute([number(sweep)])?;
    }
    forget_history(transaction, &Subject::Sweep(sweep))
}

fn forget_history(transaction: &Transaction<'_>, subject: &Subject) -> Result<(), StoreError> {
    transaction.prepare_cached("DELETE FROM history WHERE subject = ?1")?.execute([subject.key()])?;
    Ok(())
}

pub(super) fn fence(transaction: &Transaction<'_>, fence: Fence) -> Result<(), StoreError> {
    let mut statement = transaction.prepare_cached("UPDATE fence SET attempt = ?1, sweep = ?2")?;
    statement.execute(params![number(fence.attempt), number(fence.sweep)])?;
    Ok(())
}

impl Store {
    /// Drops the configurations of trials that do not exist: those of deleted trials, and of submissions that a kill cut
    /// off. Only at start, when no submission is on its way.
    pub fn drop_unused_configurations(&self) -> Result<usize, StoreError> {
        let statement = "DELETE FROM configurations WHERE trial NOT IN (SELECT id FROM trials)";
        Ok(self.connection.execute(statement, [])?)
    }
}
