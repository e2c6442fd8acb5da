//! The score of a grid, taken in one pass behind the right symbols, is that of greedy decoding symbol by symbol.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use plateau_common::config::{GridConfig, TrialConfig};
use plateau_common::tasks::{Batch, Cell, Input, Targets};
use plateau_lab::load_model;
use serde_json::{Value, json};
use support::{member, train};

/// A small model of each architecture, trained long enough to be right sometimes.
fn trial(task: &Value, architecture: &Value) -> Value {
    let mut model = json!({"kind": "transformer", "heads": 2, "dim": 32, "mlp-dim": 48, "norm": "post",
        "activation": "geglu", "mlp-bias": false, "embedding-norm": true, "positions": "abacus",
        "initialisation": "deepnorm-straight", "abacus": {"k": 3, "rows": 64}});
    for (key, value) in architecture.as_object().unwrap() {
        model[key] = value.clone();
    }
    json!({
        "seed": 5,
        "task": task,
        "model": model,
        "train": {"steps": 250, "batch": 64, "clip": 0.5, "optimizer": {"kind": "adamw", "lr": 5e-3, "beta2": 0.98},
            "schedule": {"kind": "trapezoid", "warmup": 0.1, "cooldown": 0.2}},
        "evaluate": {"every": 250, "probes": []}
    })
}

/// Which examples of a batch the model answers right when it is fed its own symbols, until the end of the answer.
fn decode(model: &plateau_lab::TrainedModel, batch: &Batch) -> Vec<bool> {
    let (Input::Tokens { tokens, length }, Targets::Classes(answers)) = (&batch.input, &batch.targets) else {
        panic!("tokens and classes")
    };
    let weights = batch.weights.as_ref().unwrap();
    let examples = batch.examples();
    let asked = |example: usize, at: usize| weights[example * length + at] > 0.0;
    let first = |example: usize| (0..*length).find(|at| asked(example, *at)).unwrap();
    // The question as it is; behind it nothing but what the model says (a pad until then).
    let mut own = tokens.clone();
    for example in 0..examples {
        own[example * length + first(example) + 1..(example + 1) * length].fill(0);
    }
    let mut right = vec![true; examples];
    for at in 0..*length {
        if !(0..examples).any(|example| asked(example, at)) {
            continue;
        }
        let outputs = model.outputs(&Input::Tokens { tokens: own.clone(), length: *length }).unwrap();
        let width = outputs.len() / (examples * length);
        for (example, right) in right.iter_mut().enumerate() {
            let row = example * length + at;
            let outputs = &outputs[row * width..(row + 1) * width];
            let said =
                (0..width).fold(0, |best, class| if outputs[class] > outputs[best] { class } else { best });
            if asked(example, at) {
                *right &= said as u32 == answers[row];
                if at + 1 < *length {
                    own[row + 1] = said as u32;
                }
            }
        }
    }
    right
}

/// The grid's scores of the same cells, by the training loop.
fn scored(
    json: &Value,
    grid: &Value,
    scratch: &std::path::Path,
) -> (plateau_lab::TrainedModel, Vec<(String, f64)>) {
    let mut json = json.clone();
    json["evaluate"]["grid"] = grid.clone();
    let recorder = train(&[member(json)], 2, scratch);
    let loaded = load_model(&recorder.checkpoints[&0].last().unwrap().1).unwrap();
    (loaded, recorder.evaluations[&0].last().unwrap().values.clone())
}

#[test]
fn greedy_decoding_equals_the_teacher_forced_score() {
    let architectures = [
        json!({"layers": 2}),
        json!({"layers": 2, "injection": "layer", "positions": "fire"}),
        json!({"layers": 1, "recurrences": 3, "injection": "block", "positions": "abacus+fire"}),
    ];
    let tasks = [
        json!({"kind": "addition", "digits": 2}),
        json!({"kind": "subtraction", "digits": 2}),
        json!({"kind": "multiplication", "digits": 1}),
        json!({"kind": "sorting", "digits": 1, "items": 3}),
        json!({"kind": "bitwise-or", "length": 10}),
    ];
    let scratch = tempfile::tempdir().unwrap();
    for task in &tasks {
        let (mut problems, mut correct) = (0, 0);
        for architecture in &architectures {
            let mut json = trial(task, architecture);
            let is_or = task["kind"] == "bitwise-or";
            // At least 1,000 problems: 9 cells of 112, or of an exhaustive task as many as it has.
            let grid = if is_or {
                json["train"]["batch"] = json!(15);
                json!({"longest": 15, "problems": 100})
            } else {
                json!({"longest": 3, "problems": 112})
            };
            let folder = scratch.path().join(format!("{}-{}", task["kind"], problems));
            let (model, values) = scored(&json, &grid, &folder);
            let config = TrialConfig::from_json(&{
                let mut json = json.clone();
                json["evaluate"]["grid"] = grid;
                json
            })
            .unwrap();
            let (grid, axes): (&GridConfig, _) =
                (config.evaluate.grid.as_ref().unwrap(), config.task.grid().unwrap());
            let mut own = 0;
            for cell in grid.cells(&axes) {
                let Cell { row, column } = cell;
                let batch = model.examples().cell(cell, grid.problems);
                let right = decode(&model, &batch).into_iter().filter(|right| *right).count();
                let score = values.iter().find(|(name, _)| *name == format!("exact_match/{cell}")).unwrap().1;
                assert_eq!(
                    right as f64 / batch.examples() as f64,
                    score,
                    "{task} {architecture} {row}x{column}"
                );
                (own, correct) = (own + batch.examples(), correct + right);
            }
            assert!(own >= 1000, "{task}: only {own} problems");
            problems += own;
        }
        println!("{task}: {correct} of {problems} right");
        // Neither all nor nothing: both sides of the comparison occur.
        assert!(correct > problems / 50 && correct < problems, "{task}: {correct} of {problems} right");
    }
}
