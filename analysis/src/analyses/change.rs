//! `change`: whether a metric rises or falls over training, in every cell.
//!
//! The unit is one run's last value less its first. A cell rises where the t interval of the mean change lies above 0. The
//! claim that *all* cells rise is tested by every one of them rising: each must pass by itself, so there is nothing to
//! correct for their number (an intersection–union test, Berger 1982).

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::TrialRecord;
use serde::Serialize;
use serde_json::Value;

use super::criterion::Criterion;
use super::population::{caveats, ended, runs};
use super::summary::drop_empty_column;
use super::{Analysis, AnalysisResult, Common, percent, read_metrics};
use crate::cells::{Cell, Dataset, human, short_name};
use crate::number;
use crate::statistics::{Estimate, mean};
use crate::table::TextTable;

struct Change {
    name: String,
    confidence: f64,
    metrics: Vec<String>,
    criterion: Criterion,
    from: u64,
}

/// Options: `metrics` or `metric` (default `test_accuracy`), `from` (the first evaluation at or after this step counts as the
/// first; default 0), `criterion` (of the end: `final` by default, or `mean-of-last`), `last` (10).
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    Ok(Box::new(Change {
        metrics: read_metrics(fields, common.known, &["test_accuracy"])?,
        criterion: Criterion::read(fields)?,
        from: fields.integer("from", 0..=u64::MAX)?.unwrap_or(0),
        name: common.name,
        confidence: common.confidence,
    }))
}

/// The change of one metric in one cell.
#[derive(Clone, Debug, Serialize)]
pub struct CellChange {
    /// The metric.
    pub metric: String,
    /// The cell's name.
    pub cell: String,
    /// Its labels' values.
    pub parameters: serde_json::Map<String, Value>,
    /// The earliest and the latest of the first steps; absent where no run has two evaluations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<(u64, u64)>,
    /// Mean at the first step.
    #[serde(serialize_with = "number::serialize")]
    pub first: f64,
    /// Mean at the end, over the same runs.
    #[serde(serialize_with = "number::serialize")]
    pub last: f64,
    /// Mean of the changes, with its t interval.
    pub change: Estimate,
    /// Runs in which the metric rose.
    pub rose: usize,
    /// Runs in which it fell.
    pub fell: usize,
}

impl CellChange {
    fn rises(&self) -> bool {
        self.change.low > 0.0
    }

    fn falls(&self) -> bool {
        self.change.high < 0.0
    }
}

/// Outcome of the `change` analysis.
#[derive(Clone, Debug, Serialize)]
pub struct ChangeOutcome {
    /// One entry per metric and cell.
    pub changes: Vec<CellChange>,
}

impl Change {
    /// A run's first step, first value and last value.
    fn ends(&self, trial: &TrialRecord, metric: &str) -> Option<(u64, f64, f64)> {
        let curve = trial.series.get(metric)?;
        let place = curve.steps.partition_point(|step| *step < self.from);
        let (step, first) = (*curve.steps.get(place)?, *curve.values.get(place)?);
        // One evaluation is no change.
        (curve.steps.len() > place + 1).then(|| (step, first, self.criterion.value(trial, metric)))
    }

    fn cell(&self, data: &Dataset, cell: &Cell, metric: &str) -> CellChange {
        let runs: Vec<Option<(u64, f64, f64)>> =
            ended(&cell.trials).iter().map(|trial| self.ends(trial, metric)).collect();
        let known = || runs.iter().flatten().filter(|(_, first, last)| (last - first).is_finite());
        let steps = || known().map(|(step, _, _)| *step);
        let changes: Vec<f64> =
            runs.iter().map(|run| run.map_or(f64::NAN, |(_, first, last)| last - first)).collect();
        let average = |values: Vec<f64>| mean::t_interval(&values, self.confidence).value;
        CellChange {
            metric: metric.to_owned(),
            cell: data.name_of(cell),
            parameters: data.parameters_of(cell),
            from: steps().min().zip(steps().max()),
            first: average(known().map(|(_, first, _)| *first).collect()),
            last: average(known().map(|(_, _, last)| *last).collect()),
            rose: changes.iter().filter(|change| **change > 0.0).count(),
            fell: changes.iter().filter(|change| **change < 0.0).count(),
            change: mean::t_interval(&changes, self.confidence),
        }
    }

    fn table(&self, data: &Dataset, metric: &str, changes: &[CellChange]) -> TextTable {
        let labels: Vec<&str> = data.labels.iter().map(String::as_str).collect();
        let mut columns: Vec<String> =
            labels.iter().map(|label| short_name(label, &labels).to_owned()).collect();
        let interval = format!("t {}", percent(self.confidence));
        columns.extend(
            ["runs", "from step", "first", "last", "change", &interval, "rose", "fell", "remarks"]
                .map(str::to_owned),
        );
        let mut table = TextTable::new(format!("{metric}: change {}", self.phrase()), columns);
        for (change, cell) in changes.iter().filter(|change| change.metric == metric).zip(&data.cells) {
            let mut row: Vec<String> = cell.values.iter().map(|value| human(value.as_ref())).collect();
            row.extend([
                change.change.runs.to_string(),
                match change.from {
                    None => "–".to_owned(),
                    Some((first, last)) if first == last => first.to_string(),
                    Some((first, last)) => format!("{first} … {last}"),
                },
                number::human(change.first),
                number::human(change.last),
                number::significant(change.change.value, 3),
                number::human_interval(change.change.low, change.change.high),
                change.rose.to_string(),
                change.fell.to_string(),
                change.change.remarks(),
            ]);
            table.push(row);
        }
        drop_empty_column(&mut table, "remarks");
        table
    }

