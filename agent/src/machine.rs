//! What an agent takes from the machine it runs on, and where a simulation puts in its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plateau_machine::{Execution, Names};
use plateau_proto::connection::{Channel, Route};
use plateau_proto::v1::{TrainerEvent, trainer_command};

use crate::AgentOptions;
use crate::child::TrainerChild;
use crate::classify::End;

/// What an agent takes from the machine it runs on.
#[derive(Clone)]
pub struct Machine {
    /// Where files are read and written.
    pub execution: Execution,
    /// Names of the agent's starts.
    pub names: Names,
    /// The way to the coordinator.
    pub network: Arc<dyn Network>,
    /// What trains.
    pub trainers: Arc<dyn Trainers>,
}

impl Machine {
    /// This one, with the trainer that the options name.
    pub fn real(options: &AgentOptions) -> Self {
        Machine {
            execution: Execution::Threads,
            names: Names::random(),
            network: Arc::new(Tcp),
            trainers: Arc::new(Children {
                program: options.trainer_program.clone(),
                log_file: options.log_file.clone(),
            }),
        }
    }
}

/// A network with a coordinator in it.
pub trait Network: Send + Sync {
    /// A channel that connects when it is used, and again whenever it has lost its connection.
    fn channel(&self, route: &Route) -> Channel;
}

struct Tcp;

impl Network for Tcp {
    fn channel(&self, route: &Route) -> Channel {
        route.connect_lazy()
    }
}

/// Starts what trains.
pub trait Trainers: Send + Sync {
    /// A trainer that works in `folder`.
    fn start(&self, folder: &Path) -> anyhow::Result<Box<dyn Trainer>>;
}

/// What trains; dropped, it trains no more.
#[tonic::async_trait]
pub trait Trainer: Send {
    /// Sends a command.
    async fn command(&mut self, body: trainer_command::Body) -> anyhow::Result<()>;
    /// The next event; `None` when it is gone. Cancel-safe.
    async fn event(&mut self) -> Option<TrainerEvent>;
    /// Kills it; whether it is gone then.
    async fn kill(self: Box<Self>) -> bool;
    /// How one that is gone ended, for a person and for its class.
    async fn obituary(self: Box<Self>) -> (String, End);
}

/// Trainers that are child processes.
struct Children {
    program: PathBuf,
    log_file: Option<PathBuf>,
}

impl Trainers for Children {
    fn start(&self, folder: &Path) -> anyhow::Result<Box<dyn Trainer>> {
        Ok(Box::new(TrainerChild::start(&self.program, folder, self.log_file.as_deref())?))
    }
}
