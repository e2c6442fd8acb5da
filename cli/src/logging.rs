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

/// Starts logging for the whole process.
pub fn start(logging: Logging<'_>) -> anyhow::Result<()> {
    let filter = |default: &str| match std::env::var("RUST_LOG") {
        Ok(named) if !named.is_empty() => {
            EnvFilter::try_new(&named).with_context(|| format!("RUST_LOG=`{named}` is no log filter"))
        }
        _ => EnvFilter::try_new(default).context("the built-in log filter"),
    };
    let terminal = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
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
