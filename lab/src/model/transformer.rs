//! The transformer: embeddings, attention and MLP blocks, read-out (Vaswani et al. 2017).
//!
//! Three exact savings keep it small and fast. The last block of a model that is read at the last position computes
//! queries, MLP, norm and read-out there only. Without dropout the first block sees only as many different rows as there
//! are pairs of token and position, so it computes keys and values once per pair where that is fewer than the tokens of
//! the batch. And a model that cannot tell a sequence from its multiset of tokens gets token counts, whose logarithms
//! are added to the attention logits.

use candle_core::Result;
use plateau_common::config::{Activation, Norm, Positions, TransformerConfig};
use plateau_common::tasks::{Form, ReadOut, TaskShape};

use super::initialise::{self, Role};
use super::parameters::{Initial, ParameterSpecification};
use super::{Model, Occasion};
use crate::ops::attention::AttentionPlan;
use crate::ops::embedding::Positional;
use crate::ops::linear::WeightLayout;
use crate::ops::rows::RowMap;
use crate::program::{Extent, Graph, Rows, Source, Value};

/// A transformer for one task.
pub struct Transformer {
    config: TransformerConfig,
    shape: TaskShape,
}

/// The residual stream on its way through the blocks.
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

impl Transformer {
    /// A transformer that reads sequences of a task's shape.
    pub fn new(config: TransformerConfig, shape: TaskShape) -> Self {
        Transformer { config, shape }
    }

    /// The rows before the first block.
    fn embed(&self, graph: &mut Graph, occasion: &Occasion) -> Result<Stream> {
        let tokens = graph.parameter("embedding.token")?;
        let (vocabulary, length) = (self.shape.vocabulary, occasion.length);
        let single = |rows: usize| Extent { rows: Rows::PerExample(rows), width: 1 };
        if occasion.form == Form::Counts {
            let all = graph.constant_ids("all tokens", 1, (0..vocabulary as u32).collect());
            return Ok(Stream {
                rows: graph.embedding(tokens, all, Positional::None, Vec::new())?,
                keys: RowMap::InOrder,
                last: RowMap::Table(graph.slot(Source::LastToken, single(1))),
                length: vocabulary,
                positions: Vec::new(),
                log_counts: Some(graph.slot(Source::LogCounts, single(vocabulary))),
                shared: true,
            });
        }
        let positional = self.positional(graph, length)?;
        let uses_positions = self.config.positions != Positions::None;
        let pairs = if uses_positions { vocabulary * length } else { vocabulary };
        if !occasion.dropout && pairs < occasion.examples * length {
            // Row `position * vocabulary + token`.
            let rows = 0..pairs as u32;
            let token = graph.constant_ids(
                "tokens of all pairs",
                1,
                rows.clone().map(|row| row % vocabulary as u32).collect(),
            );
            let positions: Vec<u32> = rows.map(|row| row / vocabulary as u32).collect();
            let numbering = if uses_positions { vocabulary } else { 0 };
            let source = if uses_positions { Source::Pairs { vocabulary } } else { Source::Tokens };
            return Ok(Stream {
                rows: graph.embedding(tokens, token, positional, positions.clone())?,
                keys: RowMap::Table(graph.slot(source, single(length))),
                last: RowMap::Table(graph.slot(Source::LastPair { vocabulary: numbering }, single(1))),
                length,
                positions,
                log_counts: None,
                shared: true,
            });
        }
        let ids = graph.slot(Source::Tokens, single(length));
        let rows = graph.embedding(tokens, ids, positional, (0..length as u32).collect())?;
        let rows = drop(graph, rows, occasion)?;
        Ok(own_rows(rows, length))
    }

