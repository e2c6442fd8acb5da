//! A trial ends with the same bits alone or in a cohort, on any number of threads, uninterrupted or resumed; and a
//! replica that diverges disturbs nobody.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use plateau_common::trial::Ending;
use plateau_lab::{DeviceChoice, LabError, Member, train_cohort};
use serde_json::{Value, json};
use support::{Recorder, member, train};

fn modular(seed: u64, lr: f64) -> Value {
    json!({
        "seed": seed,
        "task": {"kind": "modular", "modulus": 7, "train-share": 0.6},
        "model": {"kind": "transformer", "layers": 2, "heads": 2, "dim": 8, "mlp-dim": 12, "norm": "pre"},
        "train": {"steps": 40, "batch": 10, "clip": 0.5 + seed as f64,
            "optimizer": {"kind": "adamw", "lr": lr, "weight-decay": 0.1 * seed as f64}},
        "evaluate": {"every": 10, "probes": ["weight-norm", "gradient-norm", "attention-entropy", "logit-scale", "fourier"]}
    })
}

fn counting(seed: u64, lr: f64) -> Value {
    json!({
        "seed": seed,
        "task": {"kind": "query-count", "vocab": 5, "length-per-token": 4, "target-scale": "standardised", "test-examples": 50},
        "model": {"kind": "transformer", "layers": 2, "heads": 2, "dim": 6, "mlp-dim": 24, "positions": "none", "causal": false},
        "train": {"steps": 40, "batch": 16, "optimizer": {"kind": "adam", "lr": lr}},
        "evaluate": {"every": 10}
    })
}

fn dropped(seed: u64, lr: f64) -> Value {
    let mut json = modular(seed, lr);
    json["model"]["dropout"] = json!(0.2);
    json["train"]["batch"] = json!("full");
    json["train"]["optimizer"] = json!({"kind": "sgd", "lr": lr, "momentum": 0.9});
    json
}

/// A small form of one of the benchmarks' workloads: random tokens, pre-norm, learned positions.
fn noise(seed: u64, lr: f64, sizes: Value, read_out: &str, causal: bool, batch: u64) -> Value {
    let (vocab, length) = (&sizes["vocab"], &sizes["length"]);
    let mut model = json!({"kind": "transformer", "norm": "pre", "positions": "learned", "causal": causal});
    for key in ["layers", "heads", "dim", "mlp-dim"] {
        model[key] = sizes[key].clone();
    }
    json!({
        "seed": seed,
        "task": {"kind": "noise", "vocab": vocab, "length": length, "test-examples": 10, "read-out": read_out},
        "model": model,
        "train": {"steps": 8, "batch": batch, "optimizer": {"kind": "adamw", "lr": lr, "weight-decay": 1.0}},
        "evaluate": {"every": 4}
    })
}

/// More examples than pairs of token and position: the first block works on rows that examples share.
fn modular_workload(seed: u64, lr: f64) -> Value {
    let sizes = json!({"vocab": 11, "length": 3, "layers": 1, "heads": 2, "dim": 8, "mlp-dim": 16});
    noise(seed, lr, sizes, "last", true, 300)
}

fn tiny_workload(seed: u64, lr: f64) -> Value {
    let sizes = json!({"vocab": 32, "length": 3, "layers": 1, "heads": 4, "dim": 12, "mlp-dim": 20});
    noise(seed, lr, sizes, "last", true, 16)
}

fn counting_workload(seed: u64, lr: f64) -> Value {
    let sizes = json!({"vocab": 16, "length": 41, "layers": 2, "heads": 2, "dim": 8, "mlp-dim": 16});
    noise(seed, lr, sizes, "last", false, 5)
}

fn grammar_workload(seed: u64, lr: f64) -> Value {
    let sizes = json!({"vocab": 20, "length": 9, "layers": 4, "heads": 2, "dim": 16, "mlp-dim": 24});
    noise(seed, lr, sizes, "every", true, 4)
}

