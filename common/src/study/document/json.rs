//! JSON, by serde_json: every value is first cut out of the text unparsed, so that its offset tells its place.

use std::fmt;

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::place::{Places, narrow};
use crate::fields::{ConfigError, ConfigResult};
use crate::limits;
use crate::node::{Entry, Location, Node, Table, Value};

/// Parses a JSON document.
pub(super) fn parse(text: &str) -> ConfigResult<Node> {
    // The whole text is checked once; the nested readings below then cannot fail for syntax.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| {
        let location = Location { line: narrow(error.line()).max(1), column: narrow(error.column()).max(1) };
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        ConfigError::new("", Some(location), format!("this is not JSON: {message}"))
    })?;
    let places = Places::new(text);
    let raw: &RawValue =
        serde_json::from_str(text).map_err(|error| reading_error(&error, Some(places.at(0))))?;
    Reader { text, places: &places }.convert(raw, 1)
}

fn reading_error(error: &serde_json::Error, location: Option<Location>) -> ConfigError {
    ConfigError::new("", location, format!("this is not JSON: {error}"))
}

struct Reader<'a> {
    text: &'a str,
    places: &'a Places<'a>,
}

impl<'a> Reader<'a> {
    fn convert(&self, raw: &'a RawValue, depth: usize) -> ConfigResult<Node> {
        let source = raw.get();
        // `source` is a part of `text`, so the difference of their addresses is its offset.
        let offset = (source.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let location = Some(self.places.at(offset));
        if depth > limits::MAX_NESTING + 1 {
            return Err(super::too_deep(location));
        }
        let failed = |error: serde_json::Error| reading_error(&error, location);
        let value = match source.as_bytes().first() {
            Some(b'{') => {
                let pairs =
                    serde_json::Deserializer::from_str(source).deserialize_map(Pairs).map_err(failed)?;
                let mut table = Table { entries: Vec::with_capacity(pairs.len()) };
                let mut seen = std::collections::HashSet::new();
                for (key, raw) in pairs {
                    let node = self.convert(raw, depth + 1)?;
                    if !seen.insert(key.clone()) {
                        return Err(super::duplicate_key(&key, node.location));
                    }
                    table.entries.push(Entry { key, key_location: node.location, node });
                }
                Value::Table(table)
            }
            Some(b'[') => {
                let items =
                    serde_json::Deserializer::from_str(source).deserialize_seq(Items).map_err(failed)?;
                let items: ConfigResult<Vec<Node>> =
                    items.into_iter().map(|item| self.convert(item, depth + 1)).collect();
                Value::Array(items?)
            }
            _ => Node::from_json(&serde_json::from_str(source).map_err(failed)?).value,
        };
        Ok(Node { value, location })
    }
}

/// Collects the pairs of an object in order, duplicates included.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// Collects the items of an array.
struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(items)
    }
}
