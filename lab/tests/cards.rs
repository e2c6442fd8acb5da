//! Whole trainings on a card against the same on a processor: models of every kind, evaluations, checkpoints, divergence.
//! Without a card nothing is checked, and standard error says so.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;
use plateau_lab::cuda::CudaDevice;
use plateau_lab::{Control, DeviceChoice, Member, Observer, train_cohort};
use serde_json::{Value, json};

fn there_is_a_card() -> bool {
    match CudaDevice::open(0) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("not checked on a card: {error}");
            false
        }
    }
}

/// Remembers what it is told.
#[derive(Default)]
struct Record {
    evaluations: BTreeMap<usize, Vec<Evaluation>>,
    checkpoints: BTreeMap<(usize, u64), PathBuf>,
    endings: BTreeMap<usize, Ending>,
}

impl Observer for Record {
    fn started(&mut self, _: usize, _: u64) {}
    fn evaluated(&mut self, replica: usize, evaluation: Evaluation) {
        self.evaluations.entry(replica).or_default().push(evaluation);
    }
    fn checkpointed(&mut self, replica: usize, step: u64, folder: &Path) {
        self.checkpoints.insert((replica, step), folder.to_owned());
    }
    fn ended(&mut self, replica: usize, ending: Ending) {
        self.endings.insert(replica, ending);
    }
    fn progress(&mut self, _: u64, _: f64) -> Control {
        Control::Continue
    }
}

fn member(json: &Value, resume: Option<PathBuf>) -> Member {
    let config = TrialConfig::from_json(json).unwrap_or_else(|error| panic!("{error} in {json}"));
    Member { id: TrialId::of(&config), config, resume }
}

fn train(members: &[Member], device: &DeviceChoice, scratch: &Path) -> Record {
    let mut record = Record::default();
    train_cohort(members, device, scratch, &mut record).unwrap();
    record
}

const CARD: DeviceChoice = DeviceChoice::Cuda(0);
const PROCESSOR: DeviceChoice = DeviceChoice::Cpu { threads: 1 };

/// Trains some seeds on both devices; all metrics must agree.
fn compare(name: &str, make: &dyn Fn(u64) -> Value) {
    let members: Vec<Member> = (0..2).map(|seed| member(&make(seed), None)).collect();
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (found, expected) = (train(&members, &CARD, own.path()), train(&members, &PROCESSOR, other.path()));
    assert_eq!(found.endings, expected.endings, "{name}");
    for (replica, evaluations) in &expected.evaluations {
        let pairs = evaluations.iter().zip(&found.evaluations[replica]);
        assert_eq!(evaluations.len(), found.evaluations[replica].len(), "{name}");
        for (expected, found) in pairs {
            assert_eq!(expected.step, found.step, "{name}");
            for ((metric, expected), (other, value)) in expected.values.iter().zip(&found.values) {
                assert_eq!(metric, other, "{name}");
                let error = (expected - value).abs() / expected.abs().max(1.0);
                let both_missing = expected.is_nan() && value.is_nan();
                assert!(
                    both_missing || error < 1e-3,
                    "{name}: {metric} of replica {replica} at step {} is {value}, not {expected}",
                    found.step
                );
            }
        }
    }
}

/// The same trial with these settings of its model and training.
fn changed(mut json: Value, model: &Value, train: &Value) -> Value {
    for (part, changes) in [("model", model), ("train", train)] {
        for (key, value) in changes.as_object().unwrap() {
            json[part][key] = value.clone();
        }
    }
    json
}

fn modular(seed: u64, model: &Value, train: &Value) -> Value {
    let json = json!({
        "seed": seed,
        "task": {"kind": "modular", "modulus": 5, "train-share": 0.6},
        "model": {"kind": "transformer", "layers": 2, "heads": 2, "dim": 8, "mlp-dim": 12},
        "train": {"steps": 6, "batch": "full", "optimizer": {"kind": "adamw", "lr": 1e-3, "eps": 1e-4}},
        "evaluate": {"every": 3, "probes": ["weight-norm", "gradient-norm", "logit-scale"]},
        "checkpoint": {"seconds": 0},
    });
    changed(json, model, train)
}

#[test]
fn models_of_every_kind() {
    if !there_is_a_card() {
        return;
    }
    let models = [
        ("pre-norm", json!({}), json!({})),
        (
            "post-norm, GEGLU, sinusoidal, biases",
            json!({"norm": "post", "activation": "geglu", "positions": "sinusoidal", "attention-bias": true}),
            json!({"batch": 7, "clip": 0.1}),
        ),
        (
            "no norm, GELU, rotary, dropout",
            json!({"norm": "none", "activation": "gelu", "positions": "rotary", "dropout": 0.2, "causal": false}),
            json!({"optimizer": {"kind": "sgd", "lr": 0.01, "momentum": 0.9}}),
        ),
        ("one layer", json!({"layers": 1}), json!({"optimizer": {"kind": "adam", "lr": 1e-3, "eps": 1e-4}})),
    ];
    for (name, model, train) in &models {
        compare(name, &|seed| modular(seed, model, train));
    }
}

