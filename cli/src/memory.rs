//! An agent's share of its machine's memory.

use crate::device::{self, Device};

/// Part of a machine's memory that its agents leave to everything else.
const LEFT: u64 = 10;

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
