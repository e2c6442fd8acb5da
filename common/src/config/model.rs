//! Models and their settings.

use serde::Serialize;

use crate::fields::{ConfigResult, Fields};
use crate::limits;
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

/// How the model learns where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// A trained embedding per position.
    Learned,
    /// Fixed sines and cosines (Vaswani et al. 2017, 3.5).
    Sinusoidal,
    /// Rotation of queries and keys (Su et al. 2021), base 10 000, half-split pairs as in GPT-NeoX.
    Rotary,
    /// None.
    None,
}

/// How weights start; named after the source of the scheme. Biases start at 0 and norm gains at 1 in all of them.
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
    /// Default `"learned"`.
    pub positions: Positions,
    /// Each position sees only itself and those before. Default true.
    pub causal: bool,
    /// Dropout probability on embeddings, attention weights and both residual branches. Default 0.
    pub dropout: f64,
    /// Default `"nanda"`.
    pub initialisation: Initialisation,
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
        model.positions == Positions::None && !model.causal && model.dropout == 0.0
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
        let positions = [
            ("learned", Positions::Learned),
            ("sinusoidal", Positions::Sinusoidal),
            ("rotary", Positions::Rotary),
            ("none", Positions::None),
        ];
        let schemes = [
            ("nanda", Initialisation::Nanda),
            ("gpt2", Initialisation::Gpt2),
            ("pytorch", Initialisation::Pytorch),
            ("xavier", Initialisation::Xavier),
            ("counting-pilot", Initialisation::CountingPilot),
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
            positions: fields.choice("positions", &positions)?.unwrap_or(Positions::Learned),
            causal: fields.boolean("causal")?.unwrap_or(true),
            dropout: fields.number("dropout", 0.0..=0.999)?.unwrap_or(0.0),
            initialisation: fields.choice("initialisation", &schemes)?.unwrap_or(Initialisation::Nanda),
        };
        if config.positions == Positions::Rotary && (dim / heads) % 2 != 0 {
            return Err(fields
                .error("positions", format!("rotary positions need an even head size, found {}", dim / heads))
                .suggest("change `dim` or `heads`"));
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