#[test]
fn counts_scalars_and_losses_at_every_position() {
    if !there_is_a_card() {
        return;
    }
    compare("counts", &|seed| {
        json!({
            "seed": seed,
            "task": {"kind": "query-count", "vocab": 5, "length-per-token": 4, "target-scale": "standardised",
                "test-examples": 50},
            "model": {"kind": "transformer", "layers": 2, "heads": 2, "dim": 6, "mlp-dim": 24, "positions": "none",
                "causal": false},
            "train": {"steps": 6, "batch": 16, "optimizer": {"kind": "adam", "lr": 1e-3, "eps": 1e-4}},
            "evaluate": {"every": 3}
        })
    });
    compare("every position", &|seed| {
        json!({
            "seed": seed,
            "task": {"kind": "noise", "vocab": 9, "length": 10, "test-examples": 10, "read-out": "every"},
            "model": {"kind": "transformer", "layers": 2, "heads": 2, "dim": 12, "mlp-dim": 16, "tied": true},
            "train": {"steps": 4, "batch": 5, "optimizer": {"kind": "adamw", "lr": 1e-3, "eps": 1e-4}},
            "evaluate": {"every": 2}
        })
    });
}

/// A model of arithmetic: `positions` with these changes of the model and of training.
fn arithmetic(seed: u64, positions: &str, model: &Value, train: &Value) -> Value {
    let json = json!({
        "seed": seed,
        "task": {"kind": "addition", "digits": 2, "test-examples": 20},
        "model": {"kind": "transformer", "layers": 1, "heads": 2, "dim": 8, "mlp-dim": 12, "positions": positions,
            "norm": "post", "activation": "geglu", "initialisation": "deepnorm-straight", "embedding-norm": true,
            "randomised": {"positions": 40}, "abacus": {"k": 5}, "fire": {"hidden": 4, "length": 5.5}},
        "train": {"steps": 6, "batch": 6, "clip": 0.5, "optimizer": {"kind": "adamw", "lr": 1e-3, "eps": 1e-4,
            "weight-decay": 0.5, "decay-biases-and-norms": false}},
        "evaluate": {"every": 3, "grid": {"longest": 3, "problems": 3}},
        "checkpoint": {"seconds": 0},
    });
    changed(json, model, train)
}

#[test]
fn arithmetic_models_loops_and_ramps() {
    if !there_is_a_card() {
        return;
    }
    let models = [
        ("abacus+fire", json!({"layers": 2, "injection": "layer"}), json!({})),
        (
            "fire+randomised",
            json!({"recurrences": 3, "injection": "layer"}),
            json!({"progressive-loss": {"weight": 0.6}}),
        ),
        (
            "learned+randomised",
            json!({"recurrences": 2, "read-out": "transform"}),
            json!({"progressive-loss": {"weight": 1.0, "gradient": "full"},
                "batch-ramp": {"from": 2, "step": 2, "over": 4}}),
        ),
    ];
    for (positions, model, train) in &models {
        compare(positions, &|seed| arithmetic(seed, positions, model, train));
    }
    // The same batch every time, through another depth.
    compare("full batch", &|seed| {
        let model = json!({"recurrences": 4, "injection": "block", "positions": "rotary"});
        modular(seed, &model, &json!({"progressive-loss": {"weight": 1.0, "gradient": "full"}}))
    });
}

#[test]
fn a_resumed_training_gives_the_same_bits() {
    if !there_is_a_card() {
        return;
    }
    let make = |seed| {
        let mut json = modular(seed, &json!({}), &json!({"batch": 7}));
        json["checkpoint"] = json!({"every": 3, "seconds": 0});
        json
    };
    let state = |record: &Record, replica: usize| {
        let checkpoint = plateau_lab::checkpoint::load(&record.checkpoints[&(replica, 6)]).unwrap();
        let hash = |tensors: &[(String, candle_core::Tensor)]| {
            plateau_lab::checkpoint::weights_hash(tensors).unwrap()
        };
        (hash(&checkpoint.weights), hash(&checkpoint.optimizer))
    };
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let members: Vec<Member> = (0..2).map(|seed| member(&make(seed), None)).collect();
    let whole = train(&members, &CARD, own.path());
    let resumed: Vec<Member> = (0..2)
        .map(|seed| member(&make(seed), Some(whole.checkpoints[&(seed as usize, 3)].clone())))
        .collect();
    let resumed = train(&resumed, &CARD, other.path());
    for replica in 0..2 {
        assert_eq!(state(&whole, replica), state(&resumed, replica), "replica {replica}");
    }
}

#[test]
fn a_replica_that_diverges_leaves_the_others_as_they_were() {
    if !there_is_a_card() {
        return;
    }
    let make = |seed: u64, lr: f64| {
        let train = json!({"batch": 7, "steps": 120, "optimizer": {"kind": "sgd", "lr": lr}});
        modular(seed, &json!({"norm": "none"}), &train)
    };
    let cohort = |second: f64| -> Vec<Member> {
        [(0, 0.01), (1, second)].iter().map(|(seed, lr)| member(&make(*seed, *lr), None)).collect()
    };
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broken = train(&cohort(1e6), &CARD, own.path());
    let sound = train(&cohort(0.01), &CARD, other.path());
    assert!(matches!(broken.endings[&1], Ending::Diverged { .. }), "{:?}", broken.endings);
    assert_eq!(broken.endings[&0], sound.endings[&0]);
    let last = |record: &Record| record.evaluations[&0].last().cloned().unwrap();
    let (found, expected) = (last(&broken), last(&sound));
    assert_eq!(found.step, 120);
    for ((metric, found), (_, expected)) in found.values.iter().zip(&expected.values) {
        assert!((found - expected).abs() < 1e-4, "{metric} is {found}, not {expected}");
    }
}
