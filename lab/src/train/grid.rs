//! Exact match over a grid of problem sizes, of one replica.
//!
//! An answer of several symbols is scored in one pass, from what the model says at each position behind the right symbols: greedy
//! decoding finds the whole answer if and only if all of these are right (`lab/tests/decoding.rs` decodes and compares).

use std::collections::BTreeMap;

use plateau_common::config::{Category, GridConfig, ModelConfig, TrialConfig};
use plateau_common::tasks::{Batch, Cell, Examples, Input};

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
    let cells: Vec<(Cell, Batch)> =
        grid.cells(&axes).into_iter().map(|cell| (cell, examples.cell(cell, grid.problems))).collect();
    let longest = cells.iter().map(|(_, batch)| length(batch)).max().unwrap_or(1);
    let mut score = |batch: &Batch, recurrences: usize| -> Result<Scores, LabError> {
        let reading = (examples.scale(), Reading::Any { longest, recurrences });
        evaluate::score(engine, replica, batch, reading, width, false)
    };
    let (mut values, mut means) = (Vec::new(), BTreeMap::new());
    for (cell, batch) in &cells {
        let scores = score(batch, model.recurrences)?;
        let both = [("exact_match", scores.exact_match()), ("first_match", scores.first_match())];
        for (name, value) in both.into_iter().take(GridConfig::scores(&axes).len()) {
            values.push((format!("{name}/{cell}"), value));
            let (sum, count) = means.entry((name, grid.category(*cell, &axes))).or_insert((0.0, 0.0));
            (*sum, *count) = (*sum + value, *count + 1.0);
        }
    }
    let mean = |((name, category), (sum, count)): ((&str, Category), (f64, f64))| {
        (format!("{name}/{}", category.word()), sum / count)
    };
    values.extend(means.into_iter().map(mean));
    for recurrences in &grid.recurrences {
        for (cell, batch) in cells.iter().filter(|(cell, _)| cell.row == cell.column) {
            let exact = score(batch, *recurrences)?.exact_match();
            values.push((format!("exact_match/after_{recurrences}/{cell}"), exact));
        }
    }
    Ok(values)
}

fn length(batch: &Batch) -> usize {
    match &batch.input {
        Input::Tokens { length, .. } => *length,
        Input::Counts { .. } => 1,
    }
}
