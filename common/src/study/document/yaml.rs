//! YAML 1.2, by the event parser of `saphyr`: the tree is built here, so that nesting, duplicate keys and the growth of
//! aliases are checked before memory is spent.

use std::collections::{HashMap, HashSet};

use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser};

use super::place::narrow;
use crate::fields::{ConfigError, ConfigResult};
use crate::limits;
use crate::node::{Entry, Location, Node, Table, Value};

/// Parses a YAML document.
pub(super) fn parse(text: &str) -> ConfigResult<Node> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            ConfigError::new("", Some(place(error.marker())), format!("this is not YAML: {}", error.info()))
        })?;
        builder.take(event, place(&span.start))?;
    }
    builder.root.ok_or_else(|| ConfigError::new("", None, "the study file is empty"))
}

fn place(marker: &Marker) -> Location {
    // The parser counts lines from 1 and columns from 0.
    Location { line: narrow(marker.line()).max(1), column: narrow(marker.col() + 1) }
}

/// A table or array that is still open.
enum Open {
    Array(Vec<Node>),
    Table { table: Table, seen: HashSet<String>, key: Option<(String, Location)> },
}

struct Frame {
    open: Open,
    location: Location,
    /// Number of the anchor that names it; 0: none.
    anchor: usize,
}

/// A finished value that an alias may repeat.
struct Anchored {
    node: Node,
    values: usize,
    depth: usize,
}

#[derive(Default)]
struct Builder {
    frames: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    /// Values made so far, aliases included.
    values: usize,
    root: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, location: Location) -> ConfigResult<()> {
        let error = |problem: &str| ConfigError::new("", Some(location), problem);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(error("a second YAML document starts here").suggest("keep one study per file"))
            }
            Event::DocumentStart(_) => Ok(()),
            Event::Scalar(text, style, anchor, tag) => {
                if self.key_is_next() {
                    return self.key(text.into_owned(), location);
                }
                let scalar = Scalar::parse_from_cow_and_metadata(text, style, tag.as_ref());
                let value = match scalar.ok_or_else(|| error("the value does not fit its YAML tag"))? {
                    Scalar::Null => Value::Null,
                    Scalar::Boolean(switch) => Value::Bool(switch),
                    Scalar::Integer(number) => Value::Integer(number),
                    Scalar::FloatingPoint(number) => Value::Float(number.into_inner()),
                    Scalar::String(text) => Value::Text(text.into_owned()),
                };
                self.finish(Node { value, location: Some(location) }, anchor)
            }
            Event::SequenceStart(anchor, _) => self.open(Open::Array(Vec::new()), location, anchor),
            Event::MappingStart(anchor, _) => {
                let open = Open::Table { table: Table::default(), seen: HashSet::new(), key: None };
                self.open(open, location, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(frame) = self.frames.pop() else { return Err(error("a bracket closes nothing")) };
                let value = match frame.open {
                    Open::Array(items) => Value::Array(items),
                    Open::Table { table, .. } => Value::Table(table),
                };
                self.finish(Node { value, location: Some(frame.location) }, frame.anchor)
            }
            Event::Alias(anchor) => self.alias(anchor, location),
        }
    }

    fn key_is_next(&self) -> bool {
        matches!(self.frames.last(), Some(Frame { open: Open::Table { key: None, .. }, .. }))
    }

    fn key(&mut self, text: String, location: Location) -> ConfigResult<()> {
        if text == "<<" {
            return Err(ConfigError::new("", Some(location), "merge keys (`<<`) are not read")
                .suggest("write the keys out, or alias a whole table"));
        }
        if let Some(Frame { open: Open::Table { seen, key, .. }, .. }) = self.frames.last_mut() {
            if !seen.insert(text.clone()) {
                return Err(super::duplicate_key(&text, Some(location)));
            }
            *key = Some((text, location));
        }
        Ok(())
    }

    fn open(&mut self, open: Open, location: Location, anchor: usize) -> ConfigResult<()> {
        if self.key_is_next() {
            return Err(ConfigError::new(
                "",
                Some(location),
                "a key must be a word, not a table or an array",
            ));
        }
        if self.frames.len() > limits::MAX_NESTING {
            return Err(super::too_deep(Some(location)));
        }
        self.frames.push(Frame { open, location, anchor });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, location: Location) -> ConfigResult<()> {
        let error = |problem: String| ConfigError::new("", Some(location), problem);
        if self.key_is_next() {
            return Err(error("a key must be a word, not an alias".to_owned()));
        }
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(error("the alias names a value that contains it".to_owned()));
        };
        if self.frames.len() + anchored.depth > limits::MAX_NESTING + 1 {
            return Err(super::too_deep(Some(location)));
        }
        if self.values + anchored.values > limits::MAX_STUDY_VALUES {
            let problem = format!("aliases expand to more than {} values", limits::MAX_STUDY_VALUES);
            return Err(error(problem).suggest("write out what is needed, without aliases of aliases"));
        }
        self.values += anchored.values.saturating_sub(1);
        let node = anchored.node.clone();
        self.finish(node, 0)
    }

    /// Puts a finished value where it belongs and remembers it under its anchor.
    fn finish(&mut self, node: Node, anchor: usize) -> ConfigResult<()> {
        self.values += 1;
        if anchor != 0 {
            let (values, depth) = size(&node);
            // Each anchor keeps a copy, so the copies count as well.
            self.values += values;
            if self.values > limits::MAX_STUDY_VALUES {
                let problem = format!("anchors hold more than {} values", limits::MAX_STUDY_VALUES);
                return Err(ConfigError::new("", node.location, problem).suggest("use fewer anchors"));
            }
            self.anchors.insert(anchor, Anchored { node: node.clone(), values, depth });
        }
        match self.frames.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::Array(items)) => items.push(node),
            Some(Open::Table { table, key, .. }) => {
                if let Some((key, location)) = key.take() {
                    table.entries.push(Entry { key, key_location: Some(location), node });
                }
            }
        }
        Ok(())
    }
}

/// Number of values in a tree, and how deep tables and arrays are nested in it.
fn size(node: &Node) -> (usize, usize) {
    let children: Box<dyn Iterator<Item = &Node>> = match &node.value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Table(table) => Box::new(table.entries.iter().map(|entry| &entry.node)),
        _ => return (1, 0),
    };
    let (values, depth) =
        children.map(size).fold((1, 0), |(values, depth), (more, deep)| (values + more, depth.max(deep)));
    (values, depth + 1)
}
