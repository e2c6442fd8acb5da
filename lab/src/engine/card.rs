//! Replicas on a card, all at once.
//!
//! Updates are queued and looked at every now and then; evaluations run one replica at a time, in chunks as large as suit a
//! card, from parameters copied within it.

use std::cell::RefCell;
use std::sync::Arc;

use plateau_common::config::{Precision, TrialConfig};
use plateau_common::tasks::{Batch, Scale};

use super::{Engine, Outcome, Outputs, Recruit, State, Step};
use crate::cpu::{Feed, SlotData};
use crate::cuda::{CudaDevice, CudaError, Executor, MatrixMode, Moment};
use crate::data::fill;
use crate::error::{Doing, LabError};
use crate::model::{self, Occasion};
use crate::optimizer::ReplicaRule;
use crate::program::{Layout, Program};

/// Updates after which the host looks at how they went: seldom enough that waiting costs nothing, often enough that a
/// diverged replica is soon replaced.
const PATIENCE: u64 = 50;

/// Numbers of the workspace of one evaluated chunk, and the most examples it may have.
const EVALUATION_NUMBERS: usize = 1 << 26;
const EVALUATION_EXAMPLES: usize = 1 << 15;

impl From<CudaError> for LabError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::OutOfMemory { needed, available } => LabError::OutOfMemory { needed, available },
            CudaError::Driver { code, .. } => {
                LabError::Card { message: error.to_string(), code: code as u32 }
            }
            other => LabError::Compute { doing: "training on a card", message: other.to_string() },
        }
    }
}

/// What a training thread has on a card.
pub(super) struct CardBench {
    device: CudaDevice,
    mode: MatrixMode,
    training: Arc<Program>,
    evaluation: Arc<Program>,
    /// Examples of a batch.
    examples: usize,
    /// One replica at a time is evaluated here.
    evaluator: RefCell<Option<Executor>>,
}

impl CardBench {
    /// Opens card number `ordinal` for trials of this configuration's cohort.
    pub fn new(config: &TrialConfig, ordinal: usize) -> Result<Self, LabError> {
        let mode = match config.train.precision {
            Precision::F32 => MatrixMode::F32,
            Precision::Tf32 => MatrixMode::Tf32,
            Precision::Bf16 => MatrixMode::Bf16,
            Precision::F64 => {
                let message =
                    "`train.precision = \"f64\"` is for processors; train with `--device cpu`, or in f32";
                return Err(LabError::Compute { doing: "training on a card", message: message.to_owned() });
            }
        };
        let device = CudaDevice::open(ordinal)?;
        let occasion = Occasion::of_training(config);
        let evaluated = Occasion { examples: EVALUATION_EXAMPLES, ..Occasion::of_evaluation(config) };
        let (model, shape) = (model::build(&config.model, config.task.shape()), config.task.shape());
        let program = |occasion: &Occasion, numbers: usize| {
            model::program_within(&*model, shape, occasion, false, numbers).doing("recording the model")
        };
        Ok(CardBench {
            device,
            mode,
            // The whole batch at once.
            training: Arc::new(program(&occasion, usize::MAX)?),
            evaluation: Arc::new(program(&evaluated, EVALUATION_NUMBERS)?),
            examples: occasion.examples,
            evaluator: RefCell::new(None),
        })
    }

    /// The program of training.
    pub fn program(&self) -> &Arc<Program> {
        &self.training
    }

    /// The card for people.
    pub fn words(&self) -> String {
        self.device.describe()
    }

    fn executor(&self, rules: &[ReplicaRule]) -> Result<Executor, LabError> {
        let Some(first) = rules.first() else {
            let message = "no replica was given".to_owned();
            return Err(LabError::Compute { doing: "training on a card", message });
        };
        let (program, rule) = (self.training.clone(), &first.optimizer);
        let mut executor = Executor::new(&self.device, program, rules.len(), self.examples, rule, self.mode)?;
        for (replica, rule) in rules.iter().enumerate() {
            executor.set_rule(replica, &rule.optimizer, rule.clip)?;
        }
        Ok(executor)
    }
}

/// Replicas on a card.
pub(super) struct Card<'a> {
    bench: &'a CardBench,
    rules: Vec<ReplicaRule>,
    /// Norms of the last gradients before this engine's first update.
    last_norms: Vec<f64>,
    feeds: Vec<Feed<f32>>,
    executor: Executor,
    outcomes: Vec<Outcome>,
    /// Whether an update has been made.
    updated: bool,
    /// Whether the feeds are on the card.
    fed: bool,
}

