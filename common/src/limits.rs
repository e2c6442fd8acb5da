//! Every limit, with its unit. Values beyond a limit are refused with the limit's name before memory is spent.

/// Bytes of a study file.
pub const MAX_STUDY_BYTES: usize = 1 << 20;
/// Trials in one sweep.
pub const MAX_TRIALS_PER_SWEEP: u128 = 1_000_000;
/// Values of one axis.
pub const MAX_AXIS_VALUES: u64 = 1_000_000;
/// Bytes of a study's or an agent's name.
pub const MAX_NAME_BYTES: usize = 128;
/// Bytes of the name of a study's file.
pub const MAX_FILE_NAME_BYTES: usize = 1024;
/// Nesting of tables and arrays in a study file.
pub const MAX_NESTING: usize = 32;

/// Values set over a study file (`--set`).
pub const MAX_OVERRIDES: usize = 1000;
/// Seeds named on a command line.
pub const MAX_NAMED_SEEDS: u64 = 100_000;
/// Values in a study file after its aliases are expanded.
pub const MAX_STUDY_VALUES: usize = 1 << 20;
/// Combinations that are looked at one by one to count the trials of a study with `when` or `exclude`.
pub const MAX_EXAMINED_COMBINATIONS: u64 = 4_000_000;

/// Forks in one study, each of which is given a checkpoint when it is submitted.
pub const MAX_FORKS: usize = 10_000;

/// Updates in one trial.
pub const MAX_STEPS: u64 = 1_000_000_000_000;
/// Examples in one batch.
pub const MAX_BATCH: usize = 1 << 24;
/// Blocks of a model.
pub const MAX_LAYERS: usize = 1024;
/// Width of a model, its MLP or its heads.
pub const MAX_WIDTH: usize = 1 << 20;
/// Modulus of a modular task.
pub const MAX_MODULUS: u32 = 2048;
/// Digits of a number in an arithmetic task.
pub const MAX_DIGITS: usize = 200;
/// Types of brackets: as many as there are letters to name them.
pub const MAX_BRACKET_TYPES: usize = 26;
/// Brackets open at once.
pub const MAX_BRACKET_DEPTH: usize = 100;
/// Tokens of a string of brackets.
pub const MAX_BRACKETS: usize = 1024;
/// Tokens in a vocabulary.
pub const MAX_VOCABULARY: usize = 1 << 20;
/// Tokens in a sequence.
pub const MAX_LENGTH: usize = 1 << 20;
/// Tokens of one batch or of one evaluation set: examples times length.
pub const MAX_TOKENS_AT_ONCE: usize = 1 << 28;
/// Examples of one evaluation set.
pub const MAX_EVALUATION_EXAMPLES: usize = 1 << 20;
/// Sentences of a training set that is drawn from a grammar.
pub const MAX_TRAINING_SENTENCES: usize = 1 << 20;
/// Sentences of an evaluation set that is drawn from a grammar without repeats: few enough that no kind of them runs out.
pub const MAX_EVALUATION_SENTENCES: usize = 100_000;

