//! Workloads: sizes of a model and its batches (`bench/workloads.json` says what one step is), as configurations of
//! trials, with the arithmetic that a step cannot do without.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_lab::Member;
use serde::Deserialize;
use serde_json::json;

/// Sizes of one workload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
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

/// Bytes the optimiser moves per parameter: AdamW reads the parameter, its gradient and two moments, and writes all but
/// the gradient, each a 32-bit number.
const OPTIMIZER_BYTES_PER_PARAMETER: u64 = 7 * 4;

impl Workload {
    /// The workloads of a file, by name. Entries whose name begins with `_` are remarks.
    ///
    /// # Errors
    /// When the file cannot be read or is not a table of workloads.
    pub fn read_all(path: &Path) -> anyhow::Result<BTreeMap<String, Workload>> {
        let name = path.display();
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading the workloads of {name}"))?;
        let entries: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&text).with_context(|| format!("{name} is not a JSON object"))?;
        let workloads = entries.into_iter().filter(|(name, _)| !name.starts_with('_'));
        workloads
            .map(|(workload, sizes)| {
                let sizes = serde_json::from_value(sizes)
                    .with_context(|| format!("workload `{workload}` of {name}"))?;
                Ok((workload, sizes))
            })
            .collect()
    }

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

    /// `replicas` trials that differ in their seed only.
    ///
    /// # Errors
    /// As [`Workload::config`], and for no replicas.
    pub fn members(&self, replicas: usize, steps: u64) -> anyhow::Result<Vec<Member>> {
        if replicas == 0 {
            bail!("no replicas: there is nothing to train");
        }
        let member = |seed| {
            let config = self.config(seed, steps)?;
            Ok(Member { id: TrialId::of(&config), config, resume: None })
        };
        (0..replicas as u64).map(member).collect()
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

    /// Bytes the optimiser must move in one step of one replica.
    ///
    /// # Errors
    /// As [`Workload::config`].
    pub fn optimizer_bytes(&self) -> anyhow::Result<u64> {
        Ok(OPTIMIZER_BYTES_PER_PARAMETER * self.parameters()?)
    }

    /// Trained numbers of one replica.
    ///
    /// # Errors
    /// As [`Workload::config`].
    pub fn parameters(&self) -> anyhow::Result<u64> {
        Ok(plateau_common::cost::parameters(&self.config(0, 1)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::*;

    fn of_the_project() -> BTreeMap<String, Workload> {
        Workload::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads.json")).unwrap()
    }

    /// As many as `bench/peers/torch_peer.py` counts in PyTorch's models.
    #[test]
    fn parameters_of_the_workloads() {
        let counts: Vec<(String, u64)> = of_the_project()
            .into_iter()
            .map(|(name, workload)| (name, workload.parameters().unwrap()))
            .collect();
        let expected = [("counting", 35_744), ("grammar", 3_202_560), ("modular", 227_584), ("tiny", 54_144)];
        assert_eq!(counts, expected.map(|(name, count)| (name.to_owned(), count)));
    }

    /// Where nothing can be saved, these are the operations of Kaplan et al. without those of the softmax.
    #[test]
    fn operations_without_savings_are_those_of_the_whole_model() {
        let whole = Workload {
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
        let causal = Workload { causal: true, ..whole.clone() };
        assert_eq!(whole.operations() - causal.operations(), 3.0 * 3.0 * 4.0 * 5.0 * 21.0 * 16.0);
    }

    /// `tiny`, term by term: 96 of 768 rows before its only block, 32 of 256 queries, and one position behind it.
    #[test]
    fn operations_of_tiny() {
        let tiny = &of_the_project()["tiny"];
        let (keys_and_values, queries) = (4 * 96 * 64 * 64, 2 * 32 * 64 * 64);
        let attention = 4 * 256 * 3 * 64;
        let (output, mlp, read_out) = (2 * 256 * 64 * 64, 4 * 256 * 64 * 256, 2 * 256 * 64 * 32);
        let forward = keys_and_values + queries + attention + output + mlp + read_out;
        assert_eq!(tiny.operations(), f64::from(3 * forward));
    }

    #[test]
    fn a_file_that_is_no_table_of_workloads_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.json");
        for (text, named) in [("[1]", "mine.json"), (r#"{"_": "remark", "odd": {"batch": 1}}"#, "odd")] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", Workload::read_all(&path).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
        assert!(of_the_project()["tiny"].members(0, 1).is_err());
    }
}
