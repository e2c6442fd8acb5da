//! Replicas on a card, all at once.
//!
//! Updates are queued and looked at every now and then; evaluations run one replica at a time, in chunks as large as suit a
//! card, from parameters copied within it. A batch is computed at once, or, where the card's free memory is too small for that, in
//! micro-batches. Programs for other depths and lengths are recorded when they first come up.

use std::cell::RefCell;
use std::sync::Arc;

use plateau_common::config::{Pass, Precision, TrialConfig};
use plateau_common::tasks::{Batch, Input, Scale, TaskShape};

use super::workbench::Known;
use super::{Engine, Outcome, Outputs, Reading, Recruit, State, Step};
use crate::cpu::{Feed, SlotData};
use crate::cuda::{CudaDevice, CudaError, Executor, MatrixMode, Moment, PassPlace};
use crate::data::{Chance, fill, without_padding};
use crate::error::{Doing, LabError};
use crate::model::{self, Model, Occasion};
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

/// Most numbers of one value of a replica that kernels count.
const MOST_NUMBERS: usize = i32::MAX as usize;

/// What a training thread has on a card.
pub(super) struct CardBench {
    device: CudaDevice,
    mode: MatrixMode,
    model: Box<dyn Model>,
    shape: TaskShape,
    training: Occasion,
    evaluation: Occasion,
    layout: Layout,
    /// One replica at a time is evaluated here.
    evaluator: RefCell<Option<Programs>>,
}

/// An executor with the programs it has for the occasions that came up.
struct Programs {
    executor: Executor,
    known: Known,
}

impl Programs {
    /// Number of the program for an occasion, which `record` makes where there is none yet, for that many examples at once.
    fn number(
        &mut self,
        occasion: Occasion,
        record: impl FnOnce() -> Result<(Arc<Program>, usize), LabError>,
    ) -> Result<usize, LabError> {
        self.known.number(occasion, || {
            let (program, capacity) = record()?;
            Ok(self.executor.load(program, capacity)?)
        })
    }
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
        let (shape, training) = (config.task.shape(), Occasion::of_training(config));
        let model = model::build(&config.model, shape);
        Ok(CardBench {
            device,
            mode,
            layout: Layout::new(model.parameters()),
            model,
            shape,
            training,
            // Nothing is kept for a backward pass.
            evaluation: Occasion {
                examples: EVALUATION_EXAMPLES,
                forward_only: true,
                ..Occasion::of_evaluation(config)
            },
            evaluator: RefCell::new(None),
        })
    }

    /// Where parameters lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The card for people.
    pub fn words(&self) -> String {
        self.device.describe()
    }

    /// Memory for replicas to be trained, without a program.
    fn executor(&self, rules: &[ReplicaRule]) -> Result<Executor, LabError> {
        let Some(first) = rules.first() else {
            let message = "no replica was given".to_owned();
            return Err(LabError::Compute { doing: "training on a card", message });
        };
        let (layout, rule) = (&self.layout, &first.optimizer);
        let mut executor = Executor::empty(&self.device, layout, rules.len(), Some(rule), self.mode)?;
        executor.set_stretches(&first.stretches(layout))?;
        for (replica, rule) in rules.iter().enumerate() {
            executor.set_rule(replica, &rule.optimizer, rule.clip)?;
        }
        Ok(executor)
    }

    /// The program of an occasion of training whose workspace has at most `room` numbers for each replica.
    fn trained(&self, occasion: &Occasion, room: usize) -> Result<(Arc<Program>, usize), LabError> {
        let program = model::program_in_room(&*self.model, self.shape, occasion, (room, MOST_NUMBERS));
        Ok((Arc::new(program.doing("recording the model")?), occasion.examples))
    }

    /// The program of an occasion of evaluation, for as many examples at once as suit a card.
    fn evaluated(&self, occasion: &Occasion) -> Result<(Arc<Program>, usize), LabError> {
        let program = model::program_within(&*self.model, self.shape, occasion, false, EVALUATION_NUMBERS);
        let program = Arc::new(program.doing("recording the model")?);
        let chunk = program.micro_batch;
        Ok((program, chunk))
    }
}

