//! Models and their settings.

use serde::Serialize;

use crate::fields::{ConfigResult, Fields};
use crate::limits;
use crate::positions::{Entry, Positions};
use crate::tasks::TaskConfig;

/// `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ModelConfig {
    /// A stack of attention and MLP blocks.
    Transformer(TransformerConfig),
}

/// The MLP's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// x Φ(x), exact (erf), as PyTorch's default.
    Gelu,
    /// GELU-gated linear unit: gelu(x W_gate) * (x W_up) (Shazeer 2020).
    Geglu,
}

/// Where layer norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Before attention and MLP, plus one final norm.
    Pre,
    /// After each residual sum (Vaswani et al. 2017).
    Post,
    /// None at all (Nanda et al. 2023).
    None,
}

/// Where the embedded input is added to the states once more (Bansal et al. 2022, "recall"). The first block starts from the
/// embedded input itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Injection {
    /// Nowhere.
    None,
    /// Before the first layer of every recurrence but the first.
    Block,
    /// Before every layer but the very first.
    Layer,
}

/// What stands between the last block and the read-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// Nothing.
    Linear,
    /// An MLP as in the blocks but without residual, a layer norm and a linear map of the same width, as McLeish et al. 2024
    /// (their released code) have it.
    Transform,
}

/// How weights start; named after the source of the scheme. Biases start at 0, unless said otherwise, and norm gains at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialisation {
    /// Nanda et al. 2023: normal, sd 1/sqrt(dim) everywhere, 1/sqrt(classes) for the read-out.
    Nanda,
    /// GPT-2: normal, sd 0.02, residual output matrices divided by sqrt(2 layers).
    Gpt2,
    /// PyTorch's defaults: linear maps and their biases uniform in ±1/sqrt(fan-in); embeddings normal, sd 1.
    Pytorch,
    /// Glorot and Bengio 2010: uniform ±sqrt(6/(fan-in + fan-out)); embeddings normal, sd 1/sqrt(dim).
    Xavier,
    /// Our own laptop-scale counting configuration (docs/science.md, "Laptop configuration"): normal with sd 0.5 for
    /// embeddings, 1/sqrt(d) for attention and read-out, sqrt(2/d) and 1/sqrt(mlp width) for the MLP.
    CountingPilot,
    /// McLeish et al. 2024, released code: Glorot normal, times (8 N)^(-1/4) except for queries and keys, N being layers times
    /// recurrences (the initialisation of Wang et al. 2022 without their scaled residuals); embeddings normal, sd 1/sqrt(dim).
    DeepnormStraight,
    /// Murty et al. 2023, released code: Glorot uniform, with a gain of sqrt(2) for the MLP's first matrix, embedding and read-out by their
    /// own sizes; biases uniform in ±1/sqrt(fan-in).
    Murty,
}

/// Settings of the transformer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TransformerConfig {
    /// Blocks. Required.
    pub layers: usize,
    /// Attention heads; must divide `dim`. Required.
    pub heads: usize,
    /// Width of the residual stream. Required.
    pub dim: usize,
    /// Hidden width of the MLP. Default 4 dim.
    pub mlp_dim: usize,
    /// Default `"relu"`.
    pub activation: Activation,
    /// Default `"pre"`.
    pub norm: Norm,
    /// Biases on the four attention maps. Default false.
    pub attention_bias: bool,
    /// Biases in the MLP. Default true.
    pub mlp_bias: bool,
    /// Bias on the read-out. Default: true for a scalar read-out, false for classes.
    pub read_out_bias: bool,
    /// Read out with the token embedding itself. Default false.
    pub tied: bool,
    /// Default `"learned"`; schemes are combined with `+`.
    #[serde(flatten)]
    pub positions: Positions,
    /// Each position sees only itself and those before. Default true.
    pub causal: bool,
    /// Dropout probability on embeddings, attention weights and both residual branches. Default 0.
    pub dropout: f64,
    /// Whether dropout applies to the MLP's hidden units as well. Default false.
    #[serde(skip_serializing_if = "is_false")]
    pub mlp_dropout: bool,
    /// Default `"nanda"`.
    pub initialisation: Initialisation,
    /// Times the layers are passed, each time with the same weights; the model is layers times this deep. Default 1.
    #[serde(skip_serializing_if = "is_one")]
    pub recurrences: usize,
    /// Default `"none"`.
    #[serde(skip_serializing_if = "is_none")]
    pub injection: Injection,
    /// Layer norm of the embeddings before the first block. Default false.
    #[serde(skip_serializing_if = "is_false")]
    pub embedding_norm: bool,
    /// Token embeddings, but not positions, times the square root of the width (Vaswani et al. 2017, 3.4). Default false.
    #[serde(skip_serializing_if = "is_false")]
    pub scaled_embedding: bool,
    /// Default `"linear"`.
    #[serde(rename = "read-out", skip_serializing_if = "is_linear")]
    pub head: Head,
}

