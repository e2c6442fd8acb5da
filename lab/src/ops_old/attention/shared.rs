//! Attention whose keys are the same rows for every example (token types in count space): matrix products per head.

use super::{Plan, Sizes, softmax};
use crate::float::{Float, sum_of, vectorised};
use crate::ops_old::gemm::{Matrix, multiply_into};

/// Whether this form serves a plan.
pub(super) fn applies(plan: &Plan, sizes: Sizes) -> bool {
    plan.keys_in_order && plan.queries == 1 && plan.dropout.is_none() && plan.keys <= sizes.key_rows
}

/// The queries of one replica's examples, `[B, d]`.
fn queries<T: Float>(q: &[T], replica: usize, plan: &Plan, sizes: Sizes) -> Vec<T> {
    let rows = &plan.query_rows.rows()[replica * plan.examples..][..plan.examples];
    let mut asked = Vec::with_capacity(plan.examples * sizes.width);
    for row in rows {
        asked.extend_from_slice(
            &q[(replica * sizes.query_rows + *row as usize) * sizes.width..][..sizes.width],
        );
    }
    asked
}

/// Output `[K, B, d]` and weights `[K, B, H, T]`.
pub(super) fn forward<T: Float>(
    [q, k, v]: [&[T]; 3],
    bias: Option<&[T]>,
    plan: &Plan,
    sizes: Sizes,
) -> (Vec<T>, Vec<T>) {
    let (heads, examples, keys, width) = (plan.heads, plan.examples, plan.keys, sizes.width);
    let size = width / heads;
    let scale = T::of(1.0 / (size as f64).sqrt());
    let mut output = vec![T::ZERO; sizes.replicas * examples * width];
    let mut weights = vec![T::ZERO; sizes.replicas * examples * heads * keys];
    for replica in 0..sizes.replicas {
        let asked = queries(q, replica, plan, sizes);
        let k = &k[replica * sizes.key_rows * width..][..keys * width];
        let v = &v[replica * sizes.key_rows * width..][..keys * width];
        let weights = &mut weights[replica * examples * heads * keys..][..examples * heads * keys];
        let output = &mut output[replica * examples * width..][..examples * width];
        for head in 0..heads {
            let asked = Matrix::strided(&asked[head * size..], examples, size, width);
            let k = Matrix::strided(&k[head * size..], keys, size, width);
            multiply_into(&mut weights[head * keys..], heads * keys, asked, k.transposed(), false);
        }
        vectorised(|| {
            for (example, weights) in weights.chunks_exact_mut(heads * keys).enumerate() {
                let bias = bias.map(|bias| &bias[(replica * examples + example) * keys..][..keys]);
                for weights in weights.chunks_exact_mut(keys) {
                    match bias {
                        Some(bias) => {
                            for (weight, bias) in weights.iter_mut().zip(bias) {
                                *weight = *weight * scale + *bias;
                            }
                        }
                        None => weights.iter_mut().for_each(|weight| *weight *= scale),
                    }
                    softmax(weights);
                }
            }
        });
        for head in 0..heads {
            let weights = Matrix::strided(&weights[head * keys..], examples, keys, heads * keys);
            let v = Matrix::strided(&v[head * size..], keys, size, width);
            multiply_into(&mut output[head * size..], width, weights, v, false);
        }
    }
    (output, weights)
}

/// Gradients of q, k and v.
pub(super) fn backward<T: Float>(
    [q, k, v, weights, gradient]: [&[T]; 5],
    plan: &Plan,
    sizes: Sizes,
) -> [Vec<T>; 3] {
    let (heads, examples, keys, width) = (plan.heads, plan.examples, plan.keys, sizes.width);
    let size = width / heads;
    let scale = T::of(1.0 / (size as f64).sqrt());
    let mut to_q = vec![T::ZERO; q.len()];
    let mut to_k = vec![T::ZERO; k.len()];
    let mut to_v = vec![T::ZERO; v.len()];
    let mut to_logits = vec![T::ZERO; examples * heads * keys];
    let mut to_asked = vec![T::ZERO; examples * width];
    for replica in 0..sizes.replicas {
        let asked = queries(q, replica, plan, sizes);
        let key_start = replica * sizes.key_rows * width;
        let (k, v) = (&k[key_start..][..keys * width], &v[key_start..][..keys * width]);
        let weights = &weights[replica * examples * heads * keys..][..examples * heads * keys];
        let gradient = &gradient[replica * examples * width..][..examples * width];
        for head in 0..heads {
            let target = &mut to_logits[head * keys..];
            multiply_into(
                target,
                heads * keys,
                head_of(gradient, examples, head, size, width),
                head_of(v, keys, head, size, width).transposed(),
                false,
            );
        }
        vectorised(|| {
            for (to_logits, weights) in to_logits.chunks_exact_mut(keys).zip(weights.chunks_exact(keys)) {
                let mean = sum_of(keys, |key| to_logits[key] * weights[key]);
                for (to_logit, weight) in to_logits.iter_mut().zip(weights) {
                    *to_logit = *weight * (*to_logit - mean) * scale;
                }
            }
        });
        for head in 0..heads {
            let to_logits = Matrix::strided(&to_logits[head * keys..], examples, keys, heads * keys);
            let weights = Matrix::strided(&weights[head * keys..], examples, keys, heads * keys);
            let at = head * size;
            multiply_into(&mut to_asked[at..], width, to_logits, head_of(k, keys, head, size, width), false);
            let target = &mut to_k[key_start + at..key_start + keys * width];
            multiply_into(
                target,
                width,
                to_logits.transposed(),
                head_of(&asked, examples, head, size, width),
                false,
            );
            let target = &mut to_v[key_start + at..key_start + keys * width];
            multiply_into(
                target,
                width,
                weights.transposed(),
                head_of(gradient, examples, head, size, width),
                false,
            );
        }
        let rows = &plan.query_rows.rows()[replica * examples..][..examples];
        for (row, to_asked) in rows.iter().zip(to_asked.chunks_exact(width)) {
            let start = (replica * sizes.query_rows + *row as usize) * width;
            for (sum, value) in to_q[start..start + width].iter_mut().zip(to_asked) {
                *sum += *value;
            }
        }
    }
    [to_q, to_k, to_v]
}

/// The coordinates of one head in `rows` rows of width `width`.
fn head_of<T: Float>(values: &[T], rows: usize, head: usize, size: usize, width: usize) -> Matrix<'_, T> {
    Matrix::strided(&values[head * size..], rows, size, width)
}
