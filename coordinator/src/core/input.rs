//! What can happen to the coordinator.

use plateau_common::config::{Fork, KeepAround};
use plateau_common::failure::FailureClass;
use plateau_common::identity::TrialId;
use plateau_common::throughput::ThroughputCurve;
use plateau_common::trial::Ending;

use super::fork::Root;
use super::state::{LeaseKey, Shape, SweepNumber};

/// One trial of a submitted study.
#[derive(Clone, Debug, PartialEq)]
pub struct Specification {
    /// Content-hash id.
    pub trial: TrialId,
    /// Steps asked for.
    pub budget: u64,
    /// Trials of equal cohort may be trained together.
    pub cohort: u128,
    /// Estimated cost of the budget, for scheduling.
    pub cost: u64,
    /// Checkpoints kept besides the newest.
    pub keep: u32,
    /// Those at multiples of so many steps are kept for good.
    pub keep_every: Option<u64>,
    /// Those around its transition are kept for good.
    pub keep_around: Option<KeepAround>,
    /// What trials of the cohort cost.
    pub shape: Shape,
    /// Whose fork it is.
    pub fork: Option<Fork>,
    /// What it begins with, where it is a fork that has none yet.
    pub root: Option<Root>,
}

/// An agent introducing itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Introduction {
    /// Unique among live agents.
    pub name: String,
    /// Drawn at every start of its process.
    pub incarnation: String,
    /// Its host.
    pub host: String,
    /// "cpu" or "cuda:N".
    pub device: String,
    /// The device in words.
    pub description: String,
    /// Version of its program.
    pub version: String,
    /// Threads of its trainer on a processor.
    pub threads: u32,
    /// Bytes that cohorts may take on it; 0: not known.
    pub memory_bytes: u64,
    /// Largest cohort it wants.
    pub max_cohort: u32,
    /// Leases it still holds from an earlier connection.
    pub held: Vec<LeaseKey>,
}

/// What an agent that trains asks for besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Grants it has received in this session; what it asks for counts only where no other is on its way.
    pub grants: u64,
    /// Its cohort is about to end: it wants the next one.
    pub next: bool,
    /// Places in the cohort in training, by its key, that trials have left.
    pub places: Option<(u128, u32)>,
}

/// What an agent says within its session.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Still there; renews the leases listed with their steps.
    Heartbeat {
        /// Lease and the step it has reached.
        leases: Vec<(LeaseKey, u64)>,
        /// Replica steps per second.
        speed: f64,
        /// Could start a cohort now.
        idle: bool,
        /// Leases listed that wait for the cohort in training to end.
        waiting: Vec<LeaseKey>,
        /// What it asks for although it is not idle.
        wish: Wish,
    },
    /// Training began.
    Started {
        /// Of which lease.
        lease: LeaseKey,
        /// From which step.
        from_step: u64,
    },
    /// A chunk of metrics.
    Metrics {
        /// Of which lease.
        lease: LeaseKey,
        /// Its number within the attempt.
        chunk: u64,
        /// Digest of its canonical bytes.
        digest: [u8; 32],
        /// The digest already recorded under this number, if any; filled in by the shell from the store.
        recorded: Option<[u8; 32]>,
        /// Last step in it.
        last_step: u64,
        /// Its stored form; opaque to the core.
        data: Vec<u8>,
    },
    /// The trial ended.
    Ended {
        /// Of which lease.
        lease: LeaseKey,
        /// How.
        ending: Ending,
        /// Updates made.
        step: u64,
        /// Seconds of training in this attempt.
        train_seconds: f64,
        /// Hash of the parameters.
        weights_hash: String,
    },
    /// A lease is given back unfinished.
    Released {
        /// Which.
        lease: LeaseKey,
        /// Why.
        reason: String,
        /// Seconds of training in this attempt.
        train_seconds: f64,
    },
    /// Lines of a trial's log; opaque to the core.
    Log {
        /// Of which lease.
        lease: LeaseKey,
        /// (milliseconds since 1970 UTC, level, message).
        lines: Vec<(i64, String, String)>,
    },
    /// The trainer broke while it held these leases.
    Crashed {
        /// All of the cohort; none where the device is found unhealthy and trains nothing.
        leases: Vec<LeaseKey>,
        /// How.
        class: FailureClass,
        /// What is known.
        reason: String,
    },
    /// A cohort took more memory than there is.
    OutOfMemory {
        /// Those of its trials that had not ended.
        leases: Vec<LeaseKey>,
        /// Trials in it when it happened.
        cohort_size: u32,
        /// Not certain: the trainer was killed by somebody else.
        suspected: bool,
        /// What is known.
        reason: String,
    },
    /// The speed of a shape on the agent's device.
    Throughput {
        /// The shape.
        cohort: u128,
        /// What was measured.
        curve: ThroughputCurve,
        /// By a measurement of its own, which replaces what is known.
        calibrated: bool,
        /// Seconds that evaluating one replica takes; 0: not measured.
        evaluation_seconds: f64,
    },
    /// The agent leaves for good.
    Goodbye,
}

