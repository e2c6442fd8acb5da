//! `success`: the share of seeds whose metric reaches a level, with its Wilson interval, and whether the best value of a
//! parameter succeeds more often than the others.

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::results::TrialRecord;
use serde::Serialize;
use serde_json::Value;

use super::criterion::Criterion;
use super::families::{Families, Family};
use super::population::{caveats, ended, runs as told};
use super::summary::drop_empty_column;
use super::survival::{Event, read_event};
use super::{Analysis, AnalysisResult, Common, percent};
use crate::cells::{Dataset, Values, human, short_name};
use crate::number;
use crate::statistics::wilson::wilson;
use crate::statistics::{Estimate, fisher, holm};
use crate::table::TextTable;

struct Success {
    name: String,
    confidence: f64,
    event: Event,
    reached: Reached,
    along: Option<String>,
}

/// When a run must be at the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    /// At any evaluation.
    Ever,
    /// At its end.
    AtTheEnd(Criterion),
}

/// Options: `metric` (default `test_accuracy`), `level` (default 0.99), `direction` (`above` or `below`), `criterion` (`final`
/// by default, `ever` or `mean-of-last`), `persistence` (with `ever`; default 1), `last` (with `mean-of-last`; default 10),
/// `along` (a parameter: its best value is tested against the others; by default the only one that varies).
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    let persistent = fields.node("persistence").is_some();
    let event = read_event(fields, common.known)?;
    let words = [("final", 0), ("ever", 1), ("mean-of-last", 2)];
    let reached = match fields.choice("criterion", &words)?.unwrap_or(0) {
        0 => Reached::AtTheEnd(Criterion::Final),
        1 => Reached::Ever,
        _ => Reached::AtTheEnd(Criterion::mean_of_last(fields)?),
    };
    if persistent && reached != Reached::Ever {
        return Err(fields
            .error("persistence", "is for levels that are reached at any time")
            .suggest("add `criterion = \"ever\"` or leave it out"));
    }
    let along = common.known.parameter(fields, "along")?;
    Ok(Box::new(Success { name: common.name, confidence: common.confidence, event, reached, along }))
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
    /// The best value of a parameter against each other one.
    pub comparisons: Vec<SuccessComparison>,
}

/// Fisher's exact test of the best cell of a family against another.
#[derive(Clone, Debug, Serialize)]
pub struct SuccessComparison {
    /// What the two cells share of the parameters that vary.
    pub family: String,
    /// The best cell's value.
    pub best: String,
    /// The other's.
    pub other: String,
    /// Successes and runs of the best.
    pub best_successes: (usize, usize),
    /// Successes and runs of the other.
    pub other_successes: (usize, usize),
    /// Two-sided p-value.
    pub p_value: f64,
    /// The same, corrected by Holm for the comparisons of the family.
    pub corrected_p_value: f64,
}

impl Success {
    fn succeeds(&self, trial: &TrialRecord) -> bool {
        let Event { metric, level, below, .. } = &self.event;
        match self.reached {
            Reached::Ever => self.event.step(trial).is_some(),
            // NaN is not at any level.
            Reached::AtTheEnd(criterion) if *below => criterion.value(trial, metric) <= *level,
            Reached::AtTheEnd(criterion) => criterion.value(trial, metric) >= *level,
        }
    }

    fn event(&self) -> String {
        match self.reached {
            Reached::Ever => format!("{} at any evaluation", self.event),
            Reached::AtTheEnd(criterion) => format!("{} {}", self.event, criterion.phrase()),
        }
    }

    /// The best cell of each family against the others, and what that says in a sentence.
    fn compare(&self, families: &Families) -> (Vec<SuccessComparison>, Vec<String>) {
        let (mut comparisons, mut findings) = (Vec::new(), Vec::new());
        for family in &families.families {
            let counts = self.counts(family);
            // The first of several that are equally good.
            let best = (0..counts.len()).filter(|index| counts[*index].1 > 0).reduce(|best, index| {
                let share = |index: usize| counts[index].0 as f64 / counts[index].1 as f64;
                if share(index) > share(best) { index } else { best }
            });
            let Some(best) = best.filter(|best| counts[*best].0 > 0) else { continue };
            let others: Vec<usize> = (0..counts.len()).filter(|index| *index != best).collect();
            let p_values: Vec<f64> = others
                .iter()
                .map(|other| fisher::two_sided(counts[best], counts[*other]).unwrap_or(f64::NAN))
                .collect();
            let value = |index: usize| families.value_of(family.cells[index]);
            let tested = others.iter().zip(p_values.iter().zip(holm::adjusted(&p_values)));
            let own: Vec<(usize, SuccessComparison)> = tested
                .filter(|(_, (p_value, _))| p_value.is_finite())
                .map(|(other, (p_value, corrected))| {
                    let compared = SuccessComparison {
                        family: family.name.clone(),
                        best: value(best),
                        other: value(*other),
                        best_successes: counts[best],
                        other_successes: counts[*other],
                        p_value: *p_value,
                        corrected_p_value: corrected,
                    };
                    (*other, compared)
                })
                .collect();
            findings.extend(finding(family, &counts, best, &value(best), &own));
            comparisons.extend(own.into_iter().map(|(_, compared)| compared));
        }
        (comparisons, findings)
    }

