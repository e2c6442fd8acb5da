//! Abacus embeddings: a trained row for a digit's place in its number (McLeish et al. 2024, section 3.1).
//!
//! In each run of digits the first is 1, the second 2, …, and whatever is no digit is 0; 0 is a trained row like the others. In
//! training one random offset, shared by operands and answer, is added to all places but 0, so that the rows of longer numbers
//! are trained too: with a first place of 1 to k and operands of S digits, rows up to k + S - 1 of operands are.

use std::ops::Range;

use serde::Serialize;

use super::{Entry, Scheme};
use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::random::Stream;
use crate::tasks::TaskConfig;

/// `"abacus"`; `[model.abacus]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Abacus {
    /// In training a number's first digit stands at a random place from 1 to this, the paper's k; 1: no offset. (Its text says
    /// 1 to 100, its code draws 1 to 101.) Default 100.
    pub k: u32,
    /// Rows of the table. Default 512.
    pub rows: usize,
    /// Examples that share one random offset; default: all of an update. (The paper's code draws one per micro-batch.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub examples_per_offset: Option<usize>,
    /// The task's digits.
    #[serde(skip)]
    digits: Range<u32>,
}

impl Scheme for Abacus {
    fn read(mut fields: Fields<'_>, task: &TaskConfig) -> ConfigResult<Self> {
        if task.digits().is_empty() {
            return Err(fields
                .error("k", format!("task `{}` has no digits whose places could be counted", task.kind())));
        }
        let rows = fields.integer("rows", 2..=limits::MAX_LENGTH)?.unwrap_or(512);
        let k = fields.integer("k", 1..=limits::MAX_LENGTH as u32)?.unwrap_or(100);
        // A place in a training sequence is at most its length.
        if k as usize + task.shape().length > rows {
            let longest = task.shape().length;
            return Err(fields
                .error(
                    "rows",
                    format!("{rows} rows are too few for k = {k} and sequences of {longest} tokens"),
                )
                .suggest(format!("use at least {}", k as usize + longest)));
        }
        let examples_per_offset = fields.integer("examples-per-offset", 1..=limits::MAX_BATCH)?;
        fields.finish()?;
        Ok(Abacus { k, rows, examples_per_offset, digits: task.digits() })
    }

    fn entry(&self) -> Entry {
        Entry::TokenTable { rows: self.rows }
    }

    fn rows(&self, tokens: &[u32], length: usize, mut stream: Option<&mut Stream>, rows: &mut Vec<u32>) {
        let mut offset = 0;
        for (example, tokens) in tokens.chunks(length.max(1)).enumerate() {
            let begins = example == 0 || self.examples_per_offset.is_some_and(|shared| example % shared == 0);
            if let Some(stream) = stream.as_mut().filter(|_| begins) {
                offset = stream.below(self.k);
            }
            let mut place = 0;
            rows.extend(tokens.iter().map(|token| {
                place = if self.digits.contains(token) { place + 1 } else { 0 };
                if place == 0 { 0 } else { place + offset }
            }));
        }
    }
}
