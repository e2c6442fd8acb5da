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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
mod tests {
    use plateau_common::config::TrialConfig;
    use serde_json::json;

    use super::*;
    use crate::network::Network;

    fn paper(task: &str, layers: usize) -> TrialConfig {
        let config = TrialConfig::from_json(&json!({
            "task": {"kind": task, "training-examples": 10, "validation-examples": 10, "generalisation-examples": 10},
            "model": {"kind": "transformer", "layers": layers, "heads": 8, "dim": 512, "norm": "post",
                "positions": "sinusoidal", "scaled-embedding": true, "read-out-bias": true, "dropout": 0.1,
                "initialisation": "murty"},
            "train": {"steps": 1, "batch": 8, "optimizer": {"kind": "adamw", "lr": 1e-4}}
        }));
        config.unwrap()
    }

    /// Expected squares (of the paper's sizes) and what the paper's figure 3b shows at the start of tense inflection with 2 layers: 122.3.
    #[test]
    fn norms_at_the_start_are_those_of_the_released_code() {
        let config = paper("tense-inflection", 2);
        let ModelConfig::Transformer(model) = &config.model;
        assert!((unused_decoder(model) - 48_546.0).abs() < 0.5, "{}", unused_decoder(model));
        let network = Network::new(&config.model, config.task.shape(), 42);
        let square = |prefix: &str| -> f64 {
            let layout = network.layout();
            let own = |place: &usize| layout.parameters[*place].name.starts_with(prefix);
            let places = (0..layout.parameters.len()).filter(own);
            places.map(|place| square_sum(&network.weights()[layout.range(place)])).sum()
        };
        for (prefix, expected) in [
            ("blocks.0.", 5531.0),
            ("blocks.1.", 5531.0),
            ("embedding.token", 168.7),
            ("read_out.weight", 168.7),
        ] {
            let found = square(prefix);
            assert!((found / expected - 1.0).abs() < 0.02, "{prefix}: {found} instead of {expected}");
        }
        let reference = (square("") + unused_decoder(model)).sqrt() / 2.0;
        assert!((reference - 122.3).abs() < 0.5, "{reference}");
    }
}
