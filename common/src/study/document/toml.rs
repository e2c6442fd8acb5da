//! TOML, by the `toml` crate's spanned document.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::place::Places;
use crate::fields::{ConfigError, ConfigResult};
use crate::limits;
use crate::node::{Entry, Node, Table, Value};

/// Parses a TOML document.
pub(super) fn parse(text: &str) -> ConfigResult<Node> {
    let places = Places::new(text);
    let table = DeTable::parse(text).map_err(|error| syntax_error(&error, &places))?;
    let location = Some(places.at(0));
    Ok(Node { value: Value::Table(convert_table(table.into_inner(), &places, 1)?), location })
}

/// Parses one TOML value, without places (for `--set path=value`).
pub(in crate::study) fn parse_value(text: &str) -> ConfigResult<Node> {
    let places = Places::new(text);
    let value = DeValue::parse(text).map_err(|error| syntax_error(&error, &places))?;
    let mut node = convert(value, &places, 0)?;
    node.forget_places();
    Ok(node)
}

fn syntax_error(error: &toml::de::Error, places: &Places<'_>) -> ConfigError {
    let location = error.span().map(|span| places.at(span.start));
    ConfigError::new("", location, format!("this is not TOML: {}", error.message().replace('\n', ", ")))
}

fn convert_table(table: DeTable<'_>, places: &Places<'_>, depth: usize) -> ConfigResult<Table> {
    // The parser sorts keys by name; their places restore the order in which they were written.
    let mut pairs: Vec<(Spanned<_>, Spanned<DeValue<'_>>)> = table.into_iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let mut entries = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let key_location = Some(places.at(key.span().start));
        entries.push(Entry {
            key: key.into_inner().into_owned(),
            key_location,
            node: convert(value, places, depth)?,
        });
    }
    Ok(Table { entries })
}

fn convert(value: Spanned<DeValue<'_>>, places: &Places<'_>, depth: usize) -> ConfigResult<Node> {
    let location = Some(places.at(value.span().start));
    let error = |problem: String| ConfigError::new("", location, problem);
    if depth > limits::MAX_NESTING {
        return Err(super::too_deep(location));
    }
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => return Err(error(format!("the integer {number} needs more than 64 bits"))),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => return Err(error(format!("`{number}` is not a number"))),
        },
        DeValue::Boolean(switch) => Value::Bool(switch),
        DeValue::Datetime(date) => {
            return Err(error(format!("`{date}` is a date, which no setting is"))
                .suggest("put it between quotation marks if it is a word"));
        }
        DeValue::Array(items) => {
            let items: ConfigResult<Vec<Node>> =
                items.into_iter().map(|item| convert(item, places, depth + 1)).collect();
            Value::Array(items?)
        }
        DeValue::Table(table) => Value::Table(convert_table(table, places, depth + 1)?),
    };
    Ok(Node { value, location })
}
