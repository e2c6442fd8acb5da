//! What trains and evaluates the replicas of a shard: the one interface of processors and cards.
//!
//! Owns parameters and optimiser state of its replicas, in the device's memory. Knows no task, no steps to go and no
//! checkpoints.

#[cfg(feature = "cuda")]
mod card;
mod processor;
mod workbench;

pub(crate) use workbench::Workbench;

use plateau_common::config::Pass;
use plateau_common::random::StreamFamily;
use plateau_common::tasks::{Batch, Scale};

use crate::data::Chance;
use crate::error::LabError;
use crate::optimizer::ReplicaRule;
use crate::program::Layout;

/// How a replica's update went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Loss before the update.
    pub loss: f64,
    /// Norm of its gradient before clipping.
    pub norm: f64,
    /// The update that could not be made, since loss or gradient were not finite; the replica is as it was before.
    pub diverged_at: Option<u64>,
}

/// What an update is made of, for all replicas of an engine.
pub(crate) struct Step<'a> {
    /// Number of the update, from 1.
    pub update: u64,
    /// The schedule's multiplier of learning rates.
    pub multiplier: f64,
    /// Each replica's batch; all of one size.
    pub batches: &'a [Batch],
    /// Whether the batches differ from the last update's.
    pub fresh: bool,
    /// Units of scalar targets.
    pub scales: &'a [Scale],
    /// The passes it consists of; one, but for a progressive loss.
    pub passes: &'a [Pass],
    /// Probability of dropout, where the model has it.
    pub dropout: Option<f64>,
    /// Whether positions are random.
    pub renumbers: bool,
    /// Where each replica's chance comes from.
    pub streams: &'a [Streams],
}

/// A replica's streams beside its data.
#[derive(Clone)]
pub(crate) struct Streams {
    pub dropout: StreamFamily,
    pub positions: StreamFamily,
}

impl Step<'_> {
    /// Whether something but the batch differs from update to update.
    pub fn is_random(&self) -> bool {
        self.dropout.is_some() || self.renumbers
    }

    /// The chance of the replica at `place`; the same for every pass.
    pub fn chance(&self, place: usize) -> Chance {
        let streams = &self.streams[place];
        Chance {
            dropout: self.dropout.map(|probability| (probability, streams.dropout.at(self.update))),
            positions: self.renumbers.then(|| streams.positions.at(self.update)),
        }
    }
}

/// How an evaluation reads the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Sequences as long as in training, all recurrences.
    Usual,
    /// Sequences of any length (`longest` tokens at most), so many recurrences; nothing is kept for a backward pass.
    Any { longest: usize, recurrences: usize },
}

/// Outputs of some rows, in the device's precision.
#[derive(Clone, Copy)]
pub(crate) enum Outputs<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

/// The state of one replica, in the layout's order; exact in 64 bits whatever the device's precision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub parameters: Vec<f64>,
    /// As many as the rule has names for.
    pub moments: Vec<Vec<f64>>,
    /// Norm of the last gradient; not a number before the first update.
    pub last_norm: f64,
}

/// Trains and evaluates replicas.
pub(crate) trait Engine {
    /// Where parameters lie.
    fn layout(&self) -> &Layout;

    /// Queues an update of every replica; one whose loss or gradient is not finite keeps its parameters, now and in later
    /// updates.
    fn update(&mut self, step: &Step<'_>) -> Result<(), LabError>;

    /// Updates after which [`Engine::outcomes`] should be asked: 1 where asking costs nothing.
    fn patience(&self) -> u64;

    /// How the last updates went; waits for them.
    fn outcomes(&mut self) -> Result<&[Outcome], LabError>;

    /// Outputs for a batch of any size, given the unit of its targets and how it is read, in stretches of rows: `visit(first row, outputs)`.
    fn evaluate(
        &mut self,
        replica: usize,
        batch: &Batch,
        how: (Scale, Reading),
        visit: &mut dyn FnMut(usize, Outputs<'_>),
    ) -> Result<(), LabError>;

    /// A replica's state.
    fn state(&self, replica: usize) -> Result<State, LabError>;

    /// Keeps only the replicas that stay, in their order.
    fn keep(&mut self, stays: &[bool]) -> Result<(), LabError>;
}

/// A replica to be trained.
pub(crate) struct Recruit {
    pub rule: ReplicaRule,
    pub state: State,
}
