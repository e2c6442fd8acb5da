//! A model with weights on the processor, in 64 bits: outputs, losses and gradients outside training.

use std::sync::Arc;

use plateau_common::config::ModelConfig;
use plateau_common::random::StreamFamily;
use plateau_common::tasks::{Batch, Form, Input, ReadOut, Scale, TaskShape};

use crate::cpu::{Executor, Feed, MicroBatch, Team};
use crate::data::{Chance, check_tokens, fill};
use crate::error::{Doing, LabError};
use crate::float::Float;
use crate::model::{self, Model, Occasion};
use crate::program::{Layout, Program};

/// A model with its weights.
pub struct Network {
    model: Box<dyn Model>,
    shape: TaskShape,
    layout: Layout,
    weights: Vec<f64>,
    /// Recurrences of a forward pass.
    recurrences: usize,
    /// Whether sequences of lengths of their own need no padding.
    can_be_ragged: bool,
    /// Whether every layer reads the embedded input; see [`Occasion::unchained`].
    unchained: bool,
}

/// Starting weights of a model in its layout: parameter number `place` comes from the seed's own stream of that number.
pub(crate) fn initial_weights(layout: &Layout, seed: u64) -> Vec<f64> {
    let family = StreamFamily::new(seed, "initialisation");
    let parameters = layout.parameters.iter().enumerate();
    parameters.flat_map(|(place, parameter)| parameter.draw(&family, place as u64)).collect()
}

fn trained_recurrences(config: &ModelConfig) -> usize {
    let ModelConfig::Transformer(model) = config;
    model.recurrences
}

impl Network {
    /// A model for sequences of this shape with the starting weights of a seed.
    pub fn new(config: &ModelConfig, shape: TaskShape, seed: u64) -> Self {
        let model = model::build(config, shape);
        let layout = Layout::new(model.parameters());
        let weights = initial_weights(&layout, seed);
        Self::with_weights(config, shape, weights)
    }

    /// Passes a looped model so many times from now on, instead of as often as in training.
    pub fn set_recurrences(&mut self, recurrences: usize) {
        self.recurrences = recurrences.max(1);
    }

    /// Feeds every layer the embedded input from now on, if `unchained`, as [`Occasion::unchained`] says.
    pub(crate) fn set_unchained(&mut self, unchained: bool) {
        self.unchained = unchained;
    }

    /// The same with these weights, in the layout's order.
    pub(crate) fn with_weights(config: &ModelConfig, shape: TaskShape, weights: Vec<f64>) -> Self {
        let model = model::build(config, shape);
        let layout = Layout::new(model.parameters());
        let (recurrences, can_be_ragged) = (trained_recurrences(config), config.can_be_ragged());
        Network { model, shape, layout, weights, recurrences, can_be_ragged, unchained: false }
    }

    /// Width of the residual stream.
    pub(crate) fn width(&self) -> usize {
        self.layout.parameters.first().and_then(|tokens| tokens.shape.last().copied()).unwrap_or(0)
    }

    /// Whether outputs are read at the last position only.
    pub(crate) fn reads_last(&self) -> bool {
        self.shape.read_out == ReadOut::Last
    }

    /// Names, shapes and places of the parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All weights, in the layout's order.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The weights of one parameter.
    pub fn parameter(&self, name: &str) -> Option<&[f64]> {
        let place = self.layout.parameters.iter().position(|parameter| parameter.name == name)?;
        Some(&self.weights[self.layout.range(place)])
    }

    /// Overwrites one parameter (hand-built weights, checkpoints).
    pub fn set(&mut self, name: &str, values: &[f64]) -> Result<(), LabError> {
        let place = self.layout.parameters.iter().position(|parameter| parameter.name == name);
        let own = place.map(|place| &mut self.weights[self.layout.range(place)]);
        match own {
            Some(own) if own.len() == values.len() => {
                own.copy_from_slice(values);
                Ok(())
            }
            Some(own) => {
                let message = format!("`{name}` has {} numbers, not {}", own.len(), values.len());
                Err(LabError::Compute { doing: "setting weights", message })
            }
            None => {
                let message = format!("the model has no parameter `{name}`");
                Err(LabError::Compute { doing: "setting weights", message })
            }
        }
    }

