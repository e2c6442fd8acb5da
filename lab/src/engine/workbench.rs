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
    F32(RefCell<Executor<f32>>),
    F64(RefCell<Executor<f64>>),
    #[cfg(feature = "cuda")]
    Card(Box<CardBench>),
}

impl Workbench {
    /// Means to train trials of this configuration's cohort; on a processor with `parts` threads for each replica.
    pub fn new(config: &TrialConfig, device: &DeviceChoice, parts: usize) -> Result<Self, LabError> {
        if let DeviceChoice::Cuda(ordinal) = device {
            return Self::on_card(config, *ordinal);
        }
        let occasion = Occasion::of_training(config);
        let model = model::build(&config.model, config.task.shape());
        let program = model::program(&*model, config.task.shape(), &occasion, false)
            .doing("recording the model")?;
        let program = Arc::new(program);
        let memory = match config.train.precision {
            Precision::F64 => Memory::F64(RefCell::new(Executor::new(program.clone(), parts))),
            _ => Memory::F32(RefCell::new(Executor::new(program.clone(), parts))),
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
            Memory::F32(executor) => Box::new(Processor::new(self, executor, recruits)),
            Memory::F64(executor) => Box::new(Processor::new(self, executor, recruits)),
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
