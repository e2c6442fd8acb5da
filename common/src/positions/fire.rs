//! FIRE: functional interpolation for relative positions (Li et al. 2024, as in McLeish et al. 2024, appendix A.1.1).
//!
//! To the scaled logit of query i and key j <= i of head h is added
//! `f_h( ln(|c (i - j)| + 1) / (ln(|c max(i, L)| + 1) + 1e-6) )`, where f is a perceptron 1 -> hidden -> heads with ReLU and
//! biases, c starts at 0.1, and L = |m| `length` with m starting at 1. Every layer has its own f, c and m.

use serde::Serialize;

use super::{Entry, Scheme};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::tasks::TaskConfig;

/// `"fire"`; `[model.fire]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fire {
    /// Width of the perceptron's hidden layer. Default 32.
    pub hidden: usize,
    /// Distance up to which, at the start, the bias depends on the distance alone. Default 512.
    pub length: f64,
}

impl Scheme for Fire {
    fn read(mut fields: Fields<'_>, _: &TaskConfig) -> ConfigResult<Self> {
        let hidden = fields.integer("hidden", 1..=limits::MAX_WIDTH)?.unwrap_or(32);
        let length = fields.number("length", 1.0..=limits::MAX_LENGTH as f64)?.unwrap_or(512.0);
        fields.finish()?;
        Ok(Fire { hidden, length })
    }

    fn entry(&self) -> Entry {
        Entry::Fire(*self)
    }
}
