//! When the training state is saved.

use serde::Serialize;

use super::KeepAround;
use crate::fields::{ConfigResult, Fields};

/// `[checkpoint]`: the last state of a trial is always saved; these add states on the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointConfig {
    /// Save every so many steps; absent: not by steps.
    pub every: Option<u64>,
    /// Save when this many seconds passed since the last save (default 60); 0: not by time.
    pub seconds: f64,
    /// Newest intermediate states kept per trial besides the last (default 1).
    pub keep: u32,
    /// Besides, states at multiples of so many steps are saved and kept for good; absent: none.
    pub keep_every: Option<u64>,
    /// Besides, states around the transition are kept for good; absent: none.
    pub keep_around: Option<KeepAround>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every: None, seconds: 60.0, keep: 1, keep_every: None, keep_around: None }
    }
}

impl CheckpointConfig {
    /// Reads `[checkpoint]` of a trial of `steps` steps; an absent table means the defaults.
    pub fn read(fields: Option<Fields<'_>>, steps: u64) -> ConfigResult<Self> {
        let default = Self::default();
        let Some(mut fields) = fields else { return Ok(default) };
        let every = fields.integer("every", 1..=u64::MAX >> 1)?;
        let around = fields.table("keep-around")?;
        let config = CheckpointConfig {
            every,
            seconds: fields.number("seconds", 0.0..=1e9)?.unwrap_or(default.seconds),
            keep: fields.integer("keep", 0..=1000)?.unwrap_or(default.keep),
            keep_every: fields.integer("keep-every", 1..=u64::MAX >> 1)?,
            keep_around: around.map(|fields| KeepAround::read(fields, every, steps)).transpose()?,
        };
        fields.finish()?;
        Ok(config)
    }

    /// Whether the state after `step` updates is saved on the way, whatever the time.
    pub fn is_due(&self, step: u64) -> bool {
        [self.every, self.keep_every].into_iter().flatten().any(|every| step.is_multiple_of(every))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_are_kept_for_good_are_saved_whether_or_not_others_are() {
        let due =
            |config: &CheckpointConfig| (1..=12).filter(|step| config.is_due(*step)).collect::<Vec<u64>>();
        let with = |every, keep_every| CheckpointConfig { every, keep_every, ..CheckpointConfig::default() };
        assert_eq!(due(&with(None, None)), Vec::<u64>::new());
        assert_eq!(due(&with(Some(4), None)), [4, 8, 12]);
        assert_eq!(due(&with(None, Some(5))), [5, 10]);
        assert_eq!(due(&with(Some(4), Some(5))), [4, 5, 8, 10, 12]);
    }
}
