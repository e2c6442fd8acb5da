//! The records that analysis, exports and figures are computed from: one per trial, with its curves.
//!
//! Filled by the coordinator's clients from the wire; read by `plateau-analysis`. Plain data only.

use std::collections::BTreeMap;

use crate::trial::TrialState;

/// One metric of one trial over training: equally long columns, steps strictly increasing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Number of updates made before the evaluation.
    pub steps: Vec<u64>,
    /// The value at each step; may be NaN or infinite where the metric was.
    pub values: Vec<f64>,
}

impl Series {
    /// The last step and value, if any.
    pub fn last(&self) -> Option<(u64, f64)> {
        Some((*self.steps.last()?, *self.values.last()?))
    }
}

/// A configuration value of a trial, flattened to its dotted path.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
    /// A switch.
    Bool(bool),
}

impl std::fmt::Display for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Parameter::Number(value) => write!(f, "{value}"),
            Parameter::Text(value) => f.write_str(value),
            Parameter::Bool(value) => write!(f, "{value}"),
        }
    }
}

impl Parameter {
    /// The number inside, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Parameter::Number(value) => Some(*value),
            _ => None,
        }
    }
}

/// One trial as the analysis sees it.
#[derive(Clone, Debug)]
pub struct TrialRecord {
    /// Content-hash id (hex).
    pub id: String,
    /// The resolved configuration, flattened: `model.dim` -> 32. Includes `seed`.
    pub parameters: BTreeMap<String, Parameter>,
    /// Its seed.
    pub seed: u64,
    /// Where it is in its life.
    pub state: TrialState,
    /// Steps made.
    pub last_step: u64,
    /// Steps asked for.
    pub budget: u64,
    /// Step at which it diverged, if it did.
    pub diverged_at: Option<u64>,
    /// Seconds of training on its device, all attempts together.
    pub train_seconds: f64,
    /// Metric name -> curve.
    pub series: BTreeMap<String, Series>,
}
