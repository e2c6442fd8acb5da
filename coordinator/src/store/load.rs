//! Rows back into the core's state, at start.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use plateau_common::config::Fork;
use plateau_common::identity::TrialId;
use plateau_common::throughput::ThroughputCurve;
use plateau_common::trial::{Ending, TrialState};
use rusqlite::{Connection, Row, RowIndex};

use super::{Store, StoreError};
use crate::core::{
    Agent, Checkpoint, Fence, Lease, Member, Now, RecordedEnding, Shape, State, Sweep, SweepMode, Throughput,
    Trial, Want,
};

fn damaged(table: &'static str, problem: impl Into<String>) -> StoreError {
    StoreError::Damaged { table, problem: problem.into() }
}

fn count(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0) as u64)
}

fn trial_id(table: &'static str, text: &str) -> Result<TrialId, StoreError> {
    TrialId::parse(text).ok_or_else(|| damaged(table, format!("`{}` is not a trial id", text.escape_debug())))
}

impl Store {
    /// Everything stored, indexed, with a fresh term for every lease.
    pub fn load(&self, now: Now) -> Result<State, StoreError> {
        load(&self.connection, now).map_err(|error| error.at(&self.path))
    }
}

/// [`Store::load`] from any connection.
pub(super) fn load(connection: &Connection, now: Now) -> Result<State, StoreError> {
    let mut tables = Tables { connection, ids: HashMap::new() };
    tables.load_numbers()?;
    tables.load(now)
}

struct Tables<'a> {
    connection: &'a Connection,
    /// Trials by their numbers in the tables.
    ids: HashMap<i64, TrialId>,
}

