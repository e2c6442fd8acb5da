//! Attention of few queries an example to keys that all examples share (count space): matrix products, head by head.
//!
//! Query rows are gathered, so that logits of a head are one product of [asked, head size] and [head size, keys], with all
//! asked queries of all examples side by side; the rest follows. Gradients of keys and values are products too, and those of
//! the queries are added to the rows they were gathered from in the order of the examples.
//!
//! Does not know dropout and hides nothing but by biases: `few` does.

use super::Attention;
use super::few::softmax;
use crate::cpu::Call;
use crate::float::{Float, sum_of, vectorised};
use crate::ops::gemm::{Finish, Matrix, multiply};
use crate::program::{Extent, Rows};

/// Saved buffers: weights, and gradients of the unscaled logits, both [example, query, head, key]; the queries gathered, and
/// their gradients.
const WEIGHTS: usize = 0;
const TO_LOGITS: usize = 1;
const QUERIES: usize = 2;
const TO_QUERIES: usize = 3;

/// Stages of the backward pass.
pub(super) const BACKWARD_STAGES: usize = 2;

/// What the forward pass keeps.
pub(super) fn saved(attention: &Attention) -> Vec<Extent> {
    let rows = Rows::PerExample(attention.queries);
    let weights = Extent { rows, width: attention.heads * attention.keys };
    let queries = Extent { rows, width: attention.width };
    vec![weights, weights, queries, queries]
}

/// The forward pass of the part's examples.
pub(super) fn forward<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let (size, scale) = (attention.head_size(), T::of(attention.scale()));
    let (q, k, v) = (call.input(0), call.input(1), call.input(2));
    let (query_rows, biases) = (attention.query_rows.of(call), attention.biases(call));
    let (rows, output) = call.output_share_by(queries);
    let (_, asked) = call.saved_share_by(QUERIES, queries);
    let (_, weights) = call.saved_share_by(WEIGHTS, queries);
    let scratch = call.product_scratch();
    if rows.is_empty() {
        return;
    }
    for (row, asked) in rows.clone().zip(asked.chunks_exact_mut(width)) {
        asked.copy_from_slice(&q[query_rows.row(row / queries, row % queries) * width..][..width]);
    }
    let asked = Matrix::new(asked, rows.len(), width);
    let (k, v) = (Matrix::new(&k[..keys * width], keys, width), Matrix::new(&v[..keys * width], keys, width));
    let stride = heads * keys;
    for head in 0..heads {
        let place = head * size..(head + 1) * size;
        let logits = (&mut weights[head * keys..], stride);
        let keys = k.columns(place.clone()).transposed();
        multiply(scratch, logits, asked.columns(place), keys, false, Finish::NONE);
    }
    vectorised(
        #[inline(always)]
        || {
            for (row, weights) in rows.clone().zip(weights.chunks_exact_mut(stride)) {
                let biases = biases.map(|biases| &biases[row / queries * keys..][..keys]);
                for weights in weights.chunks_exact_mut(keys) {
                    match biases {
                        Some(biases) => {
                            for (weight, bias) in weights.iter_mut().zip(biases) {
                                *weight = *weight * scale + *bias;
                            }
                        }
                        None => weights.iter_mut().for_each(|weight| *weight *= scale),
                    }
                    softmax(weights);
                }
            }
        },
    );
    for head in 0..heads {
        let weights = Matrix::strided(&weights[head * keys..], rows.len(), keys, stride);
        let mixed = (&mut output[head * size..], width);
        multiply(scratch, mixed, weights, v.columns(head * size..(head + 1) * size), false, Finish::NONE);
    }
}

/// A stage of the backward pass.
pub(super) fn backward<T: Float>(attention: &Attention, stage: usize, call: &Call<'_, T>) {
    if stage == 0 {
        to_logits(attention, call);
    } else {
        to_queries(attention, call);
        to_keys_and_values(attention, call);
    }
}

/// Gradients of the logits and of the gathered queries of the part's examples.
fn to_logits<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let (size, scale) = (attention.head_size(), T::of(attention.scale()));
    let (k, v, weights, gradient) = (call.input(1), call.input(2), call.saved(WEIGHTS), call.gradient());
    let (rows, to_logits) = call.saved_share_by(TO_LOGITS, queries);
    let (_, to_queries) = call.saved_share_by(TO_QUERIES, queries);
    let scratch = call.product_scratch();
    if rows.is_empty() {
        return;
    }
    let stride = heads * keys;
    let gradient = Matrix::new(&gradient[rows.start * width..], rows.len(), width);
    let (k, v) = (Matrix::new(&k[..keys * width], keys, width), Matrix::new(&v[..keys * width], keys, width));
    for head in 0..heads {
        let place = head * size..(head + 1) * size;
        let to_weights = (&mut to_logits[head * keys..], stride);
        let values = v.columns(place.clone()).transposed();
        multiply(scratch, to_weights, gradient.columns(place), values, false, Finish::NONE);
    }
    vectorised(
        #[inline(always)]
        || {
            let weights = &weights[rows.start * stride..rows.end * stride];
            for (to_logits, weights) in to_logits.chunks_exact_mut(keys).zip(weights.chunks_exact(keys)) {
                let mean = sum_of(keys, |key| to_logits[key] * weights[key]);
                for (to_logit, weight) in to_logits.iter_mut().zip(weights) {
                    *to_logit = *weight * (*to_logit - mean) * scale;
                }
            }
        },
    );
    for head in 0..heads {
        let to_logits = Matrix::strided(&to_logits[head * keys..], rows.len(), keys, stride);
        let to_queries = (&mut to_queries[head * size..], width);
        multiply(
            scratch,
            to_queries,
            to_logits,
            k.columns(head * size..(head + 1) * size),
            false,
            Finish::NONE,
        );
    }
}

/// Adds the gradients of gathered queries to those of their rows.
fn to_queries<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { queries, width, .. } = *attention;
    let (to_queries, query_rows) = (call.saved(TO_QUERIES), attention.query_rows.of(call));
    let Some(sums) = attention.sums(0, call) else { return };
    for example in sums.examples {
        for query in 0..queries {
            let to_query = &to_queries[(example * queries + query) * width..][..width];
            let sum = &mut sums.numbers[(query_rows.row(example, query) - sums.first_row) * width..][..width];
            for (sum, number) in sum.iter_mut().zip(to_query) {
                *sum += *number;
            }
        }
    }
}

/// Gradients of keys and values, which all examples share: the first part's work.
fn to_keys_and_values<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let (size, rows, stride) = (attention.head_size(), call.examples() * queries, heads * keys);
    let scratch = call.product_scratch();
    let sources = [(1, TO_LOGITS, call.saved(QUERIES)), (2, WEIGHTS, call.gradient())];
    for (input, coefficients, values) in sources {
        let coefficients = call.saved(coefficients);
        let Some(share) = call.to_whole_input(input) else { continue };
        let values = Matrix::new(values, rows, width);
        if !share.accumulate {
            share.numbers[keys * width..].fill(T::ZERO);
        }
        for head in 0..heads {
            let coefficients = Matrix::strided(&coefficients[head * keys..], rows, keys, stride).transposed();
            let sums = (&mut share.numbers[head * size..], width);
            let values = values.columns(head * size..(head + 1) * size);
            multiply(scratch, sums, coefficients, values, share.accumulate, Finish::NONE);
        }
    }
}
