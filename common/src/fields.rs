//! Reads typed values out of a table, with errors that name the key, its place and the nearest known key.
//!
//! Every configuration struct is read through [`Fields`], so that an unknown key, a wrong type or a value out of range
//! is reported in one way everywhere. Owns no configuration itself.

use std::ops::RangeInclusive;

use crate::node::{Location, Node, Table, Value};

/// What is wrong with one value of a study file or of a configuration from the network.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", self.render())]
pub struct ConfigError {
    /// Dotted path of the key, e.g. `model.heads`; empty for the whole document.
    pub path: String,
    /// Where it was written, if it was.
    pub location: Option<Location>,
    /// What is wrong, as a sentence without a final stop.
    pub problem: String,
    /// What to do about it.
    pub suggestion: Option<String>,
}

impl ConfigError {
    /// An error at `path`.
    pub fn new(path: impl Into<String>, location: Option<Location>, problem: impl Into<String>) -> Self {
        ConfigError { path: path.into(), location, problem: problem.into(), suggestion: None }
    }

    /// The same error with advice.
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    fn render(&self) -> String {
        let mut text = String::new();
        if !self.path.is_empty() {
            text.push_str(&format!("`{}`: ", self.path));
        }
        text.push_str(&self.problem);
        if let Some(suggestion) = &self.suggestion {
            text.push_str(&format!(" ({suggestion})"));
        }
        text
    }
}

/// The result of reading configuration.
pub type ConfigResult<T> = Result<T, ConfigError>;

