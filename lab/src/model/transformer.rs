//! The transformer: embeddings, attention and MLP blocks, read-out (Vaswani et al. 2017), for K replicas at once.
//!
//! Three exact savings keep it small and fast. The last block of a model that is read at the last position computes
//! queries, MLP, norm and read-out there only. Without dropout the first block sees only as many different rows as there
//! are pairs of token and position, so it computes keys and values once per pair where that is fewer than the tokens of
//! the batch. And a model that cannot tell a sequence from its multiset of tokens gets token counts, whose logarithms
//! are added to the attention logits.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use plateau_common::config::{Activation, Norm, Positions, TransformerConfig};
use plateau_common::tasks::{ReadOut, TaskShape};

use super::initialise::{self, Role};
use super::input::{Dropout, InputForm, Inputs};
use super::parameters::{Initial, ParameterSpecification, Parameters};
use super::{Model, Trace};
use crate::ops_old::activation::{geglu, gelu, relu};
use crate::ops_old::attention::{Plan, attention};
use crate::ops_old::gather::{Index, gather};
use crate::ops_old::layer_norm::layer_norm;
use crate::ops_old::linear::{WeightLayout, linear};
use crate::ops_old::rotary::{Rotation, rotary};
use crate::ops_old::sum::{add, scale};

/// A transformer for one task.
pub struct Transformer {
    config: TransformerConfig,
    shape: TaskShape,
}

/// The residual stream on its way through the blocks: rows `[K, S, d]`, and which of them each key position of each
/// example is.
struct Stream {
    rows: Tensor,
    /// `[K, B, T]` into the rows.
    keys: Index,
    /// Keys per example, T.
    length: usize,
    /// The row of each example's last position, `[K, B]`.
    last: Index,
    /// Positions of the rows (the same in every replica); only for rotary positions.
    positions: Arc<Vec<u32>>,
    /// Log-counts of the keys, `[K, B, T]`.
    bias: Option<Tensor>,
    /// Whether rows are shared between examples, so that the next states need other rows.
    shared: bool,
}

impl Stream {
    /// Which position of each example is read, `[K, B]`; `None`: every one.
    fn asked(&self, read_out: ReadOut) -> Option<Vec<u32>> {
        let length = self.length as u32;
        let position = |row: &u32| if self.bias.is_some() { row % length } else { length - 1 };
        (read_out == ReadOut::Last).then(|| self.last.rows().iter().map(position).collect())
    }
}

impl Transformer {
    /// A transformer that reads sequences of a task's shape.
    pub fn new(config: TransformerConfig, shape: TaskShape) -> Self {
        Transformer { config, shape }
    }

    /// The rows before the first block.
    fn embed(
        &self,
        parameters: &Parameters,
        inputs: &Inputs,
        dropout: Option<&mut Dropout>,
    ) -> Result<Stream> {
        let tokens = parameters.get("embedding.token")?;
        let (replicas, examples, vocabulary) = (inputs.replicas, inputs.examples, self.shape.vocabulary);
        let (tokens_in, length) = match &inputs.form {
            InputForm::Counts { logarithms, last } => {
                let keys = (0..replicas * examples).flat_map(|_| 0..vocabulary as u32).collect();
                return Ok(Stream {
                    rows: tokens.clone(),
                    keys: Index::new(keys, vocabulary)?,
                    length: vocabulary,
                    last: Index::new(last.clone(), vocabulary)?,
                    positions: Arc::default(),
                    bias: Some(logarithms.clone()),
                    shared: true,
                });
            }
            InputForm::Tokens { tokens, length } => (tokens, *length),
        };
        let positions = self.position_table(parameters, replicas, length)?;
        let positional = self.config.positions != Positions::None;
        let pairs = if positional { vocabulary * length } else { vocabulary };
        if dropout.is_none() && pairs < examples * length {
            // Row `position * vocabulary + token`.
            let repeated = |row: fn(u32, u32) -> u32| {
                let all = (0..replicas).flat_map(|_| 0..pairs as u32);
                all.map(|pair| row(pair, vocabulary as u32)).collect::<Vec<u32>>()
            };
            let mut rows = match positional {
                true => {
                    gather(tokens, &Index::new(repeated(|pair, vocabulary| pair % vocabulary), vocabulary)?)?
                }
                false => tokens.clone(),
            };
            if let Some(positions) = positions {
                let index = Index::new(repeated(|pair, vocabulary| pair / vocabulary), length)?;
                rows = add(&rows, &gather(&positions, &index)?)?;
            }
            let keys: Vec<u32> = tokens_in
                .iter()
                .enumerate()
                .map(
                    |(at, token)| if positional { (at % length * vocabulary) as u32 + token } else { *token },
                )
                .collect();
            return Ok(Stream {
                rows,
                last: Index::new(last_of_each(&keys, length), pairs)?,
                keys: Index::new(keys, pairs)?,
                length,
                positions: Arc::new((0..pairs).map(|row| (row / vocabulary) as u32).collect()),
                bias: None,
                shared: true,
            });
        }
        let mut rows = gather(tokens, &Index::new(tokens_in.clone(), vocabulary)?)?;
        if let Some(positions) = positions {
            let index = (0..tokens_in.len()).map(|at| (at % length) as u32).collect();
            rows = add(&rows, &gather(&positions, &Index::new(index, length)?)?)?;
        }
        if let Some(dropout) = dropout {
            rows = drop(&rows, dropout)?;
        }
        own_rows(rows, examples, length, None)
    }

