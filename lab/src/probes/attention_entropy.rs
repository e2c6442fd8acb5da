//! `attention_entropy/<layer>` (of looped models `<layer>` goes on through the recurrences): entropy of the attention weights in nats, mean over heads and read positions.
//!
//! In count space a token type stands for c positions of equal weight, which adds log c to its share; so both forms of
//! input give the same number.

use plateau_common::tasks::Input;

use super::attention::{self, entropy};
use super::{Measured, Measuring};
use crate::error::LabError;
use crate::network::Network;

pub(super) fn measure(measuring: &Measuring<'_>) -> Result<Measured, LabError> {
    let entropies = entropies(measuring.network, &measuring.test_batch.input)?;
    let named = entropies.into_iter().enumerate();
    Ok(named.map(|(layer, entropy)| (format!("attention_entropy/{layer}"), entropy)).collect())
}

/// The mean entropy of every layer.
fn entropies(network: &Network, input: &Input) -> Result<Vec<f64>, LabError> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    attention::visit::<f64>(network, input, network.reads_last(), &mut |weights| {
        sums.resize(sums.len().max(weights.layer + 1), (0.0, 0.0));
        let (sum, terms) = &mut sums[weights.layer];
        *sum += entropy(weights.weights, weights.log_counts);
        *terms += 1.0;
    })?;
    Ok(sums.into_iter().map(|(sum, terms)| sum / terms).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
mod tests {
    use plateau_common::config::TrialConfig;
    use plateau_common::tasks::Input;
    use serde_json::json;

    use super::entropies;
    use crate::network::Network;

    fn network(layers: usize, norm: &str, positions: &str, causal: bool) -> Network {
        let config = TrialConfig::from_json(&json!({
            "task": {"kind": "noise", "vocab": 5, "length": 12},
            "model": {"kind": "transformer", "layers": layers, "heads": 2, "dim": 8, "norm": norm,
                "positions": positions, "causal": causal},
            "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adam", "lr": 1e-3}}
        }));
        let config = config.unwrap();
        Network::new(&config.model, config.task.shape(), 3)
    }

    fn tokens(examples: usize) -> Vec<u32> {
        (0..12 * examples).map(|at| ((at * at + 3 * at + at / 12) % 5) as u32).collect()
    }

    #[test]
    fn counts_and_tokens_have_the_same_entropies() {
        let tokens = tokens(9);
        let mut counts = vec![0f32; 9 * 5];
        tokens.iter().enumerate().for_each(|(at, token)| counts[at / 12 * 5 + *token as usize] += 1.0);
        assert!(counts.contains(&0.0), "a token that does not occur belongs into this test");
        let last = tokens.chunks(12).map(|example| example[11]).collect();
        let (as_tokens, as_counts) = (Input::Tokens { tokens, length: 12 }, Input::Counts { counts, last });
        for layers in 1..=3 {
            for norm in ["pre", "post", "none"] {
                let network = network(layers, norm, "none", false);
                let [by_tokens, by_counts] =
                    [&as_tokens, &as_counts].map(|input| entropies(&network, input).unwrap());
                assert_eq!(by_tokens.len(), layers);
                for (a, b) in by_tokens.iter().zip(&by_counts) {
                    assert!((a - b).abs() < 1e-9, "{layers} layers, {norm}: {by_tokens:?} and {by_counts:?}");
                    assert!(*a > 0.0 && *a < 12f64.ln() + 1e-9);
                }
            }
        }
    }

    /// Without queries attention is uniform: its entropy is the logarithm of how many positions it sees.
    #[test]
    fn uniform_attention_has_the_entropy_of_its_positions() {
        for causal in [false, true] {
            let mut network = network(2, "pre", "learned", causal);
            for layer in 0..2 {
                network.set(&format!("blocks.{layer}.attention.query"), &[0.0; 64]).unwrap();
            }
            let input = Input::Tokens { tokens: tokens(3), length: 12 };
            for entropy in entropies(&network, &input).unwrap() {
                assert!((entropy - 12f64.ln()).abs() < 1e-12, "the last position sees all 12: {entropy}");
            }
        }
    }
}
