//! The coordinator over the wire: real gRPC on loopback, scripted agents, real stores in temporary folders.

mod checkpoints;
mod leases;
mod recovery;
mod support;
mod sweeps;