/// Everything that can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A study was submitted.
    Submit {
        /// Id of the sweep: a function of the study's digest.
        id: String,
        /// The study's name.
        name: String,
        /// The study as submitted; opaque to the core.
        source: Vec<u8>,
        /// Its trials in expansion order; may be empty where the sweep was known when the study arrived.
        trials: Vec<Specification>,
    },
    /// A sweep gets further seeds or steps.
    Extend {
        /// Which.
        sweep: SweepNumber,
        /// The study with the extension; opaque to the core.
        source: Vec<u8>,
        /// All its trials, old and new, in the new expansion order.
        trials: Vec<Specification>,
        /// What is added, in words.
        what: String,
    },
    /// A sweep is given up.
    Cancel {
        /// Which.
        sweep: SweepNumber,
        /// Why.
        reason: String,
    },
    /// Nothing more of a sweep is to be granted.
    Pause {
        /// Which.
        sweep: SweepNumber,
    },
    /// A paused sweep goes on.
    Resume {
        /// Which.
        sweep: SweepNumber,
    },
    /// A trial that failed, diverged or was quarantined is to be tried again.
    RequeueTrial {
        /// Which.
        trial: TrialId,
    },
    /// The failed and quarantined trials of a sweep are to be tried again.
    RequeueSweep {
        /// Which.
        sweep: SweepNumber,
        /// Those that diverged too.
        diverged: bool,
    },
    /// An agent is to be given nothing more.
    Drain {
        /// Which.
        agent: String,
        /// Why; may be empty.
        reason: String,
    },
    /// A drained agent is to be given trials again.
    Undrain {
        /// Which.
        agent: String,
    },
    /// An agent opened a session.
    Connected {
        /// Number of the session; larger than every earlier one.
        session: u64,
        /// Sequence number of its Hello.
        sequence: u64,
        /// Who.
        agent: Introduction,
    },
    /// A session ended.
    Disconnected {
        /// Which.
        session: u64,
        /// Whose.
        agent: String,
    },
    /// An agent said something.
    Said {
        /// In which session.
        session: u64,
        /// Who.
        agent: String,
        /// Sequence number of the message.
        sequence: u64,
        /// What.
        report: Report,
    },
    /// A checkpoint was stored and verified.
    CheckpointStored {
        /// By which lease.
        lease: LeaseKey,
        /// Updates made.
        step: u64,
        /// Hash of the parameters.
        weights_hash: String,
        /// Size of its files.
        bytes: u64,
    },
    /// A stored checkpoint was found damaged, and put where nobody reads it again.
    CheckpointDamaged {
        /// Whose.
        trial: TrialId,
        /// Attempt that made it.
        attempt: u64,
        /// Updates made.
        step: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The metric that a trial's policy of retention names has reached its level for the first time.
    TransitionReached {
        /// By which lease.
        lease: LeaseKey,
        /// At which evaluation.
        step: u64,
    },
    /// Checkpoints that nothing needs are to be deleted.
    Collect {
        /// Newest checkpoints that each ended trial keeps.
        keep: u32,
        /// Only of trials whose sweeps were submitted at least so long ago.
        older_than_milliseconds: u64,
        /// Only say what would be.
        dry_run: bool,
    },
    /// A sweep is to be deleted, with everything of its trials that no other sweep holds.
    Delete {
        /// Which.
        sweep: SweepNumber,
        /// Only say what would be.
        dry_run: bool,
    },
    /// Time passed.
    Tick,
}
