//! What training asks of a card, counted by the pretended driver.
//!
//! A library is found by its name when a process starts, so each test runs itself again, in a process of its own that has the
//! pretended driver's folder on its library path.

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::metrics::Evaluation;
use plateau_common::trial::Ending;
use plateau_lab::cpu::Feed;
use plateau_lab::cuda::{self, CudaDevice, Executor, MatrixMode};
use plateau_lab::model::{self, Occasion};
use plateau_lab::program::{Program, SlotKind};
use plateau_lab::{Control, DeviceChoice, Member, Observer, train_cohort};

/// Most commands of an update, one by one.
const COMMANDS: u64 = 150;
/// Most commands of an update as a graph: the graph, what it is fed, and what goes with that.
const COMMANDS_OF_GRAPH: u64 = 5;

/// The pretended driver, built by cargo beside this test.
fn library() -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path");
    let folders = own.ancestors().skip(1).take(2);
    let mut places = folders.map(|folder| folder.join("libpretend_driver.so"));
    places.find(|place| place.exists()).expect("cargo builds the pretended driver beside its tests")
}

/// Runs `test` in a process that finds the pretended driver.
fn with_pretended_driver(name: &str, test: impl FnOnce()) {
    with_card_of(name, 16 << 30, test);
}

/// The same with a card of so many bytes.
fn with_card_of(name: &str, bytes: usize, test: impl FnOnce()) {
    const MARK: &str = "PRETENDED_DRIVER_IS_THERE";
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for link in ["libcuda.so.1", "libcublas.so.13"] {
        std::os::unix::fs::symlink(library(), folder.path().join(link)).expect("a link");
    }
    let output = Command::new(std::env::current_exe().expect("the test's own path"))
        .args([name, "--exact", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env(MARK, "1")
        .env("PRETEND_MEMORY", bytes.to_string())
        .output()
        .expect("the test as a process");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}

#[test]
fn the_pretended_card_is_listed() {
    with_pretended_driver("the_pretended_card_is_listed", || {
        let cards = cuda::cards().expect("a driver");
        assert_eq!(cards.len(), 1);
        assert_eq!((cards[0].name.as_str(), cards[0].capability), ("Pretended card", (9, 0)));
        let device = CudaDevice::open(0).expect("a card");
        assert!(device.describe().contains("Pretended card"));
        let missing = CudaDevice::open(7).err().expect("there is one card").to_string();
        assert!(missing.contains("cuda:7") && missing.contains("shows 1"), "{missing}");
    });
}

/// How often the driver was asked for something since the counts were forgotten.
#[allow(unsafe_code, reason = "the counts are read through the pretended driver's own functions")]
fn counts<const N: usize>(names: [&str; N]) -> [u64; N] {
    // SAFETY: the library is loaded already, and the function has this type.
    let library = unsafe { libloading::Library::new("libcuda.so.1") }.expect("the pretended driver");
    names.map(|name| {
        let name = CString::new(name).expect("a name");
        // SAFETY: as above; the name ends in zero.
        unsafe {
            let count = library.get::<unsafe extern "C" fn(*const c_char) -> u64>(b"pretend_driver_count");
            count.expect("a function")(name.as_ptr())
        }
    })
}

#[allow(unsafe_code, reason = "the counts are forgotten through the pretended driver's own function")]
fn forget_counts() {
    // SAFETY: the library is loaded already, and the function has this type.
    unsafe {
        let library = libloading::Library::new("libcuda.so.1").expect("the pretended driver");
        library.get::<unsafe extern "C" fn()>(b"pretend_driver_reset").expect("a function")();
    }
}

/// Everything that is queued on the card.
const QUEUED: [&str; 7] = [
    "kernels",
    "cublasGemmStridedBatchedEx",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuGraphLaunch",
];

/// What a steady state must not ask for.
const UNSTEADY: [&str; 6] = [
    "cuMemAlloc_v2",
    "cuMemHostAlloc",
    "cuEventCreate",
    "cuModuleLoadData",
    "cuStreamBeginCapture_v2",
    "cuStreamSynchronize",
];

/// The workload of four layers with a loss at every position (bench/workloads.json, `grammar`).
fn four_layers(seed: u64, steps: u64) -> TrialConfig {
    TrialConfig::from_json(&serde_json::json!({
        "seed": seed,
        "task": {"kind": "noise", "vocab": 80, "length": 24, "test-examples": 1, "read-out": "every"},
        "model": {"kind": "transformer", "layers": 4, "heads": 4, "dim": 256, "mlp-dim": 1024, "norm": "pre",
            "positions": "learned", "causal": true, "initialisation": "pytorch"},
        "train": {"steps": steps, "batch": 8, "optimizer": {"kind": "adamw", "lr": 1e-3, "weight-decay": 1.0}},
        "evaluate": {"every": 1u64 << 60, "probes": []},
        "checkpoint": {"seconds": 0},
    }))
    .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_batch_too_large_for_the_card_is_divided() {
    with_card_of("a_batch_too_large_for_the_card_is_divided", 1 << 30, || {
        let mut config = four_layers(0, 3);
        config.train.batch = plateau_common::config::Batch::Size(2048);
        let (shape, occasion) = (config.task.shape(), Occasion::of_training(&config));
        let model = model::build(&config.model, shape);
        let in_room = |numbers: usize, most: usize| {
            model::program_in_room(&*model, shape, &occasion, (numbers, most)).expect("a program")
        };
        let whole = in_room(usize::MAX, usize::MAX);
        assert_eq!(whole.micro_batch, 2048);
        assert_eq!(in_room(whole.workspace - 1, usize::MAX).micro_batch, 1024);
        assert_eq!(in_room(0, usize::MAX).micro_batch, 1);
        // The widest value is the MLP's: 24 rows of 1024 for each example.
        assert_eq!(in_room(usize::MAX, 2048 * 24 * 1024).micro_batch, 2048);
        assert_eq!(in_room(usize::MAX, 2048 * 24 * 1024 - 1).micro_batch, 1024);

        let device = CudaDevice::open(0).expect("a card");
        let rule = &config.train.optimizer;
        let at_once = Executor::new(&device, Arc::new(whole), 1, 2048, rule, MatrixMode::F32);
        assert!(matches!(at_once.err(), Some(cuda::CudaError::OutOfMemory { .. })));
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let member = Member { id: TrialId::of(&config), config, resume: None };
        let mut observer = Endings::default();
        train_cohort(&[member], &DeviceChoice::Cuda(0), scratch.path(), &mut observer).expect("training");
        assert_eq!(observer.0.len(), 1);
    });
}

/// A feed of zeros.
fn zeros(program: &Program, examples: usize) -> Feed<f32> {
    let mut feed = Feed::empty(program.slots.len());
    (feed.examples, feed.loss_scale) = (examples, 1.0);
    for (slot, specification) in program.slots.iter().enumerate() {
        let count = specification.extent.count(examples);
        match (&specification.content, specification.kind) {
            (Some(_), _) => {}
            (None, SlotKind::Ids) => feed.ids_mut(slot).resize(count, 0),
            (None, SlotKind::Numbers) => feed.numbers_mut(slot).resize(count, 0.0),
        }
    }
    feed
}

#[test]
fn an_update_of_four_layers_is_few_commands_and_no_allocation() {
    with_pretended_driver("an_update_of_four_layers_is_few_commands_and_no_allocation", || {
        let config = four_layers(0, 1);
        let model = model::build(&config.model, config.task.shape());
        let occasion = Occasion::of_training(&config);
        let program = model::program_within(&*model, config.task.shape(), &occasion, false, usize::MAX);
        let program = Arc::new(program.expect("a program"));
        let device = CudaDevice::open(0).expect("a card");
        let replicas = 4;
        let rule = &config.train.optimizer;
        let mut executor =
            Executor::new(&device, program.clone(), replicas, 8, rule, MatrixMode::F32).expect("memory");
        let feeds = vec![zeros(&program, 8); replicas];
        let updates = 10;
        for (graphs, most) in [(false, COMMANDS), (true, COMMANDS_OF_GRAPH)] {
            executor.use_graphs(graphs);
            for update in 1..=2 {
                executor.update(update, 1.0, &feeds, true).expect("an update");
            }
            forget_counts();
            for update in 1..=updates {
                executor.update(update, 1.0, &feeds, true).expect("an update");
            }
            let queued = counts(QUEUED);
            let each = queued.iter().sum::<u64>() / updates;
            eprintln!(
                "graphs: {graphs}; {each} commands an update: {:?}",
                QUEUED.iter().zip(queued).collect::<Vec<_>>()
            );
            assert!((1..=most).contains(&each), "{each} commands an update, at most {most} are allowed");
            assert_eq!(counts(UNSTEADY), [0; 6], "{UNSTEADY:?}");
            assert_eq!(queued[6], if graphs { updates } else { 0 });
        }
        device.synchronize().expect("a working card");
    });
}

/// Asks for nothing and remembers endings.
#[derive(Default)]
struct Endings(Vec<Ending>);

impl Observer for Endings {
    fn started(&mut self, _: usize, _: u64) {}
    fn evaluated(&mut self, _: usize, _: Evaluation) {}
    fn checkpointed(&mut self, _: usize, _: u64, _: &Path) {}
    fn ended(&mut self, _: usize, ending: Ending) {
        self.0.push(ending);
    }
    fn progress(&mut self, _: u64, _: f64) -> Control {
        Control::Continue
    }
}

#[test]
fn longer_training_asks_for_nothing_but_updates() {
    with_pretended_driver("longer_training_asks_for_nothing_but_updates", || {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let asked = |steps: u64| {
            let members = (0..3).map(|seed| {
                let config = four_layers(seed, steps);
                Member { id: TrialId::of(&config), config, resume: None }
            });
            let members: Vec<Member> = members.collect();
            forget_counts();
            let mut observer = Endings::default();
            train_cohort(&members, &DeviceChoice::Cuda(0), scratch.path(), &mut observer).expect("training");
            assert_eq!(observer.0.len(), 3);
            counts(["cuGraphLaunch", "kernels", "cuMemAlloc_v2", "cuMemHostAlloc", "cuEventCreate"])
        };
        let (short, long) = (asked(5), asked(45));
        assert_eq!(long[0] - short[0], 40);
        assert_eq!(long[1..], short[1..]);
    });
}
