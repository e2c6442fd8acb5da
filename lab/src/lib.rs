//! Training: tensors, fused operations, models, optimisers, probes, checkpoints.
//!
//! Everything has a leading replica dimension K: parameters `[K, …]`, activations `[K, rows, width]`, losses `[K]`,
//! per-replica learning rates, weight decays and clipping. On one type of processor a trial ends with the same bits alone
//! or in any cohort, on one thread or many, uninterrupted or resumed. Leaves leases, processes and the network to others.

pub mod checkpoint;
mod data;
mod error;
mod evaluate;
mod float;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod probes;
mod train;
mod trained;

pub use error::LabError;
pub use train::{Control, DeviceChoice, Member, Observer, train_cohort};
pub use trained::{TrainedModel, load_model};
