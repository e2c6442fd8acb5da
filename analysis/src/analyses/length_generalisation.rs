//! `length-generalisation`: scores within and beyond the sizes trained on, how far they reach, and how far they can.
//!
//! Categories as in McLeish et al. 2024, section 3; the reach as in their appendix A.5. The ceiling of Abacus positions is
//! shown beside the scores, because a score beyond it is low for another reason than a fault.

use std::collections::{BTreeMap, BTreeSet};

use plateau_common::config::Category;
use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::tasks::Cell as Sizes;
use serde::Serialize;
use serde_json::Value;

use super::population::caveats;
use super::summary::{CellSummary, drop_empty_column, summarise_runs};
use super::{Analysis, AnalysisResult, Common, percent};
use crate::cells::{Cell, Dataset, human, short_name};
use crate::lengths::{Measured, NOTHING, read_score};
use crate::number;
use crate::statistics::Flag;
use crate::statistics::bootstrap::{FEWEST_RUNS, quantile};
use crate::table::TextTable;

struct LengthGeneralisation {
    name: String,
    confidence: f64,
    score: &'static str,
    level: f64,
}

/// Options: `score` (`exact_match` by default, or `first_match`), `level` (of the reach, default 0.95).
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    let score = read_score(fields, common.known)?;
    let level = fields.number("level", 0.0..=1.0)?.unwrap_or(0.95);
    Ok(Box::new(LengthGeneralisation { name: common.name, confidence: common.confidence, score, level }))
}

/// How far the score of each run stays at the level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reach {
    /// Per run, in ascending seed: the longest equal size up to which all equal sizes measured have the level; 0 for none.
    pub runs: Vec<usize>,
    /// Their median.
    pub median: f64,
    /// The smallest.
    pub lowest: usize,
    /// The largest.
    pub highest: usize,
    /// The largest equal size measured: a run that reaches it may reach further.
    pub largest_measured: usize,
}

/// The score at the first equal size beyond those trained on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FirstBeyond {
    /// The size: one more than the largest trained.
    pub size: usize,
    /// The score of every run, in ascending seed.
    #[serde(serialize_with = "number::serialize_list")]
    pub runs: Vec<f64>,
    /// The lowest finite one; NaN where there is none.
    #[serde(serialize_with = "number::serialize")]
    pub lowest: f64,
    /// The highest, likewise.
    #[serde(serialize_with = "number::serialize")]
    pub highest: f64,
}

/// Generalisation to lengths in one cell of the study.
#[derive(Clone, Debug, Serialize)]
pub struct CellLengths {
    /// The cell's name.
    pub cell: String,
    /// Its labels' values.
    pub parameters: serde_json::Map<String, Value>,
    /// Runs that measured the grid.
    pub runs: usize,
    /// Runs that left a result, but no score over sizes.
    pub runs_without: usize,
    /// The largest equal sizes trained on, where the task says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained: Option<usize>,
    /// The largest equal sizes for which Abacus positions were trained, where the model has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<usize>,
    /// The share of the sizes beyond the grid's rectangle that lie below the ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_beyond: Option<f64>,
    /// Means of the categories that were measured.
    pub categories: Vec<CellSummary>,
    /// How far it reaches, where any equal size was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
    /// The first size beyond training, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_beyond: Option<FirstBeyond>,
    /// Runs whose grid is older than their last evaluation.
    #[serde(skip)]
    early: usize,
}

/// All cells of the study.
#[derive(Clone, Debug, Serialize)]
pub struct LengthsOutcome {
    /// What is scored.
    pub score: String,
    /// The level of the reach.
    pub level: f64,
    /// One entry per cell.
    pub cells: Vec<CellLengths>,
}

fn reach(measured: &Measured, level: f64) -> Option<Reach> {
    let equal = measured.equal();
    let largest_measured = *equal.last()?;
    let runs: Vec<usize> = measured
        .scores
        .iter()
        .map(|scores| {
            let at = |size: &&usize| scores.get(&Sizes { row: **size, column: **size }).copied();
            // A size that this run has not measured, or without a finite score, ends its reach.
            equal
                .iter()
                .take_while(|size| at(size).is_some_and(|score| score >= level))
                .last()
                .map_or(0, |size| *size)
        })
        .collect();
    let mut sorted: Vec<f64> = runs.iter().map(|size| *size as f64).collect();
    sorted.sort_by(f64::total_cmp);
    Some(Reach {
        median: quantile(&sorted, 0.5)?,
        lowest: *runs.iter().min()?,
        highest: *runs.iter().max()?,
        runs,
        largest_measured,
    })
}

