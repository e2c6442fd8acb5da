//! Training: tensors, fused operations, models, optimisers, probes, checkpoints.
//!
//! Everything has a leading replica dimension K: parameters `[K, …]`, activations `[K, rows, width]`, losses `[K]`,
//! per-replica learning rates, weight decays and clipping. On one type of processor a trial ends with the same bits alone
//! or in any cohort, on one thread or many, uninterrupted or resumed. Leaves leases, processes and the network to others.

mod calibrate;
pub mod checkpoint;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod data;
mod engine;
mod error;
mod evaluate;
mod float;
pub mod model;
mod network;
pub mod ops;
pub mod optimizer;
pub mod probes;
pub mod program;
mod train;
mod trained;
mod vector;

pub use calibrate::calibrate;
pub use error::LabError;
pub use network::Network;
pub use train::{Control, DeviceChoice, Member, Observer, train_cohort, train_cohort_within};
pub use trained::{TrainedModel, load_model};
