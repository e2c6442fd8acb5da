//! Whole-system tests: the real binary, real processes, real training.

mod access;
mod cohorts;
mod descriptors;
mod failures;
mod faults;
mod forks;
mod python;
mod run;
mod storage;
mod three_processes;

use plateau_tests::Bench;
use plateau_tests::outcome::{Results, all_different, metrics, results, trials};

/// The binary under test in a fresh folder.
pub fn bench() -> anyhow::Result<Bench> {
    Bench::new(env!("CARGO_BIN_EXE_plateau-tested"))
}
