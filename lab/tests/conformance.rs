//! Every task trains with every kind of model: finite, learning, and with the promised metrics.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use plateau_common::tasks::TaskConfig;
use plateau_common::trial::Ending;
use serde_json::{Value, json};
use support::{Recorder, member, train};

fn tasks() -> Vec<(Value, Value)> {
    vec![
        (json!({"kind": "modular", "modulus": 7, "train-share": 0.7}), json!("full")),
        (
            json!({"kind": "modular", "operation": "x/y", "modulus": 5, "train-share": 0.5, "layout": "power"}),
            json!(8),
        ),
        (json!({"kind": "query-count", "vocab": 4, "length": 8, "test-examples": 200}), json!(64)),
        (
            json!({"kind": "query-count", "vocab": 4, "length": 8, "test-examples": 200, "head": "classify", "query-mode": "appended"}),
            json!(64),
        ),
        (json!({"kind": "most-frequent", "vocab": 4, "length": 8, "test-examples": 200}), json!(64)),
        (
            json!({"kind": "most-frequent", "vocab": 4, "length": 8, "test-examples": 200, "target": "token"}),
            json!(64),
        ),
        (json!({"kind": "noise", "vocab": 4, "length": 5, "test-examples": 200}), json!(64)),
        (
            json!({"kind": "noise", "vocab": 4, "length": 5, "read-out": "every", "test-examples": 200}),
            json!(64),
        ),
        (json!({"kind": "addition", "digits": 2, "test-examples": 200}), json!(64)),
        (json!({"kind": "subtraction", "digits": 2, "test-examples": 200}), json!(64)),
        (json!({"kind": "multiplication", "digits": 2, "test-examples": 200}), json!(64)),
        (json!({"kind": "sorting", "digits": 2, "items": 2, "test-examples": 200}), json!(64)),
        (json!({"kind": "bitwise-or", "length": 4}), json!("full")),
        (sentences("question-formation"), json!(16)),
        (sentences("tense-inflection"), json!(16)),
        (sentences("dyck"), json!(16)),
    ]
}

fn sentences(kind: &str) -> Value {
    json!({"kind": kind, "training-examples": 120, "validation-examples": 20, "generalisation-examples": 20})
}

fn is_ragged(task: &Value) -> bool {
    task.get("training-examples").is_some()
}

fn trial(task: &Value, batch: &Value, model: Value) -> Value {
    json!({
        "task": task,
        "model": model,
        "train": {"steps": 30, "batch": batch, "optimizer": {"kind": "adamw", "lr": 1e-2}},
        "evaluate": {"every": 15, "probes": ["weight-norm", "gradient-norm", "attention-entropy", "logit-scale"]}
    })
}

fn check(json: Value, scratch: &std::path::Path) -> Recorder {
    let recorder: Recorder = train(&[member(json.clone())], 1, scratch);
    assert_eq!(recorder.endings[&0], Ending::Completed, "{json}");
    let steps: Vec<u64> = recorder.evaluations[&0].iter().map(|evaluation| evaluation.step).collect();
    assert_eq!(steps, [0, 15, 30]);
    for evaluation in &recorder.evaluations[&0] {
        for (name, value) in &evaluation.values {
            assert!(value.is_finite(), "{name} is {value} in {json}");
        }
    }
    for name in [
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "weight_norm",
        "weight_norm/blocks.0",
        "attention_entropy/0",
        "logit_scale",
    ] {
        assert_eq!(recorder.curve(0, name).len(), 3, "{name} in {json}");
    }
    assert_eq!(recorder.curve(0, "gradient_norm").len(), 2, "{json}");
    // Endless data have no fixed training set to compare, but their test set follows the same law.
    let finite = ["modular", "bitwise-or"].iter().any(|kind| json["task"]["kind"] == *kind)
        || is_ragged(&json["task"]);
    let name = if finite { "train_loss" } else { "test_loss" };
    let (first, last) = (recorder.curve(0, name)[0], recorder.curve(0, name)[2]);
    assert!(last < first, "{name} went from {first} to {last} in {json}");
    recorder
}

#[test]
fn every_task_trains_with_every_model() {
    let listed: std::collections::BTreeSet<String> =
        tasks().iter().map(|(task, _)| task["kind"].as_str().unwrap().to_owned()).collect();
    for kind in TaskConfig::KINDS {
        assert!(listed.contains(*kind), "task `{kind}` has no row here");
    }
    let scratch = tempfile::tempdir().unwrap();
    for (task, batch) in tasks() {
        for positions in ["learned", "sinusoidal", "rotary", "none"] {
            for norm in ["pre", "post", "none"] {
                for (activation, layers, causal) in
                    [("relu", 1, true), ("gelu", 2, false), ("geglu", 1, false)]
                {
                    // Sentences are read forward only.
                    let causal = causal || is_ragged(&task);
                    let model = json!({"kind": "transformer", "layers": layers, "heads": 2, "dim": 8, "mlp-dim": 16,
                        "positions": positions, "norm": norm, "activation": activation, "causal": causal});
                    check(trial(&task, &batch, model), scratch.path());
                }
            }
        }
    }
}