/// Replicas on a card.
pub(super) struct Card<'a> {
    bench: &'a CardBench,
    rules: Vec<ReplicaRule>,
    /// Norms of the last gradients before this engine's first update.
    last_norms: Vec<f64>,
    feeds: Vec<Feed<f32>>,
    /// The pass that the feeds were filled for; none at first.
    fed: Option<Pass>,
    programs: Programs,
    /// Numbers of workspace that programs may take for each replica.
    room: usize,
    outcomes: Vec<Outcome>,
    /// Whether an update has been made.
    updated: bool,
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
        Ok(Card {
            bench,
            last_norms,
            feeds: rules.iter().map(|_| Feed::empty(0)).collect(),
            fed: None,
            room: executor.room()?,
            programs: Programs { executor, known: Known::default() },
            outcomes: Vec::new(),
            updated: false,
            rules,
        })
    }

    /// Number of the program for a pass.
    fn program(&mut self, pass: Pass) -> Result<usize, LabError> {
        let (bench, room) = (self.bench, self.room);
        let occasion = bench.training.with_pass(pass);
        self.programs.number(occasion, || bench.trained(&occasion, room))
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
        &self.bench.layout
    }

    fn update(&mut self, step: &Step<'_>) -> Result<(), LabError> {
        for (number, pass) in step.passes.iter().enumerate() {
            let place =
                PassPlace { program: self.program(*pass)?, number, is_last: number + 1 == step.passes.len() };
            // A feed is laid out for one program and weighted for one pass.
            let fresh = step.fresh || step.is_random() || self.fed != Some(*pass);
            if fresh {
                let program = self.programs.executor.program(place.program)?;
                for (place, feed) in self.feeds.iter_mut().enumerate() {
                    let (batch, scale) = (&step.batches[place], step.scales[place]);
                    fill(feed, program, batch, scale, step.chance(place))?;
                    feed.loss_scale *= pass.weight;
                }
                self.fed = Some(*pass);
            }
            self.programs.executor.pass((step.update, step.multiplier), place, &self.feeds, fresh)?;
        }
        self.updated = true;
        Ok(())
    }

    fn patience(&self) -> u64 {
        PATIENCE
    }

    fn outcomes(&mut self) -> Result<&[Outcome], LabError> {
        self.outcomes.clear();
        for outcome in self.programs.executor.outcomes()? {
            let crate::cuda::Outcome { loss, norm, diverged_at } = outcome;
            self.outcomes.push(Outcome { loss, norm, diverged_at });
        }
        Ok(&self.outcomes)
    }

    fn evaluate(
        &mut self,
        replica: usize,
        batch: &Batch,
        (scale, reading): (Scale, Reading),
        visit: &mut dyn FnMut(usize, Outputs<'_>),
    ) -> Result<(), LabError> {
        let bench = self.bench;
        let length = batch.length();
        let mut evaluator = bench.evaluator.borrow_mut();
        let evaluator = match &mut *evaluator {
            Some(evaluator) => evaluator,
            none => {
                let executor = Executor::empty(&bench.device, &bench.layout, 1, None, bench.mode)?;
                none.insert(Programs { executor, known: Known::default() })
            }
        };
        let mut number = |occasion: Occasion| evaluator.number(occasion, || bench.evaluated(&occasion));
        let number = match reading {
            Reading::Usual => number(bench.evaluation)?,
            Reading::Any { longest, recurrences } => {
                let occasion = Occasion { graded: recurrences, ..bench.evaluation };
                // The longest first, so that memory is taken once.
                number(Occasion { length: longest, ..occasion })?;
                number(Occasion { length, ..occasion })?
            }
        };
        let executor = &mut evaluator.executor;
        executor.adopt(&self.programs.executor, replica, 0, false)?;
        let program = executor.program(number)?.clone();
        let mut feed = Feed::empty(program.slots.len());
        fill(&mut feed, &program, batch, scale, Chance::default())?;
        let mut start = 0;
        while start < feed.examples {
            let examples = program.micro_batch.min(feed.examples - start);
            let outputs = executor.forward(number, &[part(&feed, &program, start, examples)])?;
            match &batch.input {
                Input::Ragged { ends, .. } => {
                    let size = (program.output_rows(), program.outputs.extent.width);
                    let visit = &mut |first: usize, outputs: &[f32]| visit(first, Outputs::F32(outputs));
                    without_padding(ends, size, start, &outputs[0], visit);
                }
                _ => visit(start * program.output_rows(), Outputs::F32(&outputs[0])),
            }
            start += examples;
        }
        Ok(())
    }

    fn state(&self, replica: usize) -> Result<State, LabError> {
        let moments =
            [Moment::First, Moment::Second].into_iter().take(self.rules[replica].moment_names().len());
        let moments = moments.map(|which| Ok(wide(&self.programs.executor.moment(replica, which)?)));
        let last_norm = match self.updated {
            true => self.programs.executor.outcomes()?[replica].norm,
            false => self.last_norms[replica],
        };
        Ok(State {
            parameters: wide(&self.programs.executor.parameters(replica)?),
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
        self.fed = None;
        if !kept.is_empty() {
            // What the others calculated with goes first, to make room.
            self.programs.known = Known::default();
            self.programs.executor.unload()?;
            let mut executor = self.bench.executor(&self.rules)?;
            for (to, from) in kept.into_iter().enumerate() {
                executor.adopt(&self.programs.executor, from, to, true)?;
            }
            self.programs.executor = executor;
            self.room = self.programs.executor.room()?;
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
    Feed { examples, slots: slots.collect(), loss_scale: feed.loss_scale, ..Feed::empty(0) }
}
