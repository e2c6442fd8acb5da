//! The domain of Plateau: what a study, a trial, an ending and a checkpoint *are*.
//!
//! Owns the vocabulary every other crate speaks: study files and their expansion, resolved trial configurations and
//! their identity, the life of a trial, metrics, checkpoint manifests, limits, named random streams, and the tasks
//! (which are pure functions of a seed and a step and therefore need no tensor library).
//!
//! Deliberately absent: asynchronous runtimes, networking, candle, and any input or output.

pub mod bytes;
pub mod checkpoint;
pub mod config;
pub mod cost;
pub mod failure;
pub mod fields;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod positions;
pub mod prediction;
pub mod random;
pub mod results;
pub mod study;
pub mod tasks;
pub mod throughput;
pub mod trace;
pub mod trial;
