//! The data as files others read: `cells.csv`, `trials.parquet`, `metrics.parquet`.
//!
//! Bytes only; writing them is `report`'s. Column names are stable: parameters keep their dotted paths, final metrics
//! are prefixed with `final.`. Rows are ordered by cell, then seed, so the same trials give the same bytes.

mod csv;
mod parquet;

pub use csv::{cells_csv, field as csv_field};
pub use parquet::{ExportError, metrics_parquet, trials_parquet};

use crate::cells::Dataset;

/// All metrics measured by any trial, in order of name.
fn metrics<'a>(data: &Dataset<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> =
        data.trials().flat_map(|trial| trial.series.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}
