//! Models: one file each, one line in [`build`].
//!
//! A model file names its parameters and records its forward pass into a [`Graph`], operation by operation, as one would
//! write it down; what is fused, differentiated and kept is the graph's business.

mod initialise;
mod parameters;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
mod ragged;
mod transformer;

pub use parameters::{Initial, ParameterSpecification};
pub(crate) use transformer::STATES;
pub use transformer::Transformer;

use candle_core::Result;
use plateau_common::config::{Batch, ModelConfig, Pass, TransformerConfig, TrialConfig};
use plateau_common::tasks::{Form, Output, ReadOut, TaskConfig, TaskShape};

use crate::ops::objective::Answers;
use crate::program::{Extent, Graph, Program, Ragged, Rows, Source, Value};

/// What a recording of a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occasion {
    /// How inputs are written.
    pub form: Form,
    /// Tokens per example; of the longest where they differ.
    pub length: usize,
    /// Whether sequences have lengths of their own, one after another without padding: then each row is a token.
    pub ragged: bool,
    /// Examples per batch; tokens, where examples are ragged.
    pub examples: usize,
    /// Whether dropout is applied.
    pub dropout: bool,
    /// Whether positions are drawn at random where the model has a scheme that does so.
    pub renumbered: bool,
    /// Whether read positions have weights.
    pub weighted: bool,
    /// Recurrences of a looped model that gradients do not go through, before those they do.
    pub free: usize,
    /// Recurrences that gradients go through; 1 for other models.
    pub graded: usize,
    /// Whether there is no backward pass.
    pub forward_only: bool,
    /// Whether every layer reads the embedded input instead of the states of the layer before: a known fault of released code (Murty et
    /// al. 2023), which numbers that were published with it are compared by. Never in training.
    pub unchained: bool,
}

impl Occasion {
    /// Training of a trial.
    pub fn of_training(config: &TrialConfig) -> Self {
        let ModelConfig::Transformer(model) = &config.model;
        let renumbered = model.positions.random_positions().is_some();
        Occasion { dropout: model.dropout > 0.0, renumbered, ..Self::of_evaluation(config) }
    }

    /// The same for one pass of an update.
    pub fn with_pass(self, pass: Pass) -> Self {
        Occasion { free: pass.free, graded: pass.graded, ..self }
    }

    /// Positions of an example.
    pub fn positions(&self) -> usize {
        if self.ragged { 1 } else { self.length }
    }

    /// The same without padding, for processors, where the task's sequences have lengths of their own and the model can do with that.
    pub fn without_padding(self, config: &TrialConfig) -> Self {
        match config.task.mean_length() {
            Some(mean) if config.model.can_be_ragged() => Occasion {
                ragged: true,
                examples: (self.examples as f64 * mean).ceil() as usize,
                weighted: config.task.is_weighted(),
                ..self
            },
            _ => self,
        }
    }

    /// Evaluation of a trial: no dropout, batches as for training, shorter sequences padded.
    pub fn of_evaluation(config: &TrialConfig) -> Self {
        let ModelConfig::Transformer(TransformerConfig { recurrences, .. }) = config.model;
        let examples = match config.train.batch {
            Batch::Full => config.task.training_set_size().unwrap_or(1),
            Batch::Size(size) => size,
        };
        Occasion {
            form: input_form(&config.model, &config.task),
            length: config.task.shape().length,
            ragged: false,
            examples,
            dropout: false,
            renumbered: false,
            // Padding has weight 0.
            weighted: config.task.is_weighted() || config.task.mean_length().is_some(),
            free: 0,
            graded: recurrences,
            forward_only: false,
            unchained: false,
        }
    }
}

/// A model: named parameters, and a forward pass to record.
pub trait Model: Send {
    /// Every parameter, in an order that never changes.
    fn parameters(&self) -> Vec<ParameterSpecification>;

    /// Records the forward pass; the outputs have one row for each read position of each example.
    fn record(&self, graph: &mut Graph, occasion: &Occasion) -> Result<Value>;
}

