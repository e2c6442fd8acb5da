//! What a training thread has: its device, its programs, and the memory to run them, shared by all of the thread's shards.

use std::cell::{RefCell, RefMut};
use std::sync::Arc;

use plateau_common::config::{Pass, Precision, TrialConfig};
use plateau_common::tasks::TaskShape;

#[cfg(feature = "cuda")]
use super::card::{Card, CardBench};
use super::processor::Processor;
use super::{Engine, Reading, Recruit};
use crate::cpu::{Executor, Team};
use crate::error::{Doing, LabError};
use crate::float::Float;
use crate::model::{self, Model, Occasion};
use crate::program::{Layout, Program};
use crate::train::DeviceChoice;

/// A training thread's means.
pub(crate) struct Workbench {
    pub(super) team: Team,
    memory: Memory,
    layout: Layout,
    /// The device for people, as checkpoints record it.
    words: String,
}

enum Memory {
    F32(Executors<f32>),
    F64(Executors<f64>),
    #[cfg(feature = "cuda")]
    Card(Box<CardBench>),
}

/// Programs of one model for all the occasions that come up, recorded when they first do, and one workspace to run them in on a
/// processor.
pub(super) struct Executors<T> {
    model: Box<dyn Model>,
    shape: TaskShape,
    training: Occasion,
    evaluation: Occasion,
    executor: RefCell<Executor<T>>,
    known: RefCell<Known>,
}

/// Occasions by the number of their program in an executor.
#[derive(Default)]
pub(super) struct Known(Vec<Occasion>);

impl Known {
    /// Number of an occasion's program, which `load` loads where there is none yet.
    pub fn number(
        &mut self,
        occasion: Occasion,
        load: impl FnOnce() -> Result<usize, LabError>,
    ) -> Result<usize, LabError> {
        if let Some(number) = self.0.iter().position(|known| *known == occasion) {
            return Ok(number);
        }
        let number = load()?;
        self.0.push(occasion);
        Ok(number)
    }
}

impl<T: Float> Executors<T> {
    fn new(config: &TrialConfig, parts: usize) -> Result<Self, LabError> {
        let shape = config.task.shape();
        let model = model::build(&config.model, shape);
        let training = Occasion::of_training(config).without_padding(config);
        let first = config.passes(1).next().map_or(training, |pass| training.with_pass(pass));
        let mut evaluation = Occasion::of_evaluation(config).without_padding(config);
        // A program of its own needs no backward pass.
        evaluation.forward_only = evaluation != first;
        Ok(Executors {
            training,
            evaluation,
            executor: RefCell::new(Executor::new(recorded(&*model, shape, &first)?, parts)),
            known: RefCell::new(Known(vec![first])),
            model,
            shape,
        })
    }

    /// The executor, turned to the program of an occasion.
    fn on(&self, occasion: Occasion) -> Result<RefMut<'_, Executor<T>>, LabError> {
        let mut executor = self.executor.borrow_mut();
        let number = self
            .known
            .borrow_mut()
            .number(occasion, || Ok(executor.load(recorded(&*self.model, self.shape, &occasion)?)))?;
        executor.turn_to(number);
        Ok(executor)
    }

    /// The executor for one pass of an update.
    pub fn training(&self, pass: Pass) -> Result<RefMut<'_, Executor<T>>, LabError> {
        self.on(self.training.with_pass(pass))
    }

    /// The executor for evaluating sequences of `length` tokens.
    pub fn evaluation(&self, length: usize, reading: Reading) -> Result<RefMut<'_, Executor<T>>, LabError> {
        self.on(match reading {
            Reading::Usual => self.evaluation,
            Reading::Any { recurrences, .. } => {
                Occasion { length, graded: recurrences, forward_only: true, ..self.evaluation }
            }
        })
    }
}

fn recorded(model: &dyn Model, shape: TaskShape, occasion: &Occasion) -> Result<Arc<Program>, LabError> {
    Ok(Arc::new(model::program(model, shape, occasion, false).doing("recording the model")?))
}

impl Workbench {
    /// Means to train trials of this configuration's cohort; on a processor with `parts` threads for each replica.
    pub fn new(config: &TrialConfig, device: &DeviceChoice, parts: usize) -> Result<Self, LabError> {
        if let DeviceChoice::Cuda(ordinal) = device {
            return Self::on_card(config, *ordinal);
        }
        let memory = match config.train.precision {
            Precision::F64 => Memory::F64(Executors::new(config, parts)?),
            _ => Memory::F32(Executors::new(config, parts)?),
        };
        let layout = Layout::new(model::build(&config.model, config.task.shape()).parameters());
        Ok(Workbench { team: Team::new(parts), memory, layout, words: processor_name() })
    }

    #[cfg(feature = "cuda")]
    fn on_card(config: &TrialConfig, ordinal: usize) -> Result<Self, LabError> {
        let bench = CardBench::new(config, ordinal)?;
        let (layout, words) = (bench.layout().clone(), bench.words());
        Ok(Workbench { team: Team::new(1), memory: Memory::Card(Box::new(bench)), layout, words })
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

    /// Where parameters lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
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
