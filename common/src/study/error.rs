//! Errors of a study file, shown as a compiler shows them: file, line, column, key, source line, caret, advice.

use std::fmt;

use crate::fields::ConfigError;
use crate::node::Location;

/// Where an error was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A place in the study file.
    Place(Location),
    /// The study file as a whole.
    File,
    /// A `--set path=value` of the command line, as given.
    Override(String),
}

/// What is wrong with a study, where, and what to do about it. `Display` gives the whole text, without a final newline;
/// the parts are the fields of the [`Diagnosis`] it dereferences to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", self.0.render())]
pub struct StudyError(Box<Diagnosis>);

impl std::ops::Deref for StudyError {
    type Target = Diagnosis;

    fn deref(&self) -> &Diagnosis {
        &self.0
    }
}

/// The parts of a [`StudyError`].
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// Name of the study file, as given.
    pub file_name: String,
    /// Where in it, or which `--set`.
    pub origin: Origin,
    /// Dotted path of the key; empty where none is meant.
    pub path: String,
    /// What is wrong, without a final stop.
    pub problem: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Circumstances, e.g. the combination of axis values in which it happens.
    pub notes: Vec<String>,
    /// The line of the study file that `origin` points into.
    pub source_line: Option<String>,
}

/// Longest part of a source line that is shown, in characters.
const SHOWN_CHARACTERS: usize = 160;

impl StudyError {
    /// Places `error` in the file it was found in. `overrides` are the `--set` arguments; an error about an overridden
    /// path is theirs.
    pub(super) fn new(
        error: ConfigError,
        file_name: &str,
        text: &str,
        overrides: &[(String, String)],
    ) -> Self {
        let culprit = overrides.iter().rev().find(|(path, _)| {
            let path = path.strip_prefix("axes.").unwrap_or(path);
            let found = error.path.strip_prefix("axes.").unwrap_or(&error.path);
            found.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let origin = match (culprit, error.location) {
            (Some((path, value)), _) => Origin::Override(format!("--set {path}={value}")),
            (None, Some(location)) => Origin::Place(location),
            (None, None) => Origin::File,
        };
        // A byte-order mark is not part of the first line, for the reader either.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source_line = match origin {
            Origin::Place(location) => {
                text.lines().nth(location.line.saturating_sub(1) as usize).map(str::to_owned)
            }
            _ => None,
        };
        StudyError(Box::new(Diagnosis {
            file_name: file_name.to_owned(),
            origin,
            path: error.path,
            problem: error.problem,
            help: error.suggestion,
            notes: Vec::new(),
            source_line,
        }))
    }

    /// The same error with one more circumstance.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }
}

impl Diagnosis {
    fn render(&self) -> String {
        let mut text = match &self.origin {
            Origin::Place(location) => format!("{}:{location}: ", self.file_name),
            Origin::File => format!("{}: ", self.file_name),
            Origin::Override(argument) => format!("{argument}: "),
        };
        if !self.path.is_empty() {
            text.push_str(&self.path);
            text.push_str(": ");
        }
        text.push_str(&self.problem);
        if let (Origin::Place(location), Some(line)) = (&self.origin, &self.source_line) {
            let (shown, caret) = shown_part(line, location.column as usize);
            let number = location.line.to_string();
            let margin = " ".repeat(number.len());
            text.push_str(&format!("\n{margin} |\n{number} | {shown}\n{margin} | {}^", " ".repeat(caret)));
        }
        for (label, lines) in [("help", self.help.as_slice()), ("note", &self.notes)] {
            for line in lines {
                text.push_str(&format!("\n{label}: {line}"));
            }
        }
        text
    }
}

/// The part of `line` around `column` (from 1), tabs and control characters as spaces, and the caret's offset in it.
fn shown_part(line: &str, column: usize) -> (String, usize) {
    let column = column.saturating_sub(1);
    let start = if column < SHOWN_CHARACTERS { 0 } else { column - SHOWN_CHARACTERS / 2 };
    let shown = line.chars().skip(start).take(SHOWN_CHARACTERS);
    let shown: String = shown.map(|character| if character.is_control() { ' ' } else { character }).collect();
    (shown.trim_end().to_owned(), column - start)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Place(location) => write!(f, "{location}"),
            Origin::File => f.write_str("the file"),
            Origin::Override(argument) => f.write_str(argument),
        }
    }
}
