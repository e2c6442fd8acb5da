//! Fixed sines and cosines of the position (Vaswani et al. 2017, 3.5).

use serde::Serialize;

use super::{Entry, Scheme};
use crate::fields::{ConfigResult, Fields};
use crate::tasks::TaskConfig;

/// `"sinusoidal"`; no settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sinusoidal {}

impl Scheme for Sinusoidal {
    fn read(fields: Fields<'_>, _: &TaskConfig) -> ConfigResult<Self> {
        fields.finish()?;
        Ok(Sinusoidal {})
    }

    fn entry(&self) -> Entry {
        Entry::FixedTable(|position, coordinate, width| {
            let angle = position as f64 / 10_000f64.powf((coordinate / 2 * 2) as f64 / width as f64);
            if coordinate.is_multiple_of(2) { angle.sin() } else { angle.cos() }
        })
    }
}
