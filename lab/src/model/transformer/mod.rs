//! The transformer: embeddings, attention and MLP blocks, read-out (Vaswani et al. 2017); also looped, its layers passed several
//! times, with the embedded input added again (McLeish et al. 2024).
//!
//! Three exact savings keep it small and fast. The last block of a model that is read at the last position computes
//! queries, MLP, norm and read-out there only. Without dropout the first block sees only as many different rows as there
//! are pairs of token and position, so it computes keys and values once per pair where that is fewer than the tokens of
//! the batch. And a model that cannot tell a sequence from its multiset of tokens gets token counts, whose logarithms
//! are added to the attention logits.
//!
//! Owns the order of things; `embed` has positions and embeddings, `block` attention and MLP, `parameters` names and shapes.

mod block;
mod embed;
mod parameters;

use candle_core::Result;
use plateau_common::config::{Activation, Head, Injection, Norm, TransformerConfig};
use plateau_common::tasks::{ReadOut, TaskShape};

use super::parameters::ParameterSpecification;
use super::{Model, Occasion};
use crate::ops::linear::WeightLayout;
use crate::ops::rows::RowMap;
use crate::program::{Extent, Graph, Source, Value};

/// A transformer for one task.
pub struct Transformer {
    config: TransformerConfig,
    shape: TaskShape,
}

/// What a traced program calls the states behind the last block.
pub(crate) const STATES: &str = "states";

/// The residual stream on its way through the blocks.
#[derive(Clone)]
struct Stream {
    rows: Value,
    /// Which row each key position of an example is.
    keys: RowMap,
    /// Which row its last position is.
    last: RowMap,
    /// Keys per example, T.
    length: usize,
    /// Positions of an example's rows, or of all where they are fixed; only for rotary positions.
    positions: Vec<u32>,
    /// Slot of the keys' log-counts.
    log_counts: Option<usize>,
    /// Whether rows are shared between examples, so that the next states need rows of their own.
    shared: bool,
}

/// One layer's place in a pass.
#[derive(Clone, Copy)]
struct Place {
    layer: usize,
    /// Which positions the states behind it are needed at.
    read: ReadOut,
    /// What is added to its attention logits.
    logit_bias: Option<Value>,
}

impl Transformer {
    /// A transformer that reads sequences of a task's shape.
    pub fn new(config: TransformerConfig, shape: TaskShape) -> Self {
        Transformer { config, shape }
    }

    fn norm(&self, graph: &mut Graph, name: &str, x: Value) -> Result<Value> {
        let (gain, bias) =
            (graph.parameter(&format!("{name}.gain"))?, graph.parameter(&format!("{name}.bias"))?);
        graph.layer_norm(x, gain, bias)
    }

    fn map(&self, graph: &mut Graph, name: &str, bias: bool, x: Value) -> Result<Value> {
        let bias = if bias { Some(graph.parameter(&format!("{name}_bias"))?) } else { None };
        let weight = graph.parameter(name)?;
        graph.linear(x, weight, bias, WeightLayout::InOut)
    }

    /// The MLP whose parameters are named `name.up` and so on.
    fn mlp(&self, graph: &mut Graph, name: &str, x: Value, occasion: &Occasion) -> Result<Value> {
        let bias = self.config.mlp_bias;
        let up = self.map(graph, &format!("{name}.up"), bias, x)?;
        let mut hidden = match self.config.activation {
            Activation::Relu => graph.relu(up),
            Activation::Gelu => graph.gelu(up),
            Activation::Geglu => {
                let gate = self.map(graph, &format!("{name}.gate"), bias, x)?;
                graph.geglu(gate, up)?
            }
        };
        if self.config.mlp_dropout {
            hidden = drop(graph, hidden, occasion)?;
        }
        self.map(graph, &format!("{name}.down"), bias, hidden)
    }

