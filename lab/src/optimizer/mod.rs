//! Optimisers: Adam, AdamW, SGD, each replica with its own learning rate, weight decay and clipping.
//!
//! The rules follow PyTorch's definitions (bias correction, momentum, order of decay and update). Owns the arithmetic of one
//! update over a stretch of a replica's arena and the names of the state; the memory belongs to the device that trains.

mod rule;

pub use rule::{ReplicaRule, Stretch, square_sum, update};
