//! Running programs on NVIDIA cards, for K replicas at once.
//!
//! A program is turned into a list of commands (kernel launches, matrix products, copies) over memory that is taken once;
//! a whole update is captured as one CUDA graph. Kernels are our own (`lab/kernels`), matrix products are cuBLAS's; both and
//! the driver are loaded at run time, so the same binary starts on machines without them.
//!
//! Owns the card: context, memory, kernels, commands, and how each operation is said in them. Knows no model, data or files.

#![allow(unsafe_code, reason = "drivers are called through pointers; every block says why it is sound")]

mod commands;
mod device;
mod error;
mod executor;
mod feed;
mod kernels;
mod library;
mod lower;
mod memory;
mod operations;
mod passes;

pub use commands::MatrixMode;
pub use device::CudaDevice;
pub use error::CudaError;
pub use executor::{Executor, Moment, Outcome, PassPlace};
pub use library::{Card, cards, require_cublas};
