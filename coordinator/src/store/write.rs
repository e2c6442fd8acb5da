//! Effects into rows: one transaction per batch.

use std::collections::{BTreeMap, HashMap};

use plateau_common::identity::TrialId;
use plateau_common::limits;
use plateau_common::trial::Ending;
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Store, StoreError, deleted};
use crate::core::{Agent, LeaseKey, State, Subject, SweepMode, Trial, Write};

impl Subject {
    /// The subject as a key of its history.
    pub fn key(&self) -> String {
        match self {
            Subject::Trial(id) => format!("trial/{id}"),
            Subject::Sweep(number) => format!("sweep/{number}"),
            Subject::Agent(name) => format!("agent/{name}"),
        }
    }
}

/// The stored word for a mode.
pub(super) fn mode_word(mode: SweepMode) -> &'static str {
    match mode {
        SweepMode::Active => "active",
        SweepMode::Paused => "paused",
        SweepMode::Cancelled => "cancelled",
    }
}

/// A batch being written; nothing of it exists until [`Batch::commit`] returns.
pub struct Batch<'a> {
    transaction: Transaction<'a>,
    numbers: &'a mut HashMap<TrialId, i64>,
    /// Trials as the batch leaves them: what happens to a trial within one batch becomes one row.
    trials: BTreeMap<i64, Box<Trial>>,
    now: i64,
}

impl Store {
    /// Begins a batch at the wall time `now` (milliseconds since 1970 UTC, for display). A batch that was given up may have
    /// numbered trials that do not exist, so nothing may be written after it: a failed write is fatal.
    pub fn begin(&mut self, now: i64) -> Result<Batch<'_>, StoreError> {
        let transaction = self.connection.transaction()?;
        Ok(Batch { transaction, numbers: &mut self.numbers, trials: BTreeMap::new(), now })
    }
}

