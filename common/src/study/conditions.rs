//! Conditions of `[[when]]` and `[[exclude]]`: which combinations of values they hold for.

use super::axis::check_path;
use crate::fields::{ConfigError, ConfigResult};
use crate::node::{Location, Node, Table, Value};

/// "The value at this path is one of these."
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub path: String,
    /// The path as written, for messages, e.g. `when.match.model.norm`.
    pub key_path: String,
    pub values: Vec<Node>,
    pub location: Option<Location>,
}

impl Condition {
    /// Whether it holds for this value; an absent value fulfils nothing.
    pub fn holds(&self, found: Option<&Node>) -> bool {
        found.is_some_and(|found| self.values.iter().any(|value| same_value(&value.value, &found.value)))
    }
}

/// Reads a table of conditions. Nested tables are dotted paths; a list means "any of these".
pub(super) fn read_conditions(table: &Table, key_path: &str) -> ConfigResult<Vec<Condition>> {
    let mut conditions = Vec::new();
    read_into(&mut conditions, table, "", key_path)?;
    Ok(conditions)
}

fn read_into(
    conditions: &mut Vec<Condition>,
    table: &Table,
    prefix: &str,
    key_path: &str,
) -> ConfigResult<()> {
    for entry in &table.entries {
        let path = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}.{}", entry.key) };
        if let Value::Table(inner) = &entry.node.value {
            read_into(conditions, inner, &path, key_path)?;
            continue;
        }
        let written = format!("{key_path}.{path}");
        check_path(&path, &written, entry.key_location)?;
        let values = match &entry.node.value {
            Value::Array(items) => items.clone(),
            _ => vec![entry.node.clone()],
        };
        if values.is_empty() {
            return Err(ConfigError::new(written, entry.node.location, "an empty list matches nothing")
                .suggest("give at least one value"));
        }
        conditions.push(Condition { path, key_path: written, values, location: entry.key_location });
    }
    Ok(())
}

/// Equality of values: places do not matter, and 1 equals 1.0.
pub(super) fn same_value(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Integer(integer), Value::Float(float)) | (Value::Float(float), Value::Integer(integer)) => {
            *integer as f64 == *float
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| same_value(&left.value, &right.value))
        }
        (Value::Table(left), Value::Table(right)) => {
            left.entries.len() == right.entries.len()
                && left.entries.iter().all(|entry| {
                    right.get(&entry.key).is_some_and(|other| same_value(&entry.node.value, &other.value))
                })
        }
        (Value::Array(_) | Value::Table(_), _) | (_, Value::Array(_) | Value::Table(_)) => false,
        (left, right) => left == right,
    }
}
