//! Initialisation schemes of the transformer, named after their sources.

use plateau_common::config::{Initialisation, TransformerConfig};

use super::parameters::Initial;

/// What a parameter is for, with the sizes schemes depend on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// Token or position embedding, a table of this many rows.
    Embedding { rows: usize },
    /// Query and key maps.
    QueryOrKey,
    /// The value map.
    Value,
    /// The map from the heads back to the residual stream.
    AttentionOutput,
    /// First MLP matrix, and the gate.
    Up,
    /// Second MLP matrix.
    Down,
    /// A map from the residual stream to as wide a one, outside the blocks.
    Square,
    /// A map of a small perceptron.
    Perceptron { inputs: usize, outputs: usize },
    /// Read-out to this many outputs.
    ReadOut { outputs: usize },
}

impl Role {
    /// (fan-in, fan-out).
    fn fans(self, config: &TransformerConfig) -> (usize, usize) {
        match self {
            Role::Embedding { .. }
            | Role::QueryOrKey
            | Role::Value
            | Role::AttentionOutput
            | Role::Square => (config.dim, config.dim),
            Role::Perceptron { inputs, outputs } => (inputs, outputs),
            Role::Up => (config.dim, config.mlp_dim),
            Role::Down => (config.mlp_dim, config.dim),
            Role::ReadOut { outputs } => (config.dim, outputs),
        }
    }
}

/// The start of a weight matrix.
pub(super) fn weight(role: Role, config: &TransformerConfig) -> Initial {
    let (fan_in, fan_out) = role.fans(config);
    let (fan_in, fan_out, dim) = (fan_in as f64, fan_out as f64, config.dim as f64);
    match (config.initialisation, role) {
        (Initialisation::Nanda, Role::ReadOut { .. }) => Initial::Normal(1.0 / fan_out.sqrt()),
        (Initialisation::Nanda, _) => Initial::Normal(1.0 / dim.sqrt()),
        (Initialisation::Gpt2, Role::AttentionOutput | Role::Down) => {
            Initial::Normal(0.02 / (2.0 * config.layers as f64).sqrt())
        }
        (Initialisation::Gpt2, _) => Initial::Normal(0.02),
        (Initialisation::Pytorch, Role::Embedding { .. }) => Initial::Normal(1.0),
        (Initialisation::Pytorch, _) => Initial::Uniform(1.0 / fan_in.sqrt()),
        (Initialisation::Xavier, Role::Embedding { .. }) => Initial::Normal(1.0 / dim.sqrt()),
        (Initialisation::Xavier, _) => Initial::Uniform((6.0 / (fan_in + fan_out)).sqrt()),
        (Initialisation::DeepnormStraight, Role::Embedding { .. }) => Initial::Normal(1.0 / dim.sqrt()),
        (Initialisation::DeepnormStraight, role) => {
            let depth = (config.layers * config.recurrences) as f64;
            let gain = if matches!(role, Role::QueryOrKey) { 1.0 } else { (8.0 * depth).powf(-0.25) };
            Initial::Normal(gain * (2.0 / (fan_in + fan_out)).sqrt())
        }
        (Initialisation::Murty, Role::Embedding { rows }) => {
            Initial::Uniform((6.0 / (dim + rows as f64)).sqrt())
        }
        // A gain of sqrt(2) doubles the variance.
        (Initialisation::Murty, Role::Up) => Initial::Uniform((12.0 / (fan_in + fan_out)).sqrt()),
        (Initialisation::Murty, _) => Initial::Uniform((6.0 / (fan_in + fan_out)).sqrt()),
        (Initialisation::CountingPilot, Role::Embedding { .. }) => Initial::Normal(0.5),
        (Initialisation::CountingPilot, Role::Up) => Initial::Normal((2.0 / dim).sqrt()),
        (Initialisation::CountingPilot, _) => Initial::Normal(1.0 / fan_in.sqrt()),
    }
}

/// The start of the bias beside a weight matrix: 0, except in PyTorch's scheme and that of Murty et al.
pub(super) fn bias(role: Role, config: &TransformerConfig) -> Initial {
    match config.initialisation {
        Initialisation::Pytorch | Initialisation::Murty => {
            Initial::Uniform(1.0 / (role.fans(config).0 as f64).sqrt())
        }
        _ => Initial::Constant(0.0),
    }
}
