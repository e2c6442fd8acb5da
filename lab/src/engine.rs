//! What trains and evaluates the replicas of a shard: the one interface of processors and cards.
//!
//! Owns parameters and optimiser state of its replicas, in the device's memory. Knows no task, no steps to go and no
//! checkpoints.

#[cfg(feature = "cuda")]
mod card;
mod processor;
mod workbench;

pub(crate) use workbench::Workbench;

use plateau_common::random::StreamFamily;
use plateau_common::tasks::{Batch, Scale};

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
    /// Where dropout factors are drawn from, where the model has dropout.
    pub dropout: Option<(f64, &'a [StreamFamily])>,
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

    /// Outputs for a batch of any size, in stretches of rows: `visit(first row, outputs)`.
    fn evaluate(
        &mut self,
        replica: usize,
        batch: &Batch,
        scale: Scale,
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
