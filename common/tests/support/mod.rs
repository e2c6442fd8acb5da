//! Random valid configurations for property tests.

use proptest::prelude::*;
use serde_json::{Value, json};

/// A small valid configuration, as written by a person (defaults left out).
pub fn base() -> Value {
    json!({
        "task": {"kind": "query-count", "vocab": 10},
        "model": {"kind": "transformer", "layers": 2, "heads": 4, "dim": 32},
        "train": {"steps": 100, "batch": 16, "optimizer": {"kind": "adam", "lr": 1e-4}},
    })
}

fn any_task() -> impl Strategy<Value = Value> {
    let operation = prop::sample::select(vec!["x+y", "x-y", "x/y", "x^3+xy^2+y", "s5:xyx^-1"]);
    let modular = (operation, prop::sample::select(vec![5u32, 31, 97]), 0.2..0.8f64, any::<bool>()).prop_map(
        |(operation, modulus, share, power)| {
            let layout = if power { "power" } else { "nanda" };
            let mut task =
                json!({"kind": "modular", "operation": operation, "train-share": share, "layout": layout});
            if !operation.starts_with("s5") {
                task["modulus"] = json!(modulus);
            }
            task
        },
    );
    let counting = (2usize..40, 2usize..20, any::<bool>(), any::<bool>(), 1usize..50, any::<bool>())
        .prop_map(|(vocab, per_token, classify, standardised, max_count, other)| {
            json!({
                "vocab": vocab,
                "length-per-token": per_token,
                "head": if classify { "classify" } else { "regress" },
                "target-scale": if standardised { "standardised" } else { "raw" },
                "max-count": max_count,
                "other": other,
            })
        });
    let query = counting.clone().prop_map(|mut task| {
        let table = task.as_object_mut().expect("a table");
        let mode = if table.remove("other") == Some(json!(true)) { "appended" } else { "last-in-sequence" };
        table.insert("query-mode".to_owned(), json!(mode));
        table.insert("kind".to_owned(), json!("query-count"));
        task
    });
    let frequent = counting.prop_map(|mut task| {
        let table = task.as_object_mut().expect("a table");
        let token = table.remove("other") == Some(json!(true));
        if token {
            table.remove("head");
        }
        table.insert("target".to_owned(), json!(if token { "token" } else { "count" }));
        table.insert("kind".to_owned(), json!("most-frequent"));
        task
    });
    let noise = (1usize..40, 1usize..20, any::<bool>(), 1usize..2000).prop_map(
        |(vocab, length, every, test_examples)| {
            json!({
                "kind": "noise",
                "vocab": vocab,
                "length": length,
                "read-out": if every { "every" } else { "last" },
                "test-examples": test_examples,
            })
        },
    );
    prop_oneof![modular, query, frequent, noise, any_arithmetic(), any_sentences()]
}

fn any_sentences() -> impl Strategy<Value = Value> {
    let sizes = (100usize..200_000, 1usize..20_000, 1usize..20_000, 0u64..1 << 40);
    let kind = prop::sample::select(vec!["question-formation", "tense-inflection", "dyck"]);
    let own = (prop::option::of(any::<bool>()), 2usize..=26, 3usize..=20, 2usize..=32, 64usize..=256);
    (kind, sizes, own).prop_map(|(kind, (training, validation, generalisation, seed), own)| {
        let mut task = json!({
            "kind": kind, "training-examples": training, "validation-examples": validation,
            "generalisation-examples": generalisation, "data-seed": seed,
        });
        let (sampled, types, depth, shortest, longest) = own;
        if kind == "tense-inflection" && sampled.is_some() {
            task["generalisation-sample"] = json!(generalisation.div_ceil(2));
        }
        if kind == "dyck" {
            task["types"] = json!(types);
            task["depth"] = json!(depth);
            task["min-length"] = json!(shortest);
            task["max-length"] = json!(longest);
        }
        task
    })
}

