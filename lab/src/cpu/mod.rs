//! Running programs on a processor.
//!
//! One replica at a time, so that its numbers stay in the cache of the core that trains it: the replica is the unit of
//! parallelism. Where there are fewer replicas than threads, a team of threads shares each operation: every part of the
//! team writes its own rows, and no number's arithmetic depends on how many parts there are. Nothing is allocated while a
//! program runs.
//!
//! Owns workspaces, the traffic between an operation and its numbers ([`Call`]), and teams. Knows no operation.

mod arena;
mod call;
mod executor;
mod feed;
mod kernel;
mod memory;
mod team;

pub use arena::Arena;
pub use call::{Call, Share};
pub use executor::Executor;
pub use feed::{Feed, MicroBatch, Sequences, SlotData};
pub use kernel::{CpuOperation, Kernel};
pub use team::Team;