fn first_beyond(measured: &Measured) -> Option<FirstBeyond> {
    let size = measured.trained()? + 1;
    let sizes = Sizes { row: size, column: size };
    if !measured.sizes().contains(&sizes) {
        return None;
    }
    let at = |scores: &BTreeMap<Sizes, f64>| scores.get(&sizes).copied().unwrap_or(f64::NAN);
    let runs: Vec<f64> = measured.scores.iter().map(at).collect();
    // `f64::min` and `f64::max` pass over NaN.
    let lowest = runs.iter().copied().fold(f64::NAN, f64::min);
    let highest = runs.iter().copied().fold(f64::NAN, f64::max);
    Some(FirstBeyond { size, runs, lowest, highest })
}

/// The means of the categories over the runs that measured the grid.
pub fn categories(
    data: &Dataset,
    cell: &Cell,
    measured: &Measured,
    score: &str,
    confidence: f64,
) -> Vec<(Category, CellSummary)> {
    let summary = |(word, category): (&str, Category)| {
        let metric = format!("{score}/{word}");
        let known = measured.runs.iter().any(|trial| trial.series.contains_key(&metric));
        known.then(|| (category, summarise_runs(data, cell, &measured.runs, &metric, confidence)))
    };
    Category::ALL.into_iter().filter_map(summary).collect()
}

/// A category for people.
pub fn category_name(category: Category, longest: Option<usize>) -> String {
    match category {
        Category::InDistribution => "in distribution".to_owned(),
        Category::OutOfDistribution => "out of distribution".to_owned(),
        Category::Beyond => longest.map_or("beyond".to_owned(), |longest| format!("beyond {longest}")),
    }
}

/// The value that all have in common.
pub fn common<T: PartialEq + Copy>(values: impl IntoIterator<Item = Option<T>>) -> Option<T> {
    let mut values = values.into_iter();
    let first = values.next()??;
    values.all(|value| value == Some(first)).then_some(first)
}

impl LengthGeneralisation {
    fn of_cell(&self, data: &Dataset, cell: &Cell, measured: &Measured) -> CellLengths {
        let found = categories(data, cell, measured, self.score, self.confidence);
        CellLengths {
            cell: data.name_of(cell),
            parameters: data.parameters_of(cell),
            runs: measured.runs.len(),
            runs_without: measured.without,
            trained: measured.trained(),
            ceiling: measured.ceiling.map(|ceiling| ceiling.equal()),
            most_beyond: measured.most_beyond(),
            categories: found.into_iter().map(|(_, summary)| summary).collect(),
            reach: reach(measured, self.level),
            first_beyond: first_beyond(measured),
            early: measured.early,
        }
    }

    fn table(
        &self,
        data: &Dataset,
        title: String,
        headings: &[String],
        row: &dyn Fn(usize) -> Vec<String>,
    ) -> TextTable {
        let labels: Vec<&str> = data.labels.iter().map(String::as_str).collect();
        let columns = labels.iter().map(|label| short_name(label, &labels).to_owned());
        let mut table = TextTable::new(title, columns.chain(headings.iter().cloned()));
        for (index, cell) in data.cells.iter().enumerate() {
            let values = cell.values.iter().map(|value| human(value.as_ref()));
            table.push(values.chain(row(index)));
        }
        table
    }

