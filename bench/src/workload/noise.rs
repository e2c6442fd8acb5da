//! Random tokens and answers: the task `noise`, as cheap to draw as data can be.

use plateau_common::config::TrialConfig;
use serde::Deserialize;
use serde_json::json;

/// Sizes of one workload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Examples per update, B.
    pub batch: usize,
    /// Tokens per example, T.
    pub length: usize,
    /// Token ids, and classes of the read-out, V.
    pub vocab: usize,
    /// Width of the residual stream, d.
    pub dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Hidden width of the MLP, f.
    pub mlp: usize,
    /// Whether a position sees only itself and those before.
    pub causal: bool,
    /// Loss at the last position only, or at every one.
    pub last: bool,
}

impl Noise {
    /// The configuration of one replica, which is only ever evaluated before its first and after its last update, on as
    /// little as possible.
    ///
    /// # Errors
    /// When the sizes do not make a model (heads that do not divide the width, for example).
    pub fn config(&self, seed: u64, steps: u64) -> anyhow::Result<TrialConfig> {
        let config = TrialConfig::from_json(&json!({
            "seed": seed,
            "task": {"kind": "noise", "vocab": self.vocab, "length": self.length, "test-examples": 1,
                "read-out": if self.last { "last" } else { "every" }},
            "model": {"kind": "transformer", "layers": self.layers, "heads": self.heads, "dim": self.dim,
                "mlp-dim": self.mlp, "norm": "pre", "positions": "learned", "causal": self.causal,
                "initialisation": "pytorch"},
            "train": {"steps": steps, "batch": self.batch, "optimizer": {"kind": "adamw", "lr": 1e-3,
                "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight-decay": 1.0}},
            "evaluate": {"every": 1u64 << 60, "probes": []},
            "checkpoint": {"seconds": 0},
        }));
        config.map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Floating-point operations in matrix products and attention that one step of one replica cannot do without; an
    /// addition and a multiplication count as two.
    ///
    /// Forward, with R positions asked for behind a block (1 behind the last block if the loss is at the last position,
    /// else T) and C pairs of query and key per example (T for R = 1; T(T+1)/2 causal, else T²): keys and values
    /// `4 n d²`, queries `2 q d²`, scores and weighted values `4 B C d`, output map `2 B R d²`, MLP `4 B R d f`, and
    /// behind the blocks the read-out `2 B R d V`. Here n = B T and q = B R rows, except that before the first block equal
    /// tokens at equal positions have equal states, so that there n is at most V T and q at most V R. Three times all
    /// that for a step: the backward pass needs every product twice, since the embeddings are trained too. Norms,
    /// softmax, loss and look-ups count nothing.
    pub fn operations(&self) -> f64 {
        let of = |number: usize| number as f64;
        let (batch, length, vocab) = (of(self.batch), of(self.length), of(self.vocab));
        let (dim, mlp) = (of(self.dim), of(self.mlp));
        let mut forward = 0.0;
        for layer in 0..self.layers {
            let last_only = self.last && layer + 1 == self.layers;
            let asked = if last_only { 1.0 } else { length };
            let pairs = match (last_only, self.causal) {
                (true, _) => length,
                (false, true) => length * (length + 1.0) / 2.0,
                (false, false) => length * length,
            };
            let distinct = if layer == 0 { vocab } else { f64::INFINITY };
            let key_rows = (batch * length).min(distinct * length);
            let query_rows = (batch * asked).min(distinct * asked);
            forward += (4.0 * key_rows + 2.0 * query_rows) * dim * dim;
            forward += 4.0 * batch * pairs * dim;
            forward += 2.0 * batch * asked * dim * dim + 4.0 * batch * asked * dim * mlp;
        }
        let read = if self.last { 1.0 } else { length };
        forward += 2.0 * batch * read * dim * vocab;
        3.0 * forward
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::super::Workload;
    use super::super::tests::of_the_project;
    use super::*;

    /// Where nothing can be saved, these are the operations of Kaplan et al. without those of the softmax.
    #[test]
    fn operations_without_savings_are_those_of_the_whole_model() {
        let whole = Noise {
            batch: 5,
            length: 7,
            vocab: 100,
            dim: 16,
            heads: 2,
            layers: 3,
            mlp: 24,
            causal: false,
            last: false,
        };
        let softmax = 3.0 * 5.0 * 3.0 * (3.0 * 2.0 * 49.0);
        let expected = plateau_common::cost::flops_per_update(&whole.config(0, 1).unwrap()) - softmax;
        assert_eq!(whole.operations(), expected);
        // The causal mask leaves 28 of 49 pairs.
        let causal = Noise { causal: true, ..whole.clone() };
        assert_eq!(whole.operations() - causal.operations(), 3.0 * 3.0 * 4.0 * 5.0 * 21.0 * 16.0);
    }

    /// `tiny`, term by term: 96 of 768 rows before its only block, 32 of 256 queries, and one position behind it.
    #[test]
    fn operations_of_tiny() {
        let Workload::Noise(tiny) = &of_the_project()["tiny"] else { panic!("random tokens") };
        let (keys_and_values, queries) = (4 * 96 * 64 * 64, 2 * 32 * 64 * 64);
        let attention = 4 * 256 * 3 * 64;
        let (output, mlp, read_out) = (2 * 256 * 64 * 64, 4 * 256 * 64 * 256, 2 * 256 * 64 * 32);
        let forward = keys_and_values + queries + attention + output + mlp + read_out;
        assert_eq!(tiny.operations(), f64::from(3 * forward));
    }
}
