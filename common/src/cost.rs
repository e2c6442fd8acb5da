//! What a trial costs: parameters (exact), floating-point operations and memory (estimates), from its configuration
//! alone. Measures nothing.

use crate::config::{Activation, Batch, Head, ModelConfig, Norm, Precision, TransformerConfig, TrialConfig};
use crate::positions::Entry;
use crate::tasks::{ReadOut, TaskConfig, TaskShape};

/// Exact number of trained numbers of the model.
///
/// Token embedding `[V, d]`; learned positions `[T, d]`; per block the maps q, k, v, o `[d, d]`, the MLP's up `[d, f]` and
/// down `[f, d]` (GEGLU: a second `[d, f]`), their biases where switched on, and two norms of gain and bias where there
/// are norms; a final norm for pre-norm models; read-out `[d, out]` unless tied, and its bias where switched on. Besides, where
/// the model has them: tables of position schemes, per block a FIRE perceptron, a norm of the embeddings, and a head's MLP, norm and map.
pub fn parameters(config: &TrialConfig) -> u64 {
    let ModelConfig::Transformer(model) = &config.model;
    let shape = config.task.shape();
    let wide = |number: usize| number as u128;
    let (dim, mlp, out) = (wide(model.dim), wide(model.mlp_dim), wide(shape.output.width()));
    let flag = |switch: bool| u128::from(switch);
    let gated = flag(model.activation == Activation::Geglu);
    let heads = wide(model.heads);
    let (mut tables, mut biases) = (0, 0);
    for entry in model.positions.entries() {
        match entry {
            Entry::LearnedTable { rows } => tables += wide(rows.unwrap_or(shape.length)) * dim,
            Entry::TokenTable { rows } => tables += wide(rows) * dim,
            // 1 -> hidden -> heads with biases, and two scalars.
            Entry::Fire(fire) => biases += (2 + heads) * wide(fire.hidden) + heads + 2,
            _ => {}
        }
    }
    let attention = 4 * dim * dim + flag(model.attention_bias) * 4 * dim;
    let feed_forward = (2 + gated) * dim * mlp + flag(model.mlp_bias) * ((1 + gated) * mlp + dim);
    let norms = if model.norm == Norm::None { 0 } else { 4 * dim };
    let final_norm = flag(model.norm == Norm::Pre) * 2 * dim;
    let read_out = flag(!model.tied) * dim * out + flag(model.read_out_bias) * out;
    let transform = flag(model.head == Head::Transform)
        * (feed_forward + 2 * dim + dim * dim + flag(model.mlp_bias) * dim);
    let total = wide(shape.vocabulary) * dim
        + tables
        + flag(model.embedding_norm) * 2 * dim
        + wide(model.layers) * (attention + biases + feed_forward + norms)
        + final_norm
        + transform
        + read_out;
    // The limits on widths and layers keep every product far below 2^128; beyond 2^64 the answer is "too many" anyway.
    u64::try_from(total).unwrap_or(u64::MAX)
}

/// Examples of one update.
fn batch_size(config: &TrialConfig) -> usize {
    match config.train.batch {
        Batch::Size(size) => size,
        Batch::Full => config.task.training_set_size().unwrap_or(1),
    }
}

/// Floating-point operations of one update: three times those of the forward pass (one forward, two for the backward
/// pass, as in Kaplan et al. 2020, section 2.1), times the examples of the batch. An addition and a multiplication
/// count as two operations.
///
/// Forward, per layer and sequence of n tokens: `6nd²` (q, k, v) + `2n²d` (scores) + `3hn²` (softmax) + `2n²d` (weighted
/// values) + `2nd²` (output map) + `4ndf` (MLP; `6ndf` where gated). Besides the layers: `2rd·out` for the read-out at r
/// positions; the embedding is a look-up and counts nothing. Where a model sees only how often each token occurs
/// ([`ModelConfig::is_permutation_invariant`]), n is the vocabulary, since one row per token is exact (docs/science.md,
/// "Counting from the histogram"). What else an implementation may save without changing the result (the last layer at
/// the read position only, rows shared by the examples of a batch) is not taken off: this is an upper bound.
///
/// Of sequences of lengths of their own, n is the mean length. A looped model counts all its recurrences, though a progressive loss may pass fewer; a growing batch counts its mean.
pub fn flops_per_update(config: &TrialConfig) -> f64 {
    let steps = config.train.steps;
    let examples = match config.train.batch_ramp {
        Some(_) => config.train.draw(steps + 1).first as f64 / steps as f64,
        None => batch_size(config) as f64,
    };
    examples * flops_per_example(&config.model, &config.task)
}

