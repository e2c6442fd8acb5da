//! Trial identity: the hash of the canonical resolved configuration.
//!
//! Excluded are the budget (where the schedule does not depend on it) and the checkpoint policy, which change how far
//! or how safely a trial runs but not what it is. So a longer budget continues a trial instead of starting another.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::config::TrialConfig;

/// Content-hash id of a trial: 16 bytes, written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrialId([u8; 16]);

impl TrialId {
    /// The id of a configuration.
    pub fn of(config: &TrialConfig) -> Self {
        let mut json = config.to_json();
        if let Some(root) = json.as_object_mut() {
            root.remove("checkpoint");
            if !config.train.schedule.depends_on_budget()
                && let Some(train) = root.get_mut("train").and_then(|train| train.as_object_mut())
            {
                train.remove("steps");
            }
        }
        TrialId(hash("plateau 2026 trial identity v1", &json))
    }

    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        TrialId(bytes)
    }

    /// Parses 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(TrialId(bytes))
    }

    /// The first eight digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl Serialize for TrialId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for TrialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TrialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrialId({self})")
    }
}

/// The key under which trials may be trained together: everything, the budget included, but the seed, the order of the data, the
/// trial forked from, the checkpoint policy and the per-replica scalars (learning rate, weight decay, clipping). Equal keys imply
/// equal tensor shapes and equal code paths.
pub fn cohort_key(config: &TrialConfig) -> String {
    let mut json = config.to_json();
    if let Some(root) = json.as_object_mut() {
        root.remove("seed");
        root.remove("checkpoint");
        root.remove("fork");
        if let Some(train) = root.get_mut("train").and_then(|train| train.as_object_mut()) {
            train.remove("clip");
            train.remove("data-order");
            if let Some(optimizer) = train.get_mut("optimizer").and_then(|rule| rule.as_object_mut()) {
                optimizer.remove("lr");
                optimizer.remove("weight-decay");
            }
        }
    }
    hex(&hash("plateau 2026 cohort key v1", &json))
}

/// The key of a trial's cell: everything but the seed and the order of the data.
pub fn cell_key(config: &TrialConfig) -> String {
    let mut json = config.to_json();
    if let Some(root) = json.as_object_mut() {
        root.remove("seed");
        root.remove("checkpoint");
        if let Some(train) = root.get_mut("train").and_then(|train| train.as_object_mut()) {
            train.remove("data-order");
        }
    }
    hex(&hash("plateau 2026 cell key v1", &json))
}

fn hash(context: &str, json: &serde_json::Value) -> [u8; 16] {
    let mut text = String::new();
    write_canonical(json, &mut text);
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(text.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// Writes JSON with sorted keys and no spaces; floats have the shortest digits that read back as themselves. So equal
/// values give equal bytes, whatever order of keys the build of serde_json keeps.
pub(crate) fn write_canonical(json: &serde_json::Value, text: &mut String) {
    match json {
        serde_json::Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, value)) in pairs.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&serde_json::Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        serde_json::Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
