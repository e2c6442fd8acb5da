//! `summary`: what a metric is at the last evaluation, per cell.

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::TrialRecord;
use serde::Serialize;
use serde_json::Value;

use super::population::{caveats, ended, final_value};
use super::{Analysis, AnalysisResult, Common, percent, read_metrics};
use crate::cells::{Cell, Dataset, human, short_name};
use crate::number;
use crate::statistics::bootstrap::{self, FEWEST_RUNS};
use crate::statistics::estimate::finite_sorted;
use crate::statistics::{Estimate, iqm, mean};
use crate::table::TextTable;

struct Summary {
    name: String,
    confidence: f64,
    metrics: Vec<String>,
}

/// Options: `metrics` or `metric` (default `test_accuracy`).
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    let metrics = read_metrics(fields, common.known, &["test_accuracy"])?;
    Ok(Box::new(Summary { name: common.name, confidence: common.confidence, metrics }))
}

/// Statistics of one metric in one cell.
#[derive(Clone, Debug, Serialize)]
pub struct CellSummary {
    /// The cell's name.
    pub cell: String,
    /// Its labels' values.
    pub parameters: serde_json::Map<String, Value>,
    /// The metric.
    pub metric: String,
    /// Runs that left a result.
    pub runs: usize,
    /// Mean with t interval.
    pub mean: Estimate,
    /// Mean with bootstrap interval (none below five runs).
    pub bootstrap: Estimate,
    /// Interquartile mean.
    pub interquartile_mean: Estimate,
    /// Standard deviation over runs; NaN for fewer than two.
    #[serde(serialize_with = "number::serialize")]
    pub standard_deviation: f64,
    /// The value of every run, in ascending seed.
    #[serde(serialize_with = "number::serialize_list")]
    pub values: Vec<f64>,
}

/// All cells, metric by metric.
#[derive(Clone, Debug, Serialize)]
pub struct SummaryOutcome {
    /// One entry per metric and cell.
    pub cells: Vec<CellSummary>,
}

/// The statistics of `metric` for each cell of the data set.
pub fn summarise(data: &Dataset, metric: &str, confidence: f64) -> Vec<CellSummary> {
    data.cells
        .iter()
        .map(|cell| summarise_runs(data, cell, &ended(&cell.trials), metric, confidence))
        .collect()
}

/// The statistics of `metric` over some runs of a cell.
pub fn summarise_runs(
    data: &Dataset,
    cell: &Cell,
    runs: &[&TrialRecord],
    metric: &str,
    confidence: f64,
) -> CellSummary {
    let values: Vec<f64> = runs.iter().map(|trial| final_value(trial, metric)).collect();
    CellSummary {
        cell: data.name_of(cell),
        parameters: data.parameters_of(cell),
        metric: metric.to_owned(),
        runs: values.len(),
        mean: mean::t_interval(&values, confidence),
        bootstrap: bootstrap::mean_interval(&values, confidence),
        interquartile_mean: iqm::interval(&values, confidence),
        standard_deviation: mean::standard_deviation(&finite_sorted(&values).0),
        values,
    }
}

impl Analysis for Summary {
    fn kind(&self) -> &'static str {
        "summary"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let mut tables = Vec::new();
        let mut all = Vec::new();
        let labels: Vec<&str> = data.labels.iter().map(String::as_str).collect();
        for metric in &self.metrics {
            let cells = summarise(data, metric, self.confidence);
            let mut columns: Vec<String> =
                labels.iter().map(|label| short_name(label, &labels).to_owned()).collect();
            let interval = percent(self.confidence);
            columns.extend(
                [
                    "runs",
                    "mean",
                    &format!("t {interval}"),
                    &format!("bootstrap {interval}"),
                    "IQM",
                    "sd",
                    "each run",
                    "remarks",
                ]
                .map(str::to_owned),
            );
            let mut table = TextTable::new(format!("{metric} at the last evaluation"), columns);
            for (summary, cell) in cells.iter().zip(&data.cells) {
                let mut row: Vec<String> = cell.values.iter().map(|value| human(value.as_ref())).collect();
                let raw: Vec<String> = summary.values.iter().map(|value| number::human(*value)).collect();
                row.extend([
                    summary.runs.to_string(),
                    number::human(summary.mean.value),
                    number::human_interval(summary.mean.low, summary.mean.high),
                    number::human_interval(summary.bootstrap.low, summary.bootstrap.high),
                    number::human(summary.interquartile_mean.value),
                    number::human(summary.standard_deviation),
                    if summary.runs < FEWEST_RUNS { raw.join("  ") } else { String::new() },
                    summary.mean.remarks(),
                ]);
                table.push(row);
            }
            drop_empty_column(&mut table, "each run");
            drop_empty_column(&mut table, "remarks");
            tables.push(table);
            all.extend(cells);
        }
        let metrics: Vec<&str> = self.metrics.iter().map(String::as_str).collect();
        let title = format!("Final {}", metrics.join(", "));
        AnalysisResult::new(
            self,
            title,
            tables,
            caveats(data, &metrics, false),
            SummaryOutcome { cells: all },
        )
    }
}

/// Removes a column that says nothing in any row.
pub(crate) fn drop_empty_column(table: &mut TextTable, heading: &str) {
    let Some(index) = table.columns.iter().position(|column| column == heading) else { return };
    if table.rows.iter().all(|row| row.get(index).is_none_or(String::is_empty)) {
        table.columns.remove(index);
        for row in &mut table.rows {
            row.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{trial, with_curve};

    #[test]
    fn exact_values_for_one_cell() {
        let values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
        let records: Vec<_> = (0..10)
            .map(|seed| {
                with_curve(trial(seed, &[]), "test_accuracy", &[(0, 0.0), (10, values[seed as usize])])
            })
            .collect();
        let data = Dataset::new(&records, &[]);
        let cells = summarise(&data, "test_accuracy", 0.95);
        let [cell] = cells.as_slice() else { panic!("one cell") };
        assert_eq!(cell.cell, "all trials");
        assert!((cell.mean.value - 0.55).abs() < 1e-12);
        assert!((cell.interquartile_mean.value - 0.55).abs() < 1e-12);
        // s of 0.1, 0.2 .. 1.0 is 0.302765; t(9) is 2.262157.
        assert!((cell.mean.high - 0.55 - 2.262_157 * 0.302_765 / 10f64.sqrt()).abs() < 1e-5);
        assert!(cell.bootstrap.has_interval() && cell.bootstrap.low > cell.mean.low);
    }
}
