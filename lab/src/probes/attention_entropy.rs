//! `attention_entropy/<layer>`: entropy of the attention weights in nats, mean over heads and read positions.
//!
//! In count space a token type stands for c positions of equal weight, which adds log c to its share; so both forms of
//! input give the same number.

use plateau_common::tasks::Input;

use super::{Measured, Measuring};
use crate::cpu::{Executor, Feed, SlotData};
use crate::error::LabError;
use crate::ops::attention::Attention;
use crate::ops::rows::{RowIndex, RowsOfCall};
use crate::program::{Node, Ports};

pub(super) fn measure(measuring: &Measuring<'_>) -> Result<Measured, LabError> {
    let input = &measuring.test_batch.input;
    let program = measuring.network.program(input, false, true)?;
    let reads_last = program.output_rows() == 1;
    // Slots are read from a feed of its own, since the executor does not give its own away.
    let mut kept: Vec<Micro> = Vec::new();
    let feed = measuring.network.run::<f64>(input, true, |executor, start, examples| {
        kept.push(Micro { start, examples, layers: queries_and_keys(executor, examples) });
    })?;
    let attentions: Vec<(&Node, &Attention)> = program
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.operation.as_any().downcast_ref::<Attention>()?)))
        .collect();
    let mut measured = Vec::new();
    for (layer, (node, attention)) in attentions.into_iter().enumerate() {
        let (mut sum, mut terms) = (0.0, 0usize);
        for micro in &kept {
            let asked = |example: usize| match input {
                _ if !reads_last || attention.queries == 1 => None,
                Input::Tokens { .. } => Some(attention.queries - 1),
                Input::Counts { last, .. } => Some(last[micro.start + example] as usize),
            };
            let entropies = Entropies { node, attention, feed: &feed, start: micro.start, examples: micro.examples };
            let (own, count) = entropies.sum(&micro.layers[layer], asked);
            sum += own;
            terms += count;
        }
        measured.push((format!("attention_entropy/{layer}"), sum / terms as f64));
    }
    Ok(measured)
}

/// Queries and keys of every layer after a micro-batch.
struct Micro {
    start: usize,
    examples: usize,
    layers: Vec<[Vec<f64>; 2]>,
}

fn queries_and_keys(executor: &Executor<f64>, examples: usize) -> Vec<[Vec<f64>; 2]> {
    let program = executor.program();
    let is_attention = |(node, _): &(&Node, &Ports)| node.operation.as_any().is::<Attention>();
    let nodes = program.nodes.iter().zip(&program.ports).filter(is_attention);
    nodes
        .map(|(_, ports)| [0, 1].map(|input| executor.place(ports.inputs[input], examples).to_vec()))
        .collect()
}

/// One attention on one micro-batch.
struct Entropies<'a> {
    node: &'a Node,
    attention: &'a Attention,
    feed: &'a Feed<f64>,
    start: usize,
    examples: usize,
}

impl Entropies<'_> {
    fn rows(&self, index: &RowIndex) -> RowsOfCall<'_> {
        let ids = index.slot().map(|slot| match &self.feed.slots[self.node.slots[slot]] {
            SlotData::Ids(ids) => {
                &ids[self.start * index.positions()..(self.start + self.examples) * index.positions()]
            }
            _ => &[],
        });
        index.with_ids(ids)
    }

    /// Sum over examples, asked queries and heads, and how many those were.
    fn sum(&self, [q, k]: &[Vec<f64>; 2], asked: impl Fn(usize) -> Option<usize>) -> (f64, usize) {
        let Attention { heads, queries, keys, width, causal, .. } = *self.attention;
        let (query_rows, key_rows) = (self.rows(&self.attention.query_rows), self.rows(&self.attention.key_rows));
        let (size, scale) = (self.attention.head_size(), self.attention.scale());
        let (mut total, mut terms) = (0.0, 0);
        for example in 0..self.examples {
            let bias = self.attention.key_bias.map(|slot| match &self.feed.slots[self.node.slots[slot]] {
                SlotData::Numbers(numbers) => &numbers[(self.start + example) * keys..][..keys],
                _ => &[],
            });
            for query in 0..queries {
                if asked(example).is_some_and(|asked| asked != query) {
                    continue;
                }
                let visible = if causal { query + 1 } else { keys };
                for head in 0..heads {
                    let at = |row: usize| row * width + head * size;
                    let q = &q[at(query_rows.row(example, query))..][..size];
                    let logits: Vec<f64> = (0..visible)
                        .map(|key| {
                            let k = &k[at(key_rows.row(example, key))..][..size];
                            let product: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                            product * scale + bias.map_or(0.0, |bias| bias[key])
                        })
                        .collect();
                    total += entropy(&logits, bias);
                    terms += 1;
                }
            }
        }
        (total, terms)
    }
}

/// Entropy of the softmax of logits, each standing for `exp(bias)` equal positions.
fn entropy(logits: &[f64], bias: Option<&[f64]>) -> f64 {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares
        .iter()
        .map(|share| share / sum)
        .enumerate()
        .filter(|(_, weight)| *weight != 0.0)
        .map(|(key, weight)| weight * (bias.map_or(0.0, |bias| bias[key]) - weight.ln()))
        .sum()
}
