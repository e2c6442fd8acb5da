//! A parsed document (TOML, YAML or JSON) as a tree in which every value remembers where it was written.
//!
//! Owns: the tree, dotted-path access and conversion to and from `serde_json::Value`. Does not parse files (see
//! `study::document`) and does not give values a meaning (see `fields` and `config`).

use std::fmt;

/// A place in a source file; lines and columns count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and the place it was written at (`None` for values that come from defaults, flags or the network).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value itself.
    pub value: Value,
    /// Where it was written.
    pub location: Option<Location>,
}

/// The kinds of value a study file can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// YAML or JSON null.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction or exponent; may be non-finite in TOML, which readers refuse.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
}

impl Value {
    /// The name of the value's type, as used in messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Text(_) => "a string",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value:?}"),
            Value::Text(value) => f.write_str(value),
            Value::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{}", item.value)?;
                }
                f.write_str("]")
            }
            Value::Table(table) => {
                f.write_str("{")?;
                for (index, entry) in table.entries.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{} = {}", entry.key, entry.node.value)?;
                }
                f.write_str("}")
            }
        }
    }
}

/// A table that keeps the order in which its keys were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Keys and values in file order; keys are unique.
    pub entries: Vec<Entry>,
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key as written.
    pub key: String,
    /// Where the key was written.
    pub key_location: Option<Location>,
    /// Its value.
    pub node: Node,
}

impl Table {
    /// The value of `key`, if present.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The value of `key` for modification.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node)
    }

    /// Sets `key`, replacing a former value in place or appending a new entry.
    pub fn set(&mut self, key: &str, node: Node) {
        match self.get_mut(key) {
            Some(existing) => *existing = node,
            None => self.entries.push(Entry { key: key.to_owned(), key_location: node.location, node }),
        }
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(index).node)
    }
}

impl Node {
    /// A value without a place.
    pub fn new(value: Value) -> Self {
        Node { value, location: None }
    }

    /// An empty table without a place.
    pub fn empty_table() -> Self {
        Node::new(Value::Table(Table::default()))
    }

    /// The table inside, if this is one.
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The value at a dotted path (`"model.dim"`), if every step exists.
    pub fn at_path(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self, |node, key| node.as_table()?.get(key))
    }

    /// Sets the value at a dotted path, creating tables on the way. Fails, naming the prefix, where a step of the path
    /// is present but is not a table.
    pub fn set_path(&mut self, path: &str, value: Node) -> Result<(), String> {
        let mut node = self;
        let mut keys = path.split('.').peekable();
        let mut walked = String::new();
        while let Some(key) = keys.next() {
            let Value::Table(table) = &mut node.value else {
                return Err(walked);
            };
            if keys.peek().is_none() {
                table.set(key, value);
                return Ok(());
            }
            if table.get(key).is_none() {
                table.set(key, Node::empty_table());
            }
            if !walked.is_empty() {
                walked.push('.');
            }
            walked.push_str(key);
            match table.get_mut(key) {
                Some(next) => node = next,
                None => return Err(walked),
            }
        }
        Ok(())
    }

    /// Forgets where this value and everything inside it was written.
    pub fn forget_places(&mut self) {
        self.location = None;
        match &mut self.value {
            Value::Array(items) => items.iter_mut().for_each(Node::forget_places),
            Value::Table(table) => table.entries.iter_mut().for_each(|entry| {
                entry.key_location = None;
                entry.node.forget_places();
            }),
            _ => {}
        }
    }

    /// The JSON value of this tree, without places. Non-finite floats, which JSON lacks, become strings.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => match serde_json::Number::from_f64(*value) {
                Some(number) => number.into(),
                None => value.to_string().into(),
            },
            Value::Text(value) => value.clone().into(),
            Value::Array(items) => items.iter().map(Node::to_json).collect(),
            Value::Table(table) => {
                table.entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect()
            }
        }
    }

    /// The tree of a JSON value (no places). Numbers beyond `i64` become floats.
    pub fn from_json(json: &serde_json::Value) -> Node {
        Node::new(match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(integer) => Value::Integer(integer),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => Value::Array(items.iter().map(Node::from_json).collect()),
            serde_json::Value::Object(map) => Value::Table(Table {
                entries: map
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        key_location: None,
                        node: Node::from_json(value),
                    })
                    .collect(),
            }),
        })
    }
}