    /// What is added per position, `[K, T, d]`.
    fn position_table(
        &self,
        parameters: &Parameters,
        replicas: usize,
        length: usize,
    ) -> Result<Option<Tensor>> {
        let dim = self.config.dim;
        match self.config.positions {
            Positions::Learned => Ok(Some(parameters.get("embedding.position")?.clone())),
            Positions::Sinusoidal => {
                let token = parameters.get("embedding.token")?;
                let table: Vec<f64> = (0..length)
                    .flat_map(|position| (0..dim).map(move |index| sinusoid(position, index, dim)))
                    .collect();
                let table =
                    Tensor::from_vec(table, (1, length, dim), token.device())?.to_dtype(token.dtype())?;
                Ok(Some(table.broadcast_as((replicas, length, dim))?.contiguous()?))
            }
            Positions::Rotary | Positions::None => Ok(None),
        }
    }

    fn norm(&self, parameters: &Parameters, name: &str, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, parameters.get(&format!("{name}.gain"))?, parameters.get(&format!("{name}.bias"))?)
    }

    fn map(&self, parameters: &Parameters, name: &str, bias: bool, x: &Tensor) -> Result<Tensor> {
        let bias = if bias { Some(parameters.get(&format!("{name}_bias"))?) } else { None };
        linear(x, parameters.get(name)?, bias, WeightLayout::InOut)
    }

    /// One block. `read` tells which positions the states behind it are needed at.
    fn block(&self, layer: usize, stream: Stream, read: ReadOut, call: &mut Call<'_>) -> Result<Stream> {
        let (config, parameters) = (&self.config, call.parameters);
        let name = format!("blocks.{layer}");
        let (replicas, row_count, _) = stream.rows.dims3()?;
        let examples = call.examples;
        let queries = if read == ReadOut::Last { 1 } else { stream.length };
        let states = match (read, stream.shared) {
            (ReadOut::Last, _) => gather(&stream.rows, &stream.last)?,
            (ReadOut::Every, true) => gather(&stream.rows, &stream.keys)?,
            (ReadOut::Every, false) => stream.rows.clone(),
        };
        let normed = match config.norm {
            Norm::Pre => self.norm(parameters, &format!("{name}.norm1"), &stream.rows)?,
            Norm::Post | Norm::None => stream.rows.clone(),
        };
        let attended_rows = if read == ReadOut::Last { &stream.last } else { &stream.keys };
        // Queries are computed per row, or per asked position, whichever is fewer.
        let (asking, query_rows) = if attended_rows.rows().len() < replicas * row_count {
            let asked = gather(&normed, attended_rows)?;
            let own = (0..replicas).flat_map(|_| 0..(examples * queries) as u32).collect();
            (asked, Index::new(own, examples * queries)?)
        } else {
            (normed.clone(), attended_rows.clone())
        };
        let bias = config.attention_bias;
        let mut q = self.map(parameters, &format!("{name}.attention.query"), bias, &asking)?;
        let mut k = self.map(parameters, &format!("{name}.attention.key"), bias, &normed)?;
        let v = self.map(parameters, &format!("{name}.attention.value"), bias, &normed)?;
        if config.positions == Positions::Rotary {
            let rotation = |positions: Arc<Vec<u32>>| Rotation { heads: config.heads, positions };
            k = rotary(&k, &rotation(stream.positions.clone()))?;
            let own = asking.dims3()?.1 != row_count;
            let last = Arc::new(vec![stream.length as u32 - 1; asking.dims3()?.1]);
            q = rotary(&q, &rotation(if own { last } else { stream.positions.clone() }))?;
        }
        let weight_factors = match call.dropout.as_deref_mut() {
            Some(dropout) => {
                let shape = [examples, queries, config.heads, stream.length];
                Some(dropout.factors(&shape, q.dtype(), q.device())?)
            }
            None => None,
        };
        let plan = Arc::new(Plan {
            heads: config.heads,
            examples,
            queries,
            keys: stream.length,
            query_rows,
            key_rows: stream.keys.clone(),
            causal: config.causal,
            bias: stream.bias.clone(),
            dropout: weight_factors,
            keys_in_order: stream.shared && stream.bias.is_some(),
        });
        if let Some(trace) = call.trace.as_deref_mut() {
            trace.attention(&q, &k, &plan, stream.asked(self.shape.read_out))?;
        }
        let attended = attention(&q, &k, &v, &plan)?;
        let mut branch = self.map(parameters, &format!("{name}.attention.output"), bias, &attended)?;
        if let Some(dropout) = call.dropout.as_deref_mut() {
            branch = drop(&branch, dropout)?;
        }
        let mut states = add(&states, &branch)?;
        if config.norm == Norm::Post {
            states = self.norm(parameters, &format!("{name}.norm1"), &states)?;
        }
        let mut branch = self.mlp(parameters, &name, &states)?;
        if let Some(dropout) = call.dropout.as_deref_mut() {
            branch = drop(&branch, dropout)?;
        }
        states = add(&states, &branch)?;
        if config.norm == Norm::Post {
            states = self.norm(parameters, &format!("{name}.norm2"), &states)?;
        }
        let mut next = own_rows(states, examples, queries, None)?;
        if read == ReadOut::Every && stream.bias.is_some() {
            // In count space the last position is one of the keys, not the last of them.
            next.last = call.last_of_types(stream.length, &stream.last)?;
            next.bias = stream.bias;
        }
        Ok(next)
    }

    fn mlp(&self, parameters: &Parameters, name: &str, states: &Tensor) -> Result<Tensor> {
        let bias = self.config.mlp_bias;
        let x = match self.config.norm {
            Norm::Pre => self.norm(parameters, &format!("{name}.norm2"), states)?,
            Norm::Post | Norm::None => states.clone(),
        };
        let up = self.map(parameters, &format!("{name}.mlp.up"), bias, &x)?;
        let hidden = match self.config.activation {
            Activation::Relu => relu(&up)?,
            Activation::Gelu => gelu(&up)?,
            Activation::Geglu => geglu(&self.map(parameters, &format!("{name}.mlp.gate"), bias, &x)?, &up)?,
        };
        self.map(parameters, &format!("{name}.mlp.down"), bias, &hidden)
    }
}

