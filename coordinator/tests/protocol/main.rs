//! The coordinator over the wire: real gRPC on loopback, scripted agents, real stores in temporary folders.

// Helper functions of tests are no `#[test]` themselves, so clippy's exception for tests does not reach them.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod access;
mod administration;
mod backup;
mod checkpoints;
mod damage;
mod disk;
mod forks;
mod leases;
mod names;
mod recovery;
mod retention;
mod support;
mod sweeps;
mod verify;
mod versions;
