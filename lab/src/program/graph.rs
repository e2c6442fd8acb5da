//! Recording a model: operations, values, parameters and slots.
//!
//! The methods that record an operation live in that operation's file under [`crate::ops`].

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use plateau_common::positions::Position;

use super::reference::Given;
use super::{Extent, Program, Rows, plan};
use crate::cpu::Kernel;
use crate::model::ParameterSpecification;

/// What an operation computed; the handle a model file passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value(pub(crate) usize);

/// Type of a slot's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// Row or class numbers.
    Ids,
    /// Numbers of the model's precision.
    Numbers,
}

/// Numbers known when the program is made.
#[derive(Clone, Debug, PartialEq)]
pub enum SlotContent {
    /// Row numbers.
    Ids(Arc<[u32]>),
    /// Numbers, converted to the model's precision by who runs the program.
    Numbers(Arc<[f64]>),
}

/// What a slot is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing: it is constant.
    Constant,
    /// Token ids, `[B, T]`.
    Tokens,
    /// `position * vocabulary + token`, `[B, T]`: rows of a table of all pairs.
    Pairs {
        /// Number of tokens.
        vocabulary: usize,
    },
    /// The row of each token in a position scheme's table, `[B, T]`.
    TokenRows {
        /// Place of the scheme among the graph's.
        scheme: usize,
    },
    /// The positions of the tokens of an update's examples, `[T]`: an increasing choice of `0..positions`.
    Numbering {
        /// Positions to choose from.
        positions: usize,
    },
    /// The last of the pairs, or of the tokens where the vocabulary is 0, `[B]`.
    LastPair {
        /// Number of tokens.
        vocabulary: usize,
    },
    /// Logarithms of token counts, `[B, vocabulary]`; minus infinity for tokens that do not occur.
    LogCounts,
    /// The last token beside counts, `[B]`.
    LastToken,
    /// The right classes, `[B, R]`.
    Classes,
    /// The right numbers on the output's scale, `[B, R]`.
    Values,
    /// Weights of the read positions, `[B, R]`.
    Weights,
    /// Dropout factors: 0 with the model's probability, else what keeps the mean. Drawn slot by slot from one stream per
    /// update.
    Dropout,
    /// The position of each token, `[tokens]`, of a ragged program.
    Positions,
    /// Dropout factors of attention weights, `[query, head, key]` of each example. Of a ragged program: `[n, heads, n]` for each sequence of n
    /// tokens, one after another, drawn where a query sees the key, else 0.
    AttentionDropout {
        /// Attention heads.
        heads: usize,
    },
}

/// An input of the program besides parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotSpecification {
    /// What it is, for errors.
    pub name: String,
    /// What it is filled with.
    pub source: Source,
    /// Its rows and width.
    pub extent: Extent,
    /// Type of its numbers.
    pub kind: SlotKind,
    /// Constant content; `None`: given anew for every batch, all examples one after another.
    pub content: Option<SlotContent>,
}

/// A fused operation: one file each under [`crate::ops`].
///
/// Everything is said for one replica. Operations that read a gradient write their own in the same pass; what of the
/// forward pass they need for that is declared here, so that nothing is kept longer than needed.
pub trait Operation: Kernel + Debug + Send + Sync {
    /// For traces, errors and kernel names.
    fn name(&self) -> &'static str;

    /// Numbers that the forward pass keeps for the backward pass besides inputs and output.
    fn saved(&self) -> Vec<Extent> {
        Vec::new()
    }

    /// Whether the backward pass reads input number `input`.
    fn keeps_input(&self, input: usize) -> bool;

    /// Whether the backward pass reads the output.
    fn keeps_output(&self) -> bool {
        false
    }

    /// Whether the backward pass leaves out the gradient of this input where nobody needs it (else it is written all the same).
    fn may_skip(&self, input: usize) -> bool {
        let _ = input;
        false
    }

    /// An input whose gradient is the gradient of the output as it stands: the program hands it on (or adds it) by itself.
    fn passes_to(&self) -> Option<usize> {
        None
    }

