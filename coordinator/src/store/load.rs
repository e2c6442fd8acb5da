//! Rows back into the core's state, at start.

use std::time::Duration;

use plateau_common::identity::TrialId;
use plateau_common::throughput::ThroughputCurve;
use plateau_common::trial::{Ending, TrialState};
use rusqlite::{Connection, Row};

use super::{Store, StoreError};
use crate::core::{
    Agent, Checkpoint, Fence, Lease, Member, Now, RecordedEnding, Shape, State, Sweep, SweepMode, Throughput,
    Trial, Want,
};

fn damaged(table: &'static str, problem: impl Into<String>) -> StoreError {
    StoreError::Damaged { table, problem: problem.into() }
}

fn count(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
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
    Tables { connection }.load(now)
}

struct Tables<'a> {
    connection: &'a Connection,
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
        let state = state.restore(now);
        crate::core::invariants::check(&state).map_err(|problem| damaged("the whole", problem))?;
        Ok(state)
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
        let mut statement = self.connection.prepare(
            "SELECT trials.*, attempts.agent AS holder FROM trials
             LEFT JOIN attempts ON attempts.trial = trials.id AND attempts.attempt = trials.attempt",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: String = row.get("id")?;
            state.trials.insert(trial_id("trials", &id)?, load_trial(row)?);
        }
        Ok(())
    }

    fn load_members(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare("SELECT * FROM members ORDER BY sweep, position")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let trial: String = row.get("trial")?;
            let trial = trial_id("members", &trial)?;
            let cohort: String = row.get("cohort")?;
            let want = Want {
                sweep: count(row, "sweep")?,
                position: count(row, "position")?,
                budget: count(row, "budget")?,
                cohort: u128::from_str_radix(&cohort, 16)
                    .map_err(|error| damaged("members", error.to_string()))?,
                cost: count(row, "cost")?,
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
        let mut statement = self.connection.prepare("SELECT * FROM retention")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let trial: String = row.get("trial")?;
            let trial = trial_id("retention", &trial)?;
            let Some(record) = state.trials.get_mut(&trial) else {
                return Err(damaged("retention", format!("trial {trial} does not exist")));
            };
            let policy: String = row.get("keep_around")?;
            let policy = super::deleted::parse(&policy).map_err(|problem| damaged("retention", problem))?;
            record.keep_around = Some(policy);
            let transition: Option<i64> = row.get("transition")?;
            record.transition = transition.map(|step| step.max(0) as u64);
        }
        state.fence = self.connection.query_row("SELECT * FROM fence", [], |row| {
            Ok(Fence { attempt: count(row, "attempt")?, sweep: count(row, "sweep")? })
        })?;
        Ok(())
    }

    fn load_checkpoints(&self, state: &mut State) -> Result<(), StoreError> {
        let mut statement =
            self.connection.prepare("SELECT * FROM checkpoints ORDER BY trial, step, attempt")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let trial: String = row.get("trial")?;
            let trial = trial_id("checkpoints", &trial)?;
            let Some(record) = state.trials.get_mut(&trial) else {
                return Err(damaged("checkpoints", format!("trial {trial} does not exist")));
            };
            record.checkpoints.push(Checkpoint {
                attempt: count(row, "attempt")?,
                step: count(row, "step")?,
                weights_hash: row.get("weights_hash")?,
                bytes: count(row, "bytes")?,
            });
        }
        Ok(())
    }
}

fn load_trial(row: &Row<'_>) -> Result<Trial, StoreError> {
    let state: String = row.get("state")?;
    let state = TrialState::from_name(&state)
        .ok_or_else(|| damaged("trials", format!("state `{}`", state.escape_debug())))?;
    let crashed_on: String = row.get("crashed_on")?;
    let crashed_on: serde_json::Value =
        serde_json::from_str(&crashed_on).map_err(|error| damaged("trials", error.to_string()))?;
    let crashed_on = crashed_on
        .as_array()
        .map(|names| names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    let lease = match row.get::<_, Option<String>>("lease_agent")? {
        Some(agent) => Some(Lease {
            agent,
            incarnation: row.get("lease_incarnation")?,
            budget: count(row, "lease_budget")?,
            // Follows from what is wanted of the trial.
            cohort: 0,
            from_step: count(row, "lease_from")?,
            revoked: row.get("lease_revoked")?,
            deadline: Duration::ZERO,
            progress_at: Duration::ZERO,
        }),
        None => None,
    };
    Ok(Trial {
        state,
        attempt: count(row, "attempt")?,
        step: count(row, "step")?,
        completed_step: count(row, "completed_step")?,
        diverged_at: row.get::<_, Option<i64>>("diverged_at")?.map(|step| step.max(0) as u64),
        reason: row.get("reason")?,
        train_seconds: row.get("train_seconds")?,
        crashes: row.get("crashes")?,
        losses: row.get("losses")?,
        crashed_on,
        alone: row.get("alone")?,
        retry_at: Duration::ZERO,
        keep: row.get("keep")?,
        keep_every: row.get::<_, Option<i64>>("keep_every")?.and_then(|every| u64::try_from(every).ok()),
        keep_around: None,
        transition: None,
        ending: load_ending(row)?,
        holder: row
            .get::<_, Option<String>>("holder")?
            .or_else(|| lease.as_ref().map(|lease| lease.agent.clone()))
            .unwrap_or_default(),
        lease,
        checkpoints: Vec::new(),
        wants: Vec::new(),
        ready: None,
    })
}

fn load_ending(row: &Row<'_>) -> Result<Option<RecordedEnding>, StoreError> {
    let Some(kind) = row.get::<_, Option<String>>("ending_kind")? else { return Ok(None) };
    let detail: Option<String> = row.get("ending_detail")?;
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
        attempt: count(row, "ending_attempt")?,
        ending,
        step: count(row, "ending_step")?,
        weights_hash: row.get::<_, Option<String>>("ending_hash")?.unwrap_or_default(),
    }))
}