/// Digits, loops of random depth, FIRE and random positions, growing batches, and a grid of longer problems.
fn arithmetic(seed: u64, lr: f64, positions: &str, weight: f64) -> Value {
    json!({
        "seed": seed,
        "task": {"kind": "addition", "digits": 3, "test-examples": 20},
        "model": {"kind": "transformer", "layers": 1, "recurrences": 4, "heads": 2, "dim": 8, "mlp-dim": 12, "norm": "post",
            "activation": "geglu", "positions": positions, "injection": "layer", "embedding-norm": true,
            "randomised": {"positions": 40}, "abacus": {"k": 4, "rows": 64, "examples-per-offset": 5}},
        "train": {"steps": 12, "batch": 16, "batch-ramp": {"from": 4, "over": 8}, "clip": 0.5,
            "progressive-loss": {"weight": weight},
            "optimizer": {"kind": "adamw", "lr": lr, "weight-decay": 0.1, "decay-biases-and-norms": false}},
        "evaluate": {"every": 6, "grid": {"longest": 4, "problems": 6, "recurrences": [1, 6]}}
    })
}

fn looped_workload(seed: u64, lr: f64) -> Value {
    arithmetic(seed, lr, "abacus+fire", 1.0)
}

fn mixed_workload(seed: u64, lr: f64) -> Value {
    arithmetic(seed, lr, "learned+randomised", 0.5)
}

/// Sentences of lengths of their own with all dropout there is, questions by ranking and by decoding, and probes of sentences.
fn sentences(seed: u64, lr: f64, task: &str) -> Value {
    json!({
        "seed": seed,
        "task": {"kind": task, "training-examples": 120, "validation-examples": 20, "generalisation-examples": 20},
        "model": {"kind": "transformer", "layers": 2, "heads": 2, "dim": 8, "mlp-dim": 12, "norm": "post",
            "positions": "sinusoidal", "scaled-embedding": true, "read-out-bias": true, "dropout": 0.2, "mlp-dropout": true,
            "initialisation": "murty"},
        "train": {"steps": 12, "batch": 8, "clip": 0.5, "optimizer": {"kind": "adamw", "lr": lr},
            "schedule": {"kind": "linear-decay", "warmup": 3}},
        "evaluate": {"every": 6, "sentences": 7,
            "probes": ["weight-norm", "weight-norm-per-layer", "attention-entropy", "attention-sparsity", "tree-projection"]}
    })
}

fn question_workload(seed: u64, lr: f64) -> Value {
    sentences(seed, lr, "question-formation")
}

fn tense_workload(seed: u64, lr: f64) -> Value {
    sentences(seed, lr, "tense-inflection")
}

fn dyck_workload(seed: u64, lr: f64) -> Value {
    sentences(seed, lr, "dyck")
}

const WORKLOADS: [fn(u64, f64) -> Value; 9] = [
    modular_workload,
    tiny_workload,
    counting_workload,
    grammar_workload,
    looped_workload,
    mixed_workload,
    question_workload,
    tense_workload,
    dyck_workload,
];

fn cohort(make: fn(u64, f64) -> Value, count: u64) -> Vec<Member> {
    (0..count).map(|seed| member(make(seed, 1e-3 * (1.0 + seed as f64)))).collect()
}

/// Enough work in an update for threads to share it (the small forms above are not worth a team).
#[test]
fn a_replica_trained_by_a_team_has_the_same_bits() {
    let sizes = json!({"vocab": 40, "length": 24, "layers": 2, "heads": 4, "dim": 128, "mlp-dim": 512});
    let mut looped = looped_workload(3, 1e-3);
    for (key, value) in [("dim", 128), ("mlp-dim", 256), ("heads", 4)] {
        looped["model"][key] = json!(value);
    }
    looped["train"]["batch"] = json!(200);
    let mut sentences = question_workload(3, 1e-3);
    for (key, value) in [("dim", 128), ("mlp-dim", 256), ("heads", 4)] {
        sentences["model"][key] = json!(value);
    }
    sentences["train"]["batch"] = json!(30);
    for json in [
        sentences,
        noise(3, 1e-3, sizes.clone(), "every", true, 32),
        noise(3, 1e-3, sizes.clone(), "last", true, 32),
        looped,
    ] {
        let members = [member(json)];
        let scratch = tempfile::tempdir().unwrap();
        let alone = train(&members, 1, &scratch.path().join("alone"));
        for threads in [2, 3, 4] {
            let found = train(&members, threads, &scratch.path().join(format!("{threads}")));
            assert_eq!(found.final_hash(0), alone.final_hash(0), "{threads} threads");
        }
    }
}

