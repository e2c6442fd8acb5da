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