// Settings that came later are left out of the canonical form at their defaults, so that trials keep their ids.

/// A default that the canonical form leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OmittedDefault {
    /// A number of things.
    Count(u64),
    /// A switch.
    Switch(bool),
    /// One of several words.
    Word(&'static str),
}

/// Model settings that the canonical form leaves out at their defaults, by dotted path.
pub const OMITTED_DEFAULTS: [(&str, OmittedDefault); 6] = [
    ("model.recurrences", OmittedDefault::Count(1)),
    ("model.injection", OmittedDefault::Word("none")),
    ("model.embedding-norm", OmittedDefault::Switch(false)),
    ("model.scaled-embedding", OmittedDefault::Switch(false)),
    ("model.mlp-dropout", OmittedDefault::Switch(false)),
    ("model.read-out", OmittedDefault::Word("linear")),
];

fn is_one(recurrences: &usize) -> bool {
    *recurrences == 1
}

fn is_none(injection: &Injection) -> bool {
    *injection == Injection::None
}

fn is_false(switch: &bool) -> bool {
    !switch
}

fn is_linear(head: &Head) -> bool {
    *head == Head::Linear
}

impl ModelConfig {
    /// Reads `[model]` for a task.
    pub fn read(mut fields: Fields<'_>, task: &TaskConfig) -> ConfigResult<Self> {
        fields.choice("kind", &[("transformer", ())])?;
        Ok(ModelConfig::Transformer(TransformerConfig::read(fields, task)?))
    }

    /// Whether the model cannot tell a sequence from its multiset of tokens and the last token (no positions, no causal
    /// mask), so that the exact forward from token counts may be used (docs/science.md, "Counting from the histogram").
    pub fn is_permutation_invariant(&self) -> bool {
        let ModelConfig::Transformer(model) = self;
        model.positions.is_none() && !model.causal && model.dropout == 0.0
    }
}

impl ModelConfig {
    /// Whether the model can read sequences of lengths of their own without padding: attention looks back only, and positions enter by a
    /// table. (Rotations and biases of attention are laid out for one length.)
    pub fn can_be_ragged(&self) -> bool {
        let ModelConfig::Transformer(model) = self;
        let by_table = |entry| {
            matches!(entry, Entry::LearnedTable { .. } | Entry::FixedTable(_) | Entry::TokenTable { .. })
        };
        model.causal
            && model.positions.random_positions().is_none()
            && model.positions.entries().all(by_table)
    }
}