    fn tables(&self, data: &Dataset, cells: &[CellLengths], longest: Option<usize>) -> Vec<TextTable> {
        let words = self.score.replace('_', " ");
        let whole = |value: Option<usize>| value.map_or("–".to_owned(), |value| value.to_string());
        let mut headings = vec!["runs".to_owned()];
        headings.extend(Category::ALL.map(|(_, category)| category_name(category, longest)));
        headings.extend(["beyond, at most", "remarks"].map(str::to_owned));
        let means = |index: usize| {
            let Some(cell) = cells.get(index) else { return Vec::new() };
            let of = |word: &str| {
                let metric = format!("{}/{word}", self.score);
                let own = cell.categories.iter().find(|summary| summary.metric == metric);
                own.map_or(String::new(), |summary| summary.mean.human())
            };
            let mut row = vec![cell.runs.to_string()];
            row.extend(Category::ALL.map(|(word, _)| of(word)));
            row.push(cell.most_beyond.map_or(String::new(), number::human));
            let flags = cell.categories.iter().flat_map(|summary| &summary.mean.flags);
            let flags: BTreeSet<Flag> = flags.copied().collect();
            row.push(flags.into_iter().map(Flag::phrase).collect::<Vec<_>>().join(", "));
            row
        };
        let title = format!("Mean {words} with t {}", percent(self.confidence));
        let mut scores = self.table(data, title, &headings, &means);
        for (_, category) in Category::ALL {
            drop_empty_column(&mut scores, &category_name(category, longest));
        }
        drop_empty_column(&mut scores, "beyond, at most");
        drop_empty_column(&mut scores, "remarks");

        let headings = [
            "runs",
            "trained to",
            "ceiling",
            "reach (median)",
            "reach (range)",
            "first size beyond",
            "lowest",
            "highest",
            "each run",
        ];
        let reaches = |index: usize| {
            let Some(cell) = cells.get(index) else { return Vec::new() };
            let mut row = vec![cell.runs.to_string(), whole(cell.trained), whole(cell.ceiling)];
            match &cell.reach {
                Some(reach) => row.extend([number::human(reach.median), range(reach)]),
                None => row.extend(["–", "–"].map(str::to_owned)),
            }
            match &cell.first_beyond {
                Some(first) => {
                    let each: Vec<String> = first.runs.iter().map(|value| number::human(*value)).collect();
                    row.extend([
                        first.size.to_string(),
                        number::human(first.lowest),
                        number::human(first.highest),
                    ]);
                    row.push(if first.runs.len() < FEWEST_RUNS { each.join("  ") } else { String::new() });
                }
                None => row.extend(["–", "–", "–", ""].map(str::to_owned)),
            }
            row
        };
        let level = number::human(self.level);
        let title =
            format!("Reach at two equal sizes ({words} ≥ {level}) and the first size beyond training");
        let mut reach = self.table(data, title, &headings.map(str::to_owned), &reaches);
        drop_empty_column(&mut reach, "each run");
        vec![scores, reach]
    }

    fn caveats(&self, data: &Dataset, cells: &[CellLengths]) -> Vec<String> {
        let mut told = caveats(data, &[], false);
        let runs: usize = cells.iter().map(|cell| cell.runs).sum();
        let without: usize = cells.iter().map(|cell| cell.runs_without).sum();
        if runs == 0 {
            told.push(NOTHING.to_owned());
            return told;
        }
        if without > 0 {
            told.push(format!(
                "{without} of {} trials with a result have no score over sizes and are left out.",
                runs + without
            ));
        }
        let early: usize = cells.iter().map(|cell| cell.early).sum();
        if early > 0 {
            told.push(format!("{early} of {runs} runs measured the sizes last before their last evaluation; scores are of then."));
        }
        if cells.iter().any(|cell| cell.runs > 0 && cell.trained.is_none()) {
            told.push("Up to which size some models were trained is not known, so neither are their first size beyond and ceiling.".to_owned());
        }
        if cells.iter().any(|cell| cell.ceiling.is_some()) {
            told.push(
                "Ceiling: with Abacus positions, the largest two equal sizes whose digits all have numbers that were trained \
                 (k + S − 1 for first numbers from 1 to k and operands of up to S digits; (k + 2S − 1) / 2 for products). \
                 Larger problems fail whatever \
                 the model has learnt, but for some at the next size whose answer has no further digit; \"beyond, at \
                 most\" is the share of sizes below the ceiling."
                    .to_owned(),
            );
        }
        let limited: usize = cells
            .iter()
            .filter_map(|cell| cell.reach.as_ref())
            .map(|reach| reach.runs.iter().filter(|size| **size == reach.largest_measured).count())
            .sum();
        if limited > 0 {
            told.push(format!(
                "{limited} of {runs} runs reach the largest size measured, marked ≥; they may reach further."
            ));
        }
        told
    }
}