impl<'a> Card<'a> {
    pub fn new(bench: &'a CardBench, recruits: Vec<Recruit>) -> Result<Self, LabError> {
        let rules: Vec<ReplicaRule> = recruits.iter().map(|recruit| recruit.rule.clone()).collect();
        let mut executor = bench.executor(&rules)?;
        for (replica, Recruit { state, .. }) in recruits.iter().enumerate() {
            executor.set_parameters(replica, &small(&state.parameters))?;
            for (which, moment) in [Moment::First, Moment::Second].into_iter().zip(&state.moments) {
                executor.set_moment(replica, which, &small(moment))?;
            }
        }
        let last_norms = recruits.iter().map(|recruit| recruit.state.last_norm).collect();
        let feeds = rules.iter().map(|_| Feed::empty(bench.training.slots.len())).collect();
        let (outcomes, updated, fed) = (Vec::new(), false, false);
        Ok(Card { bench, rules, last_norms, feeds, executor, outcomes, updated, fed })
    }
}

fn small(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|number| *number as f32).collect()
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|number| f64::from(*number)).collect()
}

impl Engine for Card<'_> {
    fn layout(&self) -> &Layout {
        &self.bench.training.layout
    }

    fn update(&mut self, step: &Step<'_>) -> Result<(), LabError> {
        let fresh = step.fresh || step.dropout.is_some() || !self.fed;
        if fresh {
            for (place, feed) in self.feeds.iter_mut().enumerate() {
                let mut stream = step
                    .dropout
                    .map(|(probability, families)| (probability, families[place].at(step.update)));
                let dropout = stream.as_mut().map(|(probability, stream)| (*probability, stream));
                fill(feed, &self.bench.training, &step.batches[place], step.scales[place], dropout)?;
            }
        }
        self.executor.update(step.update, step.multiplier, &self.feeds, fresh)?;
        (self.updated, self.fed) = (true, true);
        Ok(())
    }

    fn patience(&self) -> u64 {
        PATIENCE
    }

    fn outcomes(&mut self) -> Result<&[Outcome], LabError> {
        self.outcomes.clear();
        for outcome in self.executor.outcomes()? {
            let crate::cuda::Outcome { loss, norm, diverged_at } = outcome;
            self.outcomes.push(Outcome { loss, norm, diverged_at });
        }
        Ok(&self.outcomes)
    }

    fn evaluate(
        &mut self,
        replica: usize,
        batch: &Batch,
        scale: Scale,
        visit: &mut dyn FnMut(usize, Outputs<'_>),
    ) -> Result<(), LabError> {
        let program = &self.bench.evaluation;
        let mut feed = Feed::empty(program.slots.len());
        fill(&mut feed, program, batch, scale, None)?;
        let mut evaluator = self.bench.evaluator.borrow_mut();
        let evaluator = match &mut *evaluator {
            Some(evaluator) => evaluator,
            none => none.insert(Executor::new(
                &self.bench.device,
                program.clone(),
                1,
                program.micro_batch,
                &self.rules[replica].optimizer,
                self.bench.mode,
            )?),
        };
        evaluator.adopt(&self.executor, replica, 0, false)?;
        let mut start = 0;
        while start < feed.examples {
            let examples = program.micro_batch.min(feed.examples - start);
            let outputs = evaluator.forward(&[part(&feed, program, start, examples)])?;
            visit(start * program.output_rows(), Outputs::F32(&outputs[0]));
            start += examples;
        }
        Ok(())
    }

    fn state(&self, replica: usize) -> Result<State, LabError> {
        let moments =
            [Moment::First, Moment::Second].into_iter().take(self.rules[replica].moment_names().len());
        let moments = moments.map(|which| Ok(wide(&self.executor.moment(replica, which)?)));
        let last_norm = match self.updated {
            true => self.executor.outcomes()?[replica].norm,
            false => self.last_norms[replica],
        };
        Ok(State {
            parameters: wide(&self.executor.parameters(replica)?),
            moments: moments.collect::<Result<_, LabError>>()?,
            last_norm,
        })
    }

    fn keep(&mut self, stays: &[bool]) -> Result<(), LabError> {
        let kept: Vec<usize> =
            (0..self.rules.len()).filter(|place| stays.get(*place) != Some(&false)).collect();
        if kept.len() == self.rules.len() {
            return Ok(());
        }
        self.rules = kept.iter().map(|place| self.rules[*place].clone()).collect();
        self.last_norms = kept.iter().map(|place| self.last_norms[*place]).collect();
        self.feeds.truncate(kept.len());
        self.fed = false;
        if !kept.is_empty() {
            let mut executor = self.bench.executor(&self.rules)?;
            for (to, from) in kept.into_iter().enumerate() {
                executor.adopt(&self.executor, from, to, true)?;
            }
            self.executor = executor;
        }
        Ok(())
    }
}

/// Examples `start..start + examples` of a feed.
fn part(feed: &Feed<f32>, program: &Program, start: usize, examples: usize) -> Feed<f32> {
    let slots = feed.slots.iter().zip(&program.slots).map(|(data, slot)| {
        let range = slot.extent.count(start)..slot.extent.count(start + examples);
        match data {
            SlotData::Constant => SlotData::Constant,
            SlotData::Ids(ids) => SlotData::Ids(ids[range].to_vec()),
            SlotData::Numbers(numbers) => SlotData::Numbers(numbers[range].to_vec()),
        }
    });
    Feed { examples, slots: slots.collect(), loss_scale: feed.loss_scale }
}