impl TransformerConfig {
    fn read(mut fields: Fields<'_>, task: &TaskConfig) -> ConfigResult<Self> {
        let layers = fields.integer("layers", 1..=limits::MAX_LAYERS)?;
        let layers = fields.require("layers", layers)?;
        let heads = fields.integer("heads", 1..=limits::MAX_WIDTH)?;
        let heads = fields.require("heads", heads)?;
        let dim = fields.integer("dim", 1..=limits::MAX_WIDTH)?;
        let dim = fields.require("dim", dim)?;
        if dim % heads != 0 {
            let divisors: Vec<String> =
                (1..=dim.min(128)).filter(|h| dim % h == 0).map(|h| h.to_string()).collect();
            return Err(fields
                .error("heads", format!("{heads} heads do not divide the width model.dim = {dim}"))
                .suggest(format!("heads may be {}", divisors.join(", "))));
        }
        let shape = task.shape();
        let activations =
            [("relu", Activation::Relu), ("gelu", Activation::Gelu), ("geglu", Activation::Geglu)];
        let norms = [("pre", Norm::Pre), ("post", Norm::Post), ("none", Norm::None)];
        let injections =
            [("none", Injection::None), ("block", Injection::Block), ("layer", Injection::Layer)];
        let read_outs = [("linear", Head::Linear), ("transform", Head::Transform)];
        let schemes = [
            ("nanda", Initialisation::Nanda),
            ("gpt2", Initialisation::Gpt2),
            ("pytorch", Initialisation::Pytorch),
            ("xavier", Initialisation::Xavier),
            ("counting-pilot", Initialisation::CountingPilot),
            ("deepnorm-straight", Initialisation::DeepnormStraight),
            ("murty", Initialisation::Murty),
        ];
        let config = TransformerConfig {
            layers,
            heads,
            dim,
            mlp_dim: fields.integer("mlp-dim", 1..=limits::MAX_WIDTH)?.unwrap_or(4 * dim),
            activation: fields.choice("activation", &activations)?.unwrap_or(Activation::Relu),
            norm: fields.choice("norm", &norms)?.unwrap_or(Norm::Pre),
            attention_bias: fields.boolean("attention-bias")?.unwrap_or(false),
            mlp_bias: fields.boolean("mlp-bias")?.unwrap_or(true),
            read_out_bias: fields.boolean("read-out-bias")?.unwrap_or(shape.output.is_scalar()),
            tied: fields.boolean("tied")?.unwrap_or(false),
            positions: Positions::read(&mut fields, task)?,
            causal: fields.boolean("causal")?.unwrap_or(true),
            dropout: fields.number("dropout", 0.0..=0.999)?.unwrap_or(0.0),
            mlp_dropout: fields.boolean("mlp-dropout")?.unwrap_or(false),
            initialisation: fields.choice("initialisation", &schemes)?.unwrap_or(Initialisation::Nanda),
            recurrences: fields.integer("recurrences", 1..=limits::MAX_LAYERS / layers)?.unwrap_or(1),
            injection: fields.choice("injection", &injections)?.unwrap_or(Injection::None),
            embedding_norm: fields.boolean("embedding-norm")?.unwrap_or(false),
            scaled_embedding: fields.boolean("scaled-embedding")?.unwrap_or(false),
            head: fields.choice("read-out", &read_outs)?.unwrap_or(Head::Linear),
        };
        let rotates = config.positions.entries().any(|entry| matches!(entry, Entry::Rotation { .. }));
        if rotates && (dim / heads) % 2 != 0 {
            return Err(fields
                .error("positions", format!("rotary positions need an even head size, found {}", dim / heads))
                .suggest("change `dim` or `heads`"));
        }
        let has_fire = config.positions.entries().any(|entry| matches!(entry, Entry::Fire(_)));
        if has_fire && !config.causal {
            return Err(fields
                .error("positions", "FIRE is defined for causal attention only")
                .suggest("drop `fire`, or set causal = true"));
        }
        if config.tied && shape.output.width() != shape.vocabulary {
            return Err(fields
                .error(
                    "tied",
                    format!(
                        "a tied read-out needs as many outputs ({}) as input tokens ({})",
                        shape.output.width(),
                        shape.vocabulary
                    ),
                )
                .suggest("set tied = false for this task"));
        }
        fields.finish()?;
        Ok(config)
    }
}
