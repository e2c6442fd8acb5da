//! Trial records for tests: real shapes, no training.

use std::collections::BTreeMap;

use plateau_common::results::{Parameter, Series, TrialRecord};
use plateau_common::trial::TrialState;

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