    /// Successes and runs of each cell.
    fn counts(&self, family: &Family) -> Vec<(usize, usize)> {
        let count = |trials: &[&TrialRecord]| {
            let ended = ended(trials);
            (ended.iter().filter(|trial| self.succeeds(trial)).count(), ended.len())
        };
        family.cells.iter().map(|cell| count(&cell.trials)).collect()
    }

    fn caveats(&self, data: &Dataset, compared: bool) -> Vec<String> {
        let metric = &self.event.metric;
        let mut caveats = caveats(data, &[metric], false);
        caveats.push(match self.reached {
            Reached::Ever => "A run succeeds if it reaches the level at any evaluation, even if it falls back later; a run \
                              that diverged before counts as a failure."
                .to_owned(),
            Reached::AtTheEnd(criterion) => format!(
                "A run succeeds if it is at the level {}; one that was there before and fell back counts as a failure.",
                criterion.phrase()
            ),
        });
        if let Reached::AtTheEnd(criterion) = self.reached {
            let runs = || data.trials().filter(|trial| trial.state.has_result());
            let without = runs().filter(|trial| !criterion.value(trial, metric).is_finite()).count();
            if without > 0 {
                caveats
                    .push(format!("Counted as failures: {} without a finite {metric} there.", told(without)));
            }
            let short = runs().filter(|trial| criterion.is_short(trial, metric)).count();
            if short > 0 {
                caveats.push(format!(
                    "With fewer evaluations than are averaged: {}, by those there are.",
                    told(short)
                ));
            }
        }
        if compared {
            caveats.push(
                "The best value was chosen by looking at the same runs, so the p-values of Fisher's exact test, though \
                 corrected (Holm), flatter it. With ten runs each, 9 against 4 is p = 0.057 before correction: a share that \
                 is not significantly lower is not shown to be as high."
                    .to_owned(),
            );
        }
        caveats
    }
}

/// Where success is highest, and whether it is lower on both sides.
fn finding(
    family: &Family,
    counts: &[(usize, usize)],
    best: usize,
    value: &str,
    own: &[(usize, SuccessComparison)],
) -> Option<String> {
    let (successes, runs) = *counts.get(best)?;
    let ties =
        own.iter().filter(|(_, other)| share(other.other_successes) >= share((successes, runs))).count();
    let tied = if ties > 0 { format!(" (and as high at {ties} other values)") } else { String::new() };
    let told = |(_, other): &(usize, SuccessComparison)| {
        let (successes, runs) = other.other_successes;
        let p = number::significant(other.corrected_p_value, 2);
        format!("{successes} of {runs} at {} (p = {p})", other.other)
    };
    let list: Vec<String> = own.iter().map(told).collect();
    let lower = |side: &dyn Fn(usize) -> bool| {
        let own: Vec<_> = own.iter().filter(|(index, _)| side(*index)).collect();
        let significant = own.iter().any(|(_, other)| other.corrected_p_value < 0.05);
        let falls = own.iter().any(|(_, other)| share(other.other_successes) < share((successes, runs)));
        (falls, significant)
    };
    let (below, above) = (lower(&|index| index < best), lower(&|index| index > best));
    let shape = match (below, above) {
        ((_, true), (_, true)) => " An inverted U: significantly lower on both sides.",
        ((true, _), (true, _)) => {
            " Lower on both sides, as in an inverted U, but not on both significantly (5 % after correction)."
        }
        _ => "",
    };
    let place = if family.name.is_empty() { String::new() } else { format!("{}: ", family.name) };
    let others = if list.is_empty() { String::new() } else { format!("; {}", list.join(", ")) };
    Some(format!("{place}most often at {value}{tied}: {successes} of {runs} runs{others}.{shape}"))
}

fn share((successes, runs): (usize, usize)) -> f64 {
    successes as f64 / runs as f64
}