/// The known word nearest to `word`, if one is near enough to be a likely slip of the keyboard.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normal = word.replace('_', "-").to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&normal, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A table being read: hands out typed values and remembers which keys it was asked for.
pub struct Fields<'a> {
    path: String,
    location: Option<Location>,
    table: &'a Table,
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Starts reading `node`, which must be a table, at the dotted `path`.
    pub fn new(path: impl Into<String>, node: &'a Node) -> ConfigResult<Self> {
        let path = path.into();
        match &node.value {
            Value::Table(table) => Ok(Fields { path, location: node.location, table, asked: Vec::new() }),
            other => Err(ConfigError::new(
                path,
                node.location,
                format!("expected a table, found {}", other.type_name()),
            )),
        }
    }

    /// The table itself, for keys that are not fixed (dotted paths); ends the reading by key.
    pub fn into_table(self) -> &'a Table {
        self.table
    }

    /// The dotted path of `key` inside this table.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The dotted path of this table.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where the table was written.
    pub fn location(&self) -> Option<Location> {
        self.location
    }

    /// Where the value of `key` was written, else where the table was.
    pub fn location_of(&self, key: &str) -> Option<Location> {
        self.table.get(key).and_then(|node| node.location).or(self.location)
    }

    /// An error about the value of `key`.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(self.path_of(key), self.location_of(key), problem)
    }

    /// The raw value of an optional key; null counts as absent.
    pub fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        self.table.get(key).filter(|node| node.value != Value::Null)
    }

    /// Turns an absent required key into an error that mentions a similar key, if the table holds one.
    pub fn require<T>(&self, key: &'static str, value: Option<T>) -> ConfigResult<T> {
        value.ok_or_else(|| {
            let error = ConfigError::new(self.path_of(key), self.location, "is required but missing");
            let unread = self.table.entries.iter().filter(|entry| !self.asked.contains(&entry.key.as_str()));
            match unread.into_iter().find(|entry| nearest(&entry.key, [key]).is_some()) {
                Some(entry) => ConfigError { location: entry.key_location.or(error.location), ..error }
                    .suggest(format!("found `{}`: did you mean `{key}`?", entry.key)),
                None => error.suggest(format!("add `{key} = …`")),
            }
        })
    }

    fn mismatch<T>(&self, key: &str, expected: &str, found: &Value) -> ConfigResult<T> {
        Err(self.error(key, format!("expected {expected}, found {} `{found}`", found.type_name())))
    }

    /// An optional whole number within `range`.
    pub fn integer<I>(&mut self, key: &'static str, range: RangeInclusive<I>) -> ConfigResult<Option<I>>
    where
        I: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(node) = self.node(key) else { return Ok(None) };
        let Value::Integer(found) = node.value else {
            return self.mismatch(key, "an integer", &node.value);
        };
        match I::try_from(found) {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => Err(self.error(key, format!("{found} is out of range")).suggest(format!(
                "allowed: {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    /// An optional finite number within `range`; whole numbers are accepted.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<f64>) -> ConfigResult<Option<f64>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        let value = match node.value {
            Value::Float(value) => value,
            Value::Integer(value) => value as f64,
            ref other => return self.mismatch(key, "a number", other),
        };
        if !value.is_finite() {
            return Err(self.error(key, format!("{value} is not a finite number")));
        }
        if !range.contains(&value) {
            return Err(self.error(key, format!("{value} is out of range")).suggest(format!(
                "allowed: {} to {}",
                range.start(),
                range.end()
            )));
        }
        // -0.0 and 0.0 are the same setting and must give the same identity.
        Ok(Some(value + 0.0))
    }

    /// An optional boolean.
    pub fn boolean(&mut self, key: &'static str) -> ConfigResult<Option<bool>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        match node.value {
            Value::Bool(value) => Ok(Some(value)),
            ref other => self.mismatch(key, "true or false", other),
        }
    }

    /// An optional string.
    pub fn text(&mut self, key: &'static str) -> ConfigResult<Option<&'a str>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        match &node.value {
            Value::Text(value) => Ok(Some(value)),
            other => self.mismatch(key, "a string", other),
        }
    }

    /// An optional word out of a fixed list of `(word, meaning)`.
    pub fn choice<T: Clone>(&mut self, key: &'static str, words: &[(&str, T)]) -> ConfigResult<Option<T>> {
        let Some(found) = self.text(key)? else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == found) {
            Some((_, meaning)) => Ok(Some(meaning.clone())),
            None => Err(unknown_word(self.error(key, format!("unknown value `{found}`")), found, words)),
        }
    }

    /// An optional list, with the place of every item.
    pub fn array(&mut self, key: &'static str) -> ConfigResult<Option<&'a [Node]>> {
        let Some(node) = self.node(key) else { return Ok(None) };
        match &node.value {
            Value::Array(items) => Ok(Some(items)),
            other => self.mismatch(key, "an array", other),
        }
    }

    /// An optional sub-table, ready to be read.
    pub fn table(&mut self, key: &'static str) -> ConfigResult<Option<Fields<'a>>> {
        let path = self.path_of(key);
        self.node(key).map(|node| Fields::new(path, node)).transpose()
    }

    /// Ends the reading: every key that was never asked for is an error with the nearest known key.
    pub fn finish(self) -> ConfigResult<()> {
        let unknown = self.table.entries.iter().find(|entry| !self.asked.contains(&entry.key.as_str()));
        let Some(entry) = unknown else { return Ok(()) };
        let location = entry.key_location.or(entry.node.location).or(self.location);
        let error = ConfigError::new(self.path_of(&entry.key), location, "unknown key");
        Err(match nearest(&entry.key, self.asked.iter().copied()) {
            Some(known) => error.suggest(format!("did you mean `{known}`?")),
            None => error.suggest(format!("known keys here: {}", self.asked.join(", "))),
        })
    }
}

/// Adds "did you mean" or the list of known words to `error`.
pub fn unknown_word<T>(error: ConfigError, found: &str, words: &[(&str, T)]) -> ConfigError {
    match nearest(found, words.iter().map(|(word, _)| *word)) {
        Some(known) => error.suggest(format!("did you mean `{known}`?")),
        None => {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            error.suggest(format!("one of: {}", list.join(", ")))
        }
    }
}