impl Tables<'_> {
    fn load(&self, now: Now) -> Result<State, StoreError> {
        let mut state = State::default();
        self.load_agents(&mut state)?;
        self.load_planning(&mut state)?;
        self.load_sweeps(&mut state)?;
        self.load_trials(&mut state)?;
        self.load_members(&mut state)?;
        self.load_checkpoints(&mut state)?;
        self.load_retention(&mut state)?;
        self.load_forks(&mut state)?;
        let state = state.restore(now);
        crate::core::invariants::check(&state).map_err(|problem| damaged("the whole", problem))?;
        Ok(state)
    }

    fn load_numbers(&mut self) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare("SELECT number, id FROM trial_numbers")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = trial_id("trial_numbers", row.get_ref(1)?.as_str().unwrap_or_default())?;
            self.ids.insert(row.get(0)?, id);
        }
        Ok(())
    }

    /// The trial that the first column of a row names by its number.
    fn trial(&self, table: &'static str, number: i64) -> Result<TrialId, StoreError> {
        let found = self.ids.get(&number).copied();
        found.ok_or_else(|| damaged(table, format!("trial number {number} is nobody's")))
    }

    fn load_agents(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare("SELECT * FROM agents")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let agent = Agent {
                incarnation: row.get("incarnation")?,
                host: row.get("host")?,
                device: row.get("device")?,
                description: row.get("description")?,
                max_cohort: row.get("max_cohort")?,
                drained: row.get("drained")?,
                // Said anew when it connects, or counted anew.
                ..Agent::default()
            };
            state.agents.insert(row.get("name")?, agent);
        }
        Ok(())
    }

    fn load_planning(&self, state: &mut State) -> Result<(), StoreError> {
        let cohort = |table, row: &Row<'_>| {
            let text: String = row.get("cohort")?;
            u128::from_str_radix(&text, 16).map_err(|error| damaged(table, error.to_string()))
        };
        let mut statement = self.connection.prepare("SELECT * FROM shapes")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let shape = Shape {
                state_bytes: count(row, "state_bytes")?,
                workspace_bytes: count(row, "workspace_bytes")?,
                flops_per_update: row.get("flops_per_update")?,
            };
            state.shapes.insert(cohort("shapes", row)?, shape);
        }
        let mut statement = self.connection.prepare("SELECT * FROM throughput")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let points: String = row.get("points")?;
            let points: Vec<(u32, f64)> =
                serde_json::from_str(&points).map_err(|error| damaged("throughput", error.to_string()))?;
            let known = Throughput {
                curve: ThroughputCurve::new(points).map_err(|problem| damaged("throughput", problem))?,
                calibrated: row.get("calibrated")?,
                evaluation_seconds: row.get("evaluation_seconds")?,
            };
            state.throughput.insert((cohort("throughput", row)?, row.get("device_kind")?), known);
        }
        Ok(())
    }

    fn load_sweeps(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare("SELECT * FROM sweeps")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mode: String = row.get("mode")?;
            let mode = match mode.as_str() {
                "active" => SweepMode::Active,
                "paused" => SweepMode::Paused,
                "cancelled" => SweepMode::Cancelled,
                other => return Err(damaged("sweeps", format!("mode `{}`", other.escape_debug()))),
            };
            let failed: Option<String> = row.get("failed_trial")?;
            let last_failure = match failed {
                Some(trial) => {
                    let reason: Option<String> = row.get("failed_reason")?;
                    let at: Option<i64> = row.get("failed_at")?;
                    Some((trial_id("sweeps", &trial)?, reason.unwrap_or_default(), at.unwrap_or_default()))
                }
                None => None,
            };
            let sweep = Sweep {
                id: row.get("id")?,
                name: row.get("name")?,
                mode,
                reason: row.get("reason")?,
                submitted_unix_milliseconds: row.get("submitted")?,
                members: Vec::new(),
                counts: [0; 8],
                total_steps: 0,
                done_steps: 0,
                last_failure,
            };
            state.sweeps.insert(count(row, "number")?, sweep);
        }
        Ok(())
    }

    fn load_trials(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare(TRIALS)?;
        let mut rows = statement.query([])?;
        // Made of all at once, which for a hundred thousand is much faster than one by one.
        let mut trials = Vec::new();
        while let Some(row) = rows.next()? {
            trials.push((self.trial("trials", row.get(0)?)?, load_trial(row)?));
        }
        state.trials = trials.into_iter().collect();
        Ok(())
    }

    fn load_members(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT trial, sweep, position, budget, cohort, cost FROM members ORDER BY sweep, position",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let trial = self.trial("members", row.get(0)?)?;
            let cohort = row.get_ref(4)?.as_str().unwrap_or_default();
            let want = Want {
                sweep: count(row, 1)?,
                position: count(row, 2)?,
                budget: count(row, 3)?,
                cohort: u128::from_str_radix(cohort, 16)
                    .map_err(|error| damaged("members", error.to_string()))?,
                cost: count(row, 5)?,
            };
            let Some(sweep) = state.sweeps.get_mut(&want.sweep) else {
                return Err(damaged("members", format!("sweep {} does not exist", want.sweep)));
            };
            if sweep.members.len() as u64 != want.position {
                return Err(damaged(
                    "members",
                    format!("sweep {} lacks position {}", want.sweep, sweep.members.len()),
                ));
            }
            sweep.members.push(Member { trial, budget: want.budget });
            let Some(record) = state.trials.get_mut(&trial) else {
                return Err(damaged("members", format!("trial {trial} does not exist")));
            };
            record.wants.push(want);
        }
        Ok(())
    }

    fn load_retention(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement =
            self.connection.prepare("SELECT trial, keep_around, transition FROM retention")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let trial = self.trial("retention", row.get(0)?)?;
            let Some(record) = state.trials.get_mut(&trial) else {
                return Err(damaged("retention", format!("trial {trial} does not exist")));
            };
            let policy: String = row.get(1)?;
            let policy = super::deleted::parse(&policy).map_err(|problem| damaged("retention", problem))?;
            record.keep_around = Some(policy);
            let transition: Option<i64> = row.get(2)?;
            record.transition = transition.map(|step| step.max(0) as u64);
        }
        state.fence = self.connection.query_row("SELECT * FROM fence", [], |row| {
            Ok(Fence { attempt: count(row, "attempt")?, sweep: count(row, "sweep")? })
        })?;
        Ok(())
    }

    fn load_forks(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare("SELECT trial, parent, step FROM forks")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let trial = self.trial("forks", row.get(0)?)?;
            let Some(record) = state.trials.get_mut(&trial) else {
                return Err(damaged("forks", format!("trial {trial} does not exist")));
            };
            let parent = trial_id("forks", row.get_ref(1)?.as_str().unwrap_or_default())?;
            record.fork = Some(Fork { trial: parent, step: count(row, 2)? });
        }
        Ok(())
    }

    fn load_checkpoints(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT trial, attempt, step, weights_hash, bytes FROM checkpoints ORDER BY trial, step, attempt",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let trial = self.trial("checkpoints", row.get(0)?)?;
            let Some(record) = state.trials.get_mut(&trial) else {
                return Err(damaged("checkpoints", format!("trial {trial} does not exist")));
            };
            record.checkpoints.push(Checkpoint {
                attempt: count(row, 1)?,
                step: count(row, 2)?,
                weights_hash: row.get(3)?,
                bytes: count(row, 4)?,
            });
        }
        Ok(())
    }
}