#[test]
fn workloads_have_the_same_bits_in_cohorts_of_every_size_on_every_number_of_threads() {
    for make in WORKLOADS {
        let members = cohort(make, 16);
        let scratch = tempfile::tempdir().unwrap();
        let alone = |replica: usize| train(&members[replica..=replica], 1, &scratch.path().join("alone"));
        let expected: Vec<Recorder> = (0..3).map(alone).collect();
        assert_ne!(expected[0].final_hash(0), expected[1].final_hash(0));
        for replicas in [1, 3, 16] {
            for threads in [1, 2, 4] {
                let folder = scratch.path().join(format!("{replicas}-{threads}"));
                let found = train(&members[..replicas], threads, &folder);
                for (replica, expected) in expected.iter().enumerate().take(replicas) {
                    let what = format!("replica {replica} of {replicas} on {threads} threads");
                    assert_eq!(found.final_hash(replica), expected.final_hash(0), "{what}");
                    let evaluations = [&found.evaluations[&replica], &expected.evaluations[&0]];
                    let [found, expected] = evaluations.map(|evaluations| format!("{evaluations:?}"));
                    assert_eq!(found, expected, "{what}");
                }
            }
        }
    }
}

/// What a trainer that was killed leaves behind is a checkpoint on the way, whatever it did after that.
#[test]
fn workloads_resume_from_a_checkpoint_on_the_way_with_the_same_bits() {
    for make in WORKLOADS {
        let with_saves = |seed: u64| {
            let mut json = make(seed, 1e-3);
            json["checkpoint"] = json!({"every": 3, "seconds": 0});
            member(json)
        };
        let members: Vec<Member> = (0..3).map(with_saves).collect();
        let scratch = tempfile::tempdir().unwrap();
        let whole = train(&members, 1, &scratch.path().join("whole"));
        for (threads, saved) in [(1, 0), (2, 1), (4, 0)] {
            let mut rest = members.clone();
            for (replica, member) in rest.iter_mut().enumerate() {
                member.resume = Some(whole.checkpoints[&replica][saved].1.clone());
            }
            let resumed = train(&rest, threads, &scratch.path().join(format!("resumed-{threads}")));
            for replica in 0..3 {
                assert_eq!(resumed.final_hash(replica), whole.final_hash(replica), "on {threads} threads");
                let last = |recorder: &Recorder| format!("{:?}", recorder.evaluations[&replica].last());
                assert_eq!(last(&resumed), last(&whole));
            }
        }
    }
}

#[test]
fn a_trial_has_the_same_bits_alone_and_in_any_cohort_on_any_number_of_threads() {
    for make in [modular, counting, dropped] {
        let members = cohort(make, 8);
        let scratch = tempfile::tempdir().unwrap();
        let together = train(&members, 1, &scratch.path().join("one"));
        let threads = train(&members, 2, &scratch.path().join("two"));
        for replica in [0, 3, 7] {
            let alone = train(&members[replica..=replica], 1, &scratch.path().join("alone"));
            assert_eq!(alone.final_hash(0), together.final_hash(replica));
            assert_eq!(alone.final_hash(0), threads.final_hash(replica));
            assert_eq!(
                format!("{:?}", alone.evaluations[&0]),
                format!("{:?}", together.evaluations[&replica])
            );
        }
        assert_ne!(together.final_hash(0), together.final_hash(1));
    }
}

#[test]
fn a_stopped_and_resumed_trial_has_the_bits_of_an_uninterrupted_one() {
    for make in [modular, counting, dropped] {
        let mut members = cohort(make, 3);
        let scratch = tempfile::tempdir().unwrap();
        let whole = train(&members, 1, &scratch.path().join("whole"));
        let mut stopped = Recorder { stop_after: Some(10), ..Recorder::default() };
        train_cohort(
            &members,
            &DeviceChoice::Cpu { threads: 2 },
            &scratch.path().join("stopped"),
            &mut stopped,
        )
        .unwrap();
        assert!(!stopped.checkpoints.is_empty());
        for (replica, member) in members.iter_mut().enumerate() {
            // A trial that had ended before the word reached it resumes at its end.
            // One that had not made an update yet has nothing to go on from.
            let saved = stopped.checkpoints.get(&replica).and_then(|saved| saved.last());
            member.resume = saved.map(|(_, folder)| folder.clone());
        }
        let resumed = train(&members, 1, &scratch.path().join("resumed"));
        for replica in 0..3 {
            assert_eq!(resumed.final_hash(replica), whole.final_hash(replica));
            assert_eq!(resumed.endings[&replica], Ending::Completed);
        }
    }
}

