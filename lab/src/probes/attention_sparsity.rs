//! Sparsity of attention over a task's sentences (Murty et al. 2023, section 4.2): minus the entropy, in nats, of what is looked at.
//!
//! - `attention_sparsity`: as the released code adds it up: the heads' weights are averaged, the entropies of a sentence's queries summed (the start token's
//!   included), and layers and sentences averaged;
//! - `attention_sparsity/reference`: the same with the released code's fault that every layer is fed the embedded input instead of the states
//!   of the layer before;
//! - `attention_sparsity/mean`: as the paper's text has it: the mean over all queries of all heads.

use plateau_common::tasks::{Input, Sentences};

use super::attention::{self, entropy};
use super::{Measured, Measuring};
use crate::error::LabError;
use crate::network::Network;

pub(super) fn measure(measuring: &mut Measuring<'_>) -> Result<Measured, LabError> {
    let Some(sentences) = measuring.sentences else { return Ok(Vec::new()) };
    let input = with_start(sentences);
    let network = &mut *measuring.network;
    let own = sparsity(network, &input)?;
    network.set_unchained(true);
    let reference = sparsity(network, &input);
    network.set_unchained(false);
    Ok(vec![
        ("attention_sparsity".to_owned(), own.summed),
        ("attention_sparsity/reference".to_owned(), reference?.summed),
        ("attention_sparsity/mean".to_owned(), own.mean),
    ])
}

/// The sentences behind their start token.
fn with_start(sentences: &Sentences) -> Input {
    let (mut tokens, mut ends) = (Vec::new(), Vec::new());
    for words in sentences.sentences() {
        tokens.push(sentences.start);
        tokens.extend(words);
        ends.push(tokens.len() as u32);
    }
    Input::Ragged { tokens, ends, positions: None }
}

struct Sparsity {
    summed: f64,
    mean: f64,
}

