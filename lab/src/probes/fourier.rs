//! Progress measures of modular addition (Nanda et al. 2023, section 5): `key_frequencies`, `restricted_loss`,
//! `excluded_loss`, and `embedding_gini`.
//!
//! A network that adds by rotation puts out logits cos(w (a + b - c)) for a few frequencies w = 2 pi k / p. For each k
//! the two directions cos(w (a + b)) and sin(w (a + b)) of the table of logits over all pairs (a, b) are a part of its
//! two-dimensional discrete Fourier transform; a frequency is *key* if they hold at least [`KEY_SHARE`] of the logits'
//! variance over pairs. (The paper picks key frequencies once, by hand, from the neurons of the trained network; a share
//! of the logits is the same choice made automatically at every evaluation.) *Restricted loss*: on all pairs, from the
//! key directions and the means only. *Excluded loss*: on the training pairs, without the key directions. Logits are
//! those of the p residues.

use super::{Measured, Measuring};
use crate::float::vectorised;
use crate::ops::objective::log_sum_exp;

/// Share of the logits' variance from which a frequency counts as key.
pub const KEY_SHARE: f64 = 0.02;

/// The measures of one network.
#[derive(Clone, Debug, PartialEq)]
pub struct FourierMeasures {
    /// The key frequencies k, ascending.
    pub key_frequencies: Vec<usize>,
    /// Mean loss on all pairs from key directions and means only.
    pub restricted_loss: f64,
    /// Mean loss on the training pairs without the key directions.
    pub excluded_loss: f64,
}

/// Measures logits `[p p, p]` (row a p + b) of addition modulo `p`; `is_train[a p + b]` tells the training pairs.
pub fn fourier_measures(logits: &[f64], p: usize, is_train: &[bool]) -> FourierMeasures {
    vectorised(
        #[inline(always)]
        || measures(logits, p, is_train),
    )
}

#[inline(always)]
fn measures(logits: &[f64], p: usize, is_train: &[bool]) -> FourierMeasures {
    let pairs = (p * p) as f64;
    let mut means = vec![0.0; p];
    let mut diagonals = vec![0.0; p * p]; // [a + b mod p, c]
    for (pair, row) in logits.chunks_exact(p).enumerate() {
        let diagonal = (pair / p + pair % p) % p;
        for (class, logit) in row.iter().enumerate() {
            means[class] += logit / pairs;
            diagonals[diagonal * p + class] += logit;
        }
    }
    let variance: f64 = logits.iter().enumerate().map(|(at, logit)| (logit - means[at % p]).powi(2)).sum();
    // What the key directions contribute to the logits of pairs with each sum.
    let mut key_part = vec![0.0; p * p];
    let mut key_frequencies = Vec::new();
    for frequency in 1..=(p - 1) / 2 {
        let angle = |sum: usize| 2.0 * std::f64::consts::PI * ((frequency * sum) % p) as f64 / p as f64;
        let (mut cosines, mut sines) = (vec![0.0; p], vec![0.0; p]);
        for sum in 0..p {
            let (sine, cosine) = angle(sum).sin_cos();
            for class in 0..p {
                cosines[class] += 2.0 / pairs * cosine * diagonals[sum * p + class];
                sines[class] += 2.0 / pairs * sine * diagonals[sum * p + class];
            }
        }
        let power: f64 = cosines.iter().chain(&sines).map(|value| value * value * pairs / 2.0).sum();
        if power < KEY_SHARE * variance || variance == 0.0 {
            continue;
        }
        key_frequencies.push(frequency);
        for sum in 0..p {
            let (sine, cosine) = angle(sum).sin_cos();
            for class in 0..p {
                key_part[sum * p + class] += cosine * cosines[class] + sine * sines[class];
            }
        }
    }
    let mut shares = vec![0.0; p];
    let (mut restricted, mut excluded, mut train_pairs) = (0.0, 0.0, 0.0);
    for (pair, row) in logits.chunks_exact(p).enumerate() {
        let sum = (pair / p + pair % p) % p;
        let key = &key_part[sum * p..][..p];
        let kept: Vec<f64> = key.iter().zip(&means).map(|(key, mean)| key + mean).collect();
        restricted += log_sum_exp(&kept, &mut shares) - kept[sum];
        if is_train.get(pair).copied().unwrap_or(false) {
            let rest: Vec<f64> = row.iter().zip(key).map(|(logit, key)| logit - key).collect();
            excluded += log_sum_exp(&rest, &mut shares) - rest[sum];
            train_pairs += 1.0;
        }
    }
    FourierMeasures {
        key_frequencies,
        restricted_loss: restricted / pairs,
        excluded_loss: excluded / train_pairs,
    }
}

/// Gini coefficient: 0 for equal values, towards 1 where one value holds everything.
pub fn gini(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (count, total) = (sorted.len() as f64, sorted.iter().sum::<f64>());
    let weighted: f64 = sorted.iter().enumerate().map(|(rank, value)| (rank as f64 + 1.0) * value).sum();
    2.0 * weighted / (count * total) - (count + 1.0) / count
}

/// Norm of each frequency's part of an embedding `[rows, width]`, over its first `p` rows.
fn frequency_norms(embedding: &[f64], width: usize, p: usize) -> Vec<f64> {
    (1..=(p - 1) / 2)
        .map(|frequency| {
            let (mut cosines, mut sines) = (vec![0.0; width], vec![0.0; width]);
            for (residue, row) in embedding.chunks_exact(width).take(p).enumerate() {
                let angle = 2.0 * std::f64::consts::PI * ((frequency * residue) % p) as f64 / p as f64;
                let (sine, cosine) = angle.sin_cos();
                for (index, value) in row.iter().enumerate() {
                    cosines[index] += cosine * value;
                    sines[index] += sine * value;
                }
            }
            cosines.iter().chain(&sines).map(|value| value * value).sum::<f64>().sqrt()
        })
        .collect()
}

pub(super) fn measure(measuring: &Measuring<'_>) -> Measured {
    let Some(p) = measuring.modulus.map(|modulus| modulus as usize) else { return Vec::new() };
    let mut logits = vec![0.0; p * p * p];
    let mut is_train = vec![false; p * p];
    for (scores, trained_on) in [(measuring.train, true), (measuring.test, false)] {
        let Some(kept) = &scores.kept else { continue };
        for (residues, row) in kept.residues(p as u32).into_iter().zip(kept.outputs()) {
            let pair = residues.0 as usize * p + residues.1 as usize;
            logits[pair * p..][..p].copy_from_slice(&row[..p]);
            is_train[pair] |= trained_on;
        }
    }
    let measures = fourier_measures(&logits, p, &is_train);
    let layout = measuring.network.layout();
    let width = layout
        .parameters
        .iter()
        .find(|parameter| parameter.name == "embedding.token")
        .and_then(|parameter| parameter.shape.get(1).copied())
        .unwrap_or(1);
    let embedding = measuring.network.parameter("embedding.token").unwrap_or_default();
    vec![
        ("key_frequencies".to_owned(), measures.key_frequencies.len() as f64),
        ("restricted_loss".to_owned(), measures.restricted_loss),
        ("excluded_loss".to_owned(), measures.excluded_loss),
        ("embedding_gini".to_owned(), gini(&frequency_norms(embedding, width, p))),
    ]
}