/// Floating-point operations of training on one example; see [`flops_per_update`].
pub fn flops_per_example(model: &ModelConfig, task: &TaskConfig) -> f64 {
    let mut shape = trained_shape(model, task);
    if let Some(mean) = task.mean_length() {
        shape.length = mean.round() as usize;
    }
    let ModelConfig::Transformer(model) = model;
    3.0 * (layers_forward(model, &shape) + read_out_forward(model, &shape))
}

/// The task's shape as the model is given it: one row per token of the vocabulary where only counts matter, else one per
/// position.
fn trained_shape(model: &ModelConfig, task: &TaskConfig) -> TaskShape {
    let shape = task.shape();
    if model.is_permutation_invariant() && task.supports_counts() {
        TaskShape { length: shape.vocabulary, ..shape }
    } else {
        shape
    }
}

/// Forward operations of all blocks on one sequence.
fn layers_forward(model: &TransformerConfig, shape: &TaskShape) -> f64 {
    let (n, d, h) = (shape.length as f64, model.dim as f64, model.heads as f64);
    let per_layer = 8.0 * n * d * d + 4.0 * n * n * d + 3.0 * h * n * n + n * mlp_forward(model);
    (model.layers * model.recurrences) as f64 * per_layer
}

/// Forward operations of an MLP on one position.
fn mlp_forward(model: &TransformerConfig) -> f64 {
    let maps = if model.activation == Activation::Geglu { 3.0 } else { 2.0 };
    2.0 * maps * model.dim as f64 * model.mlp_dim as f64
}

/// Forward operations of the read-out on one sequence.
fn read_out_forward(model: &TransformerConfig, shape: &TaskShape) -> f64 {
    let dim = model.dim as f64;
    let head = match model.head {
        Head::Linear => 0.0,
        Head::Transform => mlp_forward(model) + 2.0 * dim * dim,
    };
    read_positions(shape) as f64 * (head + 2.0 * dim * shape.output.width() as f64)
}

fn read_positions(shape: &TaskShape) -> usize {
    match shape.read_out {
        ReadOut::Last => 1,
        ReadOut::Every => shape.length,
    }
}

/// Estimated bytes on the device for `replicas` trials of this configuration trained together as one batch: for each its
/// weights, gradients and the optimiser's moments (exact), and the activations a backward pass keeps: per token and layer
/// ten vectors of width d, two (gated: three) of width f, and per head and pair of positions two attention weights; plus
/// embeddings and outputs. Implementations that recompute or skip activations need less. A batch whose activations are more than
/// [`WORKSPACE_BYTES`] is worked through in micro-batches that are not.
pub fn memory_bytes(config: &TrialConfig, replicas: usize) -> u64 {
    let one = u128::from(state_bytes(config)) + u128::from(workspace_bytes(config));
    u64::try_from(one.saturating_mul(replicas as u128)).unwrap_or(u64::MAX)
}

fn number_bytes(config: &TrialConfig) -> u128 {
    match config.train.precision {
        Precision::F32 | Precision::Tf32 | Precision::Bf16 => 4,
        Precision::F64 => 8,
    }
}

/// Bytes of one trial's weights, gradients and optimiser's moments.
pub fn state_bytes(config: &TrialConfig) -> u64 {
    let numbers = u128::from(parameters(config)) * (2 + config.train.optimizer.moments() as u128);
    u64::try_from(numbers.saturating_mul(number_bytes(config))).unwrap_or(u64::MAX)
}