    /// What is added per position.
    fn positional(&self, graph: &mut Graph, length: usize) -> Result<Positional> {
        let dim = self.config.dim;
        Ok(match self.config.positions {
            Positions::Learned => Positional::Learned(graph.parameter("embedding.position")?),
            Positions::Sinusoidal => {
                let table = (0..length)
                    .flat_map(|position| (0..dim).map(move |index| sinusoid(position, index, dim)))
                    .collect();
                Positional::Constant(graph.constant_numbers("sinusoids", dim, table))
            }
            Positions::Rotary | Positions::None => Positional::None,
        })
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

    /// One block. `read` tells which positions the states behind it are needed at.
    fn block(
        &self,
        graph: &mut Graph,
        layer: usize,
        stream: Stream,
        read: ReadOut,
        occasion: &Occasion,
    ) -> Result<Stream> {
        let config = &self.config;
        let name = format!("blocks.{layer}");
        let queries = if read == ReadOut::Last { 1 } else { stream.length };
        let attended = self.attend(graph, &name, &stream, (read, queries), occasion)?;
        let states = match (read, stream.shared) {
            (ReadOut::Last, _) => graph.select(stream.rows, stream.last, 1)?,
            (ReadOut::Every, true) => graph.select(stream.rows, stream.keys, queries)?,
            (ReadOut::Every, false) => stream.rows,
        };
        let branch = self.map(graph, &format!("{name}.attention.output"), config.attention_bias, attended)?;
        let branch = drop(graph, branch, occasion)?;
        let mut states = graph.add(states, branch)?;
        if config.norm == Norm::Post {
            states = self.norm(graph, &format!("{name}.norm1"), states)?;
        }
        let branch = self.mlp(graph, &name, states)?;
        let branch = drop(graph, branch, occasion)?;
        states = graph.add(states, branch)?;
        if config.norm == Norm::Post {
            states = self.norm(graph, &format!("{name}.norm2"), states)?;
        }
        let mut next = own_rows(states, queries);
        if read == ReadOut::Every && stream.log_counts.is_some() {
            // In count space the last position is one of the keys, not the last of them.
            let (RowMap::Table(last) | RowMap::OwnChosen(last)) = stream.last else {
                candle_core::bail!("counts without their last token");
            };
            next.last = RowMap::OwnChosen(last);
            next.log_counts = stream.log_counts;
        }
        Ok(next)
    }

    /// What the asked positions attend to, before the output map.
    fn attend(
        &self,
        graph: &mut Graph,
        name: &str,
        stream: &Stream,
        (read, queries): (ReadOut, usize),
        occasion: &Occasion,
    ) -> Result<Value> {
        let config = &self.config;
        let normed = match config.norm {
            Norm::Pre => self.norm(graph, &format!("{name}.norm1"), stream.rows)?,
            Norm::Post | Norm::None => stream.rows,
        };
        let asked = if read == ReadOut::Last { stream.last } else { stream.keys };
        // Queries are computed per row, or per asked position, whichever is fewer.
        let selects = occasion.examples * queries < graph.extent(normed).rows.count(occasion.examples);
        let (asking, query_rows) =
            if selects { (graph.select(normed, asked, queries)?, RowMap::Own) } else { (normed, asked) };
        let bias = config.attention_bias;
        let mut q = self.map(graph, &format!("{name}.attention.query"), bias, asking)?;
        let mut k = self.map(graph, &format!("{name}.attention.key"), bias, normed)?;
        let v = self.map(graph, &format!("{name}.attention.value"), bias, normed)?;
        if config.positions == Positions::Rotary {
            let own =
                if selects { vec![stream.length as u32 - 1; queries] } else { stream.positions.clone() };
            q = graph.rotary(q, config.heads, &own)?;
            k = graph.rotary(k, config.heads, &stream.positions)?;
        }
        let dropout = occasion.dropout.then(|| {
            let extent = Extent { rows: Rows::PerExample(queries * config.heads), width: stream.length };
            graph.slot(Source::Dropout, extent)
        });
        graph.name(format!("{name}.attention.query"), q);
        graph.name(format!("{name}.attention.key"), k);
        let plan = AttentionPlan {
            heads: config.heads,
            queries,
            keys: stream.length,
            query_rows,
            key_rows: stream.keys,
            causal: config.causal,
            key_bias: stream.log_counts,
            dropout,
        };
        graph.attention(q, k, v, plan)
    }

    fn mlp(&self, graph: &mut Graph, name: &str, states: Value) -> Result<Value> {
        let bias = self.config.mlp_bias;
        let x = match self.config.norm {
            Norm::Pre => self.norm(graph, &format!("{name}.norm2"), states)?,
            Norm::Post | Norm::None => states,
        };
        let up = self.map(graph, &format!("{name}.mlp.up"), bias, x)?;
        let hidden = match self.config.activation {
            Activation::Relu => graph.relu(up),
            Activation::Gelu => graph.gelu(up),
            Activation::Geglu => {
                let gate = self.map(graph, &format!("{name}.mlp.gate"), bias, x)?;
                graph.geglu(gate, up)?
            }
        };
        self.map(graph, &format!("{name}.mlp.down"), bias, hidden)
    }
}
impl Model for Transformer {
    fn parameters(&self) -> Vec<ParameterSpecification> {
        let (config, dim) = (&self.config, self.config.dim);
        let mut all = Specification { config, list: Vec::new() };
        all.push(
            "embedding.token".to_owned(),
            &[self.shape.vocabulary, dim],
            initialise::weight(Role::Embedding, config),
        );
        if config.positions == Positions::Learned {
            let initial = initialise::weight(Role::Embedding, config);
            all.push("embedding.position".to_owned(), &[self.shape.length, dim], initial);
        }
        for layer in 0..config.layers {
            let name = format!("blocks.{layer}");
            let normed = config.norm != Norm::None;
            if normed {
                all.norm(&format!("{name}.norm1"));
            }
            for map in ["query", "key", "value"] {
                all.map(
                    &format!("{name}.attention.{map}"),
                    Role::Attention,
                    [dim, dim],
                    config.attention_bias,
                );
            }
            all.map(
                &format!("{name}.attention.output"),
                Role::AttentionOutput,
                [dim, dim],
                config.attention_bias,
            );
            if normed {
                all.norm(&format!("{name}.norm2"));
            }
            if config.activation == Activation::Geglu {
                all.map(&format!("{name}.mlp.gate"), Role::Up, [dim, config.mlp_dim], config.mlp_bias);
            }
            all.map(&format!("{name}.mlp.up"), Role::Up, [dim, config.mlp_dim], config.mlp_bias);
            all.map(&format!("{name}.mlp.down"), Role::Down, [config.mlp_dim, dim], config.mlp_bias);
        }
        if config.norm == Norm::Pre {
            all.norm("final_norm");
        }
        let outputs = self.shape.output.width();
        let role = Role::ReadOut { outputs };
        if !config.tied {
            all.push("read_out.weight".to_owned(), &[dim, outputs], initialise::weight(role, config));
        }
        if config.read_out_bias {
            all.push("read_out.bias".to_owned(), &[outputs], initialise::bias(role, config));
        }
        all.list
    }

