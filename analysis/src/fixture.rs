//! Trial records for tests: real shapes, no training.

use std::collections::BTreeMap;

use plateau_common::config::{Category, GridConfig};
use plateau_common::results::{Parameter, Series, TrialRecord};
use plateau_common::tasks::{Cell as Sizes, GridAxes};
use plateau_common::trial::TrialState;

use crate::lengths::whole;

/// A completed trial of 1000 steps without curves.
pub fn trial(seed: u64, parameters: &[(&str, f64)]) -> TrialRecord {
    let mut all: BTreeMap<String, Parameter> =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), Parameter::Number(*value))).collect();
    all.insert("seed".to_owned(), Parameter::Number(seed as f64));
    let id = parameters.iter().map(|(_, value)| format!("{value}-")).collect::<String>() + &seed.to_string();
    TrialRecord {
        id,
        parameters: all,
        seed,
        state: TrialState::Completed,
        last_step: 1000,
        budget: 1000,
        diverged_at: None,
        train_seconds: 1.5,
        series: BTreeMap::new(),
    }
}

/// The trial with one more curve.
pub fn with_curve(mut trial: TrialRecord, metric: &str, points: &[(u64, f64)]) -> TrialRecord {
    let (steps, values) = points.iter().copied().unzip();
    trial.series.insert(metric.to_owned(), Series { steps, values });
    trial
}

/// A grokking study: weight decay 0 and 1, `seeds` seeds. With decay, test accuracy jumps near step 2000 + 300 · seed;
/// without, never. Training saturates at step 100.
pub fn grokking(seeds: u64) -> Vec<TrialRecord> {
    let steps =
        [0, 10, 20, 50, 100, 200, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 8000, 10_000];
    let mut records = Vec::new();
    for decay in [0.0, 1.0] {
        for seed in 0..seeds {
            let jump = 2000.0 + 300.0 * seed as f64;
            let mut record = trial(seed, &[("train.optimizer.weight-decay", decay), ("model.dim", 128.0)]);
            (record.budget, record.last_step) = (10_000, 10_000);
            let curve = |value: &dyn Fn(f64) -> f64| -> Vec<(u64, f64)> {
                steps.iter().map(|step| (*step, value(*step as f64))).collect()
            };
            let train = |step: f64| (0.02 + step / 100.0).min(1.0);
            let test = |step: f64| {
                if decay > 0.0 { 0.02 + 0.98 / (1.0 + (-(step - jump) / 150.0).exp()) } else { 0.05 }
            };
            record = with_curve(record, "train_accuracy", &curve(&train));
            record = with_curve(record, "test_accuracy", &curve(&test));
            record = with_curve(record, "test_loss", &curve(&|step| 4.0 * (1.001 - test(step))));
            records.push(record);
        }
    }
    records
}

/// A counting study: widths 8, 16, 32 and vocabularies 5 to 60; accuracy falls through 0.8 at 1.4 · width + 1, give or
/// take a little per seed.
pub fn counting(seeds: u64) -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for dim in [8.0, 16.0, 32.0] {
        for vocab in [5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0] {
            for seed in 0..seeds {
                let record = trial(
                    seed,
                    &[
                        ("model.dim", dim),
                        ("model.mlp", 4.0 * dim),
                        ("task.vocab", vocab),
                        ("task.length", 10.0 * vocab),
                    ],
                );
                let middle = 1.4 * dim + 1.0 + 0.4 * ((seed * 7 + 3) % 5) as f64 - 0.8;
                let accuracy = 0.9 - 0.02 * (vocab - middle) * 0.9;
                let accuracy = accuracy.clamp(0.15, 0.999) - 0.1 * f64::from(u8::from(vocab > middle));
                records.push(with_curve(
                    record,
                    "test_accuracy",
                    &[(0, 0.1), (500, accuracy / 2.0), (1000, accuracy)],
                ));
            }
        }
    }
    records
}

/// The sizes of the problems of [`lengths`].
pub fn digits(record: &TrialRecord) -> Option<GridAxes> {
    let size = whole(record, "task.size")?;
    Some(GridAxes {
        rows: "digits of the first operand",
        columns: "digits of the second operand",
        trained: (size, size),
        largest: (200, 200),
        scores_first: false,
    })
}

/// A study of lengths: three schemes of positions, trained on up to 3 digits, measured to 6 and at equal sizes to 9, also
/// after 1, 2, 4 and 8 recurrences. Abacus (k = 5) is right up to its ceiling of 7 for odd seeds and to 5 for even ones,
/// FIRE within training, the third nowhere but at 1 × 1.
pub fn lengths(seeds: u64) -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for (positions, reach) in [("abacus", 7), ("fire", 3), ("none", 1)] {
        for seed in 0..seeds {
            let mut record = trial(
                seed,
                &[("task.size", 3.0), ("evaluate.grid.longest", 6.0), ("model.recurrences", 4.0)],
            );
            record.id = format!("{positions}-{seed}");
            record.parameters.insert("model.positions".to_owned(), Parameter::Text(positions.to_owned()));
            let mut reach = reach;
            if positions == "abacus" {
                record.parameters.insert("model.abacus.k".to_owned(), Parameter::Number(5.0));
                reach -= 2 * usize::from(seed % 2 == 0);
            }
            records.push(with_grid(record, &|cell, recurrences| {
                let late = recurrences.is_none_or(|recurrences| recurrences >= 4);
                if cell.row.max(cell.column) <= reach && late {
                    1.0
                } else {
                    0.25 / (cell.row + cell.column) as f64
                }
            }));
        }
    }
    records
}

/// The trial with all metrics of a grid of up to 6 × 6, and equal sizes to 9, at the last step.
pub fn with_grid(mut record: TrialRecord, score: &dyn Fn(Sizes, Option<usize>) -> f64) -> TrialRecord {
    let grid = GridConfig {
        longest: 6,
        step: 1,
        diagonal: 9,
        problems: 100,
        every: None,
        recurrences: vec![1, 2, 4, 8],
    };
    let Some(axes) = digits(&record) else { return record };
    let cells = grid.cells(&axes);
    let step = record.last_step;
    for (word, category) in Category::ALL {
        let own: Vec<f64> = cells
            .iter()
            .filter(|cell| grid.category(**cell, &axes) == category)
            .map(|cell| score(*cell, None))
            .collect();
        record = with_curve(
            record,
            &format!("exact_match/{word}"),
            &[(step, own.iter().sum::<f64>() / own.len() as f64)],
        );
    }
    for cell in &cells {
        record = with_curve(record, &format!("exact_match/{cell}"), &[(step, score(*cell, None))]);
        for recurrences in grid.recurrences.iter().filter(|_| cell.row == cell.column) {
            let name = format!("exact_match/after_{recurrences}/{cell}");
            record = with_curve(record, &name, &[(step, score(*cell, Some(*recurrences)))]);
        }
    }
    record
}