/// Schemes that count digits, biases of attention, loops, injection and heads, with every task that has digits; and a grid of
/// longer problems at the end.
#[test]
fn arithmetic_trains_with_every_scheme_and_loop() {
    let scratch = tempfile::tempdir().unwrap();
    let arithmetic = |(task, _): &(Value, Value)| support::has_grid(task);
    for (task, batch) in tasks().into_iter().filter(arithmetic) {
        for (positions, injection, layers, recurrences) in [
            ("abacus", "none", 1, 1),
            ("fire", "layer", 2, 1),
            ("abacus+fire", "block", 1, 2),
            ("rotary+abacus", "layer", 2, 2),
            ("learned+randomised", "none", 1, 1),
            ("fire+randomised", "none", 1, 2),
        ] {
            let model = json!({"kind": "transformer", "layers": layers, "heads": 2, "dim": 8, "mlp-dim": 16,
                "positions": positions, "injection": injection, "recurrences": recurrences, "norm": "post",
                "activation": "geglu", "initialisation": "deepnorm-straight", "embedding-norm": true,
                "read-out": "transform", "randomised": {"positions": 64}, "abacus": {"k": 5}});
            let mut json = trial(&task, &batch, model);
            json["evaluate"]["grid"] = json!({"longest": 5, "problems": 5, "recurrences": [1, 3]});
            json["train"]["progressive-loss"] = json!({"weight": 0.5});
            let recorder = check(json, scratch.path());
            for name in ["exact_match/id", "exact_match/ood", "exact_match/4x3", "exact_match/after_3/2x2"] {
                assert_eq!(recorder.curve(0, name).len(), 1, "{name}");
            }
            assert_eq!(recorder.curve(0, "test_exact_match").len(), 3);
        }
    }
}

/// One batch throughout, through another depth at every update: what is fed is laid out anew for each.
#[test]
fn a_full_batch_trains_through_other_depths() {
    let scratch = tempfile::tempdir().unwrap();
    let model = json!({"kind": "transformer", "layers": 2, "heads": 2, "dim": 8, "mlp-dim": 12,
        "positions": "rotary", "injection": "block", "recurrences": 4});
    let task = json!({"kind": "modular", "modulus": 5, "train-share": 0.6});
    let mut json = trial(&task, &json!("full"), model);
    json["train"]["progressive-loss"] = json!({"weight": 1.0, "gradient": "full"});
    check(json, scratch.path());
}

#[test]
fn dropout_biases_and_double_precision_train() {
    let scratch = tempfile::tempdir().unwrap();
    for (task, batch) in tasks() {
        let model = json!({"kind": "transformer", "layers": 2, "heads": 2, "dim": 8, "dropout": 0.1,
            "attention-bias": true, "read-out-bias": true, "initialisation": "pytorch"});
        let mut json = trial(&task, &batch, model);
        json["train"]["precision"] = json!("f64");
        json["train"]["schedule"] = json!({"kind": "cosine", "warmup": 3});
        check(json, scratch.path());
    }
}

/// A checkpoint gives the outputs the trial was last measured by.
#[test]
fn a_loaded_model_scores_what_the_trial_scored() {
    use plateau_common::tasks::{Form, Split, Targets};
    let scratch = tempfile::tempdir().unwrap();
    let model = json!({"kind": "transformer", "layers": 1, "heads": 2, "dim": 8});
    let json = trial(&tasks()[0].0, &tasks()[0].1, model);
    let recorder = train(&[member(json)], 1, scratch.path());
    let loaded = plateau_lab::load_model(&recorder.checkpoints[&0].last().unwrap().1).unwrap();
    assert_eq!(loaded.step, 30);
    let batch = loaded.examples().evaluation(Split::Test, Form::Tokens).unwrap();
    let outputs = loaded.outputs(&batch.input).unwrap();
    let Targets::Classes(answers) = batch.targets else { panic!("residues are classes") };
    let width = outputs.len() / answers.len();
    let right = answers.iter().zip(outputs.chunks_exact(width)).filter(|(answer, outputs)| {
        let best = (0..width).max_by(|a, b| outputs[*a].total_cmp(&outputs[*b]));
        best == Some(**answer as usize)
    });
    let right = right.count();
    assert_eq!(right as f64 / answers.len() as f64, *recorder.curve(0, "test_accuracy").last().unwrap());
}

/// Every task made of sentences measures what it says, and lets its models be looked into.
#[test]
fn sentences_have_assessments_and_can_be_looked_into() {
    let scratch = tempfile::tempdir().unwrap();
    for (task, batch) in tasks().into_iter().filter(|(task, _)| is_ragged(task)) {
        let model = json!({"kind": "transformer", "layers": 2, "heads": 2, "dim": 8, "mlp-dim": 16, "norm": "post",
            "positions": "sinusoidal", "scaled-embedding": true, "dropout": 0.1, "mlp-dropout": true,
            "initialisation": "murty", "read-out-bias": true});
        let mut json = trial(&task, &batch, model);
        json["evaluate"]["sentences"] = json!(9);
        let probes = json["evaluate"]["probes"].as_array_mut().unwrap();
        probes.extend(["weight-norm-per-layer", "attention-sparsity", "tree-projection"].map(Value::from));
        let recorder = check(json, scratch.path());
        for name in
            ["in_domain_accuracy", "generalisation_accuracy", "t_score", "attention_sparsity/reference"]
        {
            assert_eq!(recorder.curve(0, name).len(), 3, "{name} of {task}");
        }
        assert!(recorder.curve(0, "test_exact_match").is_empty(), "{task}");
        let has_trees = task["kind"] != "dyck";
        assert_eq!(recorder.curve(0, "t_parseval").len(), if has_trees { 3 } else { 0 }, "{task}");
        let linear = recorder.curve(0, "generalisation_linear_rule").len();
        assert_eq!(linear, if has_trees { 3 } else { 0 }, "{task}");
    }
}
