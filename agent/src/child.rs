//! The trainer child process: started when first needed, kept warm, thrown away after any error.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use plateau_proto::v1::{TrainerCommand, TrainerEvent, trainer_command};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::classify::End;
use crate::machine::Trainer;
use crate::oom::OomKills;
use crate::{environment, pipe};

/// Last lines of the child's standard error that a crash report quotes.
const KEPT_LINES: usize = 20;
/// How long a child that was killed may take to be gone; one that takes longer hangs in the kernel.
const KILLING: Duration = Duration::from_secs(10);
/// Events waiting to be handled; beyond it the child waits.
const QUEUE: usize = 256;

/// A running trainer child.
pub struct TrainerChild {
    process: Child,
    commands: ChildStdin,
    events: mpsc::Receiver<TrainerEvent>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    kills: OomKills,
}

impl TrainerChild {
    /// Starts `program trainer` in `folder`, with a clean environment; it logs to `log_file` too.
    pub fn start(program: &Path, folder: &Path, log_file: Option<&Path>) -> anyhow::Result<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("finding out where {} is", path.display()))
        };
        let mut command = Command::new(absolute(program)?);
        environment::confine(&mut command, folder);
        command.arg("trainer");
        if let Some(path) = log_file {
            command.arg("--log-file").arg(absolute(path)?);
        }
        let kills = OomKills::watch();
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting the trainer {}", program.display()))?;
        let commands = process.stdin.take().context("the trainer has no standard input")?;
        let mut output = process.stdout.take().context("the trainer has no standard output")?;
        let errors = process.stderr.take().context("the trainer has no standard error")?;
        let (sender, events) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            loop {
                match pipe::read_async::<TrainerEvent>(&mut output).await {
                    Ok(Some(event)) => {
                        if sender.send(event).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(error) => {
                        tracing::error!(%error, "the trainer's output cannot be read");
                        return;
                    }
                }
            }
        });
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&last_lines);
        tokio::spawn(async move {
            let mut lines = BufReader::new(errors).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // Losing a log line is not worth stopping for.
                let _ = writeln!(io::stderr(), "{line}");
                let mut kept = kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        Ok(TrainerChild { process, commands, events, last_lines, kills })
    }
}

#[tonic::async_trait]
impl Trainer for TrainerChild {
    async fn command(&mut self, body: trainer_command::Body) -> anyhow::Result<()> {
        let command = TrainerCommand { body: Some(body) };
        pipe::write_async(&mut self.commands, &command).await.context("commanding the trainer")
    }

    async fn event(&mut self) -> Option<TrainerEvent> {
        self.events.recv().await
    }

    // It was asked to stop before: a signal that can be ignored would say no more than that.
    async fn kill(mut self: Box<Self>) -> bool {
        match tokio::time::timeout(KILLING, self.process.kill()).await {
            Ok(killed) => killed.is_ok(),
            Err(_) => false,
        }
    }

    /// Waits for the end of a child that closed its output.
    async fn obituary(mut self: Box<Self>) -> (String, End) {
        let (status, end) = match self.process.wait().await {
            Ok(status) => (status.to_string(), End::of(status, self.kills.happened())),
            Err(error) => (format!("unknown status: {error}"), End::default()),
        };
        let lines = self.last_lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let quoted: Vec<&str> = lines.iter().map(String::as_str).collect();
        let obituary = match quoted.is_empty() {
            true => format!("the trainer ended ({status}) and left no message"),
            false => format!("the trainer ended ({status}); its last lines: {}", quoted.join(" | ")),
        };
        (obituary, end)
    }
}