    fn phrase(&self) -> String {
        let end = match self.criterion {
            Criterion::Final => "to the last evaluation".to_owned(),
            Criterion::MeanOfLast(count) => format!("to the mean of the last {count} evaluations"),
        };
        match self.from {
            0 => format!("from the first {end}"),
            from => format!("from the first evaluation at step {from} or later {end}"),
        }
    }
}

/// In how many of the cells the metric rises or falls.
fn finding(metric: &str, changes: &[&CellChange]) -> Option<String> {
    let cells = changes.len();
    let known = changes.iter().filter(|change| change.change.has_interval()).count();
    if known == 0 {
        return None;
    }
    let rises = changes.iter().filter(|change| change.rises()).count();
    let falls = changes.iter().filter(|change| change.falls()).count();
    let plural = if cells == 1 { "cell" } else { "cells" };
    let unknown = if known < cells { format!("; not known in {}", cells - known) } else { String::new() };
    let all = |word: &str, side: &str| {
        let them = if cells == 1 { "the one cell".to_owned() } else { format!("all {cells} cells") };
        format!("{metric} {word} in {them}: every interval of the change lies {side} 0.")
    };
    Some(if rises == cells {
        all("rises", "above")
    } else if falls == cells {
        all("falls", "below")
    } else {
        format!(
            "{metric} rises in {rises} and falls in {falls} of {cells} {plural}; in {} the interval of the change holds \
             0{unknown}.",
            known - rises - falls
        )
    })
}

impl Analysis for Change {
    fn kind(&self) -> &'static str {
        "change"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let metrics: Vec<&str> = self.metrics.iter().map(String::as_str).collect();
        let mut notes = caveats(data, &metrics, false);
        let changes: Vec<CellChange> = metrics
            .iter()
            .flat_map(|metric| data.cells.iter().map(|cell| self.cell(data, cell, metric)))
            .collect();
        let mut findings = Vec::new();
        for metric in &metrics {
            let own: Vec<&CellChange> = changes.iter().filter(|change| change.metric == *metric).collect();
            findings.extend(finding(metric, &own));
            let lost: usize = own.iter().map(|change| change.change.dropped).sum();
            if lost > 0 {
                notes.push(format!("Left out: {} without two finite evaluations of {metric}.", runs(lost)));
            }
        }
        notes.push(format!(
            "Change {}, run by run, with the {} t interval of its mean. That all cells rise is claimed only where each does \
             by itself, which needs no correction for their number; a single cell picked from many would.",
            self.phrase(),
            percent(self.confidence)
        ));
        let tables = metrics.iter().map(|metric| self.table(data, metric, &changes)).collect();
        let title = format!("Change of {}", metrics.join(", "));
        AnalysisResult::new(self, title, tables, notes, ChangeOutcome { changes }).with_findings(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{structural, trial, with_curve};
    use plateau_common::node::Node;

    fn run(records: &[TrialRecord], options: serde_json::Value) -> AnalysisResult {
        let node = Node::from_json(&options);
        let mut fields = Fields::new("analysis", &node).unwrap();
        let common = Common { name: "change".to_owned(), confidence: 0.95, known: Default::default() };
        read(&mut fields, common).unwrap().run(&Dataset::new(records, &[]))
    }

    #[test]
    fn bracketing_rises_at_every_depth_whether_it_generalises_or_not() {
        let result = run(&structural(10), serde_json::json!({"metric": "t_parseval"}));
        let outcome: &ChangeOutcome = result.outcome().unwrap();
        assert_eq!(
            result.findings,
            ["t_parseval rises in all 3 cells: every interval of the change lies above 0."]
        );
        let six = &outcome.changes[1];
        assert_eq!((six.from, six.rose, six.fell), (Some((3000, 3000)), 10, 0));
        assert!((six.first - 0.457).abs() < 1e-9 && (six.last - 0.659).abs() < 1e-9, "{six:?}");
        let late = run(&structural(10), serde_json::json!({"metric": "t_parseval", "from": 150_000}));
        let outcome: &ChangeOutcome = late.outcome().unwrap();
        assert_eq!(outcome.changes[1].from, Some((150_000, 150_000)));
        assert!(
            late.findings[0].starts_with("t_parseval rises in 2 and falls in 1 of 3 cells"),
            "{:?}",
            late.findings
        );
    }

    #[test]
    fn exact_changes_and_runs_that_have_none() {
        let ends = [(0.1, 0.3), (0.2, 0.3), (0.1, 0.1)];
        let mut records: Vec<TrialRecord> = (0..3)
            .zip(ends)
            .map(|(seed, (first, last))| with_curve(trial(seed, &[]), "t_score", &[(10, first), (20, last)]))
            .collect();
        records.push(with_curve(trial(3, &[]), "t_score", &[(10, 0.5)]));
        records.push(with_curve(trial(4, &[]), "t_score", &[(10, f64::NAN), (20, 0.5)]));
        let result = run(&records, serde_json::json!({"metric": "t_score"}));
        let outcome: &ChangeOutcome = result.outcome().unwrap();
        let only = &outcome.changes[0];
        assert!((only.change.value - 0.1).abs() < 1e-12);
        assert_eq!((only.change.runs, only.change.dropped, only.rose, only.fell), (3, 2, 2, 0));
        assert!(
            result.caveats.iter().any(|caveat| caveat.starts_with("Left out: 2 runs without two finite"))
        );
        assert!(
            result.findings[0].contains("in 1 the interval of the change holds 0"),
            "{:?}",
            result.findings
        );
    }
}