    fn record(&self, graph: &mut Graph, occasion: &Occasion) -> Result<Value> {
        let mut stream = self.embed(graph, occasion)?;
        for layer in 0..self.config.layers {
            let is_last = layer + 1 == self.config.layers;
            let read = if is_last { self.shape.read_out } else { ReadOut::Every };
            stream = self.block(graph, layer, stream, read, occasion)?;
        }
        let mut states = stream.rows;
        if self.config.norm == Norm::Pre {
            states = self.norm(graph, "final_norm", states)?;
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

/// Collects the parameters in order.
struct Specification<'a> {
    config: &'a TransformerConfig,
    list: Vec<ParameterSpecification>,
}

impl Specification<'_> {
    fn push(&mut self, name: String, shape: &[usize], initial: Initial) {
        self.list.push(ParameterSpecification { name, shape: shape.to_vec(), initial });
    }

    fn map(&mut self, name: &str, role: Role, shape: [usize; 2], bias: bool) {
        self.push(name.to_owned(), &shape, initialise::weight(role, self.config));
        if bias {
            self.push(format!("{name}_bias"), &shape[1..], initialise::bias(role, self.config));
        }
    }

    fn norm(&mut self, name: &str) {
        self.push(format!("{name}.gain"), &[self.config.dim], Initial::Constant(1.0));
        self.push(format!("{name}.bias"), &[self.config.dim], Initial::Constant(0.0));
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

/// Coordinate `index` of the fixed embedding of `position` (Vaswani et al. 2017, 3.5).
fn sinusoid(position: usize, index: usize, dim: usize) -> f64 {
    let angle = position as f64 / 10_000f64.powf((index / 2 * 2) as f64 / dim as f64);
    if index.is_multiple_of(2) { angle.sin() } else { angle.cos() }
}