/// Estimated bytes of what one trial's update computes and its backward pass keeps; see [`memory_bytes`].
pub fn workspace_bytes(config: &TrialConfig) -> u64 {
    let ModelConfig::Transformer(model) = &config.model;
    let shape = trained_shape(&config.model, &config.task);
    let wide = |number: usize| number as u128;
    let (n, d, f, h) = (wide(shape.length), wide(model.dim), wide(model.mlp_dim), wide(model.heads));
    let hidden = if model.activation == Activation::Geglu { 3 } else { 2 };
    let per_layer = 10 * n * d + hidden * n * f + 2 * h * n * n;
    let outputs = 2 * wide(read_positions(&shape)) * wide(shape.output.width());
    let numbers = wide(model.layers * model.recurrences) * per_layer + 2 * n * d + outputs;
    let of_one = numbers.saturating_mul(number_bytes(config));
    let at_once = (u128::from(WORKSPACE_BYTES) / of_one.max(1)).clamp(1, wide(batch_size(config)).max(1));
    u64::try_from(of_one.saturating_mul(at_once)).unwrap_or(u64::MAX)
}

/// What a cohort is trained on, as far as its memory is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// A processor: each thread trains one replica after another in one workspace.
    Processor {
        /// Threads.
        threads: usize,
    },
    /// A card: all replicas at once.
    Card,
}

/// Bytes a cohort takes: what it takes whatever its size, and what each replica adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Bytes of the process and its workspaces.
    pub fixed: u64,
    /// Bytes of one replica more.
    pub per_replica: u64,
}

impl MemoryNeed {
    /// Bytes of a cohort of `replicas`.
    pub fn of(self, replicas: usize) -> u64 {
        self.fixed.saturating_add(self.per_replica.saturating_mul(replicas as u64))
    }

    /// The most replicas that fit into `bytes`; 0 where not one does.
    pub fn most(self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.fixed) / self.per_replica.max(1)
    }
}

/// Bytes of one replica's activations above which a batch is worked through in parts: enough rows for any device.
pub const WORKSPACE_BYTES: u64 = 4 << 30;
/// Bytes of a trainer process before it trains anything: code, runtime, buffers.
const PROCESS_BYTES: u64 = 48 << 20;
/// Bytes of a CUDA context with its libraries' workspaces.
const CONTEXT_BYTES: u64 = 512 << 20;

