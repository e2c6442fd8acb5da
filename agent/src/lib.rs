//! The agent: the process that owns one device.
//!
//! It keeps a session with the coordinator (`link`), holds the leases of the cohort in training and, when that is about to
//! end, of the next one (`cohort`), has them trained by a child process that stays warm across cohorts and is thrown away
//! after any error (`child`, `trainer`, `training`; how it broke: `classify`, `oom`, `driver_log`), and passes metrics, checkpoints and endings on in an order that makes
//! a resumed trial complete (`reporter`).
//!
//! `machine` is what a simulation replaces: network, files, what trains.
//!
//! Owns no decision about what runs where, and trusts no lease: every report carries its attempt number and the
//! coordinator may refuse it.

mod agent;
mod backoff;
mod calibration;
mod child;
mod classify;
mod cohort;
#[cfg(feature = "trainer")]
mod device;
mod driver_log;
mod environment;
mod files;
mod link;
pub mod machine;
mod oom;
pub mod pipe;
mod prepare;
mod reporter;
#[cfg(feature = "trainer")]
mod trainer;
mod training;
mod transfer;

use std::path::PathBuf;

pub use agent::{run, run_on};
pub use calibration::{Measured, measure};
pub use classify::End;
pub use driver_log::KERNEL_LOG;
#[cfg(feature = "trainer")]
pub use trainer::trainer_main;

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// URL of the coordinator, e.g. `http://127.0.0.1:7733`.
    pub coordinator: String,
    /// What is needed to reach it beyond loopback.
    pub credentials: plateau_proto::connection::Credentials,
    /// Name, unique among live agents.
    pub name: String,
    /// `"cpu"` or `"cuda:N"`.
    pub device: String,
    /// The device in words, for people (`plateau agents`).
    pub device_description: String,
    /// Threads of a CPU device.
    pub threads: usize,
    /// Largest cohort to ask for.
    pub max_cohort: u32,
    /// Bytes that cohorts may take on the device; `None`: not known.
    pub memory_bytes: Option<u64>,
    /// Folder for checkpoints on their way; a folder of this process is made inside and removed at the end.
    pub work_dir: PathBuf,
    /// Executable whose `trainer` subcommand is the trainer child (normally this very executable).
    pub trainer_program: PathBuf,
    /// File that the trainer child appends its log to, as JSON lines.
    pub log_file: Option<PathBuf>,
    /// Where the driver's events are read; `None`: the device has no such driver.
    pub driver_log: Option<DriverLog>,
}

/// Where the events of a card's driver are read.
#[derive(Clone, Debug)]
pub struct DriverLog {
    /// [`KERNEL_LOG`], or a file that the system's logger writes.
    pub file: PathBuf,
    /// Address of the card on the bus, e.g. `0000:3b:00`; events of others are left alone.
    pub card: String,
}
