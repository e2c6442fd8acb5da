//! Randomised positions (Ruoss et al. 2023): in training the tokens of a sequence have increasing random positions out of
//! many more than it is long, so that the positions of longer sequences are trained too.

use serde::Serialize;

use super::{Entry, Scheme};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::tasks::TaskConfig;

/// `"randomised"`, beside the scheme whose positions it draws; `[model.randomised]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Randomised {
    /// Positions to choose from, at least the tokens of a sequence. Default 512, or the length of training sequences where
    /// they are longer.
    pub positions: usize,
}

impl Scheme for Randomised {
    fn read(mut fields: Fields<'_>, task: &TaskConfig) -> ConfigResult<Self> {
        let length = task.shape().length;
        let positions = fields.integer("positions", length..=limits::MAX_LENGTH)?.unwrap_or(length.max(512));
        fields.finish()?;
        Ok(Randomised { positions })
    }

    fn entry(&self) -> Entry {
        Entry::RandomNumbering { positions: self.positions }
    }
}