/// The model of a configuration, for sequences of this shape.
pub fn build(config: &ModelConfig, shape: TaskShape) -> Box<dyn Model> {
    match config {
        ModelConfig::Transformer(config) => Box::new(Transformer::new(config.clone(), shape)),
    }
}

/// How a task's inputs are best written for a model.
pub fn input_form(model: &ModelConfig, task: &TaskConfig) -> Form {
    if model.is_permutation_invariant() && task.supports_counts() { Form::Counts } else { Form::Tokens }
}

/// Numbers of a micro-batch's workspace that stay in a core's second-level cache.
const CACHED_NUMBERS: usize = 1 << 18;
/// Rows below which matrix products become slow.
const FEWEST_ROWS: usize = 192;

/// Records a model with its objective and plans it in micro-batches that fit a processor's cache. `traced` keeps queries and
/// keys until the end of the forward pass.
pub fn program(model: &dyn Model, shape: TaskShape, occasion: &Occasion, traced: bool) -> Result<Program> {
    program_within(model, shape, occasion, traced, CACHED_NUMBERS)
}

/// The same in micro-batches whose workspace has about `numbers` numbers: as many examples as that allows, but rows enough
/// for matrix products.
pub fn program_within(
    model: &dyn Model,
    shape: TaskShape,
    occasion: &Occasion,
    traced: bool,
    numbers: usize,
) -> Result<Program> {
    let recorded = |micro_batch: usize| recorded(model, shape, occasion, traced, micro_batch);
    let (one, two) = (recorded(1)?, recorded(2)?);
    let per_example = two.workspace.saturating_sub(one.workspace).max(1);
    let rows = one.nodes.iter().map(|node| one.extent(node.output).rows.count(1)).max().unwrap_or(1);
    let most = (numbers / per_example).max(FEWEST_ROWS.div_ceil(rows.max(1))).max(1);
    if occasion.ragged {
        let ragged = Ragged { longest: occasion.length, pace: most.min(occasion.examples.max(1)) };
        let mut program = recorded(ragged.most())?;
        program.ragged = Some(ragged);
        return Ok(program);
    }
    // Micro-batches of nearly equal size.
    let count = occasion.examples.div_ceil(most).max(1);
    recorded(occasion.examples.div_ceil(count).max(1))
}

/// Records a model with its objective and plans it in the fewest of 1, 2, 4, … equal micro-batches whose workspace has at most `numbers`
/// numbers and whose values have at most `most` each; in single examples where that is not enough.
pub fn program_in_room(
    model: &dyn Model,
    shape: TaskShape,
    occasion: &Occasion,
    (numbers, most): (usize, usize),
) -> Result<Program> {
    let mut count = 1;
    loop {
        let micro_batch = occasion.examples.div_ceil(count).max(1);
        let program = recorded(model, shape, occasion, false, micro_batch)?;
        let widest = program.nodes.iter().map(|node| program.extent(node.output).count(micro_batch)).max();
        let fits = program.workspace <= numbers && widest.unwrap_or(0) <= most;
        if fits || micro_batch == 1 {
            return Ok(program);
        }
        count *= 2;
    }
}

/// Records a model with its objective and plans it in micro-batches of so many examples.
fn recorded(
    model: &dyn Model,
    shape: TaskShape,
    occasion: &Occasion,
    traced: bool,
    micro_batch: usize,
) -> Result<Program> {
    let mut graph = Graph::new(model.parameters());
    let outputs = model.record(&mut graph, occasion)?;
    let rows = match shape.read_out {
        ReadOut::Last => 1,
        ReadOut::Every => occasion.positions(),
    };
    let single = Extent { rows: Rows::PerExample(rows), width: 1 };
    let answers = match shape.output {
        Output::Classes(_) => Answers::Classes(graph.slot(Source::Classes, single)),
        Output::Scalar => Answers::Values(graph.slot(Source::Values, single)),
    };
    let weights = occasion.weighted.then(|| graph.slot(Source::Weights, single));
    graph.objective(outputs, answers, weights)?;
    if occasion.forward_only {
        graph.detach();
    }
    graph.finish(outputs, micro_batch, traced)
}
