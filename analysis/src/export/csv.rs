//! `cells.csv`: one line per cell.

use plateau_common::trial::TrialState;

use super::metrics;
use crate::analyses::AnalysisResult;
use crate::analyses::grokking::{GrokkingGroup, GrokkingOutcome};
use crate::analyses::population::{ended, last_evaluation};
use crate::analyses::summary::summarise;
use crate::cells::{Cell, Dataset, human};
use crate::plan::CONFIDENCE;
use crate::transition::Verdict;

/// The table of cells: its labels, trials by state, `final.step` (the earliest last evaluation among
/// the trials that left a result), statistics of every metric of the training set and of held-out sets at the last evaluation,
/// and per grokking analysis its summary. Numbers are written in full; `inf` and `nan` as such.
pub fn cells_csv(data: &Dataset, results: &[AnalysisResult]) -> String {
    let mut columns: Vec<(String, Vec<String>)> = Vec::new();
    for (index, label) in data.labels.iter().enumerate() {
        let values = data.cells.iter().map(|cell| match cell.values.get(index).and_then(Option::as_ref) {
            Some(plateau_common::results::Parameter::Number(value)) => real(*value),
            Some(value) => human(Some(value)),
            None => String::new(),
        });
        columns.push((label.clone(), values.collect()));
    }
    columns
        .push(("trials".to_owned(), data.cells.iter().map(|cell| cell.trials.len().to_string()).collect()));
    for state in TrialState::ALL.into_iter().filter(|state| state.is_ending()) {
        let counts =
            data.cells.iter().map(|cell| cell.trials.iter().filter(|trial| trial.state == state).count());
        columns.push((state.name().to_owned(), counts.map(|count| count.to_string()).collect()));
    }
    let unfinished =
        data.cells.iter().map(|cell| cell.trials.iter().filter(|trial| !trial.state.is_ending()).count());
    columns.push(("unfinished".to_owned(), unfinished.map(|count| count.to_string()).collect()));

    let last_steps = data.cells.iter().map(|cell| {
        let last = ended(&cell.trials).into_iter().filter_map(last_evaluation).min();
        last.map_or(String::new(), |step| step.to_string())
    });
    columns.push(("final.step".to_owned(), last_steps.collect()));

    let told = ["train_", "test_", "in_domain_", "generalisation_"];
    let accuracies =
        metrics(data).into_iter().filter(|name| told.iter().any(|start| name.starts_with(start)));
    for metric in accuracies {
        let cells = summarise(data, metric, CONFIDENCE);
        let mut add = |suffix: &str, value: &dyn Fn(&crate::analyses::summary::CellSummary) -> String| {
            columns.push((format!("{metric}.{suffix}"), cells.iter().map(value).collect()));
        };
        add("runs", &|cell| cell.mean.runs.to_string());
        add("mean", &|cell| real(cell.mean.value));
        add("sd", &|cell| real(cell.standard_deviation));
        add("t_low", &|cell| real(cell.mean.low));
        add("t_high", &|cell| real(cell.mean.high));
        add("iqm", &|cell| real(cell.interquartile_mean.value));
    }
    for result in results {
        let Some(outcome) = result.outcome::<GrokkingOutcome>() else { continue };
        let groups: Vec<Option<&GrokkingGroup>> =
            data.cells.iter().map(|cell| group_of(cell, outcome)).collect();
        let mut add = |suffix: &str, value: &dyn Fn(&GrokkingGroup) -> String| {
            let values = groups.iter().map(|group| group.map_or(String::new(), value)).collect();
            columns.push((format!("{}.{suffix}", result.name), values));
        };
        add("grokked", &|group| {
            group.verdicts.get(Verdict::Grokked.phrase()).copied().unwrap_or(0).to_string()
        });
        add("at_risk", &|group| group.at_risk.to_string());
        add("censored", &|group| group.censored.to_string());
        add("median_saturation", &|group| real(group.saturation.value));
        add("median_delay", &|group| real(group.delay.value));
        add("median_delay_low", &|group| real(group.delay.low));
        add("median_delay_high", &|group| real(group.delay.high));
        add("median_ratio", &|group| real(group.ratio.value));
        add("mean_log10_ratio", &|group| real(group.log10_ratio.value));
        add("early_stopping_cost", &|group| real(group.early_stopping_cost.value));
    }

    let mut text = columns.iter().map(|(name, _)| field(name)).collect::<Vec<_>>().join(",");
    text.push('\n');
    for row in 0..data.cells.len() {
        let fields: Vec<String> = columns
            .iter()
            .map(|(_, values)| values.get(row).map_or(String::new(), |value| field(value)))
            .collect();
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    text
}

/// The group of a grokking analysis that holds exactly this cell's trials; grouped more coarsely, there is none.
fn group_of<'o>(cell: &Cell, outcome: &'o GrokkingOutcome) -> Option<&'o GrokkingGroup> {
    let first = cell.trials.first()?;
    let name = &outcome.trials.iter().find(|trial| trial.trial == first.id)?.group;
    let size = outcome.trials.iter().filter(|trial| trial.group == *name).count();
    (size == cell.trials.len()).then(|| outcome.groups.iter().find(|group| group.name == *name))?
}

