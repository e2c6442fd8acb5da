//! Reads text into a [`Node`] tree with places: one file per format. Gives no value a meaning.
//!
//! All three readers share the bounds of `limits`: size, nesting, number of values; and refuse duplicate keys.

mod json;
mod place;
mod toml;
mod yaml;

use crate::fields::{ConfigError, ConfigResult};
use crate::limits;
use crate::node::{Location, Node, Value};

pub(super) use self::toml::parse_value as parse_toml_value;

/// The syntax of a study file; the keys are the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// TOML.
    Toml,
    /// YAML 1.2, one document; anchors and aliases are expanded within bounds.
    Yaml,
    /// JSON (RFC 8259).
    Json,
}

impl Format {
    /// The format of a file by the ending of its name: `.toml`, `.yaml`, `.yml` or `.json`.
    pub fn from_file_name(file_name: &str) -> Option<Format> {
        let (_, ending) = file_name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "toml" => Some(Format::Toml),
            "yaml" | "yml" => Some(Format::Yaml),
            "json" => Some(Format::Json),
            _ => None,
        }
    }

    /// `"toml"`, `"yaml"` or `"json"`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Toml => "toml",
            Format::Yaml => "yaml",
            Format::Json => "json",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Format> {
        [Format::Toml, Format::Yaml, Format::Json].into_iter().find(|format| format.name() == name)
    }
}

/// Parses a whole document; its root is a table.
pub(super) fn parse(text: &str, format: Format) -> ConfigResult<Node> {
    if text.len() > limits::MAX_STUDY_BYTES {
        let problem =
            format!("the study file has {} bytes; at most {} are read", text.len(), limits::MAX_STUDY_BYTES);
        return Err(ConfigError::new("", None, problem)
            .suggest("describe long lists of values by `range`, `linspace` or `logspace`"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(ConfigError::new("", None, "the study file is empty")
            .suggest("start with `name`, `[task]`, `[model]` and `[train]`"));
    }
    let root = match format {
        Format::Toml => toml::parse(text)?,
        Format::Yaml => yaml::parse(text)?,
        Format::Json => json::parse(text)?,
    };
    match root.value {
        Value::Table(_) => Ok(root),
        ref other => Err(ConfigError::new(
            "",
            root.location,
            format!("a study is a table, found {}", other.type_name()),
        )),
    }
}

/// The error for values nested deeper than `limits::MAX_NESTING`.
fn too_deep(location: Option<Location>) -> ConfigError {
    let problem = format!("values are nested more than {} deep", limits::MAX_NESTING);
    ConfigError::new("", location, problem).suggest("flatten the document; dotted paths name nested keys")
}

/// The error for a key that occurs twice in one table.
fn duplicate_key(key: &str, location: Option<Location>) -> ConfigError {
    ConfigError::new("", location, format!("the key `{key}` is given twice in one table"))
        .suggest("keep one of the two")
}