/// Replicas trained together on one device.
pub const MAX_COHORT: usize = 1024;
/// Leases that one agent may hold: the cohort in training, the next one, and those whose last reports are on their way.
pub const MAX_HELD_LEASES: usize = 4 * MAX_COHORT;
/// Replicas in a cohort on a processor whose speed with this shape has not been measured.
pub const UNMEASURED_PROCESSOR_COHORT: u32 = 8;
/// Replicas in a cohort on a card whose speed with this shape has not been measured.
pub const UNMEASURED_CARD_COHORT: u32 = 64;
/// Bytes of one gRPC message (the receive limit set on every server and client).
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Connections to a coordinator at once; further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 4096;
/// Seconds a new connection may take to say its first byte.
pub const GREETING_SECONDS: u64 = 10;
/// Bytes of one message between an agent and its trainer child.
pub const MAX_PIPE_MESSAGE_BYTES: u32 = 64 << 20;
/// Bytes of one chunk of a checkpoint on the wire.
pub const CHECKPOINT_CHUNK_BYTES: usize = 512 << 10;
/// Bytes that must stay free on a coordinator's disk for new studies and checkpoints to be accepted: room to record what
/// already trains.
pub const MIN_FREE_DISK_BYTES: u64 = 16 << 20;
/// Seconds that files which no record names stay in a checkpoint store; longer than an upload may take.
pub const ORPHAN_GRACE_SECONDS: u64 = 7200;
/// Checkpoints of one trial kept around its transition.
pub const MAX_KEPT_AROUND_TRANSITION: u32 = 1000;
/// Bytes of a checkpoint's manifest.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// Bytes of one checkpoint file.
pub const MAX_CHECKPOINT_BYTES: u64 = 64 << 30;
/// Evaluations in one metrics chunk.
pub const MAX_CHUNK_EVALUATIONS: usize = 4096;
/// Metric names in one chunk.
pub const MAX_METRICS: usize = 16_384;
/// Bytes of one log line; longer lines are cut.
pub const MAX_LOG_LINE_BYTES: usize = 4096;
/// Log lines kept per trial.
pub const MAX_LOG_LINES_PER_TRIAL: u64 = 10_000;
/// Bytes kept of a reason that an agent reports; longer ones are cut.
pub const MAX_REPORTED_REASON_BYTES: usize = 2048;
/// Bytes of the reason given for a cancellation or a drain.
pub const MAX_CANCEL_REASON_BYTES: usize = 1024;
/// Events kept of the history of one trial, sweep or agent; older ones are dropped.
pub const MAX_HISTORY_EVENTS: u64 = 1000;

/// Seconds a lease lasts without renewal.
pub const LEASE_SECONDS: u64 = 60;
/// Seconds before a lease may end, by the clock of an agent that counts from before it sent the last renewal that was heard,
/// at which it tells its trainer to save and stop.
pub const LEASE_STOP_SECONDS: u64 = 15;
/// The same, at which it kills a trainer that has not stopped: more than a kill and the drift of two clocks take.
pub const LEASE_KILL_SECONDS: u64 = 5;
/// Seconds between renewals by an agent.
pub const RENEWAL_SECONDS: u64 = 15;
/// Seconds without progress after which a trial counts as stalled.
pub const STALL_SECONDS: u64 = 900;
/// Seconds of silence after which an agent that is not connected and holds no lease is forgotten.
pub const FORGET_AGENT_SECONDS: u64 = 86_400;
/// Attempts of one trial that may end in a crash before it is quarantined.
pub const MAX_CRASHES_PER_TRIAL: u32 = 3;
/// Seconds a trial that has crashed once waits before it is tried again on an agent it crashed on; doubled by each further
/// crash.
pub const FIRST_RETRY_SECONDS: u64 = 2;
/// Longest such wait, in seconds.
pub const LAST_RETRY_SECONDS: u64 = 300;
/// Agents that may be lost with one trial, without a new checkpoint between, before it is quarantined.
pub const MAX_LOSSES_PER_TRIAL: u32 = 10;
/// Different trials that may crash on one agent in a row before it is drained.
pub const MAX_CRASHES_PER_AGENT: usize = 3;
/// Agents that hold leases from which on a mass expiry, of more than half of them, is braked.
pub const EXPIRY_BRAKE_AGENTS: usize = 4;
/// Seconds between the ends of two silent agents' leases while a mass expiry is braked.
pub const EXPIRY_BRAKE_SECONDS: u64 = 30;
/// Times within [`SUPERSESSION_WINDOW_SECONDS`] that another process may take the name of a connected agent before the name
/// is drained.
pub const MAX_SUPERSESSIONS: usize = 3;
/// Seconds within which they are counted.
pub const SUPERSESSION_WINDOW_SECONDS: u64 = 60;
