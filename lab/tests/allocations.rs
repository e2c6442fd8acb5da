//! What training asks of the allocator: nothing per update once it is under way, and no more memory the longer it lasts.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;
use plateau_lab::{Control, DeviceChoice, Member, Observer, train_cohort};
use serde_json::{Value, json};
use support::member;

/// Counts what threads other than the test's own ask for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
static MOST_LIVE: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Whether this thread only passes on what the training threads report.
    static IS_RELAY: Cell<bool> = const { Cell::new(false) };
}

fn count(allocations: u64, bytes: i64) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    MOST_LIVE.fetch_max(live, Relaxed);
    if !IS_RELAY.get() {
        ALLOCATIONS.fetch_add(allocations, Relaxed);
    }
}

#[allow(unsafe_code, reason = "an allocator that counts")]
// SAFETY: everything is left to the system's allocator; counting touches no memory it hands out and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts reports and keeps nothing.
#[derive(Default)]
struct Reports {
    stepped: u64,
}

impl Observer for Reports {
    fn started(&mut self, _: usize, _: u64) {}
    fn evaluated(&mut self, _: usize, _: Evaluation) {}
    fn checkpointed(&mut self, _: usize, _: u64, _: &Path) {}
    fn ended(&mut self, _: usize, ending: Ending) {
        assert_eq!(ending, Ending::Completed);
    }
    fn progress(&mut self, _: u64, _: f64) -> Control {
        Control::Continue
    }
    fn stepped(&mut self, _: u64) -> Control {
        self.stepped += 1;
        Control::Continue
    }
}

/// What one training asked for.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// Allocations by the training threads.
    allocations: u64,
    /// Most bytes in use at a time beyond those in use before.
    most_bytes: i64,
    /// Reports of progress.
    reports: u64,
}

/// Trains from the start to the end of a budget, with an evaluation at either.
fn train(trial: &Value, steps: u64, replicas: u64, threads: usize) -> Use {
    let scratch = tempfile::tempdir().unwrap();
    let members: Vec<Member> = (0..replicas)
        .map(|seed| {
            let mut json = trial.clone();
            json["seed"] = json!(seed);
            json["train"]["steps"] = json!(steps);
            json["evaluate"] = json!({"every": steps});
            json["checkpoint"] = json!({"seconds": 0});
            member(json)
        })
        .collect();
    let mut reports = Reports::default();
    let (allocations, live) = (ALLOCATIONS.load(Relaxed), LIVE.load(Relaxed));
    MOST_LIVE.store(live, Relaxed);
    train_cohort(&members, &DeviceChoice::Cpu { threads }, scratch.path(), &mut reports).unwrap();
    Use {
        allocations: ALLOCATIONS.load(Relaxed) - allocations,
        most_bytes: MOST_LIVE.load(Relaxed) - live,
        reports: reports.stepped,
    }
}

fn noise(read_out: &str, causal: bool, sizes: [u64; 6]) -> Value {
    let [vocab, length, layers, dim, mlp, batch] = sizes;
    json!({
        "task": {"kind": "noise", "vocab": vocab, "length": length, "test-examples": 10, "read-out": read_out},
        "model": {"kind": "transformer", "layers": layers, "heads": 2, "dim": dim, "mlp-dim": mlp, "norm": "pre",
            "positions": "learned", "causal": causal},
        "train": {"batch": batch, "optimizer": {"kind": "adamw", "lr": 1e-3, "weight-decay": 1.0}}
    })
}

/// Small forms of the benchmarks' workloads, a table trained on as a whole with dropout, and count space.
fn trials() -> [(&'static str, Value); 7] {
    let model = json!({"kind": "transformer", "layers": 1, "heads": 2, "dim": 8, "mlp-dim": 12});
    let mut counting = model.clone();
    (counting["positions"], counting["causal"]) = (json!("none"), json!(false));
    let mut dropping = model;
    dropping["dropout"] = json!(0.1);
    [
        ("modular", noise("last", true, [7, 3, 1, 8, 16, 30])),
        ("tiny", noise("last", true, [32, 3, 1, 8, 16, 8])),
        ("counting", noise("last", false, [8, 21, 2, 8, 16, 2])),
        ("grammar", noise("every", true, [12, 6, 4, 8, 16, 2])),
        (
            "table",
            json!({
                "task": {"kind": "modular", "modulus": 5, "train-share": 0.6},
                "model": dropping,
                "train": {"batch": "full", "clip": 1.0, "optimizer": {"kind": "sgd", "lr": 1e-2, "momentum": 0.9}}
            }),
        ),
        (
            "sentences",
            json!({
                "task": {"kind": "question-formation", "training-examples": 40, "validation-examples": 4,
                    "generalisation-examples": 4},
                "model": {"kind": "transformer", "layers": 1, "heads": 2, "dim": 8, "mlp-dim": 12, "norm": "post",
                    "positions": "sinusoidal", "dropout": 0.1, "mlp-dropout": true},
                "train": {"batch": 8, "clip": 1.0, "optimizer": {"kind": "adamw", "lr": 1e-3}}
            }),
        ),
        (
            "count space",
            json!({
                "task": {"kind": "query-count", "vocab": 4, "length-per-token": 4, "test-examples": 10},
                "model": counting,
                "train": {"batch": 16, "optimizer": {"kind": "adam", "lr": 1e-3}}
            }),
        ),
    ]
}

/// How many more allocations the training threads make in the longer of two budgets that differ in their updates only (and
/// are written with equally many digits) than the reports to the caller account for.
fn surplus(trial: &Value, [short, long]: [u64; 2], replicas: u64, threads: usize) -> i64 {
    train(trial, short, replicas, threads);
    let [short, long] = [short, long].map(|steps| train(trial, steps, replicas, threads));
    // The channel to the caller takes a block of memory for every 31 reports.
    let channel = 1 + long.reports.div_ceil(31) as i64;
    long.allocations as i64 - short.allocations as i64 - channel
}

fn updates_allocate_nothing() {
    for (name, trial) in trials() {
        for replicas in [1, 3] {
            let surplus = surplus(&trial, [1_100, 2_100], replicas, 1);
            assert!(
                surplus <= 0,
                "{name}, {replicas} replicas: 1,000 more updates cost {surplus} allocations"
            );
        }
    }
    // Two threads that share the work of a replica.
    let [_, (_, tiny), ..] = trials();
    let surplus = surplus(&tiny, [110, 160], 1, 2);
    assert!(surplus <= 0, "a team's 50 more updates cost {surplus} allocations");
}

/// Less than a byte per update, which leaves room for a report on its way to the caller.
fn memory_does_not_grow() {
    let trial = noise("last", true, [7, 3, 1, 4, 4, 4]);
    train(&trial, 100, 1, 1);
    let short = train(&trial, 100, 1, 1);
    let long = train(&trial, 10_000, 1, 1);
    let growth = long.most_bytes - short.most_bytes;
    assert!(growth < 9_900, "{growth} bytes more after 10,000 updates than after 100 ({short:?}, {long:?})");
}

/// One test, since the counters belong to the process.
#[test]
fn training_allocates_nothing_per_update_and_does_not_grow() {
    IS_RELAY.set(true);
    updates_allocate_nothing();
    memory_does_not_grow();
}
