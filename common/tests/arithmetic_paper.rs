//! Sizes, schedules and passes of McLeish et al. 2024, "Transformers Can Do Arithmetic with the Right Embeddings".
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use plateau_common::config::{OMITTED_DEFAULTS, Pass, TrialConfig};
use plateau_common::cost;
use serde_json::{Value, json};

/// The paper's model with so many layers, passed so often.
fn model(layers: u64, recurrences: u64, positions: &str) -> Value {
    json!({"kind": "transformer", "layers": layers, "recurrences": recurrences, "heads": 16, "dim": 1024, "mlp-dim": 1024,
        "activation": "geglu", "norm": "post", "mlp-bias": false, "embedding-norm": true, "read-out": "transform",
        "injection": "layer", "initialisation": "deepnorm-straight", "positions": positions})
}

fn trial(model: Value, train: Value) -> TrialConfig {
    let mut train_config = json!({"steps": 10_000, "batch": 8192, "clip": 0.5, "precision": "bf16",
        "optimizer": {"kind": "adamw", "lr": 1e-4, "beta2": 0.98, "eps": 1e-12, "weight-decay": 0.01,
            "decay-biases-and-norms": false}});
    for (key, value) in train.as_object().unwrap() {
        train_config[key] = value.clone();
    }
    let json = json!({"task": {"kind": "addition", "digits": 20}, "model": model, "train": train_config});
    TrialConfig::from_json(&json).unwrap_or_else(|error| panic!("{error}"))
}

/// Block layers x recurrences, and millions of parameters (paper, figure 4 and table 3; the exact numbers are worked out from the
/// released code: 7,344,128 per layer and 4,761,600 besides).
#[test]
fn parameters_are_those_of_the_paper() {
    for (layers, recurrences, millions) in
        [(16, 1, 122.27), (8, 2, 63.51), (4, 4, 34.14), (2, 8, 19.45), (1, 16, 12.11), (32, 1, 239.77)]
    {
        let count = cost::parameters(&trial(model(layers, recurrences, "abacus"), json!({})));
        assert_eq!(count, layers * 7_344_128 + 4_761_600);
        assert!((count as f64 / 1e6 - millions).abs() < 0.01, "{layers} x {recurrences}: {count}");
    }
    let by = |positions: &str| cost::parameters(&trial(model(16, 1, positions), json!({})));
    assert_eq!(by("abacus") - by("none"), 512 * 1024);
    // A perceptron 1 -> 32 -> 16, c and m in each layer.
    assert_eq!(by("fire") - by("none"), 16 * 594);
}

#[test]
fn a_looped_model_costs_as_much_as_one_of_its_depth() {
    let flops =
        |layers, recurrences| cost::flops_per_update(&trial(model(layers, recurrences, "abacus"), json!({})));
    assert_eq!(flops(16, 1), flops(1, 16));
    assert!(flops(8, 1) < 0.6 * flops(8, 2));
}

/// 10 % up, 80 % flat, 10 % down.
#[test]
fn the_trapezoid_in_updates_and_in_samples() {
    let schedule = |unit: &str| json!({"kind": "trapezoid", "warmup": 0.1, "cooldown": 0.1, "unit": unit});
    let by_updates = trial(model(16, 1, "abacus"), json!({"schedule": schedule("updates")})).train;
    for (update, expected) in [(1, 0.001), (500, 0.5), (1000, 1.0), (9000, 1.0), (9500, 0.5), (10_000, 0.0)] {
        assert!((by_updates.multiplier(update) - expected).abs() < 1e-12, "{update}");
    }
    let ramp = json!({"schedule": schedule("samples"), "batch-ramp": {"from": 512, "over": 0.6}});
    let by_samples = trial(model(16, 1, "abacus"), ramp).train;
    let total = by_samples.draw(10_001).first as f64;
    for update in [1, 1234, 5000, 9000, 9999] {
        let share = by_samples.draw(update + 1).first as f64 / total;
        let expected = (share / 0.1).min((1.0 - share) / 0.1).min(1.0);
        let found = by_samples.multiplier(update);
        assert!((found - expected).abs() < 1e-6, "{update}: {found}, not {expected}");
    }
    // With small batches first, a tenth of the examples takes more than a tenth of the updates.
    assert!(by_samples.multiplier(1000) < 0.6);
}

