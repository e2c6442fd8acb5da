//! What a training thread has: its device, its program, and the memory to run it, shared by all of the thread's shards.

use std::cell::RefCell;
use std::sync::Arc;

use plateau_common::config::{Precision, TrialConfig};

#[cfg(feature = "cuda")]
use super::card::{Card, CardBench};
use super::processor::Processor;
use super::{Engine, Recruit};
use crate::cpu::{Executor, Team};
use crate::error::{Doing, LabError};
use crate::float::Float;
use crate::model::{self, Occasion};
use crate::program::Program;
use crate::train::DeviceChoice;

/// A training thread's means.
pub(crate) struct Workbench {
    pub(super) team: Team,
    memory: Memory,
    program: Arc<Program>,
    /// The device for people, as checkpoints record it.
    words: String,
}

enum Memory {
    F32(Executors<f32>),
    F64(Executors<f64>),
    #[cfg(feature = "cuda")]
    Card(Box<CardBench>),
}

/// Memory to run the programs of training and of evaluation on a processor.
pub(super) struct Executors<T> {
    pub training: RefCell<Executor<T>>,
    /// Absent where evaluation is the same program: where the model has no dropout.
    evaluation: Option<RefCell<Executor<T>>>,
}

impl<T: Float> Executors<T> {
    fn new(training: &Arc<Program>, evaluation: Option<Arc<Program>>, parts: usize) -> Self {
        Executors {
            training: RefCell::new(Executor::new(training.clone(), parts)),
            evaluation: evaluation.map(|program| RefCell::new(Executor::new(program, parts))),
        }
    }

    pub fn evaluation(&self) -> &RefCell<Executor<T>> {
        self.evaluation.as_ref().unwrap_or(&self.training)
    }
}

impl Workbench {
    /// Means to train trials of this configuration's cohort; on a processor with `parts` threads for each replica.
    pub fn new(config: &TrialConfig, device: &DeviceChoice, parts: usize) -> Result<Self, LabError> {
        if let DeviceChoice::Cuda(ordinal) = device {
            return Self::on_card(config, *ordinal);
        }
        let occasion = Occasion::of_training(config);
        let model = model::build(&config.model, config.task.shape());
        let recorded = |occasion: &Occasion| -> Result<Arc<Program>, LabError> {
            let program = model::program(&*model, config.task.shape(), occasion, false);
            Ok(Arc::new(program.doing("recording the model")?))
        };
        let program = recorded(&occasion)?;
        let evaluation =
            if occasion.dropout { Some(recorded(&Occasion::of_evaluation(config))?) } else { None };
        let memory = match config.train.precision {
            Precision::F64 => Memory::F64(Executors::new(&program, evaluation, parts)),
            _ => Memory::F32(Executors::new(&program, evaluation, parts)),
        };
        Ok(Workbench { team: Team::new(parts), memory, program, words: processor_name() })
    }

    #[cfg(feature = "cuda")]
    fn on_card(config: &TrialConfig, ordinal: usize) -> Result<Self, LabError> {
        let bench = CardBench::new(config, ordinal)?;
        let (program, words) = (bench.program().clone(), bench.words());
        Ok(Workbench { team: Team::new(1), memory: Memory::Card(Box::new(bench)), program, words })
    }

    #[cfg(not(feature = "cuda"))]
    fn on_card(_: &TrialConfig, _: usize) -> Result<Self, LabError> {
        Err(LabError::Compute {
            doing: "opening the CUDA device",
            message: "this plateau was built without CUDA; rebuild it with `--features cuda`".to_owned(),
        })
    }

    /// The device for people.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// The program of training.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// An engine with these replicas.
    pub fn engine(&self, recruits: Vec<Recruit>) -> Result<Box<dyn Engine + '_>, LabError> {
        Ok(match &self.memory {
            Memory::F32(executors) => Box::new(Processor::new(self, executors, recruits)),
            Memory::F64(executors) => Box::new(Processor::new(self, executors, recruits)),
            #[cfg(feature = "cuda")]
            Memory::Card(bench) => Box::new(Card::new(bench, recruits)?),
        })
    }
}

/// The processor's model name.
fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(
        || format!("cpu ({})", std::env::consts::ARCH),
        |(_, name)| format!("cpu ({})", name.trim()),
    )
}
