//! Amounts of memory: as written on the command line, and an agent's share of its machine's.

use crate::device::{self, Device};

/// Part of a machine's memory that its agents leave to everything else.
const LEFT: u64 = 10;

/// Reads `512M`, `4G`, `1.5T`, or a plain number of bytes; units are powers of 1024.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let problem = || format!("`{text}` is not an amount of memory: write e.g. 512M or 4G");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let exponent = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 1,
        "M" | "MB" | "MIB" => 2,
        "G" | "GB" | "GIB" => 3,
        "T" | "TB" | "TIB" => 4,
        _ => return Err(problem()),
    };
    let number: f64 = digits.parse().map_err(|_| problem())?;
    let bytes = number * 1024_f64.powi(exponent);
    if bytes.is_finite() && (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(problem()) }
}

/// What an agent on a processor may take where it is not told: its threads' part of nine tenths of the memory of the
/// machine (or of the control group it runs in). Of a card's memory the agent is not told here: the card itself says
/// when it is full.
pub fn share(device: Device, threads: usize) -> Option<u64> {
    if device != Device::Cpu {
        return None;
    }
    let total = [machine(), control_group()].into_iter().flatten().min()?;
    let part = threads.min(device::cores()) as f64 / device::cores() as f64;
    Some(((total - total / LEFT) as f64 * part) as u64)
}

fn machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn control_group() -> Option<u64> {
    // "max" where there is no limit.
    std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory_are_read_with_their_units() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("512M"), Ok(512 << 20));
        assert_eq!(parse_bytes("1.5G"), Ok(3 << 29));
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        for wrong in ["", "G", "-1G", "0", "4X", "1e400", "NaN", "4 G"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn agents_of_all_cores_together_leave_a_tenth() {
        let cores = device::cores();
        let (one, all) = (share(Device::Cpu, 1), share(Device::Cpu, cores));
        if let (Some(one), Some(all)) = (one, all) {
            assert!(one * cores as u64 <= all + cores as u64 && all < machine().unwrap());
            assert_eq!(share(Device::Cpu, cores + 5), Some(all), "no more than there is");
        }
        assert_eq!(share(Device::Cuda(0), 1), None);
    }
}