impl Analysis for Success {
    fn kind(&self) -> &'static str {
        "success"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        self.along.as_deref().into_iter().collect()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let cells: Vec<CellSuccess> = data
            .cells
            .iter()
            .map(|cell| {
                let trials = ended(&cell.trials);
                let successes = trials.iter().filter(|trial| self.succeeds(trial)).count();
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
        let families = Families::of(data, self.along.as_deref());
        let (comparisons, findings) =
            families.as_ref().map(|families| self.compare(families)).unwrap_or_default();
        let title = format!("Share of runs with {}", self.event());
        let mut tables = vec![shares_table(&title, data, &cells, self.confidence)];
        tables.extend(comparisons_table(&comparisons));
        let mut caveats = self.caveats(data, !comparisons.is_empty());
        // Without `along` a study has not asked for a comparison, so that there is nothing to explain.
        caveats.extend(families.err().filter(|_| self.along.is_some()));
        let outcome = SuccessOutcome { event: self.event(), labels: data.labels.clone(), cells, comparisons };
        AnalysisResult::new(self, title, tables, caveats, outcome).with_findings(findings)
    }
}

fn shares_table(title: &str, data: &Dataset, cells: &[CellSuccess], confidence: f64) -> TextTable {
    let labels: Vec<&str> = data.labels.iter().map(String::as_str).collect();
    let mut columns: Vec<String> = labels.iter().map(|label| short_name(label, &labels).to_owned()).collect();
    columns.extend(
        ["successes", "runs", "share", &format!("Wilson {}", percent(confidence)), "remarks"]
            .map(str::to_owned),
    );
    let mut table = TextTable::new(title, columns);
    for cell in cells {
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
    table
}

fn comparisons_table(comparisons: &[SuccessComparison]) -> Option<TextTable> {
    if comparisons.is_empty() {
        return None;
    }
    let columns = ["among", "best", "successes", "other", "successes", "Fisher's p", "p, corrected (Holm)"];
    let mut table = TextTable::new("The best value against the others", columns);
    let of = |(successes, runs): (usize, usize)| format!("{successes} of {runs}");
    for compared in comparisons {
        table.push([
            compared.family.clone(),
            compared.best.clone(),
            of(compared.best_successes),
            compared.other.clone(),
            of(compared.other_successes),
            number::significant(compared.p_value, 2),
            number::significant(compared.corrected_p_value, 2),
        ]);
    }
    drop_empty_column(&mut table, "among");
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{grokking, structural};
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

    fn run(options: serde_json::Value, records: &[TrialRecord]) -> AnalysisResult {
        let node = Node::from_json(&options);
        let mut fields = Fields::new("analysis", &node).unwrap();
        let common = Common { name: "success".to_owned(), confidence: 0.95, known: Default::default() };
        read(&mut fields, common).unwrap_or_else(|error| panic!("{error}")).run(&Dataset::new(records, &[]))
    }

    #[test]
    fn the_inverted_u_over_depth() {
        let options = serde_json::json!({"metric": "generalisation_accuracy", "level": 0.8});
        let result = run(options, &structural(10));
        assert_eq!(
            result.findings,
            [
                "most often at layers = 6: 9 of 10 runs; 0 of 10 at layers = 2 (p = 0.00024), 1 of 10 at layers = 10 (p = \
              0.0011). An inverted U: significantly lower on both sides."
            ]
        );
        let outcome: &SuccessOutcome = result.outcome().unwrap();
        // 2 C(10, 9) / C(20, 9), times two; and (2 C(10, 9) C(10, 1) + 2) / C(20, 10).
        assert!((outcome.comparisons[0].corrected_p_value - 2.0 * 20.0 / 167_960.0).abs() < 1e-12);
        assert!((outcome.comparisons[1].p_value - 202.0 / 184_756.0).abs() < 1e-12);
        assert!(result.caveats.iter().any(|caveat| caveat.contains("flatter")));
        let few = run(serde_json::json!({"metric": "generalisation_accuracy", "level": 0.8}), &structural(3));
        assert!(few.findings[0].contains("but not on both significantly"), "{:?}", few.findings);
    }

    /// Published: 9 of 10 seeds with six layers are above 0.8 at the end, all at some time.
    #[test]
    fn criteria_differ_where_curves_oscillate() {
        let records = structural(10);
        let counts = |options: serde_json::Value| {
            let result = run(options, &records);
            let outcome: &SuccessOutcome = result.outcome().unwrap();
            outcome.cells.iter().map(|cell| cell.successes).collect::<Vec<_>>()
        };
        let with = |criterion: &str| serde_json::json!({"metric": "generalisation_accuracy", "level": 0.8, "criterion": criterion});
        assert_eq!(counts(with("final")), [0, 9, 1]);
        assert_eq!(counts(with("ever")), [0, 10, 1]);
        let mut mean = with("mean-of-last");
        mean["last"] = 3.into();
        assert_eq!(counts(mean), [0, 10, 0]);
        let mut below = with("final");
        below["direction"] = "below".into();
        assert_eq!(counts(below), [10, 1, 9]);
    }

    #[test]
    fn what_does_not_fit_is_refused_or_told() {
        let node = Node::from_json(&serde_json::json!({"persistence": 3}));
        let mut fields = Fields::new("analysis[0]", &node).unwrap();
        let common = Common { name: "success".to_owned(), confidence: 0.95, known: Default::default() };
        let problem = read(&mut fields, common).map(|_| ()).unwrap_err().to_string();
        assert!(problem.contains("add `criterion = \"ever\"`"), "{problem}");

        let mut records = structural(3);
        records[0].series.remove("generalisation_accuracy");
        let options = serde_json::json!({
            "metric": "generalisation_accuracy", "criterion": "mean-of-last", "last": 50, "along": "model.dim",
        });
        let result = run(options, &records);
        let said = |words: &str| result.caveats.iter().any(|caveat| caveat.contains(words));
        assert!(
            said("Counted as failures: 1 run without a finite generalisation_accuracy"),
            "{:?}",
            result.caveats
        );
        assert!(
            said("than are averaged: 8 runs") && said("`model.dim` has one value"),
            "{:?}",
            result.caveats
        );
    }
}
