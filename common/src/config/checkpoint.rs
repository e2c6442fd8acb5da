//! When the training state is saved.

use serde::Serialize;

use crate::fields::{ConfigResult, Fields};

/// `[checkpoint]`: the last state of a trial is always saved; these add states on the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointConfig {
    /// Save every so many steps; absent: not by steps.
    pub every: Option<u64>,
    /// Save when this many seconds passed since the last save (default 60); 0: not by time.
    pub seconds: f64,
    /// Intermediate states kept per trial besides the last (default 1).
    pub keep: u32,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every: None, seconds: 60.0, keep: 1 }
    }
}

impl CheckpointConfig {
    /// Reads `[checkpoint]`; an absent table means the defaults.
    pub fn read(fields: Option<Fields<'_>>) -> ConfigResult<Self> {
        let default = Self::default();
        let Some(mut fields) = fields else { return Ok(default) };
        let config = CheckpointConfig {
            every: fields.integer("every", 1..=u64::MAX >> 1)?,
            seconds: fields.number("seconds", 0.0..=1e9)?.unwrap_or(default.seconds),
            keep: fields.integer("keep", 0..=1000)?.unwrap_or(default.keep),
        };
        fields.finish()?;
        Ok(config)
    }
}
