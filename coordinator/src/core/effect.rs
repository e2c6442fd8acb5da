//! What the coordinator does about what happened. Writes are made durable before anything else leaves.

use std::sync::Arc;

use plateau_common::identity::TrialId;

use super::fork::InheritedChunk;
use super::retention::Freed;
use super::state::{Agent, Checkpoint, Fence, LeaseKey, Shape, SweepNumber, ThroughputKey, Trial};

/// Whom an event in the history is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A trial.
    Trial(TrialId),
    /// A sweep.
    Sweep(SweepNumber),
    /// An agent.
    Agent(String),
}

/// A change of what is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A trial's record (checkpoints and references are written by their own).
    Trial(TrialId, Box<Trial>),
    /// A sweep's record, without its members.
    Sweep(SweepNumber),
    /// A sweep's study and all its members.
    SweepStudy {
        /// Which.
        sweep: SweepNumber,
        /// The study; opaque.
        source: Vec<u8>,
        /// (cohort, cost) of each member, in order.
        shapes: Vec<(u128, u64)>,
    },
    /// An agent's record.
    Agent(String, Box<Agent>),
    /// An agent's record and history are dropped.
    AgentForgotten(String),
    /// A new attempt.
    Attempt {
        /// Which.
        lease: LeaseKey,
        /// Granted to.
        agent: String,
        /// Continues from this step.
        from_step: u64,
    },
    /// An attempt began to train.
    AttemptStarted {
        /// Which.
        lease: LeaseKey,
        /// From this step.
        from_step: u64,
    },
    /// What trials of a cohort cost.
    Shape(u128, Shape),
    /// What is known of a cohort's speed on a kind of device.
    Throughput(ThroughputKey),
    /// A chunk of metrics.
    Metrics {
        /// Of which attempt.
        lease: LeaseKey,
        /// Its number.
        chunk: u64,
        /// Of its canonical bytes.
        digest: [u8; 32],
        /// Its stored form.
        data: Vec<u8>,
    },
    /// The metrics that a fork takes over, numbered from 0.
    InheritedMetrics {
        /// Under which attempt of the fork.
        lease: LeaseKey,
        /// The chunks.
        metrics: Arc<[InheritedChunk]>,
    },
    /// Whose fork a trial is.
    Fork(TrialId),
    /// Lines of a log.
    Log {
        /// Of which attempt.
        lease: LeaseKey,
        /// (milliseconds since 1970 UTC, level, message).
        lines: Vec<(i64, String, String)>,
    },
    /// A checkpoint.
    Checkpoint(TrialId, Checkpoint),
    /// A checkpoint is about to be deleted.
    CheckpointForgotten(TrialId, Checkpoint),
    /// A trial's policy of retention around its transition, and the transition.
    Retention(TrialId),
    /// Everything about a trial is dropped; its configuration, which a submission on its way may count on, at the next start.
    TrialDeleted(TrialId),
    /// A sweep's record, members and history are dropped.
    SweepDeleted(SweepNumber),
    /// What must not come again.
    Fence(Fence),
    /// An event of somebody's history.
    History(Subject, String),
}

/// One trial of a grant.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    /// The permission.
    pub lease: LeaseKey,
    /// Steps to make in total.
    pub budget: u64,
    /// Where to continue from.
    pub resume: Option<Checkpoint>,
    /// Id of the first sweep that asked for the trial; names its trace.
    pub sweep: String,
}

/// A message to an agent.
#[derive(Clone, Debug, PartialEq)]
pub enum ToAgent {
    /// The session is accepted.
    Welcome,
    /// Train these together.
    Grant {
        /// Which.
        leases: Vec<Granted>,
        /// In places of the cohort in training.
        join: bool,
        /// Measure the speed of their shape first.
        calibrate: bool,
    },
    /// The message of this number is on disk.
    Acknowledged(u64),
    /// The message of this number (0: none in particular) was refused; the lease is to be dropped.
    Refused {
        /// Number of the message.
        sequence: u64,
        /// The lease it was about.
        lease: LeaseKey,
        /// Why.
        reason: String,
    },
    /// Checkpoint these and give them back.
    Revoke {
        /// Which.
        leases: Vec<LeaseKey>,
        /// Why.
        reason: String,
    },
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It names nothing known.
    NotFound,
    /// The state forbids it; asking again changes nothing.
    Precondition,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The study is a sweep.
    Submitted {
        /// Id of the sweep.
        sweep: String,
        /// It existed before.
        existing: bool,
        /// Trials it has.
        trials: u64,
        /// Trials that will run because of this submission.
        new_trials: u64,
    },
    /// The sweep was extended.
    Extended {
        /// Trials added.
        new_trials: u64,
        /// Ended trials that go on.
        continued_trials: u64,
    },
    /// What was deleted, or would be.
    Freed(Freed),
    /// Trials will be tried again.
    Requeued {
        /// How many.
        trials: u64,
    },
    /// Done, or was so already.
    Done,
    /// Not done.
    Refused(Refusal, String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Store this, in the same transaction as every other write of the input.
    Write(Write),
    /// Once durable: tell an agent.
    Send {
        /// In which session.
        session: u64,
        /// What.
        message: ToAgent,
    },
    /// Once durable: end a session.
    Close {
        /// Which.
        session: u64,
        /// Why, for the agent.
        reason: String,
    },
    /// Once durable: answer the request.
    Answer(Answer),
    /// Once durable: delete a checkpoint's files.
    Delete(TrialId, Checkpoint),
    /// Once durable: tell whoever watches these sweeps.
    Changed(Vec<SweepNumber>),
}