/// SQLite's integers are signed; every count of ours fits, and what does not is cut to the largest.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Batch<'_> {
    /// Makes the batch durable.
    pub fn commit(mut self) -> Result<(), StoreError> {
        for (number, trial) in std::mem::take(&mut self.trials) {
            self.trial(number, &trial)?;
        }
        Ok(self.transaction.commit()?)
    }

    /// The number of a trial in the tables, if it has one.
    fn known_number(&mut self, id: TrialId) -> Result<Option<i64>, StoreError> {
        if let Some(known) = self.numbers.get(&id) {
            return Ok(Some(*known));
        }
        let mut statement =
            self.transaction.prepare_cached("SELECT number FROM trial_numbers WHERE id = ?1")?;
        let found = statement.query_row([id.to_string()], |row| row.get(0)).optional()?;
        if let Some(found) = found {
            self.numbers.insert(id, found);
        }
        Ok(found)
    }

    /// The number of a trial in the tables; the next one for a trial that is new.
    fn number_of(&mut self, id: TrialId) -> Result<i64, StoreError> {
        if let Some(known) = self.known_number(id)? {
            return Ok(known);
        }
        let mut statement = self.transaction.prepare_cached("INSERT INTO trial_numbers (id) VALUES (?1)")?;
        let new = statement.insert([id.to_string()])?;
        self.numbers.insert(id, new);
        Ok(new)
    }

    /// Stores resolved configurations; those of trials already known are replaced (they differ in what is no part of a
    /// trial's identity only).
    pub fn put_configurations(&mut self, configurations: &[(TrialId, String)]) -> Result<(), StoreError> {
        for (trial, json) in configurations {
            let trial = self.number_of(*trial)?;
            self.transaction
                .prepare_cached("INSERT OR REPLACE INTO configurations (trial, json) VALUES (?1, ?2)")?
                .execute(params![trial, json])?;
        }
        Ok(())
    }

    /// The resolved configuration of a trial as canonical JSON.
    pub fn configuration(&mut self, trial: TrialId) -> Result<Option<String>, StoreError> {
        let Some(trial) = self.known_number(trial)? else { return Ok(None) };
        let mut statement =
            self.transaction.prepare_cached("SELECT json FROM configurations WHERE trial = ?1")?;
        Ok(statement.query_row([trial], |row| row.get(0)).optional()?)
    }

    /// The digest recorded for a chunk of metrics, if it is.
    pub fn chunk_digest(&mut self, lease: LeaseKey, chunk: u64) -> Result<Option<[u8; 32]>, StoreError> {
        let Some(trial) = self.known_number(lease.trial)? else { return Ok(None) };
        let mut statement = self
            .transaction
            .prepare_cached("SELECT digest FROM metrics WHERE trial = ?1 AND attempt = ?2 AND chunk = ?3")?;
        let row = params![trial, number(lease.attempt), number(chunk)];
        Ok(statement.query_row(row, |row| row.get(0)).optional()?)
    }

    /// Writes one effect; `state` is the state after the input that caused it.
    pub fn write(&mut self, write: Write, state: &State) -> Result<(), StoreError> {
        match write {
            Write::Trial(id, trial) => {
                let number = self.number_of(id)?;
                self.trials.insert(number, trial);
                Ok(())
            }
            Write::Sweep(sweep) => self.sweep(sweep, state),
            Write::SweepStudy { sweep, source, shapes } => self.study(sweep, &source, &shapes, state),
            Write::Agent(name, agent) => self.agent(&name, &agent),
            Write::AgentForgotten(name) => {
                self.transaction.prepare_cached("DELETE FROM agents WHERE name = ?1")?.execute([&name])?;
                let subject = Subject::Agent(name).key();
                self.transaction
                    .prepare_cached("DELETE FROM history WHERE subject = ?1")?
                    .execute([subject])?;
                Ok(())
            }
            Write::Attempt { lease, agent, from_step } => {
                let trial = self.number_of(lease.trial)?;
                let mut statement = self.transaction.prepare_cached(
                    "INSERT INTO attempts (trial, attempt, agent, granted, from_step) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                statement.execute(params![
                    trial,
                    number(lease.attempt),
                    agent,
                    self.now,
                    number(from_step)
                ])?;
                Ok(())
            }
            Write::AttemptStarted { lease, from_step } => {
                let trial = self.number_of(lease.trial)?;
                let mut statement = self.transaction.prepare_cached(
                    "UPDATE attempts SET started = ?3, from_step = ?4 WHERE trial = ?1 AND attempt = ?2",
                )?;
                statement.execute(params![trial, number(lease.attempt), self.now, number(from_step)])?;
                Ok(())
            }
            Write::Shape(cohort, shape) => {
                let mut statement = self
                    .transaction
                    .prepare_cached("INSERT OR REPLACE INTO shapes VALUES (?1, ?2, ?3, ?4)")?;
                statement.execute(params![
                    format!("{cohort:032x}"),
                    number(shape.state_bytes),
                    number(shape.workspace_bytes),
                    shape.flops_per_update
                ])?;
                Ok(())
            }
            Write::Throughput(key) => {
                let Some(known) = state.throughput.get(&key) else { return Ok(()) };
                let points: Vec<(u32, f64)> = known.curve.points().collect();
                let mut statement = self
                    .transaction
                    .prepare_cached("INSERT OR REPLACE INTO throughput VALUES (?1, ?2, ?3, ?4, ?5)")?;
                statement.execute(params![
                    format!("{:032x}", key.0),
                    key.1,
                    serde_json::Value::from_iter(
                        points.into_iter().map(|(size, rate)| serde_json::json!([size, rate]))
                    )
                    .to_string(),
                    known.calibrated,
                    known.evaluation_seconds
                ])?;
                Ok(())
            }
            Write::Metrics { lease, chunk, digest, data } => {
                let trial = self.number_of(lease.trial)?;
                let mut statement = self.transaction.prepare_cached(
                    "INSERT INTO metrics (trial, attempt, chunk, digest, data) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                statement.execute(params![trial, number(lease.attempt), number(chunk), digest, data])?;
                Ok(())
            }
            Write::InheritedMetrics { lease, metrics } => {
                let trial = self.number_of(lease.trial)?;
                let mut statement = self.transaction.prepare_cached(
                    "INSERT INTO metrics (trial, attempt, chunk, digest, data) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                for (chunk, inherited) in (0i64..).zip(metrics.iter()) {
                    let row = params![trial, number(lease.attempt), chunk, inherited.digest, inherited.data];
                    statement.execute(row)?;
                }
                Ok(())
            }
            Write::Fork(id) => self.fork(id, state),
            Write::Log { lease, lines } => self.log(lease, &lines),
            Write::Checkpoint(trial, checkpoint) => {
                let trial = self.number_of(trial)?;
                let mut statement = self.transaction.prepare_cached(
                    "INSERT OR REPLACE INTO checkpoints (trial, attempt, step, weights_hash, bytes)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                statement.execute(params![
                    trial,
                    number(checkpoint.attempt),
                    number(checkpoint.step),
                    checkpoint.weights_hash,
                    number(checkpoint.bytes)
                ])?;
                Ok(())
            }
            Write::CheckpointForgotten(trial, checkpoint) => {
                let trial = self.number_of(trial)?;
                let mut statement = self.transaction.prepare_cached(
                    "DELETE FROM checkpoints WHERE trial = ?1 AND attempt = ?2 AND step = ?3",
                )?;
                statement.execute(params![trial, number(checkpoint.attempt), number(checkpoint.step)])?;
                Ok(())
            }
            Write::Retention(id) => {
                let trial = self.number_of(id)?;
                deleted::retention(&self.transaction, trial, id, state)
            }
            Write::TrialDeleted(id) => {
                let trial = self.number_of(id)?;
                self.trials.remove(&trial);
                deleted::trial(&self.transaction, trial)
            }
            Write::SweepDeleted(sweep) => deleted::sweep(&self.transaction, sweep),
            Write::Fence(fence) => deleted::fence(&self.transaction, fence),
            Write::History(Subject::Trial(id), event) => self.trial_history(id, &event),
            Write::History(subject, event) => self.history(&subject.key(), &event),
        }
    }

    fn trial(&self, trial_number: i64, trial: &Trial) -> Result<(), StoreError> {
        let mut statement = self.transaction.prepare_cached(
            "INSERT OR REPLACE INTO trials VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
             ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)",
        )?;
        let ending = trial.ending.as_ref();
        let (kind, detail) = match ending.map(|recorded| &recorded.ending) {
            None => (None, None),
            Some(Ending::Completed) => (Some("completed"), None),
            Some(Ending::Diverged { step }) => (Some("diverged"), Some(step.to_string())),
            Some(Ending::Failed { reason }) => (Some("failed"), Some(reason.clone())),
        };
        let lease = trial.lease.as_ref();
        let crashed_on: Vec<&str> = trial.crashed_on.iter().map(String::as_str).collect();
        statement.execute(params![
            trial_number,
            trial.state.name(),
            number(trial.attempt),
            number(trial.step),
            number(trial.completed_step),
            trial.diverged_at.map(number),
            trial.reason,
            trial.train_seconds,
            trial.crashes,
            serde_json::Value::from(crashed_on).to_string(),
            trial.alone,
            trial.keep,
            ending.map(|recorded| number(recorded.attempt)),
            kind,
            ending.map(|recorded| number(recorded.step)),
            detail,
            ending.map(|recorded| &recorded.weights_hash),
            lease.map(|lease| &lease.agent),
            lease.map(|lease| &lease.incarnation),
            lease.map(|lease| number(lease.budget)),
            lease.map(|lease| number(lease.from_step)),
            lease.map(|lease| lease.revoked),
            trial.keep_every.map(number),
            trial.losses,
        ])?;
        Ok(())
    }

    fn fork(&mut self, id: TrialId, state: &State) -> Result<(), StoreError> {
        let Some(fork) = state.trials.get(&id).and_then(|trial| trial.fork) else { return Ok(()) };
        let trial = self.number_of(id)?;
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO forks VALUES (?1, ?2, ?3)")?
            .execute(params![trial, fork.trial.to_string(), number(fork.step)])?;
        Ok(())
    }

    fn sweep(&self, sweep_number: u64, state: &State) -> Result<(), StoreError> {
        let Some(sweep) = state.sweeps.get(&sweep_number) else { return Ok(()) };
        let mut statement = self.transaction.prepare_cached(
            "INSERT INTO sweeps (number, id, name, mode, reason, submitted, failed_trial, failed_reason, failed_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (number) DO UPDATE SET mode = ?4, reason = ?5, failed_trial = ?7, failed_reason = ?8,
             failed_at = ?9",
        )?;
        let failure = sweep.last_failure.as_ref();
        statement.execute(params![
            number(sweep_number),
            sweep.id,
            sweep.name,
            mode_word(sweep.mode),
            sweep.reason,
            sweep.submitted_unix_milliseconds,
            failure.map(|(trial, _, _)| trial.to_string()),
            failure.map(|(_, reason, _)| reason),
            failure.map(|(_, _, at)| at),
        ])?;
        Ok(())
    }

    fn study(
        &mut self,
        sweep: u64,
        source: &[u8],
        shapes: &[(u128, u64)],
        state: &State,
    ) -> Result<(), StoreError> {
        self.sweep(sweep, state)?;
        let Some(record) = state.sweeps.get(&sweep) else { return Ok(()) };
        self.transaction
            .execute("UPDATE sweeps SET source = ?2 WHERE number = ?1", params![number(sweep), source])?;
        self.transaction.execute("DELETE FROM members WHERE sweep = ?1", [number(sweep)])?;
        for (position, (member, (cohort, cost))) in record.members.iter().zip(shapes).enumerate() {
            let trial = self.number_of(member.trial)?;
            let mut members = self.transaction.prepare_cached(
                "INSERT INTO members (sweep, position, trial, budget, cohort, cost) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            members.execute(params![
                number(sweep),
                number(position as u64),
                trial,
                number(member.budget),
                format!("{cohort:032x}"),
                number(*cost),
            ])?;
        }
        Ok(())
    }

    fn agent(&self, name: &str, agent: &Agent) -> Result<(), StoreError> {
        let mut statement = self
            .transaction
            .prepare_cached("INSERT OR REPLACE INTO agents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        statement.execute(params![
            name,
            agent.incarnation,
            agent.host,
            agent.device,
            agent.description,
            agent.max_cohort,
            agent.drained
        ])?;
        Ok(())
    }

    /// Appends lines to a trial's log, which keeps its last [`limits::MAX_LOG_LINES_PER_TRIAL`].
    fn log(&mut self, lease: LeaseKey, lines: &[(i64, String, String)]) -> Result<(), StoreError> {
        let trial = self.number_of(lease.trial)?;
        let mut last =
            self.transaction.prepare_cached("SELECT coalesce(max(number), 0) FROM logs WHERE trial = ?1")?;
        let mut line_number: i64 = last.query_row([trial], |row| row.get(0))?;
        let mut insert =
            self.transaction.prepare_cached("INSERT INTO logs VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for (at, level, message) in lines {
            line_number += 1;
            insert.execute(params![trial, line_number, number(lease.attempt), at, level, message])?;
        }
        let first = line_number - number(limits::MAX_LOG_LINES_PER_TRIAL);
        self.transaction
            .prepare_cached("DELETE FROM logs WHERE trial = ?1 AND number <= ?2")?
            .execute(params![trial, first])?;
        Ok(())
    }

    /// Appends to the history of a trial, which keeps its last [`limits::MAX_HISTORY_EVENTS`].
    fn trial_history(&mut self, id: TrialId, event: &str) -> Result<(), StoreError> {
        let trial = self.number_of(id)?;
        let mut last = self
            .transaction
            .prepare_cached("SELECT coalesce(max(number), 0) FROM trial_history WHERE trial = ?1")?;
        let next: i64 = last.query_row([trial], |row| row.get::<_, i64>(0))? + 1;
        self.transaction
            .prepare_cached("INSERT INTO trial_history VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![trial, next, self.now, event])?;
        let surplus = next - number(limits::MAX_HISTORY_EVENTS);
        if surplus > 0 {
            self.transaction
                .prepare_cached("DELETE FROM trial_history WHERE trial = ?1 AND number <= ?2")?
                .execute(params![trial, surplus])?;
        }
        Ok(())
    }

    /// Appends to the history of a sweep or an agent, which keeps as many.
    fn history(&self, subject: &str, event: &str) -> Result<(), StoreError> {
        let mut last = self
            .transaction
            .prepare_cached("SELECT coalesce(max(number), 0) FROM history WHERE subject = ?1")?;
        let next: i64 = last.query_row([subject], |row| row.get::<_, i64>(0))? + 1;
        self.transaction
            .prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![subject, next, self.now, event])?;
        let surplus = next - number(limits::MAX_HISTORY_EVENTS);
        if surplus > 0 {
            self.transaction
                .prepare_cached("DELETE FROM history WHERE subject = ?1 AND number <= ?2")?
                .execute(params![subject, surplus])?;
        }
        Ok(())
    }
}