/// Resuming from a checkpoint on the way, for certain before the end, and with members at different steps.
#[test]
fn members_may_resume_from_different_steps() {
    let scratch = tempfile::tempdir().unwrap();
    let with_saves = |seed: u64| {
        let mut json = modular(seed, 1e-3);
        json["checkpoint"] = json!({"every": 8, "seconds": 0});
        member(json)
    };
    let mut members: Vec<Member> = (0..3).map(with_saves).collect();
    let whole = train(&members, 1, &scratch.path().join("whole"));
    let steps: Vec<u64> = whole.checkpoints[&0].iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [8, 16, 24, 32, 40]);
    members[1].resume = Some(whole.checkpoints[&1][0].1.clone());
    members[2].resume = Some(whole.checkpoints[&2][3].1.clone());
    let mut resumed = train(&members, 2, &scratch.path().join("resumed"));
    // Threads begin in any order.
    resumed.started.sort_unstable();
    assert_eq!(resumed.started, [(0, 0), (1, 8), (2, 32)]);
    for replica in 0..3 {
        assert_eq!(resumed.final_hash(replica), whole.final_hash(replica));
    }
    let tail =
        |recorder: &Recorder| recorder.evaluations[&2].iter().rev().take(1).cloned().collect::<Vec<_>>();
    assert_eq!(tail(&resumed), tail(&whole));
}

#[test]
fn a_longer_budget_continues_a_trial() {
    let scratch = tempfile::tempdir().unwrap();
    let long = train(&[member(modular(1, 1e-3))], 1, &scratch.path().join("long"));
    let mut json = modular(1, 1e-3);
    json["train"]["steps"] = json!(15);
    let short = train(&[member(json)], 1, &scratch.path().join("short"));
    let mut longer = member(modular(1, 1e-3));
    longer.resume = Some(short.checkpoints[&0].last().unwrap().1.clone());
    let continued = train(&[longer], 1, &scratch.path().join("continued"));
    assert_eq!(continued.final_hash(0), long.final_hash(0));
}

#[test]
fn a_diverging_replica_ends_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let make = |seed: u64, lr: f64| {
        let mut json = modular(seed, lr);
        json["train"]["optimizer"] = json!({"kind": "sgd", "lr": lr});
        json["train"].as_object_mut().unwrap().remove("clip");
        json["model"]["norm"] = json!("none");
        member(json)
    };
    let members = [make(0, 1e-2), make(1, 1e6), make(2, 1e-2)];
    let recorder = train(&members, 1, &scratch.path().join("cohort"));
    let Ending::Diverged { step } = recorder.endings[&1] else { panic!("{:?}", recorder.endings[&1]) };
    assert!(step < 40);
    assert_eq!(recorder.checkpoints[&1].last().unwrap().0, step);
    for replica in [0, 2] {
        assert_eq!(recorder.endings[&replica], Ending::Completed);
        let alone = train(&members[replica..=replica], 1, &scratch.path().join("alone"));
        assert_eq!(alone.final_hash(0), recorder.final_hash(replica));
    }
    let alone = train(&members[1..2], 1, &scratch.path().join("alone"));
    assert_eq!(alone.endings[&0], Ending::Diverged { step });
}

#[test]
fn case_42_a_torn_checkpoint_is_refused_wherever_it_is_torn() {
    let scratch = tempfile::tempdir().unwrap();
    let trained = train(&[member(modular(1, 1e-3))], 1, scratch.path());
    let folder = trained.checkpoints[&0].last().unwrap().1.clone();
    for name in ["weights.safetensors", "optimizer.safetensors", "manifest.json"] {
        let path = folder.join(name);
        let whole = std::fs::read(&path).unwrap();
        let cuts = (0..whole.len()).step_by(4096).chain([1, 7, 8, 9, whole.len() - 1]);
        for cut in cuts.filter(|cut| *cut < whole.len()) {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = plateau_lab::checkpoint::load(&folder).unwrap_err();
            assert!(matches!(error, LabError::Checkpoint { .. }), "{name} cut at {cut}: {error}");
        }
        std::fs::remove_file(&path).unwrap();
        plateau_lab::checkpoint::load(&folder).unwrap_err();
        std::fs::write(&path, &whole).unwrap();
        plateau_lab::checkpoint::load(&folder).unwrap();
    }
}

