//! Measurements: of training speed (workloads of any shape, trained through the lab's public interface, and what the
//! machine could do at best) and of the coordinator under load.
//!
//! Owns how Plateau's side is measured. Leaves the peers and the comparison to the scripts beside it
//! (`bench/README.md`).

pub mod machine;
pub mod service;
pub mod training;
pub mod workload;

use std::path::Path;

/// Most memory this process has held in RAM so far, in bytes; `None` where the system does not tell (only Linux does).
pub fn peak_memory_bytes() -> Option<u64> {
    peak_memory_bytes_of("self")
}

/// [`peak_memory_bytes`] of the process with this number.
fn peak_memory_bytes_of(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(process).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Processor time this process has used on all threads, in seconds; `None` where the system does not tell (only Linux
/// does).
pub fn processor_seconds() -> Option<f64> {
    processor_seconds_of("self")
}

/// [`processor_seconds`] of the process with this number.
fn processor_seconds_of(process: &str) -> Option<f64> {
    /// Clock ticks per second of `/proc`, fixed on Linux.
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string(Path::new("/proc").join(process).join("stat")).ok()?;
    // The second field, in parentheses, may hold anything; user and system time are the 12th and 13th after it.
    let mut fields = text.rsplit(')').next()?.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}
