//! `attention_entropy/<layer>` (of looped models `<layer>` goes on through the recurrences): entropy of the attention weights in nats, mean over heads and read positions.
//!
//! In count space a token type stands for c positions of equal weight, which adds log c to its share; so both forms of
//! input give the same number.

use plateau_common::tasks::Input;

use super::{Measured, Measuring};
use crate::cpu::{Executor, Feed, SlotData};
use crate::error::LabError;
use crate::network::Network;
use crate::ops::attention::{Attention, LOGIT_BIAS};
use crate::ops::rows::{RowIndex, RowsOfCall};
use crate::program::{Node, Ports};

pub(super) fn measure(measuring: &Measuring<'_>) -> Result<Measured, LabError> {
    let entropies = entropies(measuring.network, &measuring.test_batch.input)?;
    let named = entropies.into_iter().enumerate();
    Ok(named.map(|(layer, entropy)| (format!("attention_entropy/{layer}"), entropy)).collect())
}

/// The mean entropy of every layer.
fn entropies(network: &Network, input: &Input) -> Result<Vec<f64>, LabError> {
    let program = network.program(input, false, true)?;
    let reads_last = program.output_rows() == 1;
    // Slots are read from a feed of its own, since the executor does not give its own away.
    let mut kept: Vec<Micro> = Vec::new();
    let feed = network.run::<f64>(input, true, |executor, start, examples| {
        kept.push(Micro { start, examples, layers: givens(executor, examples) });
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
            let entropies =
                Entropies { node, attention, feed: &feed, start: micro.start, examples: micro.examples };
            let (own, count) = entropies.sum(&micro.layers[layer], asked);
            sum += own;
            terms += count;
        }
        measured.push(sum / terms as f64);
    }
    Ok(measured)
}

/// What every layer's attention was given in a micro-batch.
struct Micro {
    start: usize,
    examples: usize,
    layers: Vec<Given>,
}

/// Queries, keys, and what is added to the logits.
struct Given {
    queries: Vec<f64>,
    keys: Vec<f64>,
    logit_bias: Option<Vec<f64>>,
}

fn givens(executor: &Executor<f64>, examples: usize) -> Vec<Given> {
    let program = executor.program();
    let is_attention = |(node, _): &(&Node, &Ports)| node.operation.as_any().is::<Attention>();
    let nodes = program.nodes.iter().zip(&program.ports).filter(is_attention);
    nodes
        .map(|(_, ports)| {
            let input = |input: usize| executor.place(ports.inputs[input], examples).to_vec();
            let logit_bias = (ports.inputs.len() > LOGIT_BIAS).then(|| input(LOGIT_BIAS));
            Given { queries: input(0), keys: input(1), logit_bias }
        })
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
    fn sum(&self, given: &Given, asked: impl Fn(usize) -> Option<usize>) -> (f64, usize) {
        let Attention { heads, queries, keys, width, causal, .. } = *self.attention;
        let Given { queries: q, keys: k, logit_bias } = given;
        let (query_rows, key_rows) =
            (self.rows(&self.attention.query_rows), self.rows(&self.attention.key_rows));
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
                            let added = logit_bias
                                .as_ref()
                                .map_or(0.0, |added| added[self.attention.logit_bias_at(head, key, query)]);
                            product * scale + bias.map_or(0.0, |bias| bias[key]) + added
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
mod tests {
    use plateau_common::config::TrialConfig;
    use plateau_common::tasks::Input;
    use serde_json::json;

    use super::entropies;
    use crate::network::Network;

    fn network(layers: usize, norm: &str, positions: &str, causal: bool) -> Network {
        let config = TrialConfig::from_json(&json!({
            "task": {"kind": "noise", "vocab": 5, "length": 12},
            "model": {"kind": "transformer", "layers": layers, "heads": 2, "dim": 8, "norm": norm,
                "positions": positions, "causal": causal},
            "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adam", "lr": 1e-3}}
        }));
        let config = config.unwrap();
        Network::new(&config.model, config.task.shape(), 3)
    }

    fn tokens(examples: usize) -> Vec<u32> {
        (0..12 * examples).map(|at| ((at * at + 3 * at + at / 12) % 5) as u32).collect()
    }

    #[test]
    fn counts_and_tokens_have_the_same_entropies() {
        let tokens = tokens(9);
        let mut counts = vec![0f32; 9 * 5];
        tokens.iter().enumerate().for_each(|(at, token)| counts[at / 12 * 5 + *token as usize] += 1.0);
        assert!(counts.contains(&0.0), "a token that does not occur belongs into this test");
        let last = tokens.chunks(12).map(|example| example[11]).collect();
        let (as_tokens, as_counts) = (Input::Tokens { tokens, length: 12 }, Input::Counts { counts, last });
        for layers in 1..=3 {
            for norm in ["pre", "post", "none"] {
                let network = network(layers, norm, "none", false);
                let [by_tokens, by_counts] =
                    [&as_tokens, &as_counts].map(|input| entropies(&network, input).unwrap());
                assert_eq!(by_tokens.len(), layers);
                for (a, b) in by_tokens.iter().zip(&by_counts) {
                    assert!((a - b).abs() < 1e-9, "{layers} layers, {norm}: {by_tokens:?} and {by_counts:?}");
                    assert!(*a > 0.0 && *a < 12f64.ln() + 1e-9);
                }
            }
        }
    }

    /// Without queries attention is uniform: its entropy is the logarithm of how many positions it sees.
    #[test]
    fn uniform_attention_has_the_entropy_of_its_positions() {
        for causal in [false, true] {
            let mut network = network(2, "pre", "learned", causal);
            for layer in 0..2 {
                network.set(&format!("blocks.{layer}.attention.query"), &[0.0; 64]).unwrap();
            }
            let input = Input::Tokens { tokens: tokens(3), length: 12 };
            for entropy in entropies(&network, &input).unwrap() {
                assert!((entropy - 12f64.ln()).abs() < 1e-12, "the last position sees all 12: {entropy}");
            }
        }
    }
}