    /// The program for such inputs; without a backward pass where `weighted` is none, else with weights of read positions or not.
    pub(crate) fn program(
        &self,
        input: &Input,
        weighted: Option<bool>,
        traced: bool,
    ) -> Result<Arc<Program>, LabError> {
        let (form, length) = match input {
            Input::Tokens { length, .. } => (Form::Tokens, *length),
            Input::Ragged { .. } => (Form::Tokens, self.shape.length),
            Input::Counts { .. } => (Form::Counts, self.shape.length),
        };
        let ragged = matches!(input, Input::Ragged { .. }) && self.can_be_ragged;
        // Outputs do not depend on how many examples go together.
        let occasion = Occasion {
            form,
            length,
            ragged,
            examples: 64 * if ragged { length } else { 1 },
            dropout: false,
            renumbered: false,
            // Padding has weight 0.
            weighted: weighted == Some(true) || (matches!(input, Input::Ragged { .. }) && !ragged),
            free: 0,
            graded: self.recurrences,
            forward_only: weighted.is_none(),
            unchained: self.unchained,
        };
        check_tokens(input, self.shape.vocabulary)?;
        Ok(Arc::new(
            model::program(&*self.model, self.shape, &occasion, traced).doing("recording the model")?,
        ))
    }

    /// Outputs of every read position, `[B R, width]`, in the model's own unit (scalar outputs are not scaled back), computed
    /// in the precision `T`.
    pub fn outputs<T: Float>(&self, input: &Input) -> Result<Vec<f64>, LabError> {
        let mut all = Vec::new();
        self.run::<T>(input, false, |executor, micro_batch| {
            all.extend(executor.outputs(micro_batch.examples).iter().map(|output| output.wide()));
        })?;
        Ok(all)
    }

    /// Runs a forward pass and shows the executor after every micro-batch: `visit(executor, micro-batch)`. Returns
    /// what ran on what.
    pub(crate) fn run<T: Float>(
        &self,
        input: &Input,
        traced: bool,
        mut visit: impl FnMut(&Executor<T>, MicroBatch),
    ) -> Result<(Arc<Program>, Feed<T>), LabError> {
        let program = self.program(input, None, traced)?;
        let batch = unanswered(input, self.shape, program.output_rows());
        let mut feed = Feed::empty(program.slots.len());
        fill(&mut feed, &program, &batch, Scale::RAW, Chance::default())?;
        let mut executor = Executor::<T>::new(program.clone(), 1);
        let team = Team::new(1);
        let weights: Vec<T> = self.weights.iter().map(|weight| T::of(*weight)).collect();
        executor.prepare(&team, &weights, &feed);
        for micro_batch in feed.micro_batches(&program) {
            executor.forward(&team, &weights, &feed, micro_batch);
            visit(&executor, micro_batch);
        }
        Ok((program, feed))
    }

    /// Mean loss over a batch, and its gradients in the layout's order, in the precision `T`.
    pub fn differentiate<T: Float>(&self, batch: &Batch, scale: Scale) -> Result<(f64, Vec<f64>), LabError> {
        let program = self.program(&batch.input, Some(batch.weights.is_some()), false)?;
        let mut feed = Feed::empty(program.slots.len());
        fill(&mut feed, &program, batch, scale, Chance::default())?;
        let mut executor = Executor::<T>::new(program, 1);
        let weights: Vec<T> = self.weights.iter().map(|weight| T::of(*weight)).collect();
        let loss = executor.differentiate(&Team::new(1), &weights, &feed);
        Ok((loss, executor.gradients().iter().map(|gradient| gradient.wide()).collect()))
    }
}

/// A batch of these inputs with answers nobody asks for.
fn unanswered(input: &Input, shape: TaskShape, rows: usize) -> Batch {
    use plateau_common::tasks::Targets;
    let mut batch = Batch::empty();
    batch.input = input.clone();
    let rows = match input {
        Input::Ragged { tokens, .. } => tokens.len(),
        _ => batch.examples() * rows,
    };
    batch.targets = if shape.output.is_scalar() {
        Targets::Scalars(vec![0.0; rows])
    } else {
        Targets::Classes(vec![0; rows])
    };
    batch
}