fn real(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { value.to_string() }
}

/// A field as RFC 4180 wants it. Words that a spreadsheet would take for a formula get an apostrophe in front, which it
/// shows as text; numbers, negative ones too, are left alone.
pub fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let mark = if formula { "'" } else { "" };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{mark}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{mark}{text}")
    }
}

#[cfg(test)]
mod tests {
    use plateau_common::results::Parameter;

    use super::*;
    use crate::analyses::Known;
    use crate::fixture::grokking;
    use crate::plan::{Plan, analyse};
    use plateau_common::node::Node;

    #[test]
    fn one_line_per_cell_with_its_numbers() {
        let records = grokking(5);
        let analyses = [Node::from_json(&serde_json::json!({"kind": "grokking"}))];
        let plan = Plan::read(&analyses, &[], Known::default()).unwrap();
        let data = Dataset::new(&records, &[]);
        let text = cells_csv(&data, &analyse(&plan, &records));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        let at =
            |row: usize, name: &str| lines[row][lines[0].iter().position(|column| *column == name).unwrap()];
        assert_eq!(
            (at(1, "train.optimizer.weight-decay"), at(2, "train.optimizer.weight-decay")),
            ("0", "1")
        );
        assert_eq!((at(1, "completed"), at(1, "diverged"), at(1, "test_accuracy.mean")), ("5", "0", "0.05"));
        assert_eq!((at(1, "final.step"), at(2, "final.step")), ("10000", "10000"));
        assert_eq!((at(1, "grokking.grokked"), at(2, "grokking.grokked")), ("0", "5"));
        assert_eq!((at(1, "grokking.median_delay"), at(2, "grokking.median_delay")), ("inf", "3400"));
    }

    #[test]
    fn case_62_words_that_look_like_formulas_are_shown_as_words() {
        for (text, written) in [
            ("=1+1", "'=1+1"),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
            ("-2+3", "'-2+3"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\tx", "'\tx"),
            ("-0.5", "-0.5"),
            ("+1e-3", "+1e-3"),
            ("-inf", "-inf"),
            ("NaN", "NaN"),
            ("x+y", "x+y"),
            ("", ""),
        ] {
            assert_eq!(field(text), written);
        }
    }

    #[test]
    fn words_with_commas_and_quotes_are_quoted() {
        let mut records = grokking(1);
        for (index, record) in records.iter_mut().enumerate() {
            let word = if index == 0 { "a,\"b\"" } else { "c" };
            record.parameters.clear();
            record.parameters.insert("task.kind".to_owned(), Parameter::Text(word.to_owned()));
        }
        let text = cells_csv(&Dataset::new(&records, &[]), &[]);
        assert!(text.contains("\n\"a,\"\"b\"\"\",1,"), "{text}");
        assert_eq!(cells_csv(&Dataset::new(&[], &[]), &[]).lines().count(), 1);
        let structural = crate::fixture::structural(2);
        let text = cells_csv(&Dataset::new(&structural, &[]), &[]);
        assert!(
            text.contains(",in_domain_accuracy.mean,") && text.contains(",generalisation_accuracy.iqm,"),
            "{text}"
        );
    }
}
