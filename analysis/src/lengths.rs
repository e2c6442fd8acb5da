//! What trials measured over the sizes of their problems (`[evaluate.grid]`), read back from their records.
//!
//! Owns how the scores of sizes are found in a record, what a task calls its sizes, and the ceiling that Abacus positions
//! set. Which replicates count is `population`'s rule; what is made of the scores is for analyses and figures.

use std::collections::{BTreeMap, BTreeSet};

use plateau_common::fields::{ConfigResult, Fields};
use plateau_common::node::{Node, Value};
use plateau_common::results::{Parameter, TrialRecord};
use plateau_common::tasks::{Cell as Sizes, GridAxes, TaskConfig};

use crate::analyses::Known;
use crate::analyses::population::{ended, last_evaluation, last_value};
use crate::cells::{Cell, Dataset};
use crate::statistics::mean;

/// How a trial's record tells the sizes of its problems.
pub type AxesOf = fn(&TrialRecord) -> Option<GridAxes>;

/// Between the score and the number of recurrences in `exact_match/after_4/7x7`.
pub const AFTER: &str = "/after_";

/// What figures and tables say where no trial measured sizes.
pub const NOTHING: &str =
    "No finished trial has measured scores over the sizes of problems; `[evaluate.grid]` asks for it.";

/// The sizes of a trial's problems: its task's, read again from its parameters. `None` where the task has none, or is not
/// known to this version.
pub fn axes(record: &TrialRecord) -> Option<GridAxes> {
    task(record)?.grid()
}

fn task(record: &TrialRecord) -> Option<TaskConfig> {
    let mut table = Node::empty_table();
    let parameters = record.parameters.range("task.".to_owned()..);
    for (name, value) in parameters.map_while(|(name, value)| Some((name.strip_prefix("task.")?, value))) {
        let value = match value {
            Parameter::Number(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
                Value::Integer(*value as i64)
            }
            Parameter::Number(value) => Value::Float(*value),
            Parameter::Text(value) => Value::Text(value.clone()),
            Parameter::Bool(value) => Value::Bool(*value),
        };
        table.set_path(name, Node::new(value)).ok()?;
    }
    TaskConfig::read(Fields::new("task", &table).ok()?).ok()
}

/// A parameter that is a whole number.
pub fn whole(record: &TrialRecord, name: &str) -> Option<usize> {
    let value = record.parameters.get(name)?.as_number()?;
    (value.fract() == 0.0 && (0.0..1e9).contains(&value)).then_some(value as usize)
}

/// The largest size of the rectangle that a cell's trials measure.
pub fn longest(cell: &Cell) -> Option<usize> {
    cell.trials.first().and_then(|trial| whole(trial, "evaluate.grid.longest"))
}

/// The sizes in a metric's last part, `7x12`.
pub fn sizes_of(word: &str) -> Option<Sizes> {
    let (row, column) = word.split_once('x')?;
    Some(Sizes { row: row.parse().ok()?, column: column.parse().ok()? })
}

/// A trial's score in each cell of the grid, at the last evaluation of it.
pub fn scores(trial: &TrialRecord, score: &str) -> BTreeMap<Sizes, f64> {
    let named = with_prefix(trial, format!("{score}/"));
    named.filter_map(|(word, value)| Some((sizes_of(word)?, value))).collect()
}

/// Scores at equal sizes read after a number of recurrences: size, then recurrences, then score.
pub fn scores_after(trial: &TrialRecord) -> BTreeMap<usize, BTreeMap<usize, f64>> {
    let mut found: BTreeMap<usize, BTreeMap<usize, f64>> = BTreeMap::new();
    for (word, value) in with_prefix(trial, format!("exact_match{AFTER}")) {
        let Some((recurrences, sizes)) = word.split_once('/') else { continue };
        let (Ok(recurrences), Some(sizes)) = (recurrences.parse(), sizes_of(sizes)) else { continue };
        found.entry(sizes.row).or_default().insert(recurrences, value);
    }
    found
}

