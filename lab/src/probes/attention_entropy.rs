//! `attention_entropy/<layer>`: entropy of the attention weights in nats, mean over heads and read positions.
//!
//! In count space a token type stands for c positions of equal weight, which adds log c to its share; so both forms of
//! input give the same number.

use candle_core::{DType, Device, Result, Tensor};

use crate::ops_old::attention::{Plan, reference_weights};

/// Per replica the sum of entropies over examples, read positions and heads; and how many were summed. `asked` names
/// the position read in each example (`[K, B]`), `None` every one.
pub(crate) fn sums(q: &Tensor, k: &Tensor, plan: &Plan, asked: Option<&[u32]>) -> Result<(Vec<f64>, f64)> {
    let replicas = q.dims3()?.0;
    let weights = reference_weights(&q.detach(), &k.detach(), plan)?.to_dtype(DType::F64)?;
    let weights: Vec<f64> = weights.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    let bias: Option<Vec<f64>> = match &plan.bias {
        Some(bias) => Some(bias.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?),
        None => None,
    };
    let mut sums = vec![0.0; replicas];
    let mut terms = 0usize;
    // [K B, H, Q, T]
    for (row, weights) in weights.chunks_exact(plan.keys).enumerate() {
        let (query, example) = (row % plan.queries, row / plan.queries / plan.heads);
        if plan.queries > 1 && asked.is_some_and(|asked| asked[example] as usize != query) {
            continue;
        }
        let bias = bias.as_ref().map(|bias| &bias[example * plan.keys..][..plan.keys]);
        let entropy: f64 = weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight != 0.0)
            .map(|(key, weight)| weight * (bias.map_or(0.0, |bias| bias[key]) - weight.ln()))
            .sum();
        sums[example / plan.examples] += entropy;
        terms += 1;
    }
    Ok((sums, terms as f64 / replicas as f64))
}
