//! Grokking of arithmetic and of structure, on records of known course.

use super::*;
use crate::fixture::{grokking, structural};
use crate::statistics::Flag;
use plateau_common::node::Node;

fn run(records: &[TrialRecord]) -> AnalysisResult {
    run_with(records, serde_json::json!({}))
}

fn run_with(records: &[TrialRecord], options: Value) -> AnalysisResult {
    let node = Node::from_json(&options);
    let mut fields = Fields::new("analysis", &node).unwrap();
    let common = Common { name: "grokking".to_owned(), confidence: 0.95, known: Default::default() };
    read(&mut fields, common).unwrap().run(&Dataset::new(records, &[]))
}

#[test]
fn weight_decay_one_groks_and_zero_does_not() {
    let result = run(&grokking(5));
    let outcome: &GrokkingOutcome = result.outcome().unwrap();
    let [without, with] = outcome.groups.as_slice() else { panic!("two cells") };
    assert_eq!(without.verdicts, BTreeMap::from([("memorised only", 5)]));
    assert_eq!((without.at_risk, without.censored), (5, 5));
    assert_eq!(without.delay.value, f64::INFINITY);
    assert!(without.delay.flags.contains(&Flag::RightCensored));
    assert_eq!(with.verdicts, BTreeMap::from([("grokked", 5)]));
    assert_eq!((with.at_risk, with.censored), (5, 0));
    // Seeds jump at 2000, 2300 .. 3200; 0.99 is reached 688 steps later, seen at the next evaluation.
    let firsts: Vec<u64> = outcome.trials.iter().filter_map(|trial| trial.transition.first).collect();
    assert_eq!(firsts, [3000, 3000, 3500, 4000, 4000]);
    assert_eq!(with.saturation.value, 100.0);
    assert_eq!(with.delay.value, 3400.0);
    assert_eq!((with.ratios[0], with.ratios[4]), (30.0, 40.0));
    assert!(with.log10_ratio.low >= 1.0, "at least ten times later: {:?}", with.log10_ratio);
    assert!(with.log10_ratio.method.contains("bootstrap"));
    assert!(outcome.survival.comparisons[0].test.p_value < 0.01);
}

#[test]
fn runs_that_never_saturate_are_not_at_risk() {
    let mut records = grokking(4);
    for record in records.iter_mut().filter(|record| record.seed < 2) {
        record.series.get_mut("train_accuracy").unwrap().values.fill(0.3);
        record.series.get_mut("test_accuracy").unwrap().values.fill(0.1);
    }
    let result = run(&records);
    let outcome: &GrokkingOutcome = result.outcome().unwrap();
    assert_eq!((outcome.groups[1].runs, outcome.groups[1].at_risk), (4, 2));
    assert!(result.caveats.iter().any(|caveat| caveat.contains("never saturated")));
    assert!(outcome.groups[1].log10_ratio.method.starts_with("t interval"));
}

fn language() -> Value {
    serde_json::json!({
        "train-metric": "in_domain_accuracy", "test-metric": "generalisation_accuracy", "level": 0.8,
        "stable": "consecutive", "linear-rule": true,
    })
}

#[test]
fn structural_grokking_is_told_in_sentences_and_nothing_is_dropped() {
    let result = run_with(&structural(10), language());
    assert_eq!(
        result.findings,
        [
            "layers = 2: linear rule first (steps 6000 … 12000), then neither, ending at 0.41 (10 of 10 seeds).",
            "layers = 6: linear rule first (step 6000), hierarchical from step 21000 (12000 to 30000) (10 of 10 \
             seeds); of those that became hierarchical, 1 ended below the level again.",
            "layers = 10: linear rule first (steps 6000 … 30000), hierarchical from step 300000 (1 of 10 seeds); linear \
             rule first (steps 6000 … 21000), then neither, ending at 0.6 (9 of 10 seeds).",
        ]
    );
    let outcome: &GrokkingOutcome = result.outcome().unwrap();
    let [two, six, ten] = outcome.groups.as_slice() else { panic!("three depths") };
    assert_eq!(two.verdicts, BTreeMap::from([("linear rule", 10)]));
    assert_eq!(six.verdicts, BTreeMap::from([("grokked", 9), ("unstable", 1)]));
    assert_eq!((ten.at_risk, ten.censored, ten.first.value), (10, 9, f64::INFINITY));
    assert_eq!(
        (six.saturation.value, six.first.value, six.delay.value, six.ratio.value),
        (6000.0, 21_000.0, 15_000.0, 3.5)
    );
    // The published early stop: 7.3 % and less, 92.9 % at the end.
    assert!(
        (six.early_stop_value.value - 0.043).abs() < 1e-3 && (six.final_value.value - 0.9294).abs() < 1e-9
    );
    let cost = six.final_value.value - six.early_stop_value.value;
    assert!((six.early_stopping_cost.value - cost).abs() < 1e-12);
    let row = |text: &str| {
        let rows = result.tables.iter().flat_map(|table| &table.rows);
        rows.filter(|row| row[0] == text).map(|row| row.join(" | ")).collect::<Vec<_>>()
    };
    assert!(row("layers = 2")[0].contains("| 6000 | > 300000 | > 300000 | > 294000 | – | 10 of 10 | > 50 |"));
    assert!(
        row("layers = 2")[3].contains("| linear rule | 6000 … 9000 | 6000 | > 300000 |"),
        "{:?}",
        row("layers = 2")
    );
}

#[test]
fn other_courses_are_told_too() {
    let mut records: Vec<TrialRecord> = structural(5)
        .into_iter()
        .filter(|record| record.parameters["model.layers"].as_number() == Some(6.0))
        .collect();
    for (index, record) in records.iter_mut().enumerate() {
        record.series.remove(LINEAR_METRIC);
        let curve = record.series.get_mut("generalisation_accuracy").unwrap();
        match index {
            0 => curve.values.fill(0.01),
            1 => curve.values.fill(0.5),
            2 => curve.values[1] = 0.3,
            3 => record.series.get_mut("in_domain_accuracy").unwrap().values.fill(0.7),
            _ => curve.values.clear(),
        }
        if index == 3 {
            record.series.get_mut("generalisation_accuracy").unwrap().values.fill(0.02);
        }
    }
    let result = run_with(&records, language());
    assert_eq!(
        result.findings,
        [
            "all trials: hierarchical from step 21000 without the linear rule before (1 of 4 seeds); linear rule only, from \
          step 6000 to the end (1 of 4 seeds); neither rule (1 of 4 seeds); in-domain accuracy not saturated (1 of 4 \
          seeds)."
        ]
    );
    let said = |words: &str| result.caveats.iter().any(|caveat| caveat.contains(words));
    assert!(
        said("left out: 1 run without curves") && said("5 of 5 trials have not measured that share"),
        "{:?}",
        result.caveats
    );
    let outcome: &GrokkingOutcome = result.outcome().unwrap();
    assert_eq!(outcome.groups[0].verdicts["neither rule"], 1);
    assert!(run(&records).findings.is_empty(), "nobody asked");
}
