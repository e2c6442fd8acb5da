//! Random additions with position schemes (McLeish et al. 2024): post-norm, GEGLU, loss on the answer only, gradients clipped.

use std::collections::BTreeSet;

use anyhow::Context as _;
use plateau_common::config::{ModelConfig, TrialConfig};
use plateau_common::positions::Entry;
use plateau_common::random::Stream;
use plateau_common::tasks::{Form, Input};
use serde::Deserialize;
use serde_json::json;

/// Sizes of one workload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addition {
    /// Digits of the longest operands, S; an example has 3 S + 3 tokens, padding included.
    pub digits: usize,
    /// Examples per update.
    pub batch: usize,
    /// Width of the residual stream, d.
    pub dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Width of the gated hidden layer, f.
    pub mlp: usize,
    /// Position schemes, as studies write them.
    pub positions: String,
    /// Random offsets of Abacus embeddings, where the model has them.
    pub k: Option<u32>,
    /// Rows of their table.
    pub rows: Option<usize>,
    /// `linear`, or the paper's `transform`.
    #[serde(default = "linear")]
    pub head: String,
    /// Of matrix products, as studies write it.
    #[serde(default = "f32")]
    pub precision: String,
}

fn linear() -> String {
    "linear".to_owned()
}

fn f32() -> String {
    "f32".to_owned()
}

/// Updates whose batches are looked at to say what an update costs on average.
const SAMPLED_UPDATES: u64 = 64;

/// What one update's batch asks for; see [`Addition::operations`].
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    /// Tokens that a loss depends on.
    tokens: usize,
    /// Tokens behind which a loss stands.
    kept: usize,
    /// Pairs of query and key up to those.
    pairs: usize,
    /// The same for the last block's queries.
    last_pairs: usize,
    /// Different rows before the first block.
    distinct: usize,
}

