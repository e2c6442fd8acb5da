//! One child process of `plateau run`: a coordinator or an agent, the same executable in another role.
//!
//! A child is stopped by closing its standard input (see `interrupt::parent_gone`), so it also stops when this process
//! dies, however it dies. Children are in process groups of their own: a Ctrl-C on the terminal reaches `plateau run`
//! only, which then stops them in order.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Last lines of a child's standard error that are kept to explain its death.
const KEPT_LINES: usize = 20;

/// A running child.
pub struct ChildProcess {
    /// Its name, also of its log file.
    pub name: String,
    /// Its log.
    pub log: PathBuf,
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    complaints: Arc<Mutex<VecDeque<String>>>,
}

impl ChildProcess {
    /// Starts `program` with these arguments; it logs to `log`.
    pub fn start(program: &Path, name: &str, log: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg("--log-file")
            .arg(log)
            .args(arguments)
            .arg("--exit-with-parent")
            .env_remove("PLATEAU_COORDINATOR")
            .env_remove("PLATEAU_CA")
            .env_remove("PLATEAU_TOKEN_FILE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut process = command
            .spawn()
            .with_context(|| format!("starting `{} {}`", program.display(), arguments.join(" ")))?;
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(keep_last_lines(stderr, complaints.clone()));
        }
        Ok(ChildProcess {
            name: name.to_owned(),
            log: log.to_owned(),
            stdin: process.stdin.take(),
            stdout: process.stdout.take().map(|stdout| BufReader::new(stdout).lines()),
            process,
            complaints,
        })
    }

    /// The next line the child prints; an error with its last complaints if it ends instead.
    pub async fn next_line(&mut self) -> anyhow::Result<String> {
        let stdout = self.stdout.as_mut().context("the child's output is not captured")?;
        match stdout.next_line().await.with_context(|| format!("listening to {}", self.name))? {
            Some(line) => Ok(line),
            None => {
                let status =
                    self.process.wait().await.with_context(|| format!("waiting for {}", self.name))?;
                Err(self.death(status))
            }
        }
    }

    /// Waits for the child to end.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.wait().await.with_context(|| format!("waiting for {}", self.name))
    }

    /// An ending nobody asked for, in words.
    pub fn death(&self, status: ExitStatus) -> anyhow::Error {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!("the {} ended unexpectedly ({status})", self.name);
        for line in complaints.iter() {
            text.push_str(&format!("\n  {}", crate::words::one_line(line)));
        }
        anyhow!("{text}\n  its log: {}", self.log.display())
    }

    /// Asks the child to finish what it is doing and to leave.
    pub fn ask_to_stop(&mut self) {
        self.stdin = None;
    }

    /// Waits up to `patience` for a child that was asked to stop, then kills it. Whether it left by itself.
    pub async fn stopped(&mut self, patience: Duration) -> bool {
        match tokio::time::timeout(patience, self.process.wait()).await {
            Ok(_) => true,
            Err(_) => {
                self.kill().await;
                false
            }
        }
    }

    /// Ends the child at once.
    pub async fn kill(&mut self) {
        // An error here means that it has ended already.
        let _ = self.process.kill().await;
    }
}

async fn keep_last_lines(stderr: impl AsyncRead + Unpin, kept: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(%line, "child");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `sh` stands in for the program here: what is tested is the handling of any child. Arguments before the script are
    // those every child gets.
    fn shell(folder: &Path, script: &str) -> ChildProcess {
        let program = folder.join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mut permissions = std::fs::metadata(&program).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        std::fs::set_permissions(&program, permissions).unwrap();
        ChildProcess::start(&program, "agent cpu-1", &folder.join("log"), &[]).unwrap()
    }

    #[tokio::test]
    async fn closing_standard_input_stops_a_child_that_listens() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "echo ready\ncat > /dev/null\nexit 0");
        assert_eq!(child.next_line().await.unwrap(), "ready");
        child.ask_to_stop();
        assert!(child.ended().await.unwrap().success());
    }

    #[tokio::test]
    async fn a_child_that_dies_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "echo 'no such device' >&2\nexit 7");
        let text = child.next_line().await.unwrap_err().to_string();
        assert!(text.contains("the agent cpu-1 ended unexpectedly (exit status: 7)"), "{text}");
        assert!(text.contains("its log: "), "{text}");
    }

    #[tokio::test]
    async fn a_deaf_child_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "exec sleep 600");
        child.ask_to_stop();
        assert!(!child.stopped(Duration::from_millis(100)).await);
    }
}
