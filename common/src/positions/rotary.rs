//! Rotary positions: queries and keys are rotated by their position (Su et al. 2021), base 10 000, half-split pairs as in
//! GPT-NeoX.

use serde::Serialize;

use super::{Entry, Scheme};
use crate::fields::{ConfigResult, Fields};
use crate::tasks::TaskConfig;

/// `"rotary"`; no settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rotary {}

impl Scheme for Rotary {
    fn read(fields: Fields<'_>, _: &TaskConfig) -> ConfigResult<Self> {
        fields.finish()?;
        Ok(Rotary {})
    }

    fn entry(&self) -> Entry {
        Entry::Rotation { base: 10_000.0 }
    }
}
