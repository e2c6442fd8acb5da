//! The state of a sweep on its way, in words: counts, speed, remaining time, last failure. Pure; `display` shows it.

use plateau_common::trial::TrialState;
use plateau_proto::v1;
use serde_json::{Value, json};

use crate::words;

/// One look at a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Id of the sweep.
    pub sweep: String,
    /// Name of its study.
    pub name: String,
    /// Where it is in its life.
    pub state: v1::SweepState,
    /// Its trials by state.
    pub counts: v1::TrialCounts,
    /// Steps of all trials together.
    pub total_steps: u64,
    /// Steps made.
    pub done_steps: u64,
    /// Replica steps per second over the last half minute; 0 if unknown.
    pub steps_per_second: f64,
    /// Connected agents, and those of them that train.
    pub agents: (usize, usize),
    /// The last trial that failed.
    pub last_failure: Option<v1::Failure>,
}

/// The name of a sweep's state.
pub fn sweep_state_name(state: i32) -> &'static str {
    match v1::SweepState::try_from(state) {
        Ok(v1::SweepState::Active) => "active",
        Ok(v1::SweepState::Paused) => "paused",
        Ok(v1::SweepState::Finished) => "finished",
        Ok(v1::SweepState::Cancelled) => "cancelled",
        Ok(v1::SweepState::Unspecified) | Err(_) => "unknown",
    }
}

/// The number of trials in every state, in the order of a trial's life.
pub fn by_state(counts: &v1::TrialCounts) -> [(TrialState, u64); 8] {
    TrialState::ALL.map(|state| {
        let count = match state {
            TrialState::Pending => counts.pending,
            TrialState::Leased => counts.leased,
            TrialState::Running => counts.running,
            TrialState::Completed => counts.completed,
            TrialState::Diverged => counts.diverged,
            TrialState::Failed => counts.failed,
            TrialState::Cancelled => counts.cancelled,
            TrialState::Quarantined => counts.quarantined,
        };
        (state, count)
    })
}

/// All trials of a sweep.
pub fn total(counts: &v1::TrialCounts) -> u64 {
    by_state(counts).iter().map(|(_, count)| count).sum()
}

/// Trials that left a result.
pub fn done(counts: &v1::TrialCounts) -> u64 {
    counts.completed + counts.diverged
}

/// Trials that ended without a result, through no wish of anybody.
pub fn failed(counts: &v1::TrialCounts) -> u64 {
    counts.failed + counts.quarantined
}

impl Snapshot {
    /// The look that a coordinator's event gives; `None` if it says nothing of the sweep.
    pub fn from_wire(event: v1::WatchResponse) -> Option<Self> {
        let summary = event.summary?;
        let connected = || event.agents.iter().filter(|agent| agent.connected);
        Some(Snapshot {
            state: summary.state(),
            agents: (connected().count(), connected().filter(|agent| agent.running_trials > 0).count()),
            sweep: summary.sweep,
            name: summary.name,
            counts: summary.counts.unwrap_or_default(),
            total_steps: summary.total_steps,
            done_steps: summary.done_steps,
            steps_per_second: event.steps_per_second,
            last_failure: event.last_failure,
        })
    }

    /// Whether nothing of the sweep will run any more.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, v1::SweepState::Finished | v1::SweepState::Cancelled)
    }

    /// Seconds until the end at the present speed; `None` while nothing moves.
    pub fn remaining_seconds(&self) -> Option<f64> {
        let steps = self.total_steps.saturating_sub(self.done_steps) as f64;
        (self.steps_per_second > 0.0).then(|| steps / self.steps_per_second)
    }

    /// `37/120 trials done, 2 running, 1 failed, 80 waiting`.
    pub fn counts_text(&self) -> String {
        let counts = &self.counts;
        let mut text = format!(
            "{}/{} trials done, {} running, {} failed, {} waiting",
            done(counts),
            total(counts),
            counts.leased + counts.running,
            failed(counts),
            counts.pending
        );
        for (number, word) in [(counts.diverged, "diverged"), (counts.cancelled, "cancelled")] {
            if number > 0 {
                text.push_str(&format!(", {number} {word}"));
            }
        }
        text
    }

    /// `1.2M steps/s, 3m 20s left, 2/2 agents busy`.
    pub fn speed_text(&self) -> String {
        let (connected, busy) = self.agents;
        let agents = match connected {
            0 => "no agent connected".to_owned(),
            _ => format!("{busy}/{connected} agents busy"),
        };
        if self.has_ended() {
            return sweep_state_name(self.state as i32).to_owned();
        }
        if self.state == v1::SweepState::Paused {
            return format!("paused, {agents}");
        }
        match self.remaining_seconds() {
            Some(seconds) => format!(
                "{} replica-steps/s, {} left, {agents}",
                words::count(self.steps_per_second),
                words::duration(seconds.round())
            ),
            None => format!("speed not yet known, {agents}"),
        }
    }

    /// The last failure and the command that tells more; `options` are those naming the coordinator.
    pub fn failure_text(&self, options: &str) -> Option<String> {
        let failure = self.last_failure.as_ref()?;
        let trial = words::short(&failure.trial);
        Some(format!(
            "last failure: trial {trial}: {} (see `plateau logs {trial}{options}`)",
            words::one_line(&failure.reason)
        ))
    }

    /// One plain line: `[1m 5s] 37/120 trials done, …; 41% of steps; 1.2M steps/s, …`.
    pub fn line(&self, elapsed_seconds: f64) -> String {
        let percent = match self.total_steps {
            0 => 100.0,
            total => 100.0 * self.done_steps as f64 / total as f64,
        };
        format!(
            "[{}] {}; {percent:.0}% of steps; {}",
            words::duration(elapsed_seconds.floor()),
            self.counts_text(),
            self.speed_text()
        )
    }

    /// The look as an event for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "event": "progress",
            "sweep": self.sweep,
            "name": self.name,
            "state": sweep_state_name(self.state as i32),
            "trials": counts_json(&self.counts),
            "total_steps": self.total_steps,
            "done_steps": self.done_steps,
            "steps_per_second": self.steps_per_second,
            "remaining_seconds": self.remaining_seconds(),
            "agents": { "connected": self.agents.0, "busy": self.agents.1 },
            "last_failure": self.last_failure.as_ref().map(failure_json),
        })
    }
}