/// What stays the same through one forward pass.
struct Call<'a> {
    parameters: &'a Parameters,
    examples: usize,
    dropout: Option<&'a mut Dropout>,
    trace: Option<&'a mut Trace>,
}

impl Call<'_> {
    /// Row of each example's last token among rows `[B, types]`.
    fn last_of_types(&self, types: usize, last: &Index) -> Result<Index> {
        let rows = last.rows().iter().enumerate().map(|(at, token)| {
            // A first block's rows are the types themselves, a later one's are numbered by example.
            ((at % self.examples) * types) as u32 + token % types as u32
        });
        Index::new(rows.collect(), self.examples * types)
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

    fn forward(
        &self,
        parameters: &Parameters,
        inputs: &Inputs,
        mut dropout: Option<&mut Dropout>,
        trace: Option<&mut Trace>,
    ) -> Result<Tensor> {
        let mut stream = self.embed(parameters, inputs, dropout.as_deref_mut())?;
        let mut call = Call { parameters, examples: inputs.examples, dropout, trace };
        for layer in 0..self.config.layers {
            let is_last = layer + 1 == self.config.layers;
            let read = if is_last { self.shape.read_out } else { ReadOut::Every };
            stream = self.block(layer, stream, read, &mut call)?;
        }
        let mut states = stream.rows;
        if self.config.norm == Norm::Pre {
            states = self.norm(parameters, "final_norm", &states)?;
        }
        let bias = if self.config.read_out_bias { Some(parameters.get("read_out.bias")?) } else { None };
        if self.config.tied {
            linear(&states, parameters.get("embedding.token")?, bias, WeightLayout::OutIn)
        } else {
            linear(&states, parameters.get("read_out.weight")?, bias, WeightLayout::InOut)
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
fn own_rows(rows: Tensor, examples: usize, length: usize, bias: Option<Tensor>) -> Result<Stream> {
    let replicas = rows.dims3()?.0;
    let count = (examples * length) as u32;
    let keys: Vec<u32> = (0..replicas).flat_map(|_| 0..count).collect();
    Ok(Stream {
        last: Index::new(last_of_each(&keys, length), count as usize)?,
        keys: Index::new(keys, count as usize)?,
        rows,
        length,
        positions: Arc::new((0..count).map(|row| row % length as u32).collect()),
        bias,
        shared: false,
    })
}

fn last_of_each(keys: &[u32], length: usize) -> Vec<u32> {
    keys.chunks_exact(length).filter_map(|keys| keys.last().copied()).collect()
}

fn drop(x: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
    let (_, rows, width) = x.dims3()?;
    scale(x, &dropout.factors(&[rows, width], x.dtype(), x.device())?)
}

/// Coordinate `index` of the fixed embedding of `position` (Vaswani et al. 2017, 3.5).
fn sinusoid(position: usize, index: usize, dim: usize) -> f64 {
    let angle = position as f64 / 10_000f64.powf((index / 2 * 2) as f64 / dim as f64);
    if index.is_multiple_of(2) { angle.sin() } else { angle.cos() }
}
