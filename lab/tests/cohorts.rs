//! Members that leave a cohort, others that take their places, cohorts that do not fit, and their measurement: the bits
//! of a trial do not depend on any of it.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::path::Path;

use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;
use plateau_lab::{
    Control, DeviceChoice, LabError, Member, Observer, calibrate, train_cohort, train_cohort_within,
};
use serde_json::{Value, json};
use support::{Recorder, config, member, train};

/// Enough for many turns of the training loop, which members join and leave between.
const STEPS: u64 = 10_000;

fn modular(seed: u64, lr: f64) -> Value {
    json!({
        "seed": seed,
        "task": {"kind": "modular", "modulus": 7, "train-share": 0.6},
        "model": {"kind": "transformer", "layers": 1, "heads": 2, "dim": 8, "mlp-dim": 12, "norm": "none"},
        "train": {"steps": STEPS, "batch": 10, "optimizer": {"kind": "sgd", "lr": lr}},
        "evaluate": {"every": 1000}
    })
}

/// The same shape with a learning rate that no model survives for long.
fn diverging(seed: u64) -> Value {
    modular(seed, 1e6)
}

/// Gives out `waiting` as places become free, and has member `leaver` leave after its evaluation at `leave_at`.
#[derive(Default)]
struct Exchange {
    recorder: Recorder,
    waiting: Vec<Member>,
    asked: Vec<usize>,
    leaver: Option<(usize, u64)>,
    dropped: Vec<usize>,
}

impl Observer for Exchange {
    fn started(&mut self, replica: usize, from_step: u64) {
        self.recorder.started(replica, from_step);
    }
    fn evaluated(&mut self, replica: usize, evaluation: Evaluation) {
        self.recorder.evaluated(replica, evaluation);
    }
    fn checkpointed(&mut self, replica: usize, step: u64, folder: &Path) {
        self.recorder.checkpointed(replica, step, folder);
    }
    fn ended(&mut self, replica: usize, ending: Ending) {
        self.recorder.ended(replica, ending);
    }
    fn progress(&mut self, _: u64, _: f64) -> Control {
        Control::Continue
    }
    fn refill(&mut self, free: usize) -> Vec<Member> {
        self.asked.push(free);
        self.waiting.drain(..free.min(self.waiting.len())).collect()
    }
    fn leaving(&mut self) -> Vec<usize> {
        let Some((leaver, step)) = self.leaver else { return Vec::new() };
        let seen = self.recorder.evaluations.get(&leaver).and_then(|list| list.last());
        if seen.is_none_or(|evaluation| evaluation.step < step) {
            return Vec::new();
        }
        self.leaver = None;
        vec![leaver]
    }
    fn dropped(&mut self, replica: usize) {
        self.dropped.push(replica);
    }
}

#[test]
fn a_waiting_trial_takes_the_place_of_one_that_diverged_with_the_bits_it_has_alone() {
    let scratch = tempfile::tempdir().unwrap();
    for threads in [1, 2] {
        let folder = scratch.path().join(threads.to_string());
        let first = [member(modular(0, 1e-3)), member(diverging(1)), member(modular(2, 2e-3))];
        // One of them goes on from a step on the way.
        let mut late = member(modular(3, 1e-3));
        let mut stopped = Recorder { stop_after: Some(1000), ..Recorder::default() };
        let device = DeviceChoice::Cpu { threads };
        train_cohort(&[late.clone()], &device, &folder.join("late"), &mut stopped).unwrap();
        late.resume = Some(stopped.checkpoints[&0].last().unwrap().1.clone());
        let waiting = vec![late, member(modular(4, 3e-3))];
        let mut exchange = Exchange { waiting: waiting.clone(), ..Exchange::default() };
        train_cohort(&first, &device, &folder.join("together"), &mut exchange).unwrap();
        assert_eq!(exchange.asked[0], 1, "one place is free once a replica has diverged");
        assert!(matches!(exchange.recorder.endings[&1], Ending::Diverged { .. }));
        for (replica, joined) in [(3, 3), (4, 4)] {
            let alone =
                train(&[member(modular(joined, [1e-3, 3e-3][replica - 3]))], 1, &folder.join("alone"));
            assert_eq!(exchange.recorder.final_hash(replica), alone.final_hash(0));
            assert_eq!(exchange.recorder.endings[&replica], Ending::Completed);
        }
        let alone = train(&first[..1], 1, &folder.join("alone"));
        assert_eq!(exchange.recorder.final_hash(0), alone.final_hash(0));
        assert_eq!(exchange.recorder.endings.len(), 5);
    }
}