fn sparsity(network: &Network, input: &Input) -> Result<Sparsity, LabError> {
    let Input::Ragged { ends, .. } = input else { return Ok(Sparsity { summed: 0.0, mean: 0.0 }) };
    let (mut summed, mut each, mut terms) = (0.0, 0.0, 0.0);
    let mut averaged: Vec<f64> = Vec::new();
    let layers = attention::visit::<f32>(network, input, false, &mut |own| {
        each += entropy(own.weights, None);
        terms += 1.0;
        if own.head == 0 {
            averaged.clear();
            averaged.resize(own.weights.len(), 0.0);
        }
        averaged.iter_mut().zip(own.weights).for_each(|(sum, weight)| *sum += weight / own.heads as f64);
        if own.head + 1 == own.heads {
            summed += entropy(&averaged, None);
        }
    })?;
    Ok(Sparsity { summed: -summed / (layers * ends.len()) as f64, mean: -each / terms })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
mod tests {
    use plateau_common::config::TrialConfig;
    use serde_json::json;

    use super::*;

    const START: u32 = 4;

    fn network(layers: usize, heads: usize) -> Network {
        let config = TrialConfig::from_json(&json!({
            "task": {"kind": "noise", "vocab": 5, "length": 12, "read-out": "every"},
            "model": {"kind": "transformer", "layers": layers, "heads": heads, "dim": 8, "mlp-dim": 8, "norm": "none",
                "positions": "none"},
            "train": {"steps": 1, "batch": 4, "optimizer": {"kind": "adam", "lr": 1e-3}}
        }));
        let config = config.unwrap();
        Network::new(&config.model, config.task.shape(), 3)
    }

    fn sentences() -> Sentences {
        Sentences { start: START, words: vec![0, 1, 2, 3, 3, 1, 0], ends: vec![3, 7], trees: None }
    }

    /// All zeros but for these places, row-major with 8 columns.
    fn matrix(numbers: &[(usize, usize, f64)]) -> [f64; 64] {
        let mut all = [0.0; 64];
        numbers.iter().for_each(|(row, column, number)| all[row * 8 + column] = *number);
        all
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
    }

    #[test]
    fn uniform_attention_has_the_logarithms_of_what_it_sees() {
        let mut network = network(3, 2);
        for layer in 0..3 {
            network.set(&format!("blocks.{layer}.attention.query"), &[0.0; 64]).unwrap();
        }
        // Queries of 3 and 4 words behind a start token see 1 to 4 and 1 to 5 tokens.
        let logarithms = |tokens: usize| (1..=tokens).map(|seen| (seen as f64).ln()).sum::<f64>();
        for unchained in [false, true] {
            network.set_unchained(unchained);
            let own = sparsity(&network, &with_start(&sentences())).unwrap();
            assert_near(own.summed, -(logarithms(4) + logarithms(5)) / 2.0);
            assert_near(own.mean, -(logarithms(4) + logarithms(5)) / 9.0);
        }
    }

    /// Layer 1 looks at everything alike and rubs out the coordinate by which layer 2 would look at the start token.
    #[test]
    fn the_reference_feeds_every_layer_the_embeddings() {
        let mut network = network(2, 1);
        let zeros = [0.0; 64];
        // Coordinate 0 is 1 in all tokens, coordinate 1 in the start token.
        let mut tokens = [0.0; 40];
        (0..5).for_each(|token| tokens[token * 8] = 1.0);
        tokens[START as usize * 8 + 1] = 1.0;
        network.set("embedding.token", &tokens).unwrap();
        for layer in 0..2 {
            for map in ["query", "key", "value", "output"] {
                network.set(&format!("blocks.{layer}.attention.{map}"), &zeros).unwrap();
            }
            network.set(&format!("blocks.{layer}.mlp.down"), &zeros).unwrap();
        }
        network.set("blocks.0.mlp.up", &matrix(&[(0, 0, 1.0)])).unwrap();
        network.set("blocks.0.mlp.down", &matrix(&[(0, 0, -1.0)])).unwrap();
        // Logits of ln 3 for the start token, 0 for others.
        let sharpness = 3f64.ln() * 8f64.sqrt();
        network.set("blocks.1.attention.query", &matrix(&[(0, 0, sharpness)])).unwrap();
        network.set("blocks.1.attention.key", &matrix(&[(1, 0, 1.0)])).unwrap();

        let uniform = |tokens: usize| (1..=tokens).map(|seen| (seen as f64).ln()).sum::<f64>();
        // 3 parts of 3 + t for the start token, 1 for each of the t others.
        let sharp = |tokens: usize| {
            let entropy = |others: f64| {
                let all = 3.0 + others;
                -(3.0 / all) * (3.0 / all).ln() + others / all * all.ln()
            };
            (0..tokens).map(|others| entropy(others as f64)).sum::<f64>()
        };
        let input = with_start(&sentences());
        let own = sparsity(&network, &input).unwrap();
        assert_near(own.summed, -(uniform(4) + uniform(5)) / 2.0);
        network.set_unchained(true);
        let reference = sparsity(&network, &input).unwrap();
        assert_near(reference.summed, -(uniform(4) + uniform(5) + sharp(4) + sharp(5)) / 4.0);
    }

    /// Two heads that look at one token each look at two together: averaged first, there is entropy; each has none.
    #[test]
    fn heads_are_averaged_before_entropies_are_summed() {
        let mut network = network(1, 2);
        let mut tokens = [0.0; 40];
        (0..5).for_each(|token| tokens[token * 8] = 1.0);
        (tokens[START as usize * 8 + 1], tokens[2]) = (1.0, 1.0);
        network.set("embedding.token", &tokens).unwrap();
        // Head 0 looks at the start token, head 1 at token 0, as hard as it can.
        network.set("blocks.0.attention.query", &matrix(&[(0, 0, 400.0), (0, 4, 400.0)])).unwrap();
        network.set("blocks.0.attention.key", &matrix(&[(1, 0, 1.0), (2, 4, 1.0)])).unwrap();
        let sentences = Sentences { start: START, words: vec![0, 1], ends: vec![2], trees: None };
        let own = sparsity(&network, &with_start(&sentences)).unwrap();
        assert_near(own.summed, -2.0 * 2f64.ln());
        assert_near(own.mean, 0.0);
    }
}