/// The rest of the name and the last value of each of a trial's metrics that begin with `prefix`.
fn with_prefix(trial: &TrialRecord, prefix: String) -> impl Iterator<Item = (&str, f64)> {
    let series = trial.series.range(prefix.clone()..);
    let own = series.map_while(move |(name, curve)| Some((name.strip_prefix(prefix.as_str())?, curve)));
    own.map(|(rest, curve)| (rest, last_value(trial, curve)))
}

/// Reads `score` (`exact_match` by default, or `first_match`), which must be measured over sizes.
pub fn read_score(fields: &mut Fields, known: Known) -> ConfigResult<&'static str> {
    let words = [("exact_match", "exact_match"), ("first_match", "first_match")];
    let score = fields.choice("score", &words)?.unwrap_or("exact_match");
    let of_score = |name: &String| name.strip_prefix(score)?.strip_prefix('/').and_then(sizes_of);
    match known.metrics {
        Some(names) if !names.iter().any(|name| of_score(name).is_some()) => Err(fields
            .error("score", format!("this study measures no `{score}` over the sizes of problems"))
            .suggest("add `[evaluate.grid]`, for a task whose problems have sizes")),
        _ => Ok(score),
    }
}

/// Up to which sizes every position that an answer needs was trained, where digits are numbered from a random first number
/// between 1 and k (Abacus positions, McLeish et al. 2024, section 3.1 and appendix A.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// The largest number of digits.
    digits: usize,
    counted: Counted,
}

/// Of which size a problem's longest number has as many digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Larger,
    Sum,
    Row,
    Column,
}

impl Ceiling {
    /// The ceiling of a trial with these sizes; `None` without Abacus positions.
    pub fn of(record: &TrialRecord, axes: &GridAxes) -> Option<Ceiling> {
        let used = |positions: &Parameter| positions.to_string().contains("abacus");
        if !record.parameters.get("model.positions").is_none_or(used) {
            return None;
        }
        let first = whole(record, "model.abacus.k")?;
        let (rows, columns) = axes.trained;
        let digits = |words: &str| words.contains("digit");
        let multiplies = record.parameters.get("task.kind").map(Parameter::to_string);
        let (counted, trained) = match (digits(axes.rows), digits(axes.columns)) {
            (true, false) => (Counted::Row, rows),
            (false, true) => (Counted::Column, columns),
            _ if multiplies.as_deref() == Some("multiplication") => (Counted::Sum, rows + columns),
            _ => (Counted::Larger, rows.max(columns)),
        };
        Some(Ceiling { digits: (first + trained).checked_sub(1)?, counted })
    }

    /// Whether every position that problems of these sizes need was trained.
    pub fn admits(&self, sizes: Sizes) -> bool {
        let needed = match self.counted {
            Counted::Larger => sizes.row.max(sizes.column),
            Counted::Sum => sizes.row + sizes.column,
            Counted::Row => sizes.row,
            Counted::Column => sizes.column,
        };
        needed <= self.digits
    }

    /// How [`Ceiling::equal`] follows from k and S.
    pub fn formula(&self) -> &'static str {
        if self.counted == Counted::Sum { "(k + 2S − 1) / 2" } else { "k + S − 1" }
    }

    /// The largest two equal sizes below it, where an operand has at most S digits in training.
    pub fn equal(&self) -> usize {
        if self.counted == Counted::Sum { self.digits / 2 } else { self.digits }
    }
}

/// Runs that measured a grid, with their scores.
#[derive(Clone, Debug)]
pub struct Measured<'a> {
    /// The runs that left a result with at least one finite score, in the order given.
    pub runs: Vec<&'a TrialRecord>,
    /// Their scores.
    pub scores: Vec<BTreeMap<Sizes, f64>>,
    /// How many left a result without one.
    pub without: usize,
    /// How many were evaluated again after the grid was.
    pub early: usize,
    /// What the sizes are, where the task says it.
    pub axes: Option<GridAxes>,
    /// The largest size of the rectangle; what is larger is "beyond".
    pub longest: Option<usize>,
    /// Up to where a right answer can be expected, where there is such a limit.
    pub ceiling: Option<Ceiling>,
}

