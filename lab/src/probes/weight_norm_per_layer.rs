//! The norm of all weights by depth, in three definitions (Murty et al. 2023, section 4.2):
//!
//! - `weight_norm_per_layer/reference`: as the released code computes it: the norm of all parameters and of a decoder that is created beside
//!   the model and never trained, divided by the number of layers. What the decoder adds is its expectation at the start;
//! - `weight_norm_per_layer/trained`: of the trained parameters, divided by the number of layers;
//! - `weight_norm_per_root_layer`: the same divided by its square root.

use plateau_common::config::{ModelConfig, TransformerConfig};

use super::{Measured, Measuring};
use crate::optimizer::square_sum;

/// Layers of the decoder that is never used.
const DECODER_LAYERS: f64 = 6.0;

/// Expected sum of the squares of the unused decoder: of each layer eight square maps of Glorot's variance, two maps of the MLP, the
/// first with twice the variance, biases uniform in ±1/sqrt(fan-in), and the gains of three norms.
fn unused_decoder(model: &TransformerConfig) -> f64 {
    let (dim, mlp) = (model.dim as f64, model.mlp_dim as f64);
    let maps = 8.0 * dim + 3.0 * 2.0 * dim * mlp / (dim + mlp);
    let biases = (mlp / dim + dim / mlp) / 3.0;
    DECODER_LAYERS * (maps + biases + 3.0 * dim)
}

pub(super) fn measure(measuring: &Measuring<'_>) -> Measured {
    let ModelConfig::Transformer(model) = measuring.model;
    let layers = model.layers as f64;
    let trained = square_sum(measuring.network.weights());
    vec![
        ("weight_norm_per_layer/reference".to_owned(), (trained + unused_decoder(model)).sqrt() / layers),
        ("weight_norm_per_layer/trained".to_owned(), trained.sqrt() / layers),
        ("weight_norm_per_root_layer".to_owned(), (trained / layers).sqrt()),
    ]
}
