//! A coordinator's process: started, watched through `/proc`, stopped or killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Longest wait for a coordinator to listen or to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks.
const POLL: Duration = Duration::from_millis(1);

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Seconds of processor time, in user and in kernel mode together, on all threads.
    pub processor_seconds: f64,
    /// Bytes it made the disk write.
    pub written_bytes: u64,
}

/// A running `plateau coordinator`; killed when dropped.
pub struct Coordinator {
    /// What was started: the coordinator, or a program around it.
    child: Child,
    /// Process id of the coordinator itself.
    pid: u32,
    /// Its address.
    pub url: String,
    data: PathBuf,
}

impl Coordinator {
    /// Starts `program coordinator` on `data` at `listen` and returns at once.
    ///
    /// `program` may have words in front, such as those of a tracer.
    pub fn spawn(program: &[String], data: &Path, listen: &str) -> anyhow::Result<Child> {
        let (first, rest) = program.split_first().context("no program was named")?;
        let mut command = Command::new(first);
        command.args(rest).arg("coordinator").arg("--data-dir").arg(data).args(["--listen", listen]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("starting `{first}`"))
    }

    /// Starts it on a free port and waits until it listens.
    pub fn start(program: &[String], data: &Path) -> anyhow::Result<Self> {
        Self::adopt(Self::spawn(program, data, "127.0.0.1:0")?, data)
    }

    /// Waits until what was spawned listens.
    pub fn adopt(mut child: Child, data: &Path) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let file = data.join("coordinator.json");
        loop {
            if let Some(status) = child.try_wait().context("watching the coordinator")? {
                anyhow::bail!("the coordinator of {} ended: {status}", data.display());
            }
            let text = std::fs::read_to_string(&file).ok();
            let said: Option<serde_json::Value> = text.and_then(|text| serde_json::from_str(&text).ok());
            let address =
                said.as_ref().and_then(|said| Some((said["address"].as_str()?, said["pid"].as_u64()?)));
            // A killed predecessor leaves its file behind.
            if let Some((address, pid)) = address
                && Path::new(&format!("/proc/{pid}")).exists()
            {
                let (url, pid) = (format!("http://{address}"), u32::try_from(pid).context("the process id")?);
                return Ok(Coordinator { child, pid, url, data: data.to_owned() });
            }
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "the coordinator of {} does not listen",
                data.display()
            );
            std::thread::sleep(POLL);
        }
    }

    /// What it has used so far; zeros where the system does not tell (only Linux does).
    pub fn usage(&self) -> Usage {
        let processor_seconds = crate::processor_seconds_of(&self.pid.to_string()).unwrap_or(0.0);
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid)).unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        let written_bytes = written.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        Usage { processor_seconds, written_bytes }
    }

    /// Most memory it has held so far, in bytes.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        crate::peak_memory_bytes_of(&self.pid.to_string())
    }

    /// Asks it to stop and waits until it has: everything is in the database file then.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.signal("TERM")?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("watching the coordinator")? {
                anyhow::ensure!(
                    status.success(),
                    "the coordinator of {} ended: {status}",
                    self.data.display()
                );
                return Ok(());
            }
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "the coordinator of {} does not end",
                self.data.display()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Kills it, as a power cut would.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.signal("KILL")?;
        self.child.wait().context("waiting for the killed coordinator")?;
        Ok(())
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid.to_string()]).status();
        let status = status.context("running `kill`")?;
        anyhow::ensure!(status.success(), "the coordinator could not be sent SIG{name}");
        Ok(())
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // Where it has ended already, there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