fn any_arithmetic() -> impl Strategy<Value = Value> {
    let words = (
        prop::sample::select(vec!["addition", "subtraction", "multiplication"]),
        prop::sample::select(vec!["none", "plain", "cyclic"]),
        prop::sample::select(vec!["tokens", "samples"]),
        prop::sample::select(vec!["answer", "all"]),
    );
    let calculation = (words, 1usize..50, 1usize..2000, 0.0..0.9f64, 0.0..=1.0f64).prop_map(
        |((kind, hints, mean, on), digits, test_examples, pads, share)| {
            let mut task = json!({
                "kind": kind, "digits": digits, "test-examples": test_examples, "pad-probability": pads,
                "index-hints": hints, "loss-mean": mean, "loss-on": on,
            });
            if kind == "subtraction" {
                task["addition-share"] = json!(share);
            }
            task
        },
    );
    let sorting = (1usize..20, 1usize..=102).prop_map(
        |(digits, items)| json!({"kind": "sorting", "digits": digits, "items": items, "test-examples": 10}),
    );
    let bitwise_or = (2usize..30).prop_map(|length| json!({"kind": "bitwise-or", "length": length}));
    prop_oneof![calculation, sorting, bitwise_or]
}

fn any_model() -> impl Strategy<Value = Value> {
    let words = (
        prop::sample::select(vec!["relu", "gelu", "geglu"]),
        prop::sample::select(vec!["pre", "post", "none"]),
        prop::sample::select(vec!["learned", "sinusoidal", "rotary", "none"]),
        prop::sample::select(vec!["nanda", "gpt2", "pytorch", "xavier", "counting-pilot"]),
    );
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (1usize..4, 1usize..4, 1usize..5, words, flags, 0.0..0.9f64).prop_map(
        |(layers, heads, half_head, (activation, norm, positions, initialisation), flags, dropout)| {
            json!({
                "kind": "transformer", "layers": layers, "heads": heads, "dim": heads * half_head * 2,
                "activation": activation, "norm": norm, "positions": positions, "initialisation": initialisation,
                "attention-bias": flags.0, "mlp-bias": flags.1, "read-out-bias": flags.2, "causal": flags.3,
                "dropout": dropout,
            })
        },
    )
}

fn any_train() -> impl Strategy<Value = Value> {
    let rule = (prop::sample::select(vec!["adam", "adamw", "sgd"]), 1e-9..10.0f64, 0.0..2.0f64)
        .prop_map(|(kind, lr, decay)| json!({"kind": kind, "lr": lr, "weight-decay": decay}));
    let kinds = vec!["constant", "linear-decay", "cosine", "inverse-square-root", "trapezoid"];
    let schedule = (prop::sample::select(kinds), 0u64..50, 0.0..1.0f64, 0u64..50).prop_map(
        |(kind, warmup, last, cooldown)| {
            json!({"kind": kind, "warmup": warmup, "final": last, "cooldown": cooldown})
        },
    );
    (100u64..1_000_000, 1usize..5, rule, schedule, prop::option::of(1e-3..100.0f64), any::<bool>()).prop_map(
        |(steps, batch, optimizer, schedule, clip, double)| {
            json!({
                "steps": steps, "batch": batch, "optimizer": optimizer, "schedule": schedule, "clip": clip,
                "precision": if double { "f64" } else { "f32" },
            })
        },
    )
}

fn any_evaluate() -> impl Strategy<Value = Value> {
    let probes = prop::sample::subsequence(
        vec!["weight-norm", "gradient-norm", "attention-entropy", "logit-scale"],
        0..=4,
    );
    (prop::option::of(1u64..1000), prop::option::of(1u32..100), probes).prop_map(
        |(every, per_decade, probes)| json!({"every": every, "per-decade": per_decade, "probes": probes}),
    )
}

/// Any valid configuration, with most settings written out.
pub fn any_config() -> impl Strategy<Value = Value> {
    (any_task(), any_model(), any_train(), any_evaluate(), 0u64..1 << 62).prop_map(
        |(task, mut model, train, evaluate, seed)| {
            if task.get("training-examples").is_some() {
                // Sequences of lengths of their own are read from left to right.
                model["causal"] = json!(true);
            }
            json!({"seed": seed, "task": task, "model": model, "train": train, "evaluate": evaluate})
        },
    )
}