#[test]
fn when_states_are_saved_and_kept_changes_no_bit() {
    let scratch = tempfile::tempdir().unwrap();
    let run = |policy: Value| {
        let mut json = modular(1, 1e-3);
        json["checkpoint"] = policy;
        let trained = train(&[member(json)], 1, scratch.path());
        let steps: Vec<u64> = trained.checkpoints[&0].iter().map(|(step, _)| *step).collect();
        (trained.final_hash(0), trained.curve(0, "test_loss"), steps)
    };
    let (hash, curve, plain) = run(json!({"seconds": 0.0}));
    let (dense_hash, dense_curve, dense) =
        run(json!({"every": 1, "seconds": 0.0, "keep-every": 2, "keep-around": {"level": 0.5, "within": 2}}));
    assert_eq!((hash, curve), (dense_hash, dense_curve));
    assert!(plain.len() == 1 && dense.len() > 3, "{plain:?} {dense:?}");
}

#[test]
fn case_47_another_setting_is_refused_with_every_field_that_differs() {
    let scratch = tempfile::tempdir().unwrap();
    let trained = train(&[member(modular(1, 1e-3))], 1, scratch.path());
    let folder = trained.checkpoints[&0].last().unwrap().1.clone();
    let resume = |change: &dyn Fn(&mut Value)| {
        let mut json = modular(1, 1e-3);
        change(&mut json);
        let mut other = member(json);
        other.resume = Some(folder.clone());
        let device = DeviceChoice::Cpu { threads: 1 };
        let refused = train_cohort(&[other], &device, scratch.path(), &mut Recorder::default());
        let text = refused.unwrap_err().to_string();
        let (_, list) = text.split_once(":\n").expect("a list");
        list.lines().map(|line| line.trim().to_owned()).collect::<Vec<String>>()
    };
    let saved = member(modular(1, 1e-3)).config.to_json();
    let says = |path: &str, asked: &str| {
        let saved = path.split('.').fold(&saved, |value, key| &value[key]);
        format!("{path}: checkpoint says {saved}, trial says {asked}")
    };
    // Shape, vocabulary, type of numbers, optimiser: all of them, in order, and nothing else.
    let listed = resume(&|json| {
        json["model"]["dim"] = json!(16);
        json["task"]["modulus"] = json!(11);
        json["train"]["precision"] = json!("f64");
        json["train"]["optimizer"]["lr"] = json!(2e-3);
        json["train"]["steps"] = json!(1_000_000);
        json["checkpoint"] = json!({"every": 7});
    });
    for (path, asked) in [
        ("model.dim", "16"),
        ("task.modulus", "11"),
        ("train.precision", "\"f64\""),
        ("train.optimizer.lr", "0.002"),
    ] {
        assert!(listed.contains(&says(path, asked)), "{path}: {listed:#?}");
    }
    // What is derived from the width by default differs with it; budget and policy may differ.
    assert!(listed.iter().all(|line| !line.starts_with("train.steps") && !line.starts_with("checkpoint.")));
    // Another kind of optimiser has other fields: those that only one of them has are named too.
    let listed = resume(&|json| json["train"]["optimizer"] = json!({"kind": "sgd", "lr": 1e-3}));
    assert!(listed.iter().any(|line| line.starts_with("train.optimizer.kind: ")), "{listed:#?}");
    assert!(listed.iter().any(|line| line.ends_with("trial says nothing")), "{listed:#?}");
    assert_eq!(resume(&|json| json["seed"] = json!(2)), [says("seed", "2")]);
}

#[test]
fn foreign_and_damaged_checkpoints_are_refused_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let trained = train(&[member(modular(1, 1e-3))], 1, scratch.path());
    let folder = trained.checkpoints[&0].last().unwrap().1.clone();
    let resume = |json: Value| {
        let mut other = member(json);
        other.resume = Some(folder.clone());
        let mut recorder = Recorder::default();
        train_cohort(&[other], &DeviceChoice::Cpu { threads: 1 }, scratch.path(), &mut recorder)
    };
    let mut json = modular(1, 2e-3);
    json["model"]["dim"] = json!(16);
    let error = resume(json).unwrap_err().to_string();
    assert!(error.contains("model.dim: checkpoint says 8, trial says 16"), "{error}");
    assert!(error.contains("train.optimizer.lr: checkpoint says 0.001, trial says 0.002"), "{error}");
    let weights = folder.join("weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = resume(modular(1, 1e-3)).unwrap_err();
    assert!(matches!(&error, LabError::Checkpoint { problem, .. } if problem.contains("damaged")), "{error}");
    let mixed = train_cohort(
        &[member(modular(0, 1e-3)), member(counting(0, 1e-3))],
        &DeviceChoice::Cpu { threads: 1 },
        scratch.path(),
        &mut Recorder::default(),
    );
    assert!(matches!(mixed, Err(LabError::MixedCohort { .. })));
}
