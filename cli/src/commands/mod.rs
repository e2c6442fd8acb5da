//! The commands: one file per verb, one line in the list below.

pub mod agent;
pub mod agents;
pub mod backup;
pub mod cancel;
pub mod check;
pub mod checkpoint;
pub mod completion;
pub mod coordinator;
pub mod delete;
pub mod devices;
pub mod drain;
pub mod explain;
pub mod export;
pub mod extend;
pub mod fork;
pub mod gc;
pub mod keys;
pub mod list;
pub mod logs;
pub mod pause;
pub mod report;
pub mod requeue;
pub mod resume;
pub mod run;
pub mod show;
pub mod submit;
pub mod trainer;
pub mod trials;
pub mod undrain;
pub mod verify;
pub mod watch;

use std::future::Future;

use anyhow::Context as _;
use clap::Subcommand;
use plateau_proto::connection::Credentials;

use crate::client::{Connection, DataDirectory, Target};
use crate::exit::Outcome;
use crate::output::Output;

/// What every command is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where answers go.
    pub output: Output,
    /// The address of the coordinator.
    pub coordinator: String,
    /// Whether that address was given on this command line (not by the environment or the default).
    pub coordinator_named: bool,
    /// What is needed to reach it beyond loopback.
    pub credentials: Credentials,
    /// File that this process logs to, if any.
    pub log_file: Option<std::path::PathBuf>,
}

impl Context {
    /// The coordinator that a command is about.
    pub fn target(&self, data: &DataDirectory) -> Target {
        Target {
            coordinator: self.coordinator.clone(),
            data_dir: data.data_dir.clone(),
            credentials: self.credentials.clone(),
        }
    }

    /// Connects to the coordinator that a command is about.
    pub async fn connect(&self, data: &DataDirectory) -> anyhow::Result<Connection> {
        self.target(data).connect().await
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a study on this machine and write its report; run again to continue
    Run(run::Arguments),
    /// Check a study and say what it holds and costs, without running it
    Check(check::Arguments),
    /// Submit a study to a coordinator
    Submit(submit::Arguments),
    /// List all sweeps
    List(list::Arguments),
    /// Show one sweep
    Show(show::Arguments),
    /// List the trials of a sweep
    Trials(trials::Arguments),
    /// Follow a sweep until it ends
    Watch(watch::Arguments),
    /// Cancel a sweep; what is done is kept
    Cancel(cancel::Arguments),
    /// Delete a sweep: its results, metrics and checkpoints
    Delete(delete::Arguments),
    /// Stop a sweep for a while; its trials save checkpoints
    Pause(pause::Arguments),
    /// Let a paused sweep go on
    Resume(resume::Arguments),
    /// Add seeds or steps to a sweep; only the difference runs
    Extend(extend::Arguments),
    /// Start new trials from a checkpoint of another one, with something changed
    Fork(fork::Arguments),
    /// Try failed, quarantined or diverged trials again
    Requeue(requeue::Arguments),
    /// Say why a sweep, trial or agent is where it is
    Explain(explain::Arguments),
    /// Show the log of a trial
    Logs(logs::Arguments),
    /// Write the report of a sweep: statistics, figures, tables
    Report(report::Arguments),
    /// Write the trials and metrics of a sweep as CSV or Parquet
    Export(export::Arguments),
    /// List or fetch the checkpoints of a trial
    Checkpoint(checkpoint::Arguments),
    /// List the agents of a coordinator
    Agents(agents::Arguments),
    /// Give an agent nothing more; what it trains it finishes
    Drain(drain::Arguments),
    /// Give a drained agent trials again
    Undrain(undrain::Arguments),
    /// List the devices of this machine
    Devices(devices::Arguments),
    /// Check that everything a data directory promises to hold is there and whole
    Verify(verify::Arguments),
    /// Delete checkpoints that nothing needs any more
    Gc(gc::Arguments),
    /// Copy a data directory, also while its coordinator works
    Backup(backup::Arguments),
    /// Run a coordinator
    Coordinator(coordinator::Arguments),
    /// Run an agent, which owns one device and trains on it
    Agent(agent::Arguments),
    /// Make certificates and tokens for a coordinator that listens beyond loopback
    Keys(keys::Arguments),
    /// Print a completion script for a shell
    Completion(completion::Arguments),
    /// The trainer child of an agent; speaks the agent's protocol on standard input and output
    #[command(hide = true)]
    Trainer(trainer::Arguments),
}

impl Command {
    /// What this command logs to standard error unless told otherwise.
    pub fn log_filter(&self) -> &'static str {
        match self {
            Command::Coordinator(arguments) => arguments.parent.log_filter(),
            Command::Agent(arguments) => arguments.parent.log_filter(),
            _ => "warn",
        }
    }

    /// Does it.
    pub fn run(self, context: &Context) -> Outcome {
        match self {
            Command::Run(arguments) => wait(run::run(&arguments, context)),
            Command::Check(arguments) => wait(check::run(&arguments, context)),
            Command::Submit(arguments) => wait(submit::run(&arguments, context)),
            Command::List(arguments) => wait(list::run(&arguments, context)),
            Command::Show(arguments) => wait(show::run(&arguments, context)),
            Command::Trials(arguments) => wait(trials::run(&arguments, context)),
            Command::Watch(arguments) => wait(watch::run(&arguments, context)),
            Command::Cancel(arguments) => wait(cancel::run(&arguments, context)),
            Command::Delete(arguments) => wait(delete::run(&arguments, context)),
            Command::Pause(arguments) => wait(pause::run(&arguments, context)),
            Command::Resume(arguments) => wait(resume::run(&arguments, context)),
            Command::Extend(arguments) => wait(extend::run(&arguments, context)),
            Command::Fork(arguments) => wait(fork::run(&arguments, context)),
            Command::Requeue(arguments) => wait(requeue::run(&arguments, context)),
            Command::Explain(arguments) => wait(explain::run(&arguments, context)),
            Command::Logs(arguments) => wait(logs::run(&arguments, context)),
            Command::Report(arguments) => wait(report::run(&arguments, context)),
            Command::Export(arguments) => wait(export::run(&arguments, context)),
            Command::Checkpoint(arguments) => wait(checkpoint::run(&arguments, context)),
            Command::Agents(arguments) => wait(agents::run(&arguments, context)),
            Command::Drain(arguments) => wait(drain::run(&arguments, context)),
            Command::Undrain(arguments) => wait(undrain::run(&arguments, context)),
            Command::Devices(arguments) => devices::run(&arguments, context),
            Command::Verify(arguments) => wait(verify::run(&arguments, context)),
            Command::Gc(arguments) => wait(gc::run(&arguments, context)),
            Command::Backup(arguments) => wait(backup::run(&arguments, context)),
            Command::Coordinator(arguments) => wait(coordinator::run(&arguments, context)),
            Command::Agent(arguments) => wait(agent::run(&arguments, context)),
            Command::Keys(arguments) => keys::run(&arguments, context),
            Command::Completion(arguments) => completion::run(&arguments, context),
            // The trainer owns its threads and uses no runtime.
            Command::Trainer(arguments) => trainer::run(&arguments),
        }
    }
}

/// Runs an asynchronous command to its end.
fn wait(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let outcome = runtime.block_on(command);
    // A read of standard input that is still blocked must not hold up the end.
    runtime.shutdown_background();
    outcome
}