    /// The same from plain tensor operations, differentiable by candle: `[K, rows, width]`.
    fn reference(&self, given: &Given<'_>) -> Result<Tensor>;

    /// Itself, for fusing with the operation recorded next and for devices that have a form of their own.
    fn as_any(&self) -> &dyn Any;

    /// The same, to change.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// A recorded operation.
#[derive(Debug)]
pub struct Node {
    /// What is done.
    pub operation: Box<dyn Operation>,
    /// To which values.
    pub inputs: Vec<Value>,
    /// With which parameters, by place.
    pub parameters: Vec<usize>,
    /// With which slots, by place.
    pub slots: Vec<usize>,
    /// The result.
    pub output: Value,
    /// Whether gradients end here: nothing is kept for a backward pass, and there is none.
    pub detached: bool,
}

/// A model being recorded.
#[derive(Debug)]
pub struct Graph {
    pub(super) parameters: Vec<ParameterSpecification>,
    pub(super) nodes: Vec<Node>,
    pub(super) values: Vec<Extent>,
    pub(crate) slots: Vec<SlotSpecification>,
    /// Values and what a trace calls them.
    pub(super) named: Vec<(String, Value)>,
    /// Position schemes that [`Source::TokenRows`] refers to.
    pub(super) schemes: Vec<Position>,
    /// Whether what is recorded now is detached.
    detached: bool,
}

impl Graph {
    /// An empty recording of a model with these parameters.
    pub fn new(parameters: Vec<ParameterSpecification>) -> Self {
        Graph {
            parameters,
            nodes: Vec::new(),
            values: Vec::new(),
            slots: Vec::new(),
            named: Vec::new(),
            schemes: Vec::new(),
            detached: false,
        }
    }

    /// Records something that gradients do not go through.
    pub fn detached<R>(&mut self, record: impl FnOnce(&mut Graph) -> R) -> R {
        let before = std::mem::replace(&mut self.detached, true);
        let result = record(self);
        self.detached = before;
        result
    }

    /// Detaches the whole recording: the program has a forward pass only.
    pub fn detach(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.detached = true);
    }

    /// Declares the rows that a position scheme gives the tokens of each example; their place.
    pub fn scheme_slot(&mut self, scheme: &Position, length: usize) -> usize {
        self.schemes.push(scheme.clone());
        let source = Source::TokenRows { scheme: self.schemes.len() - 1 };
        self.slot(source, Extent { rows: Rows::PerExample(length), width: 1 })
    }

    /// Place of a parameter.
    pub fn parameter(&self, name: &str) -> Result<usize> {
        match self.parameters.iter().position(|parameter| parameter.name == name) {
            Some(place) => Ok(place),
            None => candle_core::bail!("the model has no parameter `{name}`"),
        }
    }

    /// Extents of a parameter.
    pub fn parameter_shape(&self, place: usize) -> &[usize] {
        &self.parameters[place].shape
    }

    /// Declares an input; its place.
    pub fn slot(&mut self, source: Source, extent: Extent) -> usize {
        let kind = match source {
            Source::LogCounts
            | Source::Values
            | Source::Weights
            | Source::Dropout
            | Source::AttentionDropout { .. } => SlotKind::Numbers,
            _ => SlotKind::Ids,
        };
        let name = format!("{source:?}");
        self.slots.push(SlotSpecification { name, source, extent, kind, content: None });
        self.slots.len() - 1
    }

    /// Declares constant row numbers, `width` a row; their place.
    pub fn constant_ids(&mut self, name: &str, width: usize, ids: Vec<u32>) -> usize {
        let extent = Extent { rows: Rows::Fixed(ids.len() / width.max(1)), width };
        let content = Some(SlotContent::Ids(ids.into()));
        self.slots.push(SlotSpecification {
            name: name.to_owned(),
            source: Source::Constant,
            extent,
            kind: SlotKind::Ids,
            content,
        });
        self.slots.len() - 1
    }

    /// Declares constant numbers, `width` a row; their place.
    pub fn constant_numbers(&mut self, name: &str, width: usize, numbers: Vec<f64>) -> usize {
        let extent = Extent { rows: Rows::Fixed(numbers.len() / width.max(1)), width };
        let content = Some(SlotContent::Numbers(numbers.into()));
        self.slots.push(SlotSpecification {
            name: name.to_owned(),
            source: Source::Constant,
            extent,
            kind: SlotKind::Numbers,
            content,
        });
        self.slots.len() - 1
    }

    /// Rows and width of a slot.
    pub fn slot_extent(&self, slot: usize) -> Extent {
        self.slots[slot].extent
    }

    /// Rows and width of a value.
    pub fn extent(&self, value: Value) -> Extent {
        self.values[value.0]
    }

    /// Gives a value a name under which a traced program keeps it.
    pub fn name(&mut self, name: String, value: Value) {
        self.named.push((name, value));
    }

    /// Records an operation with a result of this extent.
    pub(crate) fn record(
        &mut self,
        operation: impl Operation + 'static,
        inputs: &[Value],
        parameters: &[usize],
        slots: &[usize],
        extent: Extent,
    ) -> Value {
        let output = Value(self.values.len());
        self.values.push(extent);
        self.nodes.push(Node {
            operation: Box::new(operation),
            inputs: inputs.to_vec(),
            parameters: parameters.to_vec(),
            slots: slots.to_vec(),
            output,
            detached: self.detached,
        });
        output
    }

    /// The last recorded node, if it is an `O` that made `value` (so nobody else has read it yet).
    pub(crate) fn just_made<O: Operation + 'static>(
        &mut self,
        value: Value,
    ) -> Option<(&mut O, &mut Vec<Value>)> {
        let node = self.nodes.last_mut().filter(|node| node.output == value)?;
        Some((node.operation.as_any_mut().downcast_mut()?, &mut node.inputs))
    }

    /// Orders, differentiates and plans what was recorded. `objective` is the value of the loss, whose operation must have
    /// been recorded last; `outputs` what the model puts out; `micro_batch` the most examples run at once.
    /// `traced` keeps all named values until the end of the forward pass.
    pub fn finish(self, outputs: Value, micro_batch: usize, traced: bool) -> Result<Program> {
        plan::plan(self, outputs, micro_batch, traced)
    }
}
