//! The life of a trial: one enum and the moves it allows.
//!
//! Pending -> Leased -> Running -> one ending. Leases and attempts themselves are the coordinator's.

use std::fmt;

/// Where a trial is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TrialState {
    /// Waiting for an agent.
    Pending,
    /// Promised to an agent under an attempt number, not yet started.
    Leased,
    /// Training.
    Running,
    /// Ended: made all its steps.
    Completed,
    /// Ended: loss or weights became NaN or infinite. A result, not an error.
    Diverged,
    /// Ended: could not be trained; the reason is recorded.
    Failed,
    /// Ended: its sweep was cancelled.
    Cancelled,
    /// Ended: crashed on several agents and is kept away from them.
    Quarantined,
}

impl TrialState {
    /// All states, in the order of a trial's life.
    pub const ALL: [TrialState; 8] = [
        TrialState::Pending,
        TrialState::Leased,
        TrialState::Running,
        TrialState::Completed,
        TrialState::Diverged,
        TrialState::Failed,
        TrialState::Cancelled,
        TrialState::Quarantined,
    ];

    /// The state's name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            TrialState::Pending => "pending",
            TrialState::Leased => "leased",
            TrialState::Running => "running",
            TrialState::Completed => "completed",
            TrialState::Diverged => "diverged",
            TrialState::Failed => "failed",
            TrialState::Cancelled => "cancelled",
            TrialState::Quarantined => "quarantined",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        TrialState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether the trial has ended.
    pub fn is_ending(self) -> bool {
        !matches!(self, TrialState::Pending | TrialState::Leased | TrialState::Running)
    }

    /// Whether the trial left a result that may be analysed.
    pub fn has_result(self) -> bool {
        matches!(self, TrialState::Completed | TrialState::Diverged)
    }
}

impl fmt::Display for TrialState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How one attempt at training ended, as the trainer reports it.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// All steps were made.
    Completed,
    /// Loss or weights became NaN or infinite at `step`.
    Diverged {
        /// The update after which it was noticed.
        step: u64,
    },
    /// The configuration cannot be trained (not an accident of the machine).
    Failed {
        /// Why, for a person.
        reason: String,
    },
}
