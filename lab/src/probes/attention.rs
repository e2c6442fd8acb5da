//! What a model's attention looks at: the weights of every layer, head and query, for probes that measure them.
//!
//! Owns running the model, in a precision of the probe's choice, and working out the weights from queries and keys in 64 bits; what is measured is the probes' business.

use plateau_common::tasks::Input;

use crate::cpu::{Executor, Feed, MicroBatch, SlotData};
use crate::error::LabError;
use crate::float::Float;
use crate::network::Network;
use crate::ops::attention::{Attention, LOGIT_BIAS};
use crate::ops::rows::{RowIndex, RowsOfCall};
use crate::program::{Node, Ports, Program};

/// The weights of one query.
pub(super) struct Weights<'a> {
    /// From 0; of looped models it goes on through the recurrences.
    pub layer: usize,
    pub head: usize,
    pub heads: usize,
    /// One for each key that it sees; they sum to 1.
    pub weights: &'a [f64],
    /// In count space, the logarithm of how many positions each key stands for.
    pub log_counts: Option<&'a [f64]>,
}

/// Runs a model and shows the weights of all queries: layer by layer, example by example, query by query, head by head. Where a model is
/// read at the last position only, `last_only` shows that position's alone. Tells how many layers there are.
pub(super) fn visit<T: Float>(
    network: &Network,
    input: &Input,
    last_only: bool,
    visit: &mut dyn FnMut(&Weights<'_>),
) -> Result<usize, LabError> {
    // Slots are read from a feed of its own, since the executor does not give its own away.
    let mut kept: Vec<Micro> = Vec::new();
    let (program, feed) = network.run::<T>(input, true, |executor, micro_batch| {
        let layers = givens(executor, micro_batch.examples);
        kept.push(Micro { micro_batch, layers });
    })?;
    let attentions: Vec<(&Node, &Attention)> = program
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.operation.as_any().downcast_ref::<Attention>()?)))
        .collect();
    for (layer, (node, attention)) in attentions.iter().enumerate() {
        for micro in &kept {
            let asked = |example: usize| match input {
                _ if !last_only || attention.queries == 1 => None,
                Input::Counts { last, .. } => Some(last[example] as usize),
                Input::Tokens { .. } | Input::Ragged { .. } => Some(attention.queries - 1),
            };
            let own =
                Layer { layer, program: &program, node, attention, feed: &feed, micro: micro.micro_batch };
            own.visit(&micro.layers[layer], asked, visit);
        }
    }
    Ok(attentions.len())
}

/// What every layer's attention was given in a micro-batch.
struct Micro {
    micro_batch: MicroBatch,
    layers: Vec<Given>,
}

/// Queries, keys, and what is added to the logits.
struct Given {
    queries: Vec<f64>,
    keys: Vec<f64>,
    logit_bias: Option<Vec<f64>>,
}

fn givens<T: Float>(executor: &Executor<T>, examples: usize) -> Vec<Given> {
    let program = executor.program();
    let is_attention = |(node, _): &(&Node, &Ports)| node.operation.as_any().is::<Attention>();
    let nodes = program.nodes.iter().zip(&program.ports).filter(is_attention);
    nodes
        .map(|(_, ports)| {
            let input = |input: usize| {
                executor.place(ports.inputs[input], examples).iter().map(|number| number.wide()).collect()
            };
            let logit_bias = (ports.inputs.len() > LOGIT_BIAS).then(|| input(LOGIT_BIAS));
            Given { queries: input(0), keys: input(1), logit_bias }
        })
        .collect()
}

/// One attention on one micro-batch.
struct Layer<'a, T> {
    layer: usize,
    program: &'a Program,
    node: &'a Node,
    attention: &'a Attention,
    feed: &'a Feed<T>,
    micro: MicroBatch,
}

/// One example of a micro-batch.
struct Example {
    /// Its number in the input.
    number: usize,
    queries: usize,
    keys: usize,
    /// Its number for row maps, and what is added to the rows they name.
    mapped: usize,
    offset: usize,
}

impl<T: Float> Layer<'_, T> {
    fn rows(&self, index: &RowIndex) -> RowsOfCall<'_> {
        let MicroBatch { start, examples, .. } = self.micro;
        let ids = index.slot().map(|slot| match &self.feed.slots[self.node.slots[slot]] {
            SlotData::Ids(ids) => &ids[start * index.positions()..(start + examples) * index.positions()],
            _ => &[],
        });
        index.with_ids(ids)
    }

    fn examples(&self) -> Vec<Example> {
        let MicroBatch { start, examples, sequence, sequences } = self.micro;
        let Attention { queries, keys, .. } = *self.attention;
        if self.program.ragged.is_none() {
            return (0..examples)
                .map(|own| Example { number: start + own, queries, keys, mapped: own, offset: 0 })
                .collect();
        }
        (sequence..sequence + sequences)
            .map(|number| {
                let tokens = self.feed.sequences.tokens(number);
                let length = tokens.len();
                Example { number, queries: length, keys: length, mapped: 0, offset: tokens.start - start }
            })
            .collect()
    }

    fn visit(
        &self,
        given: &Given,
        asked: impl Fn(usize) -> Option<usize>,
        visit: &mut dyn FnMut(&Weights<'_>),
    ) {
        let Attention { heads, width, causal, .. } = *self.attention;
        let Given { queries: q, keys: k, logit_bias } = given;
        let (query_rows, key_rows) =
            (self.rows(&self.attention.query_rows), self.rows(&self.attention.key_rows));
        let (size, scale) = (self.attention.head_size(), self.attention.scale());
        let mut weights = Vec::new();
        for Example { number, queries, keys, mapped, offset } in self.examples() {
            let bias: Option<Vec<f64>> =
                self.attention.key_bias.map(|slot| match &self.feed.slots[self.node.slots[slot]] {
                    SlotData::Numbers(numbers) => {
                        numbers[number * keys..][..keys].iter().map(|number| number.wide()).collect()
                    }
                    _ => Vec::new(),
                });
            for query in (0..queries).filter(|query| asked(number).is_none_or(|asked| asked == *query)) {
                let visible = if causal { query + 1 } else { keys };
                for head in 0..heads {
                    let at = |row: usize| (row + offset) * width + head * size;
                    let q = &q[at(query_rows.row(mapped, query))..][..size];
                    weights.clear();
                    weights.extend((0..visible).map(|key| {
                        let k = &k[at(key_rows.row(mapped, key))..][..size];
                        let product: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                        let added = logit_bias
                            .as_ref()
                            .map_or(0.0, |added| added[self.attention.logit_bias_at(head, key, query)]);
                        product * scale + bias.as_ref().map_or(0.0, |bias| bias[key]) + added
                    }));
                    softmax(&mut weights);
                    visit(&Weights {
                        layer: self.layer,
                        head,
                        heads,
                        weights: &weights,
                        log_counts: bias.as_deref(),
                    });
                }
            }
        }
    }
}

/// Logits become their softmax.
fn softmax(logits: &mut [f64]) {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logits.iter_mut().for_each(|logit| *logit = (*logit - highest).exp());
    let sum: f64 = logits.iter().sum();
    logits.iter_mut().for_each(|share| *share /= sum);
}

/// Entropy of weights in nats, each standing for `exp(log_count)` positions of equal weight.
pub(super) fn entropy(weights: &[f64], log_counts: Option<&[f64]>) -> f64 {
    let seen = weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
    seen.map(|(key, weight)| weight * (log_counts.map_or(0.0, |counts| counts[key]) - weight.ln())).sum()
}
