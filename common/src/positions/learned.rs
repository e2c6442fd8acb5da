//! Learned absolute positions: a trained row per position.

use serde::Serialize;

use super::{Entry, Scheme};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::tasks::TaskConfig;

/// `"learned"`; `[model.learned]` is optional.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Learned {
    /// Rows of the table; those beyond the longest training sequence are never trained. Default: as many as a training
    /// sequence has tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
}

impl Scheme for Learned {
    fn read(mut fields: Fields<'_>, task: &TaskConfig) -> ConfigResult<Self> {
        let rows = fields.integer("rows", task.shape().length..=limits::MAX_LENGTH)?;
        fields.finish()?;
        Ok(Learned { rows })
    }

    fn entry(&self) -> Entry {
        Entry::LearnedTable { rows: self.rows }
    }
}
