//! Requests to stop: Ctrl-C, the signals that service managers and schedulers send, and the end of the parent process.

use std::io::Read as _;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The signals that ask the process to stop: SIGINT (Ctrl-C), SIGTERM (systemd, Slurm, Kubernetes), SIGHUP (the
/// terminal is gone).
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupts {
    /// Takes these signals over from the default of dying at once.
    pub fn new() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("taking over the signals that stop the process");
        Ok(Interrupts {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hang_up: take(SignalKind::hangup())?,
        })
    }

    /// Waits for the next request to stop.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Waits until the parent process closes our standard input, which it does when it wants us to stop and which the
/// system does when it dies.
pub async fn parent_gone() {
    let (gone, receiver) = oneshot::channel();
    // A thread of its own: a blocked read of standard input cannot be cancelled and must not hold up the runtime's end.
    std::thread::spawn(move || {
        let mut ignored = [0; 256];
        let mut stdin = std::io::stdin().lock();
        while let Ok(1..) = stdin.read(&mut ignored) {}
        let _ = gone.send(());
    });
    let _ = receiver.await;
}

/// The first request to stop a coordinator or agent: a signal or, for a child of `plateau run`, the end of the parent.
/// After it, a second signal ends the process at once.
pub async fn requested(mut interrupts: Interrupts, exit_with_parent: bool) {
    if exit_with_parent {
        tokio::select! {
            () = interrupts.next() => {}
            () = parent_gone() => {}
        }
    } else {
        interrupts.next().await;
    }
    tokio::spawn(async move {
        interrupts.next().await;
        std::process::exit(crate::exit::Exit::Interrupted as i32);
    });
}

/// The hidden option of processes that `plateau run` starts.
#[derive(Args, Clone, Debug)]
pub struct Parent {
    /// Stop when standard input ends, and keep standard error for the reason of an early death
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

impl Parent {
    /// What such a process logs to standard error.
    pub fn log_filter(&self) -> &'static str {
        if self.exit_with_parent { "error" } else { "warn,plateau=info" }
    }
}