#[test]
fn a_member_that_leaves_is_saved_and_disturbs_nobody() {
    let scratch = tempfile::tempdir().unwrap();
    // So long that it has not ended by the time it is asked to leave, however fast it is trained.
    let steps = 30 * STEPS;
    let long = |seed: u64| {
        let mut json = modular(seed, 1e-3);
        json["train"]["steps"] = json!(steps);
        member(json)
    };
    let members = [long(0), long(1), long(2)];
    let mut exchange = Exchange { leaver: Some((1, 1000)), ..Exchange::default() };
    let device = DeviceChoice::Cpu { threads: 1 };
    train_cohort(&members, &device, &scratch.path().join("together"), &mut exchange).unwrap();
    assert_eq!(exchange.dropped, [1]);
    assert!(!exchange.recorder.endings.contains_key(&1));
    let starts: Vec<usize> = exchange.recorder.started.iter().map(|(replica, _)| *replica).collect();
    assert_eq!(starts, [0, 1, 2], "each member is announced once");
    let whole = train(&members, 2, &scratch.path().join("whole"));
    for replica in [0, 2] {
        assert_eq!(exchange.recorder.final_hash(replica), whole.final_hash(replica));
        let (found, expected) = (&exchange.recorder.evaluations[&replica], &whole.evaluations[&replica]);
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    }
    let (step, folder) = exchange.recorder.checkpoints[&1].last().unwrap().clone();
    assert!((1000..steps).contains(&step), "it left at {step}");
    let mut back = members[1].clone();
    back.resume = Some(folder);
    let resumed = train(&[back], 1, &scratch.path().join("resumed"));
    assert_eq!(resumed.final_hash(0), whole.final_hash(1));
}

#[test]
fn a_cohort_that_does_not_fit_is_refused_before_it_begins() {
    let scratch = tempfile::tempdir().unwrap();
    let members: Vec<Member> = (0..3).map(|seed| member(modular(seed, 1e-3))).collect();
    let device = DeviceChoice::Cpu { threads: 1 };
    let mut recorder = Recorder::default();
    let refused = train_cohort_within(Some(1 << 20), &members, &device, scratch.path(), &mut recorder);
    let Err(LabError::OutOfMemory { needed, available }) = refused else { panic!("{refused:?}") };
    assert!(needed > available && available == 1 << 20);
    assert!(recorder.started.is_empty());
    train_cohort_within(Some(needed), &members, &device, scratch.path(), &mut recorder).unwrap();
    assert_eq!(recorder.endings.len(), 3);
}

#[test]
fn a_calibration_measures_growing_cohorts_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let config = config(modular(0, 1e-3));
    let device = DeviceChoice::Cpu { threads: 1 };
    let found = calibrate(&config, &device, 1.0, 4, None, scratch.path()).unwrap();
    let sizes: Vec<u32> = found.curve.points().map(|(size, _)| size).collect();
    assert!(!sizes.is_empty() && [1, 2, 4].starts_with(&sizes), "{sizes:?}");
    // This model makes thousands of updates a second on any machine.
    assert!(found.curve.points().all(|(_, rate)| (100.0..1e7).contains(&rate)), "{:?}", found.curve);
    assert!(found.evaluation_seconds > 0.0 && found.evaluation_seconds < 60.0);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    // One replica fits, two do not.
    let tight = Some(found.memory.of(1));
    let found = calibrate(&config, &device, 1.0, 4, tight, scratch.path()).unwrap();
    assert_eq!(found.curve.points().map(|(size, _)| size).collect::<Vec<_>>(), [1]);
    assert!(calibrate(&config, &device, 1.0, 4, Some(1), scratch.path()).is_err());
}
