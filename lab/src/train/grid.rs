//! Exact match over a grid of problem sizes, of one replica.
//!
//! An answer of several symbols is scored in one pass, from what the model says at each position behind the right symbols: greedy
//! decoding finds the whole answer if and only if all of these are right (`lab/tests/decoding.rs` decodes and compares).

use std::collections::BTreeMap;

use plateau_common::config::{Category, GridConfig, ModelConfig, TrialConfig};
use plateau_common::tasks::{Batch, Examples};

use crate::engine::{Engine, Reading};
use crate::error::LabError;
use crate::evaluate::{self, Scores};

/// All metrics of the grid.
pub(super) fn measure(
    engine: &mut dyn Engine,
    replica: usize,
    grid: &GridConfig,
    config: &TrialConfig,
    examples: &dyn Examples,
) -> Result<Vec<(String, f64)>, LabError> {
    let Some(axes) = config.task.grid() else { return Ok(Vec::new()) };
    let _span = tracing::info_span!("grid").entered();
    let ModelConfig::Transformer(model) = &config.model;
    let width = config.task.shape().output.width();
    let longest = grid.largest(&axes).map_or(0, |cell| examples.cell(cell, 1).length());
    let mut score = |batch: &Batch, recurrences: usize| -> Result<Scores, LabError> {
        let reading = (examples.scale(), Reading::Any { longest, recurrences });
        evaluate::score(engine, replica, batch, reading, width, false)
    };
    let (mut values, mut means) = (Vec::new(), BTreeMap::new());
    for cell in grid.cells(&axes) {
        // One cell's problems at a time: all of a large grid would be gigabytes.
        let batch = examples.cell(cell, grid.problems);
        let scores = score(&batch, model.recurrences)?;
        let both = [("exact_match", scores.exact_match()), ("first_match", scores.first_match())];
        for (name, value) in both.into_iter().take(GridConfig::scores(&axes).len()) {
            values.push((format!("{name}/{cell}"), value));
            let (sum, count) = means.entry((name, grid.category(cell, &axes))).or_insert((0.0, 0.0));
            (*sum, *count) = (*sum + value, *count + 1.0);
        }
        for recurrences in grid.recurrences.iter().filter(|_| cell.row == cell.column) {
            let exact = score(&batch, *recurrences)?.exact_match();
            values.push((format!("exact_match/after_{recurrences}/{cell}"), exact));
        }
    }
    let mean = |((name, category), (sum, count)): ((&str, Category), (f64, f64))| {
        (format!("{name}/{}", category.word()), sum / count)
    };
    values.extend(means.into_iter().map(mean));
    Ok(values)
}
