//! `success`: the share of seeds whose metric reaches a level, with its Wilson interval.

use plateau_common::fields::{ConfigResult, Fields};
use serde::Serialize;
use serde_json::Value;

use super::population::{caveats, ended};
use super::summary::drop_empty_column;
use super::survival::{Event, read_event};
use super::{Analysis, AnalysisResult, Common, percent};
use crate::cells::{Dataset, Values, human, short_name};
use crate::number;
use crate::statistics::Estimate;
use crate::statistics::wilson::wilson;
use crate::table::TextTable;

struct Success {
    name: String,
    confidence: f64,
    event: Event,
}

/// Options: `metric` (default `test_accuracy`), `level` (default 0.99), `persistence` (default 1), `direction` (`above`
/// or `below`).
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    let event = read_event(fields, common.known)?;
    Ok(Box::new(Success { name: common.name, confidence: common.confidence, event }))
}

/// Success in one cell.
#[derive(Clone, Debug, Serialize)]
pub struct CellSuccess {
    /// The cell's name.
    pub cell: String,
    /// Its labels' values.
    pub parameters: serde_json::Map<String, Value>,
    /// Values of the labels, for figures.
    #[serde(skip)]
    pub values: Values,
    /// Runs that reached the level.
    pub successes: usize,
    /// Runs that left a result.
    pub runs: usize,
    /// Their share.
    pub share: Estimate,
}

/// Success in all cells.
#[derive(Clone, Debug, Serialize)]
pub struct SuccessOutcome {
    /// What counts as success, in words.
    pub event: String,
    /// The labels of the cells.
    pub labels: Vec<String>,
    /// One entry per cell.
    pub cells: Vec<CellSuccess>,
}

impl Analysis for Success {
    fn kind(&self) -> &'static str {
        "success"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let cells: Vec<CellSuccess> = data
            .cells
            .iter()
            .map(|cell| {
                let trials = ended(&cell.trials);
                let successes = trials.iter().filter(|trial| self.event.step(trial).is_some()).count();
                CellSuccess {
                    cell: data.name_of(cell),
                    parameters: data.parameters_of(cell),
                    values: cell.values.clone(),
                    successes,
                    runs: trials.len(),
                    share: wilson(successes, trials.len(), self.confidence),
                }
            })
            .collect();
        let labels: Vec<&str> = data.labels.iter().map(String::as_str).collect();
        let mut columns: Vec<String> =
            labels.iter().map(|label| short_name(label, &labels).to_owned()).collect();
        columns.extend(
            ["successes", "runs", "share", &format!("Wilson {}", percent(self.confidence)), "remarks"]
                .map(str::to_owned),
        );
        let title = format!("Share of runs with {}", self.event);
        let mut table = TextTable::new(&title, columns);
        for cell in &cells {
            let mut row: Vec<String> = cell.values.iter().map(|value| human(value.as_ref())).collect();
            row.extend([
                cell.successes.to_string(),
                cell.runs.to_string(),
                number::human(cell.share.value),
                number::human_interval(cell.share.low, cell.share.high),
                cell.share.remarks(),
            ]);
            table.push(row);
        }
        drop_empty_column(&mut table, "remarks");
        let mut caveats = caveats(data, &[&self.event.metric], false);
        caveats.push(
            "A run succeeds if it reaches the level at any evaluation, even if it falls back later; a run that diverged \
             before counts as a failure."
                .to_owned(),
        );
        let outcome = SuccessOutcome { event: self.event.to_string(), labels: data.labels.clone(), cells };
        AnalysisResult::new(self, title, vec![table], caveats, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::grokking;
    use plateau_common::node::Node;

    #[test]
    fn ten_of_ten_and_none_of_ten() {
        let records = grokking(10);
        let node = Node::empty_table();
        let mut fields = Fields::new("analysis", &node).unwrap();
        let common = Common { name: "success".to_owned(), confidence: 0.95, known: Default::default() };
        let result = read(&mut fields, common).unwrap().run(&Dataset::new(&records, &[]));
        let outcome: &SuccessOutcome = result.outcome().unwrap();
        assert_eq!(
            outcome.cells.iter().map(|cell| (cell.successes, cell.runs)).collect::<Vec<_>>(),
            [(0, 10), (10, 10)]
        );
        assert!((outcome.cells[1].share.low - 0.7225).abs() < 5e-5);
        assert!((outcome.cells[0].share.high - 0.2775).abs() < 5e-5);
    }
}
