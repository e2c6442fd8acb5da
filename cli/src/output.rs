//! Where answers go: standard output, as a table, as JSON or as bare names. Messages for people go to standard error.
//!
//! Owns the choice of form and colour, and nothing of what is said.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::words;

/// The form of answers on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputMode {
    /// Tables and sentences for people.
    #[default]
    Table,
    /// JSON for programs; errors are `{"error": …}`.
    Json,
    /// Only the names scripts need (ids, paths), one per line.
    Quiet,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On terminals, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How this run of the program talks.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    mode: OutputMode,
    color: ColorChoice,
}

impl Output {
    /// Talks in this form.
    pub fn new(mode: OutputMode, color: ColorChoice) -> Self {
        Output { mode, color }
    }

    /// The form of answers.
    pub fn mode(&self) -> OutputMode {
        self.mode
    }

    /// Whether standard output is coloured.
    pub fn colors_stdout(&self) -> bool {
        self.colors(io::stdout().is_terminal())
    }

    /// Whether standard error is coloured.
    pub fn colors_stderr(&self) -> bool {
        self.colors(io::stderr().is_terminal())
    }

    fn colors(&self, terminal: bool) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        }
    }

    /// Gives the answer in the form that was asked for; only that form is made.
    pub fn answer(
        &self,
        table: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
        quiet: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match self.mode {
            OutputMode::Table => self.line(&table()),
            OutputMode::Json => self.line(&format!("{:#}", json())),
            OutputMode::Quiet => self.line(&quiet()),
        }
    }

    /// The same at the end of a command that has told events: JSON on one line, like the events before.
    pub fn conclude(
        &self,
        table: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
        quiet: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match self.mode {
            OutputMode::Table => self.line(&table()),
            OutputMode::Json => self.line(&json().to_string()),
            OutputMode::Quiet => self.line(&quiet()),
        }
    }

    /// Writes text and a line end to standard output, nothing for empty text.
    pub fn line(&self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", text.trim_end_matches('\n'))?;
        stdout.flush()
    }

    /// One event of a running command as a line of JSON; nothing in the other forms.
    pub fn event(&self, event: Value) -> io::Result<()> {
        match self.mode {
            OutputMode::Json => self.line(&event.to_string()),
            OutputMode::Table | OutputMode::Quiet => Ok(()),
        }
    }

    /// A sentence for a person, on standard error; nothing where a program reads along.
    pub fn note(&self, text: &str) {
        if self.mode == OutputMode::Table {
            // A closed standard error is no reason to stop.
            let _ = writeln!(io::stderr().lock(), "{}", words::printable(text));
        }
    }

    /// Reports a failure.
    pub fn failure(&self, failure: &Failure) {
        // An error quotes what a coordinator, a trainer or a file said.
        let error = words::printable(&format!("{:#}", failure.error));
        if self.mode == OutputMode::Json {
            let _ = self.line(&json!({ "error": error, "exit_code": failure.exit as u8 }).to_string());
        } else {
            let (red, plain) = if self.colors_stderr() { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
            let _ = writeln!(io::stderr().lock(), "{red}error:{plain} {error}");
        }
    }
}

/// Whether this error is a reader that went away (`plateau trials | head`), which is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
