//! Question formation with the language model of Murty et al. 2023: post-norm, sinusoidal positions, loss at every token, dropout,
//! lines of lengths of their own.

use anyhow::Context as _;
use plateau_common::config::TrialConfig;
use plateau_common::tasks::{Form, Input};
use serde::Deserialize;
use serde_json::json;

/// Sizes of one workload. All else is as in the released code (and in `studies/structural`), where it is the same at every size.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionFormation {
    /// Lines per update.
    pub batch: usize,
    /// Width of the residual stream, d.
    pub dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Hidden width of the MLP, f.
    pub mlp: usize,
    /// Learning rate behind the warm-up.
    pub rate: f64,
    /// Updates of warm-up.
    pub warm_up: u64,
}

/// Lines of both evaluations, few but enough for a question to be among them.
const EVALUATED: usize = 8;

/// What the training lines ask for on average; see [`QuestionFormation::operations`].
#[derive(Clone, Copy, Debug, PartialEq)]
struct Work {
    /// Tokens of a line.
    tokens: f64,
    /// Pairs of query and key.
    pairs: f64,
}

impl QuestionFormation {
    pub(super) fn config(&self, seed: u64, steps: u64) -> anyhow::Result<TrialConfig> {
        let config = TrialConfig::from_json(&json!({
            "seed": seed,
            "task": {"kind": "question-formation", "validation-examples": EVALUATED,
                "generalisation-examples": EVALUATED},
            "model": {"kind": "transformer", "layers": self.layers, "heads": self.heads, "dim": self.dim,
                "mlp-dim": self.mlp, "norm": "post", "positions": "sinusoidal", "scaled-embedding": true,
                "read-out-bias": true, "dropout": 0.1, "mlp-dropout": true, "initialisation": "murty"},
            "train": {"steps": steps, "batch": self.batch, "clip": 1.0,
                "optimizer": {"kind": "adamw", "lr": self.rate, "eps": 1e-7},
                "schedule": {"kind": "linear-decay", "warmup": self.warm_up.min(steps)}},
            "evaluate": {"every": 1u64 << 60, "probes": []},
            "checkpoint": {"seconds": 0},
        }));
        config.map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn work(config: &TrialConfig) -> anyhow::Result<Work> {
        let all = config.task.examples(config.seed).train(1, None, Form::Tokens);
        let Input::Ragged { ends, .. } = &all.input else { anyhow::bail!("lines have lengths of their own") };
        let last = ends.last().context("there are lines")?;
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let lengths = starts.zip(ends).map(|(start, end)| f64::from(end - start));
        let (lines, pairs) =
            (ends.len() as f64, lengths.map(|length| length * (length + 1.0) / 2.0).sum::<f64>());
        Ok(Work { tokens: f64::from(*last) / lines, pairs: pairs / lines })
    }

    /// Tokens of one update, without padding.
    pub(super) fn tokens(&self) -> anyhow::Result<f64> {
        Ok(self.batch as f64 * QuestionFormation::work(&self.config(0, 1)?)?.tokens)
    }

    /// Floating-point operations in matrix products and attention that one step of one replica cannot do without, the mean over all
    /// training lines.
    ///
    /// Forward, for a line of n tokens with C = n(n+1)/2 pairs of query and key: per block queries, keys, values and output map
    /// `8 n d²`, scores and weighted values `4 C d`, MLP `4 n d f`; behind the blocks the read-out `2 n d V`. Dropout makes all rows
    /// differ and every token has a loss, so that nothing is shared or left out. Three times all that for a step. Drawing random
    /// numbers counts nothing.
    pub(super) fn operations(&self) -> anyhow::Result<f64> {
        let config = self.config(0, 1)?;
        Ok(self.operations_of(QuestionFormation::work(&config)?, config.task.shape().vocabulary))
    }

    fn operations_of(&self, work: Work, vocabulary: usize) -> f64 {
        let of = |number: usize| number as f64;
        let (dim, mlp) = (of(self.dim), of(self.mlp));
        let block = work.tokens * (8.0 * dim * dim + 4.0 * dim * mlp) + 4.0 * work.pairs * dim;
        let forward = of(self.layers) * block + work.tokens * 2.0 * dim * of(vocabulary);
        3.0 * of(self.batch) * forward
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::super::Workload;
    use super::super::tests::of_the_project;
    use super::*;

    fn structural() -> QuestionFormation {
        let Workload::QuestionFormation(questions) = of_the_project()["structural"].clone() else {
            panic!("question formation")
        };
        questions
    }

    /// Term by term, for lines of 20 tokens.
    #[test]
    fn operations_of_one_length() {
        let (tokens, pairs) = (20, 210);
        let maps = 8 * tokens * 64 * 64 + 4 * tokens * 64 * 256;
        let forward = 4 * (maps + 4 * pairs * 64) + 2 * tokens * 64 * 71;
        let work = Work { tokens: 20.0, pairs: 210.0 };
        assert_eq!(structural().operations_of(work, 71), f64::from(3 * 8 * forward));
    }

    /// The peer's lines, of a generator of its own, have 23.38 tokens and 298.7 pairs (100,000 lines, standard error 0.02 tokens).
    #[test]
    fn work_of_the_training_lines() {
        let config = structural().config(0, 1).unwrap();
        let work = QuestionFormation::work(&config).unwrap();
        assert!((work.tokens - 23.38).abs() < 0.1 && (work.pairs - 298.7).abs() < 3.0, "{work:?}");
        assert_eq!(structural().tokens().unwrap(), 8.0 * work.tokens);
        for assessment in config.task.examples(0).assessments(0) {
            assert!(assessment.batch.examples() > 0, "{}: nothing is asked", assessment.name);
        }
    }
}