/// `7 … 12`, marked where the larger end is only a bound.
fn range(reach: &Reach) -> String {
    let bound =
        |size: usize| if size == reach.largest_measured { format!("≥ {size}") } else { size.to_string() };
    if reach.lowest == reach.highest {
        return bound(reach.highest);
    }
    format!("{} … {}", reach.lowest, bound(reach.highest))
}

impl Analysis for LengthGeneralisation {
    fn kind(&self) -> &'static str {
        "length-generalisation"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        Vec::new()
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let measured: Vec<Measured> =
            data.cells.iter().map(|cell| Measured::of(data, cell, self.score)).collect();
        let cells: Vec<CellLengths> =
            data.cells.iter().zip(&measured).map(|(cell, own)| self.of_cell(data, cell, own)).collect();
        let tables = self.tables(data, &cells, common(measured.iter().map(|own| own.longest)));
        let caveats = self.caveats(data, &cells);
        let title = format!("Generalisation to lengths ({})", self.score.replace('_', " "));
        let outcome = LengthsOutcome { score: self.score.to_owned(), level: self.level, cells };
        AnalysisResult::new(self, title, tables, caveats, outcome)
    }
}

#[cfg(test)]
mod tests {
    use plateau_common::node::Node;
    use plateau_common::results::TrialRecord;
    use serde_json::json;

    use super::*;
    use crate::analyses::summary::summarise;
    use crate::fixture::{digits, lengths, trial, with_curve, with_grid};

    fn run(records: &[TrialRecord], options: Value) -> (AnalysisResult, LengthsOutcome) {
        let node = Node::from_json(&options);
        let mut fields = Fields::new("analysis", &node).unwrap();
        let common = Common { name: "lengths".to_owned(), confidence: 0.95, known: Default::default() };
        let analysis = read(&mut fields, common).unwrap();
        let data = Dataset::new(records, &[]).with_axes_of(digits);
        let result = analysis.run(&data);
        let outcome = result.outcome::<LengthsOutcome>().unwrap().clone();
        (result, outcome)
    }

    #[test]
    fn reach_ceiling_and_first_size_beyond_are_exact() {
        let (result, outcome) = run(&lengths(4), json!({}));
        let [abacus, fire, none] = outcome.cells.as_slice() else { panic!("{:?}", outcome.cells.len()) };
        assert_eq!(abacus.cell, "positions = abacus");
        // Seeds 0 and 2 reach 5, seeds 1 and 3 reach 7.
        let reach = Reach { runs: vec![5, 7, 5, 7], median: 6.0, lowest: 5, highest: 7, largest_measured: 9 };
        assert_eq!(abacus.reach, Some(reach));
        assert_eq!((abacus.trained, abacus.ceiling, abacus.most_beyond), (Some(3), Some(7), Some(1.0 / 3.0)));
        let first = FirstBeyond { size: 4, runs: vec![1.0; 4], lowest: 1.0, highest: 1.0 };
        assert_eq!(abacus.first_beyond, Some(first));
        assert_eq!(fire.reach.as_ref().map(|reach| reach.runs.clone()), Some(vec![3; 4]));
        let first =
            FirstBeyond { size: 4, runs: vec![0.25 / 8.0; 4], lowest: 0.25 / 8.0, highest: 0.25 / 8.0 };
        assert_eq!(fire.first_beyond, Some(first));
        assert_eq!((fire.ceiling, fire.most_beyond), (None, None));
        assert_eq!(none.reach.as_ref().map(|reach| reach.median), Some(1.0));
        let row = &result.tables[1].rows[0];
        assert_eq!(row[..9], ["abacus", "4", "3", "7", "6", "5 … 7", "4", "1", "1"]);
        assert_eq!(
            result.tables[0].columns[2..],
            ["in distribution", "out of distribution", "beyond 6", "beyond, at most", "remarks"]
        );
        assert_eq!(result.tables[0].rows[0][5], "0.3333");
        assert!(result.caveats.iter().any(|text| text.contains("k + S − 1")));
    }

