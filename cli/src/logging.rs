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

use crate::words;

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

/// Writes each event on one line, with nothing in it that steers a terminal. What is logged quotes others, say the reason
/// that a trainer gave: a line end in it would begin a line that looks like an event of its own. (tracing-subscriber disarms
/// messages but not every field; files are JSON, which escapes all of this.)
struct OneLine<W> {
    out: W,
    /// Whether the formatter colours, so that colours (and nothing else) are let through.
    colors: bool,
}

impl<W: io::Write> io::Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // An event comes in one piece. Nearly all are plain text.
        if event.strip_suffix(b"\n").unwrap_or(event).iter().all(|byte| matches!(byte, b' '..=b'~')) {
            self.out.write_all(event)?;
            return Ok(event.len());
        }
        let text = String::from_utf8_lossy(event);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        let clean = disarmed(line, self.colors);
        self.out.write_all(format!("{clean}{end}").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A line without line ends and control characters; with `colors`, those of a colour stay.
fn disarmed(line: &str, colors: bool) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(character) = rest.chars().next() {
        let color = if colors { color_length(rest) } else { 0 };
        let length = color.max(character.len_utf8());
        let (taken, after) = rest.split_at(length);
        match character {
            _ if color > 0 => clean.push_str(taken),
            '\n' => clean.push_str("\\n"),
            '\t' => clean.push('\t'),
            other if words::steers(other) => clean.extend(other.escape_unicode()),
            other => clean.push(other),
        }
        rest = after;
    }
    clean
}

/// Bytes of the colour that `text` begins with (`ESC [ numbers m`); 0 where there is none.
fn color_length(text: &str) -> usize {
    let Some(numbers) = text.strip_prefix("\u{1b}[") else { return 0 };
    let end = numbers.find(|character: char| !character.is_ascii_digit() && character != ';');
    end.filter(|end| numbers[*end..].starts_with('m')).map_or(0, |end| end + 3)
}

/// Starts logging for the whole process.
pub fn start(logging: Logging<'_>) -> anyhow::Result<()> {
    let filter = |default: &str| match std::env::var("RUST_LOG") {
        Ok(named) if !named.is_empty() => {
            EnvFilter::try_new(&named).with_context(|| format!("RUST_LOG=`{named}` is no log filter"))
        }
        _ => EnvFilter::try_new(default).context("the built-in log filter"),
    };
    let colors = logging.colors;
    let terminal = tracing_subscriber::fmt::layer()
        .with_writer(move || OneLine { out: io::stderr(), colors })
        .with_ansi(colors)
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
            .with_writer(move || OneLine { out: Shared(target.clone()), colors: false })
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

    #[test]
    fn case_62_colours_pass_and_orders_do_not() {
        let colored = "\u{1b}[32m INFO\u{1b}[0m \u{1b}[1;31mx";
        assert_eq!(disarmed(colored, true), colored);
        assert_eq!(disarmed("\u{1b}[2J\u{1b}]0;t\u{7}\u{1b}[", true), "\\u{1b}[2J\\u{1b}]0;t\\u{7}\\u{1b}[");
        assert_eq!(disarmed("\u{1b}[32mé\n", false), "\\u{1b}[32mé\\n");
    }
}
