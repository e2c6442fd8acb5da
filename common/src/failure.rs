//! How training breaks, and whom that is held against.
//!
//! One table for both sides: the agent, which sees how its trainer ended, names the class (`agent/src/classify.rs`); the
//! coordinator, which sees all agents and trials, charges accordingly (`core/guilt.rs`). Divergence is no failure, and
//! running out of memory has a report of its own, because a smaller cohort may cure it.

/// What broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureClass {
    /// The trainer said that it cannot go on.
    Reported,
    /// The trainer ended with an exit status other than 0.
    Exited,
    /// The trainer ended with exit status 0 and without a result.
    EndedEarly,
    /// A signal ended the trainer: an abort, a segmentation fault, a bus error.
    Signalled,
    /// The system was out of memory and killed the trainer.
    HostMemory,
    /// The card had less memory free than the cohort takes.
    DeviceMemory,
    /// A kernel on the card broke (a device assertion, an illegal address), which spoils the process's context.
    ContextLost,
    /// The card had a memory error that it contained: the process is lost, the card goes on.
    Contained,
    /// The card has a memory error that it could not contain or repair.
    DeviceMemoryFault,
    /// The card does not answer any more.
    DeviceLost,
    /// The trainer was told to stop, did not, and was killed.
    Unresponsive,
    /// The trainer was killed and lives on: it hangs in the driver.
    Unkillable,
    /// The host lacks what training needs, e.g. room on the disk.
    Environment,
    /// No progress although the agent lives; found by the coordinator.
    Stalled,
    /// The agent is gone; found by the coordinator.
    Lost,
}

/// Whom a failure is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Every trial of the cohort, and the agent's row of crashes: which of them it was, others will show.
    TrialAndAgent,
    /// The trials.
    Trial,
    /// The trials, but only a little: it takes many to prove anything.
    TrialWeakly,
    /// The agent.
    Agent,
    /// Nobody.
    Nobody,
}

impl FailureClass {
    /// Every class.
    pub const ALL: [FailureClass; 15] = [
        FailureClass::Reported,
        FailureClass::Exited,
        FailureClass::EndedEarly,
        FailureClass::Signalled,
        FailureClass::HostMemory,
        FailureClass::DeviceMemory,
        FailureClass::ContextLost,
        FailureClass::Contained,
        FailureClass::DeviceMemoryFault,
        FailureClass::DeviceLost,
        FailureClass::Unresponsive,
        FailureClass::Unkillable,
        FailureClass::Environment,
        FailureClass::Stalled,
        FailureClass::Lost,
    ];

    /// The table: what it is, for people; whom it is held against; whether the device must not be used any more.
    fn row(self) -> (&'static str, Charge, bool) {
        use Charge::{Agent, Nobody, Trial, TrialAndAgent, TrialWeakly};
        match self {
            FailureClass::Reported => ("the trainer gave up", TrialAndAgent, false),
            FailureClass::Exited => ("the trainer failed", TrialAndAgent, false),
            FailureClass::EndedEarly => ("the trainer ended without a result", TrialAndAgent, false),
            FailureClass::Signalled => ("a signal ended the trainer", TrialAndAgent, false),
            FailureClass::HostMemory => ("the system was out of memory", Trial, false),
            FailureClass::DeviceMemory => ("the card was out of memory", Trial, false),
            FailureClass::ContextLost => ("a kernel broke on the card", TrialAndAgent, false),
            FailureClass::Contained => ("a memory error of the card, contained", Nobody, false),
            FailureClass::DeviceMemoryFault => ("a memory error of the card", Nobody, true),
            FailureClass::DeviceLost => ("the card is lost", Nobody, true),
            FailureClass::Unresponsive => ("the trainer did not stop", TrialAndAgent, false),
            FailureClass::Unkillable => ("the trainer cannot be killed", Nobody, true),
            FailureClass::Environment => ("the host lacks what training needs", Agent, false),
            FailureClass::Stalled => ("no progress", Trial, false),
            FailureClass::Lost => ("the agent was lost", TrialWeakly, false),
        }
    }

    /// What it is, for people.
    pub fn words(self) -> &'static str {
        self.row().0
    }

    /// Whom it is held against.
    pub fn charge(self) -> Charge {
        self.row().1
    }

    /// Whether the device must not be used any more before somebody has looked at it.
    pub fn is_device_unhealthy(self) -> bool {
        self.row().2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_70_a_device_that_is_unhealthy_is_never_held_against_a_trial() {
        for class in FailureClass::ALL {
            assert!(!class.is_device_unhealthy() || class.charge() == Charge::Nobody, "{class:?}");
            assert_eq!(FailureClass::ALL.iter().filter(|other| other.words() == class.words()).count(), 1);
        }
    }
}