impl Addition {
    pub(super) fn config(&self, seed: u64, steps: u64) -> anyhow::Result<TrialConfig> {
        let mut model = json!({"kind": "transformer", "layers": self.layers, "heads": self.heads, "dim": self.dim,
            "mlp-dim": self.mlp, "activation": "geglu", "norm": "post", "mlp-bias": false, "embedding-norm": true,
            "read-out": self.head, "initialisation": "deepnorm-straight", "positions": self.positions});
        let mut abacus = json!({});
        if let Some(k) = self.k {
            abacus["k"] = json!(k);
        }
        if let Some(rows) = self.rows {
            abacus["rows"] = json!(rows);
        }
        model["abacus"] = abacus;
        let config = TrialConfig::from_json(&json!({
            "seed": seed,
            "task": {"kind": "addition", "digits": self.digits, "test-examples": 1},
            "model": model,
            "train": {"steps": steps, "batch": self.batch, "clip": 0.5, "precision": self.precision,
                "optimizer": {"kind": "adamw", "lr": 1e-3, "beta2": 0.98, "weight-decay": 0.01}},
            "evaluate": {"every": 1u64 << 60, "probes": []},
            "checkpoint": {"seconds": 0},
        }));
        config.map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// What update number `update` of the first replica asks for.
    fn work(config: &TrialConfig, size: usize, update: u64) -> anyhow::Result<Work> {
        let batch = config.examples().train(update, Some(size), Form::Tokens);
        let Input::Tokens { tokens, length } = &batch.input else { anyhow::bail!("additions are tokens") };
        let weights = batch.weights.as_ref().context("additions have weights")?;
        let ModelConfig::Transformer(model) = &config.model;
        let mut rows = Vec::new();
        for scheme in model.positions.schemes() {
            if matches!(scheme.entry(), Entry::TokenTable { .. }) {
                scheme.rows(tokens, *length, Some(&mut Stream::new(0, "operations", update)), &mut rows);
            }
        }
        let (mut work, mut distinct) = (Work::default(), BTreeSet::new());
        for (example, weights) in weights.chunks_exact(*length).enumerate() {
            let kept: Vec<usize> = (0..*length).filter(|at| weights[*at] > 0.0).collect();
            let needed = kept.last().map_or(0, |last| last + 1);
            work.tokens += needed;
            work.kept += kept.len();
            work.pairs += needed * (needed + 1) / 2;
            work.last_pairs += kept.iter().map(|at| at + 1).sum::<usize>();
            distinct.extend((0..needed).map(|at| {
                let place = example * length + at;
                (tokens[place], rows.get(place).copied())
            }));
        }
        work.distinct = distinct.len();
        Ok(work)
    }

    /// Floating-point operations in matrix products and attention that one step of one replica cannot do without, the mean of the
    /// first updates'.
    ///
    /// Forward, with n tokens up to the last one of each example that has a loss, a of them with a loss, and C pairs of query and
    /// key: keys and values `4 n d²`, queries `2 n d²`, scores and weighted values `4 C d`, output map `2 n d²`, gated MLP
    /// `6 n d f`; in the last block all but keys and values for the a tokens only, and behind it the head's MLP and map
    /// `6 a d f + 2 a d²` and the read-out `2 a d V`. Before the first block equal tokens of equal rows have equal states, so that
    /// keys, values and queries are computed for those that differ. Three times all that for a step.
    pub(super) fn operations(&self) -> anyhow::Result<f64> {
        Ok(3.0 * self.mean(|work, vocabulary| self.forward(work, vocabulary))?)
    }

    /// Tokens of one update up to the last ones with a loss, the mean of the first updates'.
    pub(super) fn tokens(&self) -> anyhow::Result<f64> {
        self.mean(|work, _| work.tokens as f64)
    }

    /// The mean over the first updates of what `number` says of their work, given the vocabulary.
    fn mean(&self, number: impl Fn(&Work, usize) -> f64) -> anyhow::Result<f64> {
        let config = self.config(0, 1)?;
        let vocabulary = config.task.shape().vocabulary;
        let mut sum = 0.0;
        for update in 1..=SAMPLED_UPDATES {
            sum += number(&Addition::work(&config, self.batch, update)?, vocabulary);
        }
        Ok(sum / SAMPLED_UPDATES as f64)
    }

    fn forward(&self, work: &Work, vocabulary: usize) -> f64 {
        let of = |number: usize| number as f64;
        let (dim, mlp) = (of(self.dim), of(self.mlp));
        let mut forward = 0.0;
        for layer in 0..self.layers {
            let is_last = layer + 1 == self.layers;
            let (asked, pairs) =
                if is_last { (work.kept, work.last_pairs) } else { (work.tokens, work.pairs) };
            let most = if layer == 0 { work.distinct } else { usize::MAX };
            let (key_rows, query_rows) = (of(work.tokens.min(most)), of(asked.min(most)));
            forward += (4.0 * key_rows + 2.0 * query_rows) * dim * dim + 4.0 * of(pairs) * dim;
            forward += of(asked) * (2.0 * dim * dim + 6.0 * dim * mlp);
        }
        let head = if self.head == "transform" { 6.0 * dim * mlp + 2.0 * dim * dim } else { 0.0 };
        forward + of(work.kept) * (head + 2.0 * dim * of(vocabulary))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::super::Workload;
    use super::super::tests::of_the_project;
    use super::*;

    fn addition(name: &str) -> Addition {
        let Workload::Addition(addition) = of_the_project()[name].clone() else { panic!("an addition") };
        addition
    }

    /// The operations that the project's cost model counts, without those of the softmax, are at least twice as many: it counts
    /// padding, positions without a loss, and rows before the first block that are equal.
    #[test]
    fn operations_are_those_that_reach_the_loss() {
        for name in ["arithmetic", "arithmetic-fire"] {
            let addition = addition(name);
            let whole = plateau_common::cost::flops_per_update(&addition.config(0, 1).unwrap());
            let share = addition.operations().unwrap() / whole;
            assert!((0.3..0.5).contains(&share), "{name}: {share}");
        }
    }

    /// One-digit additions: `a+b=c` and the end, with a carry one token more, of at most 6.
    #[test]
    fn work_of_small_additions() {
        let one = Addition { digits: 1, ..addition("arithmetic-fire") };
        let config = one.config(0, 1).unwrap();
        let work = Addition::work(&config, 1000, 1).unwrap();
        // Of the 81 sums 45 have a carry.
        let carries = work.tokens - 5000;
        assert!((500..610).contains(&carries), "{work:?}");
        // Digits 0 to 9, `+` and `=`; without Abacus embeddings the place makes no difference.
        let expected = Work {
            tokens: 5000 + carries,
            kept: 2000 + carries,
            pairs: 15 * 1000 + 6 * carries,
            last_pairs: (4 + 5) * 1000 + 6 * carries,
            distinct: 12,
        };
        assert_eq!(work, expected);
        let config = Addition { digits: 1, ..addition("arithmetic") }.config(0, 1).unwrap();
        let with_places = Addition::work(&config, 1000, 1).unwrap();
        // A second digit of an answer is a 1.
        assert_eq!(with_places, Work { distinct: 13, ..expected });
    }
}