    #[test]
    fn the_level_decides_the_reach_and_a_gap_ends_it() {
        let mut record = lengths(2).remove(1);
        record.series.get_mut("exact_match/2x2").unwrap().values[0] = 0.9;
        let reach = |record: &TrialRecord, options| {
            let (_, outcome) = run(std::slice::from_ref(record), options);
            outcome.cells[0].reach.clone().unwrap().runs
        };
        assert_eq!(reach(&record, json!({})), [1]);
        assert_eq!(reach(&record, json!({"level": 0.9})), [7]);
        assert_eq!(reach(&record, json!({"level": 0.0})), [9]);
        record.series.get_mut("exact_match/1x1").unwrap().values[0] = f64::NAN;
        assert_eq!(reach(&record, json!({"level": 0.0})), [0]);
    }

    #[test]
    fn the_first_size_beyond_has_its_lowest_and_highest_run() {
        let mut records = lengths(3);
        for (index, score) in [0.5, f64::NAN, 0.25].into_iter().enumerate() {
            records[index].series.get_mut("exact_match/4x4").unwrap().values[0] = score;
        }
        let (result, outcome) = run(&records, json!({}));
        let first = outcome.cells[0].first_beyond.as_ref().unwrap();
        assert_eq!((first.lowest, first.highest), (0.25, 0.5));
        assert_eq!(result.tables[1].rows[0][6..], ["4", "0.25", "0.5", "0.5  –  0.25"]);
    }

    #[test]
    fn the_intervals_are_those_of_the_summary() {
        let mut records = lengths(3);
        for (index, record) in records.iter_mut().enumerate() {
            record.series.get_mut("exact_match/ood").unwrap().values[0] = 0.1 * index as f64;
        }
        let (_, outcome) = run(&records, json!({}));
        let data = Dataset::new(&records, &[]);
        for (number, metric) in
            ["exact_match/id", "exact_match/ood", "exact_match/beyond"].into_iter().enumerate()
        {
            for (own, summary) in outcome.cells.iter().zip(summarise(&data, metric, 0.95)) {
                let category = &own.categories[number];
                assert_eq!((&category.metric, &category.mean), (&summary.metric, &summary.mean));
                assert_eq!(category.values, summary.values);
            }
        }
        // 0, 0.1 and 0.2: mean 0.1, s = 0.1, t(2) = 4.302653.
        let mean = &outcome.cells[0].categories[1].mean;
        assert!((mean.high - 0.1 - 4.302_653 * 0.1 / 3f64.sqrt()).abs() < 1e-6, "{mean:?}");
    }

    #[test]
    fn runs_without_a_grid_are_told_and_left_out_of_means() {
        let mut records = lengths(2);
        records[0].series.clear();
        records[2].series.values_mut().for_each(|curve| curve.values.fill(f64::NAN));
        let (result, outcome) = run(&records, json!({}));
        assert_eq!(
            outcome.cells.iter().map(|cell| (cell.runs, cell.runs_without)).collect::<Vec<_>>(),
            [(1, 1), (1, 1), (2, 0)]
        );
        assert_eq!(outcome.cells[0].categories[0].values, [1.0]);
        let told = "2 of 6 trials with a result have no score over sizes and are left out.";
        assert!(result.caveats.iter().any(|text| text == told), "{:?}", result.caveats);

        records.iter_mut().for_each(|record| record.series.clear());
        let (result, outcome) = run(&records, json!({}));
        assert!(outcome.cells.iter().all(|cell| cell.reach.is_none() && cell.categories.is_empty()));
        assert!(result.caveats.iter().any(|text| text == NOTHING));
    }

    #[test]
    fn what_reaches_the_largest_size_or_is_old_is_told() {
        let mut record = trial(0, &[("task.size", 3.0), ("evaluate.grid.longest", 6.0)]);
        record = with_grid(record, &|_, _| 1.0);
        record = with_curve(record, "test_loss", &[(1000, 0.5), (2000, 0.4)]);
        let (result, _) = run(&[record], json!({}));
        assert_eq!(result.tables[1].rows[0][4], "≥ 9");
        let told = |start: &str| result.caveats.iter().any(|text| text.starts_with(start));
        assert!(told("1 of 1 runs reach the largest size measured"), "{:?}", result.caveats);
        assert!(told("1 of 1 runs measured the sizes last before"), "{:?}", result.caveats);
    }
}