impl<'a> Measured<'a> {
    /// The runs of a cell.
    pub fn of(data: &Dataset<'a>, cell: &Cell<'a>, score: &str) -> Measured<'a> {
        let axes = data.axes(cell);
        let first = cell.trials.first();
        let mut measured = Measured {
            runs: Vec::new(),
            scores: Vec::new(),
            without: 0,
            early: 0,
            axes,
            longest: longest(cell),
            ceiling: first.zip(axes).and_then(|(trial, axes)| Ceiling::of(trial, &axes)),
        };
        for trial in ended(&cell.trials) {
            let own = scores(trial, score);
            if own.values().any(|value| value.is_finite()) {
                let name = |sizes: &Sizes| format!("{score}/{sizes}");
                let curve = own.keys().next().and_then(|sizes| trial.series.get(&name(sizes)));
                let last = curve.and_then(|curve| curve.steps.last().copied());
                measured.early += usize::from(last < last_evaluation(trial));
                measured.runs.push(trial);
                measured.scores.push(own);
            } else {
                measured.without += 1;
            }
        }
        measured
    }

    /// All sizes that any run measured.
    pub fn sizes(&self) -> BTreeSet<Sizes> {
        self.scores.iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// The equal sizes among them, ascending.
    pub fn equal(&self) -> Vec<usize> {
        self.sizes().iter().filter(|sizes| sizes.row == sizes.column).map(|sizes| sizes.row).collect()
    }

    /// The mean over the runs in one cell; NaN where none has a finite score.
    pub fn mean(&self, sizes: Sizes) -> f64 {
        let own = self.scores.iter().filter_map(|scores| scores.get(&sizes).copied());
        mean::mean(&own.filter(|value| value.is_finite()).collect::<Vec<_>>())
    }

    /// The largest equal sizes that were trained on.
    pub fn trained(&self) -> Option<usize> {
        self.axes.map(|axes| axes.trained.0.min(axes.trained.1))
    }

    /// The share of the sizes beyond `longest` that lie below the ceiling: more cannot be right.
    pub fn most_beyond(&self) -> Option<f64> {
        let (longest, ceiling) = (self.longest?, self.ceiling?);
        let all = self.sizes();
        let beyond: Vec<&Sizes> =
            all.iter().filter(|sizes| sizes.row > longest || sizes.column > longest).collect();
        let below = beyond.iter().filter(|sizes| ceiling.admits(***sizes)).count();
        (!beyond.is_empty()).then(|| below as f64 / beyond.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use plateau_common::config::TrialConfig;
    use serde_json::json;

    use super::*;
    use crate::fixture::{trial, with_curve};

    const SQUARE: GridAxes = GridAxes {
        rows: "digits of the first operand",
        columns: "digits of the second operand",
        trained: (20, 20),
        largest: (200, 200),
        scores_first: false,
    };

    fn abacus(k: f64) -> TrialRecord {
        let mut record = trial(0, &[("model.abacus.k", k)]);
        record.parameters.insert("model.positions".to_owned(), Parameter::Text("abacus,fire".to_owned()));
        record
    }

    /// McLeish et al. 2024, appendix A.5: 120 digits at k = 101 and S = 20, 204 at k = 175 and S = 30.
    #[test]
    fn the_ceiling_is_that_of_the_paper() {
        let at = |k, trained| {
            let axes = GridAxes { trained: (trained, trained), ..SQUARE };
            Ceiling::of(&abacus(k), &axes).map(|ceiling| ceiling.equal())
        };
        assert_eq!((at(101.0, 20), at(175.0, 30), at(175.0, 40)), (Some(120), Some(204), Some(214)));
        let ceiling = Ceiling::of(&abacus(101.0), &SQUARE).unwrap();
        assert!(
            ceiling.admits(Sizes { row: 120, column: 3 }) && !ceiling.admits(Sizes { row: 3, column: 121 })
        );
    }

    #[test]
    fn the_ceiling_counts_digits_of_what_is_written() {
        let mut product = abacus(10.0);
        product.parameters.insert("task.kind".to_owned(), Parameter::Text("multiplication".to_owned()));
        let axes = GridAxes { trained: (15, 15), ..SQUARE };
        let ceiling = Ceiling::of(&product, &axes).unwrap();
        assert_eq!(ceiling.equal(), 19, "39 = 10 + 30 - 1 digits of the product");
        assert!(
            ceiling.admits(Sizes { row: 38, column: 1 }) && !ceiling.admits(Sizes { row: 38, column: 2 })
        );
        let sorting = GridAxes { rows: "numbers", columns: "digits of a number", trained: (9, 5), ..SQUARE };
        let ceiling = Ceiling::of(&abacus(3.0), &sorting).unwrap();
        assert!(ceiling.admits(Sizes { row: 99, column: 7 }) && !ceiling.admits(Sizes { row: 1, column: 8 }));
    }

    #[test]
    fn without_abacus_positions_there_is_no_ceiling() {
        assert_eq!(Ceiling::of(&trial(0, &[]), &SQUARE), None);
        let mut other = abacus(5.0);
        other.parameters.insert("model.positions".to_owned(), Parameter::Text("fire".to_owned()));
        assert_eq!(Ceiling::of(&other, &SQUARE), None);
        assert_eq!(Ceiling::of(&trial(0, &[("model.abacus.k", 2.5)]), &SQUARE), None);
    }

    #[test]
    fn scores_are_read_by_size_and_by_recurrences() {
        let mut record = trial(0, &[]);
        for (name, value) in [
            ("exact_match/7x12", 0.5),
            ("exact_match/id", 1.0),
            ("exact_match/after_4/7x7", 0.25),
            ("exact_match/after_12/7x7", 0.75),
            ("exact_matches/1x1", 0.1),
            ("first_match/7x12", 0.9),
        ] {
            record = with_curve(record, name, &[(500, 0.0), (1000, value)]);
        }
        let at = Sizes { row: 7, column: 12 };
        assert_eq!(scores(&record, "exact_match"), BTreeMap::from([(at, 0.5)]));
        assert_eq!(scores(&record, "first_match"), BTreeMap::from([(at, 0.9)]));
        assert_eq!(scores_after(&record), BTreeMap::from([(7, BTreeMap::from([(4, 0.25), (12, 0.75)]))]));
        assert_eq!(sizes_of("7x"), None);
        assert_eq!(sizes_of("id"), None);
    }

    /// As the command line flattens configurations: dotted paths, lists left out because no task has any.
    fn flatten(record: &mut TrialRecord, path: &str, value: &serde_json::Value) {
        let parameter = match value {
            serde_json::Value::Object(table) => {
                return table
                    .iter()
                    .for_each(|(key, inner)| flatten(record, &format!("{path}.{key}"), inner));
            }
            serde_json::Value::Bool(value) => Parameter::Bool(*value),
            serde_json::Value::Number(number) => Parameter::Number(number.as_f64().unwrap()),
            serde_json::Value::String(text) => Parameter::Text(text.clone()),
            serde_json::Value::Null => return,
            serde_json::Value::Array(_) => panic!("a list in {path}"),
        };
        record.parameters.insert(path.to_owned(), parameter);
    }

    #[test]
    fn a_task_is_read_again_from_the_parameters_of_its_trials() {
        for task in [
            json!({"kind": "modular", "modulus": 7, "train-share": 0.5, "operation": "x-y"}),
            json!({"kind": "query-count", "vocab": 5, "head": "regress", "target-scale": "standardised"}),
            json!({"kind": "most-frequent", "vocab": 5, "target": "token"}),
            json!({"kind": "noise", "vocab": 5, "length": 4, "read-out": "every"}),
            json!({"kind": "addition", "digits": 6}),
            json!({"kind": "subtraction", "digits": 6, "addition-share": 1}),
            json!({"kind": "multiplication", "digits": 3, "pad-probability": 0.1}),
            json!({"kind": "sorting", "digits": 3, "items": 4}),
            json!({"kind": "bitwise-or", "length": 5}),
        ] {
            let config = config(&task, "learned");
            let mut record = trial(0, &[("taskless.kind", 1.0)]);
            flatten(&mut record, "task", &config.to_json()["task"]);
            assert_eq!(super::task(&record), Some(config.task), "{:?}", record.parameters);
        }
        assert_eq!(super::task(&trial(0, &[])), None);
    }

    fn config(task: &serde_json::Value, positions: &str) -> TrialConfig {
        let config = TrialConfig::from_json(&json!({
            "task": task,
            "model": {"layers": 1, "heads": 1, "dim": 8, "positions": positions},
            "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adam", "lr": 0.1}},
        }));
        config.unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn ceilings_come_from_real_configurations() {
        let ceiling = |task: serde_json::Value, positions: &str| {
            let mut record = trial(0, &[]);
            let json = config(&task, positions).to_json();
            flatten(&mut record, "task", &json["task"]);
            flatten(&mut record, "model", &json["model"]);
            Ceiling::of(&record, &axes(&record).unwrap()).map(|own| (own.equal(), own.counted))
        };
        let addition = json!({"kind": "addition", "digits": 6});
        assert_eq!(
            ceiling(addition.clone(), "abacus+fire"),
            Some((105, Counted::Larger)),
            "k is 100 by default"
        );
        assert_eq!(ceiling(addition, "fire"), None);
        let multiplication = json!({"kind": "multiplication", "digits": 15});
        assert_eq!(ceiling(multiplication, "abacus"), Some((64, Counted::Sum)));
        let sorting = json!({"kind": "sorting", "digits": 3, "items": 4});
        assert_eq!(ceiling(sorting, "abacus"), Some((102, Counted::Row)));
        let or = json!({"kind": "bitwise-or", "length": 20});
        assert_eq!(ceiling(or, "abacus"), Some((119, Counted::Larger)));
    }

    #[test]
    fn a_run_enters_with_any_finite_score_and_the_rest_is_counted() {
        let mut records = crate::fixture::lengths(3);
        records.retain(|record| record.id.starts_with("abacus"));
        records[0].series.values_mut().for_each(|curve| curve.values.fill(f64::NAN));
        let one = Sizes { row: 1, column: 1 };
        records[1].series.get_mut("exact_match/1x1").unwrap().values[0] = f64::NAN;
        records[2] = with_curve(records[2].clone(), "test_loss", &[(1000, 1.0), (2000, 0.5)]);
        let data = Dataset::new(&records, &[]).with_axes_of(crate::fixture::digits);
        let measured = Measured::of(&data, &data.cells[0], "exact_match");
        assert_eq!((measured.runs.len(), measured.without, measured.early), (2, 1, 1));
        assert_eq!(measured.mean(one), 1.0, "over the run that has it");
        assert!(measured.mean(Sizes { row: 90, column: 1 }).is_nan());
        assert_eq!(measured.equal(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!((measured.trained(), measured.longest), (Some(3), Some(6)));
        // Of the sizes 7, 8 and 9 one lies below the ceiling of 5 + 3 - 1.
        assert_eq!(measured.most_beyond(), Some(1.0 / 3.0));
        let only = data.only(&crate::filter::Filter::default());
        assert_eq!(
            only.axes(&only.cells[0]),
            data.axes(&data.cells[0]),
            "a filter keeps what is known of sizes"
        );
        let unknown = Dataset::new(&records, &[]);
        let measured = Measured::of(&unknown, &unknown.cells[0], "exact_match");
        assert_eq!((measured.axes, measured.ceiling, measured.most_beyond()), (None, None, None));
    }

    #[test]
    fn figures_over_sizes_are_refused_where_none_is_measured() {
        let read = |names: &[&str], score: serde_json::Value| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let node = Node::from_json(&score);
            let mut fields = Fields::new("figure[0]", &node).unwrap();
            read_score(&mut fields, Known { parameters: None, metrics: Some(&names) })
                .map_err(|error| error.to_string())
        };
        assert_eq!(read(&["test_loss", "exact_match/3x4"], json!({})), Ok("exact_match"));
        let error = read(&["exact_match/3x4"], json!({"score": "first_match"})).unwrap_err();
        assert!(error.starts_with("`figure[0].score`: this study measures no `first_match`"), "{error}");
        assert!(read(&["test_exact_match", "exact_match/id"], json!({})).is_err());
    }
}
