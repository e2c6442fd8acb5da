//! Logs: readable on standard error, JSON lines in a file. `RUST_LOG` overrides what is logged to both.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context as _;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How much is logged where.
#[derive(Clone, Copy, Debug)]
pub struct Logging<'a> {
    /// File that JSON lines are appended to.
    pub file: Option<&'a Path>,
    /// What is logged to standard error unless `RUST_LOG` says otherwise; an `EnvFilter` such as `"warn,plateau=info"`.
    pub stderr: &'a str,
    /// Whether standard error is coloured.
    pub colors: bool,
}

/// What goes to log files unless `RUST_LOG` says otherwise.
const FILE_FILTER: &str = "warn,plateau=info";

/// Writes each event on one line: a line end within what is logged, say a reason that a trainer gave, would begin a line that
/// looks like an event of its own. (Escape sequences are tracing-subscriber's to disarm, line ends in JSON are JSON's.)
struct OneLine<W>(W);

impl<W: io::Write> io::Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // tracing-subscriber writes an event in one piece.
        let (line, end) = match event.split_last() {
            Some((b'\n', line)) => (line, true),
            _ => (event, false),
        };
        for (place, part) in line.split(|byte| matches!(byte, b'\n' | b'\r')).enumerate() {
            if place > 0 {
                self.0.write_all(b"\\n")?;
            }
            self.0.write_all(part)?;
        }
        if end {
            self.0.write_all(b"\n")?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Starts logging for the whole process.
pub fn start(logging: Logging<'_>) -> anyhow::Result<()> {
    let filter = |default: &str| match std::env::var("RUST_LOG") {
        Ok(named) if !named.is_empty() => {
            EnvFilter::try_new(&named).with_context(|| format!("RUST_LOG=`{named}` is no log filter"))
        }
        _ => EnvFilter::try_new(default).context("the built-in log filter"),
    };
    let terminal = tracing_subscriber::fmt::layer()
        .with_writer(|| OneLine(io::stderr()))
        .with_ansi(logging.colors)
        .with_target(false)
        .with_filter(filter(logging.stderr)?);
    let file = match logging.file {
        None => None,
        Some(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("making the folder {} for the log file", folder.display()))?;
            }
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("opening the log file {}", path.display()))?;
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .with_span_events(FmtSpan::CLOSE)
                .with_writer(Mutex::new(file))
                .with_filter(filter(FILE_FILTER)?);
            Some(layer)
        }
    };
    tracing_subscriber::registry().with(terminal).with(file).try_init().context("starting the log")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn case_62_what_is_logged_stays_on_its_line_and_steers_nothing() {
        let written = Arc::new(Mutex::new(Vec::new()));
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let target = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || OneLine(Shared(target.clone())))
            .with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let reason = "out of memory\r\n2026-11-22T00:00:00Z ERROR forged\u{1b}[2J";
            tracing::warn!(%reason, agent = reason, "{reason}");
            tracing::info!("the next");
        });
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with("the next\n") && text.contains("forged"), "{text}");
        assert!(!text.contains(['\u{1b}', '\r']), "{text}");
    }
}