/// Trials by state, and all together, for programs.
pub fn counts_json(counts: &v1::TrialCounts) -> Value {
    let mut object: serde_json::Map<String, Value> =
        by_state(counts).iter().map(|(state, count)| (state.name().to_owned(), (*count).into())).collect();
    object.insert("total".to_owned(), total(counts).into());
    object.into()
}

/// A failure for programs.
pub fn failure_json(failure: &v1::Failure) -> Value {
    json!({ "trial": failure.trial, "reason": failure.reason, "time": words::time(failure.unix_milliseconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> v1::WatchResponse {
        let agent =
            |connected, running_trials| v1::AgentSummary { connected, running_trials, ..Default::default() };
        v1::WatchResponse {
            summary: Some(v1::SweepSummary {
                sweep: "5ca1ab1e".to_owned(),
                name: "counting".to_owned(),
                state: v1::SweepState::Active as i32,
                counts: Some(v1::TrialCounts {
                    pending: 80,
                    leased: 1,
                    running: 1,
                    completed: 36,
                    diverged: 1,
                    failed: 1,
                    ..Default::default()
                }),
                total_steps: 1_200_000,
                done_steps: 480_000,
                ..Default::default()
            }),
            last_failure: Some(v1::Failure {
                trial: "deadbeefdeadbeefdeadbeefdeadbeef".to_owned(),
                reason: "out of memory\nat layer 3".to_owned(),
                unix_milliseconds: 0,
            }),
            agents: vec![agent(true, 2), agent(true, 0), agent(false, 1)],
            steps_per_second: 3600.0,
        }
    }

    #[test]
    fn a_line_tells_counts_share_speed_and_remaining_time() {
        let snapshot = Snapshot::from_wire(event()).unwrap();
        assert_eq!(
            snapshot.line(65.4),
            "[1m 5s] 37/120 trials done, 2 running, 1 failed, 80 waiting, 1 diverged; 40% of steps; \
             3.6k replica-steps/s, 3m 20s left, 1/2 agents busy"
        );
        assert_eq!(
            snapshot.failure_text(" --data-dir d").unwrap(),
            "last failure: trial deadbeef: out of memory at layer 3 (see `plateau logs deadbeef --data-dir d`)"
        );
    }

    #[test]
    fn nothing_is_promised_while_nothing_moves() {
        let mut event = event();
        event.steps_per_second = 0.0;
        event.agents.clear();
        let mut snapshot = Snapshot::from_wire(event).unwrap();
        assert_eq!(snapshot.speed_text(), "speed not yet known, no agent connected");
        snapshot.state = v1::SweepState::Paused;
        assert_eq!(snapshot.speed_text(), "paused, no agent connected");
        assert!(!snapshot.has_ended());
        snapshot.state = v1::SweepState::Finished;
        assert!(snapshot.has_ended());
        assert!(Snapshot::from_wire(v1::WatchResponse::default()).is_none());
    }

    #[test]
    fn events_for_programs_hold_every_state() {
        let json = Snapshot::from_wire(event()).unwrap().to_json();
        assert_eq!(json["trials"]["total"], 120);
        assert_eq!(json["trials"]["diverged"], 1);
        assert_eq!(json["remaining_seconds"], 200.0);
        assert_eq!(json["last_failure"]["time"], "1970-01-01T00:00:00Z");
        assert_eq!(json["agents"]["busy"], 1);
    }
}