/// Estimated memory of cohorts of one shape, from the bytes of one trial ([`state_bytes`], [`workspace_bytes`]).
pub fn memory_need(state_bytes: u64, workspace_bytes: u64, hardware: Hardware) -> MemoryNeed {
    match hardware {
        Hardware::Processor { threads } => MemoryNeed {
            fixed: PROCESS_BYTES.saturating_add(workspace_bytes.saturating_mul(threads.max(1) as u64)),
            per_replica: state_bytes,
        },
        Hardware::Card => {
            MemoryNeed { fixed: CONTEXT_BYTES, per_replica: state_bytes.saturating_add(workspace_bytes) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(task: serde_json::Value, model: serde_json::Value, batch: serde_json::Value) -> TrialConfig {
        let train = json!({"steps": 1, "batch": batch, "optimizer": {"kind": "adam", "lr": 1e-3}});
        TrialConfig::from_json(&json!({"task": task, "model": model, "train": train})).unwrap()
    }

    fn counting(dim: usize, vocab: usize, attention_bias: bool) -> TrialConfig {
        config(
            json!({"kind": "query-count", "vocab": vocab}),
            json!({"kind": "transformer", "layers": 2, "heads": 4, "dim": dim, "attention-bias": attention_bias}),
            json!(16),
        )
    }

    /// The one-layer model of Nanda et al. 2023 ("about 227 thousand"): p = 113, learned positions, MLP biases only.
    #[test]
    fn parameters_of_the_grokking_model() {
        let model = json!({"kind": "transformer", "layers": 1, "heads": 4, "dim": 128, "norm": "none"});
        let nanda =
            config(json!({"kind": "modular", "modulus": 113, "train-share": 0.3}), model, json!("full"));
        let (embedding, positions, attention) = (114 * 128, 3 * 128, 4 * 128 * 128);
        let (mlp, read_out) = (2 * 128 * 512 + 512 + 128, 128 * 114);
        assert_eq!(parameters(&nanda), embedding + positions + attention + mlp + read_out);
        assert_eq!(parameters(&nanda), 226_816);
    }

    /// The extreme models of the counting study: biases on every map give the often quoted 2,209 and 608,129; our
    /// default leaves the attention biases out, which is 4 d per block less.
    #[test]
    fn parameters_of_the_counting_models() {
        assert_eq!(parameters(&counting(8, 5, true)), 2_209);
        assert_eq!(parameters(&counting(128, 150, true)), 608_129);
        assert_eq!(parameters(&counting(8, 5, false)), 2_209 - 2 * 4 * 8);
    }

    #[test]
    fn tied_gated_and_post_norm_models() {
        let model = json!({"kind": "transformer", "layers": 3, "heads": 2, "dim": 16, "mlp-dim": 20, "tied": true,
            "activation": "geglu", "norm": "post", "positions": "rotary", "mlp-bias": false});
        let tied = config(json!({"kind": "modular", "modulus": 7, "train-share": 0.5}), model, json!("full"));
        assert_eq!(parameters(&tied), 8 * 16 + 3 * (4 * 16 * 16 + 3 * 16 * 20 + 4 * 16));
    }

    /// With f = 4d a layer costs 24nd² + 4n²d + 3hn² per sequence.
    #[test]
    fn operations_of_the_counting_models() {
        let layer = |n: f64, d: f64| 24.0 * n * d * d + 4.0 * n * n * d + 3.0 * 4.0 * n * n;
        let expected = 3.0 * 16.0 * (2.0 * layer(50.0, 8.0) + 2.0 * 8.0);
        assert_eq!(flops_per_update(&counting(8, 5, false)), expected);
        // 100,000 updates: 1.8e12 for the smallest model of the grid, 1.7e16 for the largest.
        assert!((flops_per_update(&counting(8, 5, false)) * 1e5 / 1.8e12 - 1.0).abs() < 0.03);
        assert!((flops_per_update(&counting(128, 150, false)) * 1e5 / 1.7e16 - 1.0).abs() < 0.03);
    }

    #[test]
    fn a_model_that_sees_only_counts_has_one_row_per_token() {
        let model = json!({"kind": "transformer", "layers": 1, "heads": 4, "dim": 8, "positions": "none", "causal": false});
        let of_length = |length: usize| {
            let task = json!({"kind": "query-count", "vocab": 12, "length": length});
            config(task, model.clone(), json!(16))
        };
        let (short, long) = (of_length(12), of_length(1200));
        assert_eq!(flops_per_update(&short), flops_per_update(&long));
        assert_eq!(memory_bytes(&short, 1), memory_bytes(&long, 1));
    }

    #[test]
    fn a_full_batch_counts_every_training_example() {
        let model = json!({"kind": "transformer", "layers": 1, "heads": 4, "dim": 128});
        let task = json!({"kind": "modular", "modulus": 113, "train-share": 0.3});
        let full = flops_per_update(&config(task.clone(), model.clone(), json!("full")));
        assert_eq!(full, flops_per_update(&config(task, model, json!(3830))));
    }

    #[test]
    fn memory_grows_with_replicas_and_holds_at_least_the_training_state() {
        let config = counting(32, 20, false);
        let one = memory_bytes(&config, 1);
        assert!(one > parameters(&config) * 4 * 4);
        assert_eq!(memory_bytes(&config, 7), 7 * one);
    }

    #[test]
    fn a_processor_shares_workspaces_and_a_card_does_not() {
        let threads = |threads| memory_need(10, 100, Hardware::Processor { threads });
        assert_eq!(threads(2).of(5) - threads(2).of(4), 10);
        assert_eq!(threads(3).of(5) - threads(2).of(5), 100);
        let card = memory_need(10, 100, Hardware::Card);
        assert_eq!(card.of(5) - card.of(4), 110);
        assert_eq!(card.most(card.of(4) + 109), 4);
        assert_eq!(card.most(card.of(5)), 5);
        let mut large = counting(32, 20, false);
        large.train.batch = Batch::Size(1 << 22);
        let workspace = workspace_bytes(&large);
        assert!(
            (WORKSPACE_BYTES - WORKSPACE_BYTES / 100..=WORKSPACE_BYTES).contains(&workspace),
            "{workspace}"
        );
        assert_eq!(card.most(7), 0, "not even the context fits");
        let config = counting(32, 20, false);
        assert_eq!(state_bytes(&config) + workspace_bytes(&config), memory_bytes(&config, 1));
        assert_eq!(state_bytes(&config), parameters(&config) * 4 * 4);
    }
}
