//! The coordinator of Plateau: accepts studies, leases trials to agents, records what they report.
//!
//! `core` decides (pure), `engine` owns the state on one thread and makes every decision durable before it leaves,
//! `store` is SQLite, `checkpoints` the object store, `chunk` the stored form of metrics, `rpc` the gRPC services, `verify` looks
//! over a directory at rest, `backup` copies one, `retention` deletes what nothing names. [`start`] puts them together.
//!
//! `machine` is what a simulation replaces.
//!
//! `access` decides who may call what. Deliberately absent: training and tensors; statistics.

pub mod access;
pub mod backup;
pub mod checkpoints;
mod chunk;
pub mod core;
pub mod disk;
pub mod engine;
pub mod failpoint;
pub mod machine;
mod retention;
pub mod rpc;
mod service;
pub mod store;
pub mod verify;
pub mod wire;

pub use machine::Machine;
pub use service::{Options, Running, start, start_on};