/// The columns of a trial in the order of [`load_trial`], which reads them by place: looking up names takes longer than
/// all the rest.
const TRIALS: &str = "
SELECT trials.trial, state, trials.attempt, step, completed_step, diverged_at, reason, train_seconds, crashes, losses,
    crashed_on, alone, keep, keep_every, lease_agent, lease_incarnation, lease_budget, lease_from, lease_revoked,
    ending_kind, ending_detail, ending_attempt, ending_step, ending_hash, attempts.agent
FROM trials LEFT JOIN attempts ON attempts.trial = trials.trial AND attempts.attempt = trials.attempt
";

fn load_trial(row: &Row<'_>) -> Result<Trial, StoreError> {
    let state = row.get_ref(1)?.as_str().unwrap_or_default();
    let state = TrialState::from_name(state)
        .ok_or_else(|| damaged("trials", format!("state `{}`", state.escape_debug())))?;
    let crashed_on: BTreeSet<String> = match row.get_ref(10)?.as_str().unwrap_or_default() {
        // As of nearly all.
        "[]" => BTreeSet::new(),
        names => serde_json::from_str(names).map_err(|error| damaged("trials", error.to_string()))?,
    };
    let lease = match row.get::<_, Option<String>>(14)? {
        Some(agent) => Some(Lease {
            agent,
            incarnation: row.get(15)?,
            budget: count(row, 16)?,
            // Follows from what is wanted of the trial.
            cohort: 0,
            from_step: count(row, 17)?,
            revoked: row.get(18)?,
            deadline: Duration::ZERO,
            progress_at: Duration::ZERO,
        }),
        None => None,
    };
    Ok(Trial {
        state,
        attempt: count(row, 2)?,
        step: count(row, 3)?,
        completed_step: count(row, 4)?,
        diverged_at: row.get::<_, Option<i64>>(5)?.map(|step| step.max(0) as u64),
        reason: row.get(6)?,
        train_seconds: row.get(7)?,
        crashes: row.get(8)?,
        losses: row.get(9)?,
        crashed_on,
        alone: row.get(11)?,
        retry_at: Duration::ZERO,
        keep: row.get(12)?,
        keep_every: row.get::<_, Option<i64>>(13)?.and_then(|every| u64::try_from(every).ok()),
        keep_around: None,
        transition: None,
        fork: None,
        ending: load_ending(row)?,
        holder: row
            .get::<_, Option<String>>(24)?
            .or_else(|| lease.as_ref().map(|lease| lease.agent.clone()))
            .unwrap_or_default(),
        lease,
        checkpoints: Vec::new(),
        wants: Vec::new(),
        ready: None,
    })
}

fn load_ending(row: &Row<'_>) -> Result<Option<RecordedEnding>, StoreError> {
    let Some(kind) = row.get::<_, Option<String>>(19)? else { return Ok(None) };
    let detail: Option<String> = row.get(20)?;
    let detail = detail.unwrap_or_default();
    let ending = match kind.as_str() {
        "completed" => Ending::Completed,
        "diverged" => {
            let step = detail.parse().map_err(|_| damaged("trials", "a divergence without its step"))?;
            Ending::Diverged { step }
        }
        "failed" => Ending::Failed { reason: detail },
        other => return Err(damaged("trials", format!("ending `{}`", other.escape_debug()))),
    };
    Ok(Some(RecordedEnding {
        attempt: count(row, 21)?,
        ending,
        step: count(row, 22)?,
        weights_hash: row.get::<_, Option<String>>(23)?.unwrap_or_default(),
    }))
}
