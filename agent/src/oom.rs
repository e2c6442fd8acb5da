//! Whether the kernel killed for lack of memory: the counter of such kills, before and after.
//!
//! The counter of the agent's own control group where there is one, which the trainer shares; else that of the machine. A
//! kill of somebody else in the same group looks the same, so it counts only together with the trainer's own end by SIGKILL.

use std::path::{Path, PathBuf};

/// A counter that can be read, and what it said at first.
#[derive(Debug)]
pub struct OomKills {
    counter: Option<PathBuf>,
    before: u64,
}

impl OomKills {
    /// Begins to count.
    pub fn watch() -> Self {
        let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::among(counters(&group))
    }

    fn among(candidates: Vec<PathBuf>) -> Self {
        let found = candidates.into_iter().find_map(|path| read(&path).map(|before| (path, before)));
        let (counter, before) = found.map_or((None, 0), |(path, before)| (Some(path), before));
        OomKills { counter, before }
    }

    /// Whether there were any since.
    pub fn happened(&self) -> bool {
        self.counter.as_deref().and_then(read).is_some_and(|now| now > self.before)
    }
}

/// Where the counter may be, best first: control groups of version 2, of version 1, the whole machine.
fn counters(group: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in group.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if number == "0" && controllers.is_empty() {
            found.push(Path::new("/sys/fs/cgroup").join(path).join("memory.events"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            found.push(Path::new("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"));
        }
    }
    found.push(PathBuf::from("/proc/vmstat"));
    found
}

/// The number after `oom_kill`, which all three kinds of files have on a line of its own.
fn read(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_73_kills_of_the_kernel_are_counted_in_the_nearest_group() {
        let paths = |group| -> Vec<String> {
            counters(group).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            paths("0::/user.slice/job\n"),
            ["/sys/fs/cgroup/user.slice/job/memory.events", "/proc/vmstat"]
        );
        assert_eq!(
            paths("3:cpu,memory:/slurm/42\n0::\nnonsense\n"),
            [
                "/sys/fs/cgroup/memory/slurm/42/memory.oom_control",
                "/sys/fs/cgroup/memory.events",
                "/proc/vmstat"
            ]
        );
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("memory.events");
        let write = |kills: u32| {
            let text = format!("low 0\noom 7\noom_kill {kills}\noom_group_kill 9\n");
            std::fs::write(&events, text).unwrap();
        };
        write(3);
        let kills = OomKills::among(vec![folder.path().join("absent"), events.clone()]);
        assert!(!kills.happened());
        write(4);
        assert!(kills.happened());
        // Where nothing can be read nothing is claimed.
        assert!(!OomKills::among(vec![folder.path().join("absent")]).happened());
    }
}
