//! Configurations of every task of the list, and what the suites ask of each.
#![allow(dead_code, reason = "each test file uses its own part")]

use plateau_common::fields::Fields;
use plateau_common::node::Node;
use plateau_common::tasks::{Form, TaskConfig};
use serde_json::{Value, json};

/// At least two configurations of every task of the list.
pub fn configurations() -> Vec<Value> {
    vec![
        json!({"kind": "modular", "modulus": 13, "train-share": 0.4}),
        json!({"kind": "modular", "modulus": 13, "train-share": 0.7, "operation": "x/y", "layout": "power"}),
        json!({"kind": "modular", "modulus": 11, "train-share": 0.5, "operation": "x/y-if-y-odd-else-x-y"}),
        json!({"kind": "modular", "modulus": 11, "train-share": 0.5, "operation": "x^3+xy^2+y"}),
        json!({"kind": "modular", "train-share": 0.3, "operation": "s5:xyx^-1"}),
        json!({"kind": "query-count", "vocab": 5, "test-examples": 200}),
        json!({"kind": "query-count", "vocab": 7, "length": 12, "query-mode": "appended", "test-examples": 200}),
        json!({"kind": "query-count", "vocab": 6, "head": "classify", "max-count": 9, "test-examples": 200}),
        json!({"kind": "query-count", "vocab": 6, "target-scale": "standardised", "test-examples": 200}),
        json!({"kind": "most-frequent", "vocab": 5, "test-examples": 200}),
        json!({"kind": "most-frequent", "vocab": 8, "length": 16, "target": "token", "test-examples": 200}),
        json!({"kind": "most-frequent", "vocab": 5, "head": "classify", "test-examples": 200}),
        json!({"kind": "most-frequent", "vocab": 5, "target-scale": "standardised", "test-examples": 200}),
        json!({"kind": "noise", "vocab": 7, "length": 5}),
        json!({"kind": "noise", "vocab": 9, "length": 4, "read-out": "every", "test-examples": 200}),
        json!({"kind": "addition", "digits": 4, "test-examples": 200}),
        json!({"kind": "addition", "digits": 3, "index-hints": "plain", "loss-on": "all", "test-examples": 200}),
        json!({"kind": "addition", "digits": 5, "pad-probability": 0.3, "loss-mean": "samples", "test-examples": 200}),
        json!({"kind": "subtraction", "digits": 4, "test-examples": 200}),
        json!({"kind": "subtraction", "digits": 3, "addition-share": 0, "index-hints": "cyclic", "test-examples": 200}),
        json!({"kind": "multiplication", "digits": 4, "test-examples": 200}),
        json!({"kind": "multiplication", "digits": 2, "index-hints": "plain", "pad-probability": 0.9, "loss-mean": "tokens"}),
        json!({"kind": "sorting", "digits": 3, "items": 4, "test-examples": 200}),
        json!({"kind": "sorting", "digits": 2, "items": 30, "test-examples": 200}),
        json!({"kind": "bitwise-or", "length": 5}),
        json!({"kind": "bitwise-or", "length": 8}),
        sentences("question-formation", 300),
        json!({"kind": "question-formation", "training-examples": 40, "validation-examples": 25, "generalisation-examples": 7, "data-seed": 5}),
        sentences("tense-inflection", 300),
        json!({"kind": "tense-inflection", "training-examples": 40, "validation-examples": 25, "generalisation-examples": 70, "generalisation-sample": 60}),
        sentences("dyck", 300),
        json!({"kind": "dyck", "types": 3, "depth": 4, "min-length": 8, "max-length": 64, "training-examples": 140, "validation-examples": 30, "generalisation-examples": 20, "data-seed": 3}),
    ]
}

/// A task over sentences with small sets.
pub fn sentences(kind: &str, examples: usize) -> Value {
    json!({
        "kind": kind, "training-examples": examples, "validation-examples": 200,
        "generalisation-examples": 100,
    })
}

/// Reads a valid `[task]`.
pub fn read(json: &Value) -> TaskConfig {
    let node = Node::from_json(json);
    TaskConfig::read(Fields::new("task", &node).expect("a table")).expect("a valid task")
}

/// Calls `check` with every configuration.
pub fn for_every_task(check: impl Fn(&TaskConfig)) {
    for json in configurations() {
        println!("{json}");
        check(&read(&json));
    }
}

/// The forms in which a task's inputs may be asked for.
pub fn forms(task: &TaskConfig) -> &'static [Form] {
    if task.supports_counts() { &[Form::Tokens, Form::Counts] } else { &[Form::Tokens] }
}

/// Sizes of batches a task must be able to draw: a few examples, many, and the whole of a finite training set.
pub fn batch_sizes(task: &TaskConfig) -> Vec<Option<usize>> {
    match task.training_set_size() {
        Some(size) => vec![Some(3), Some(size.min(32)), None],
        None => vec![Some(3), Some(32)],
    }
}