    /// One pass of all layers, recurrence number `recurrence` of `all`.
    fn recurrence(
        &self,
        graph: &mut Graph,
        mut stream: Stream,
        (recurrence, all): (usize, usize),
        (input, biases): (Option<Value>, &[Option<Value>]),
        occasion: &Occasion,
    ) -> Result<Stream> {
        let unchained = occasion.unchained.then(|| stream.clone());
        for layer in 0..self.config.layers {
            if let Some(input) = &unchained {
                stream = input.clone();
            }
            let is_first = recurrence == 0 && layer == 0;
            let injects = match self.config.injection {
                Injection::None => false,
                Injection::Block => layer == 0,
                Injection::Layer => true,
            };
            if let Some(input) = input.filter(|_| injects && !is_first) {
                stream.rows = graph.add(stream.rows, input)?;
            }
            let is_last = recurrence + 1 == all && layer + 1 == self.config.layers;
            let read = if is_last { self.shape.read_out } else { ReadOut::Every };
            let logit_bias = biases.get(layer).copied().flatten();
            stream = self.block(graph, Place { layer, read, logit_bias }, stream, occasion)?;
        }
        Ok(stream)
    }

    /// The embedded input with rows of each example's own, where it is injected into so many recurrences.
    fn injected(&self, graph: &mut Graph, stream: &Stream, recurrences: usize) -> Result<Option<Value>> {
        let places = match self.config.injection {
            Injection::None => return Ok(None),
            Injection::Block => recurrences,
            Injection::Layer => self.config.layers * recurrences,
        };
        // It is not added to itself, at the first place.
        if places == 1 {
            return Ok(None);
        }
        if stream.log_counts.is_some() {
            // In count space every example has one row per token of the vocabulary.
            return Ok(Some(graph.select(stream.rows, RowMap::InOrder, stream.length)?));
        }
        Ok(Some(match stream.shared {
            true => graph.select(stream.rows, stream.keys, stream.length)?,
            false => stream.rows,
        }))
    }

    fn read_out(&self, graph: &mut Graph, mut states: Value, occasion: &Occasion) -> Result<Value> {
        if self.config.norm == Norm::Pre {
            states = self.norm(graph, "final_norm", states)?;
        }
        if self.config.head == Head::Transform {
            states = self.mlp(graph, "head.mlp", states, occasion)?;
            states = self.norm(graph, "head.norm", states)?;
            states = self.map(graph, "head.map", self.config.mlp_bias, states)?;
        }
        let bias = if self.config.read_out_bias { Some(graph.parameter("read_out.bias")?) } else { None };
        if self.config.tied {
            let table = graph.parameter("embedding.token")?;
            graph.linear(states, table, bias, WeightLayout::OutIn)
        } else {
            let weight = graph.parameter("read_out.weight")?;
            graph.linear(states, weight, bias, WeightLayout::InOut)
        }
    }
}

impl Model for Transformer {
    fn parameters(&self) -> Vec<ParameterSpecification> {
        parameters::parameters(&self.config, &self.shape)
    }

    fn record(&self, graph: &mut Graph, occasion: &Occasion) -> Result<Value> {
        let numbering = self.numbering(graph, occasion);
        let mut stream = self.embed(graph, numbering, occasion)?;
        let biases = self.logit_biases(graph, numbering, occasion)?;
        let all = occasion.free + occasion.graded;
        let input = self.injected(graph, &stream, all)?;
        for recurrence in 0..all {
            let record = |graph: &mut Graph, stream: Stream| {
                self.recurrence(graph, stream, (recurrence, all), (input, &biases), occasion)
            };
            stream = match recurrence < occasion.free {
                true => graph.detached(|graph| record(graph, stream))?,
                false => record(graph, stream)?,
            };
        }
        graph.name(STATES.to_owned(), stream.rows);
        self.read_out(graph, stream.rows, occasion)
    }
}

/// A stream in which every position of every example has its own row, in order.
fn own_rows(rows: Value, length: usize) -> Stream {
    Stream {
        rows,
        keys: RowMap::Own,
        last: RowMap::Last,
        length,
        positions: (0..length as u32).collect(),
        log_counts: None,
        shared: false,
    }
}

/// Dropout where the occasion has it.
fn drop(graph: &mut Graph, x: Value, occasion: &Occasion) -> Result<Value> {
    if !occasion.dropout {
        return Ok(x);
    }
    let factors = graph.slot(Source::Dropout, graph.extent(x));
    graph.scaled(x, factors)
}

/// Rows of one number for each example.
fn single(rows: usize) -> Extent {
    Extent { rows: crate::program::Rows::PerExample(rows), width: 1 }
}