#[test]
fn budgets_in_samples_and_device_hours_are_turned_into_updates() {
    let steps = |budget: Value| {
        let mut train = json!({"steps": null});
        for (key, value) in budget.as_object().unwrap() {
            train[key] = value.clone();
        }
        trial(model(16, 1, "abacus"), train).train.steps
    };
    assert_eq!(steps(json!({"samples": 20_000_000})), 20_000_000u64.div_ceil(8192));
    let flops = cost::flops_per_update(&trial(model(16, 1, "abacus"), json!({})));
    let by_hours = steps(json!({"device-hours": 24, "device-speed": 5e13}));
    assert!(by_hours.abs_diff((24.0 * 3600.0 * 5e13 / flops) as u64) <= 1, "{by_hours}");
    let both = json!({"steps": 5, "samples": 100});
    let mut json = serde_json::to_value(trial(model(1, 1, "none"), json!({})).to_json()).unwrap();
    json["train"]["samples"] = both["samples"].clone();
    let error = TrialConfig::from_json(&json).unwrap_err().to_string();
    assert!(error.contains("more than one budget"), "{error}");
}

/// The released code: n of 0..R without gradient, g of 1..=min(R - n, R / 2) with it.
#[test]
fn passes_of_looped_models_are_drawn_as_in_the_released_code() {
    let passes = |layers, recurrences: u64, loss: Value| {
        let config = trial(model(layers, recurrences, "abacus"), json!({"progressive-loss": loss}));
        (1..=4000).map(|update| config.passes(update).collect()).collect::<Vec<Vec<Pass>>>()
    };
    let looped = passes(1, 16, json!({}));
    assert!(looped.iter().all(|passes| passes.len() == 1 && passes[0].weight == 1.0));
    for pass in looped.iter().flatten() {
        assert!(pass.graded >= 1 && pass.graded <= 8 && pass.free + pass.graded <= 16, "{pass:?}");
    }
    for free in 0..16 {
        let share = looped.iter().filter(|passes| passes[0].free == free).count() as f64 / 4000.0;
        assert!((share - 1.0 / 16.0).abs() < 0.02, "{free}: {share}");
    }
    // 8 x 2: half of the updates pass once, half twice with a gradient through the last pass only.
    let twice = passes(8, 2, json!({}));
    let ones = twice.iter().filter(|passes| (passes[0].free, passes[0].graded) == (0, 1)).count();
    assert!((ones as f64 / 4000.0 - 0.5).abs() < 0.03 && twice.iter().all(|passes| passes[0].graded == 1));
    // With a weight below 1 the whole depth is passed too; 16 x 1 is an ordinary model.
    let mixed = passes(4, 4, json!({"weight": 0.25, "gradient": "full"}));
    assert!(mixed.iter().all(|passes| passes[0] == Pass { free: 0, graded: 4, weight: 0.75 }));
    assert!(mixed.iter().all(|passes| passes[1].free == 0 && passes[1].weight == 0.25));
    let plain = passes(16, 1, json!({}));
    assert!(plain.iter().all(|passes| passes[..] == [Pass { free: 0, graded: 1, weight: 1.0 }]));
}

/// Settings at their defaults are no part of the canonical form, so that trials keep their ids from version to version.
#[test]
fn new_settings_at_their_defaults_change_no_id() {
    let json = json!({
        "task": {"kind": "modular", "modulus": 7, "train-share": 0.5},
        "model": {"kind": "transformer", "layers": 1, "heads": 1, "dim": 8},
        "train": {"steps": 10, "optimizer": {"kind": "adamw", "lr": 1e-3}}
    });
    let canonical = TrialConfig::from_json(&json).unwrap().to_json();
    for pointer in [
        "/model/recurrences",
        "/model/injection",
        "/model/embedding-norm",
        "/model/read-out",
        "/train/batch-ramp",
        "/train/progressive-loss",
        "/train/optimizer/decay-biases-and-norms",
        "/evaluate/grid",
        "/model/learned",
    ] {
        assert!(canonical.pointer(pointer).is_none(), "{pointer} in {canonical}");
    }
    assert_eq!(canonical["model"]["positions"], "learned");
    for (path, _) in OMITTED_DEFAULTS {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(canonical.pointer(&pointer).is_none(), "{pointer} in {canonical}");
    }
}
