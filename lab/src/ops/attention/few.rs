//! Attention of few queries an example: one after another, vectors along a head's coordinates.
//!
//! The weights of the few queries are kept for the backward pass, whose first stage turns them into the gradients of the
//! logits and whose second adds up those of q, k and v: where examples share rows, in the order of the examples.

use super::Attention;
use crate::cpu::Call;
use crate::float::{Float, exponentials_of, highest_of, sum_of, vectorised};
use crate::program::{Extent, Rows};

/// Saved buffers: weights, and gradients of the scaled logits; both [example, query, head, key].
const WEIGHTS: usize = 0;
const TO_LOGITS: usize = 1;

/// Stages of the backward pass.
pub(super) const BACKWARD_STAGES: usize = 2;

/// What the forward pass keeps.
pub(super) fn saved(attention: &Attention) -> Vec<Extent> {
    let weights =
        Extent { rows: Rows::PerExample(attention.queries), width: attention.heads * attention.keys };
    vec![weights; 2]
}

/// Calls a function with the head size as a constant where that is a common one, so that loops are unrolled.
macro_rules! by_head_size {
    ($attention:expr, $function:ident::<$T:ty>($($argument:expr),*)) => {
        match $attention.head_size() {
            4 => $function::<$T, 4>($attention, $($argument),*),
            8 => $function::<$T, 8>($attention, $($argument),*),
            16 => $function::<$T, 16>($attention, $($argument),*),
            32 => $function::<$T, 32>($attention, $($argument),*),
            64 => $function::<$T, 64>($attention, $($argument),*),
            _ => $function::<$T, 0>($attention, $($argument),*),
        }
    };
}

/// The forward pass of the part's examples.
pub(super) fn forward<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    by_head_size!(attention, attend::<T>(call));
}

/// A stage of the backward pass.
pub(super) fn backward<T: Float>(attention: &Attention, stage: usize, call: &Call<'_, T>) {
    if stage == 0 {
        by_head_size!(attention, to_logits::<T>(call));
    } else {
        by_head_size!(attention, to_queries::<T>(call));
        by_head_size!(attention, to_keys::<T>(call));
        by_head_size!(attention, to_values::<T>(call));
        to_logit_bias(attention, call);
    }
}

/// Adds the gradients of the logits to those of their bias, in the order of the examples.
fn to_logit_bias<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, .. } = *attention;
    let to_logits = call.saved(TO_LOGITS);
    attention.add_to_logit_bias(call, |example, head, key, factor, sum| {
        let first = if attention.causal { key } else { 0 };
        for query in first..queries {
            let row = (example * queries + query) * heads + head;
            sum[keys - queries + query] += to_logits[row * keys + key] * factor;
        }
    });
}

#[inline(always)]
fn head_size<const SIZE: usize>(attention: &Attention) -> usize {
    if SIZE > 0 { SIZE } else { attention.head_size() }
}

#[inline(always)]
fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    sum_of(a.len().min(b.len()), |index| a[index] * b[index])
}

#[inline(always)]
fn add_scaled<T: Float>(sum: &mut [T], factor: T, values: &[T]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * *value;
    }
}

/// Softmax in place.
#[inline(always)]
pub(super) fn softmax<T: Float>(logits: &mut [T]) {
    let highest = highest_of(logits);
    exponentials_of(logits, highest);
    let share = T::ONE / sum_of(logits.len(), |index| logits[index]);
    for logit in logits.iter_mut() {
        *logit *= share;
    }
}

fn attend<T: Float, const SIZE: usize>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let size = head_size::<SIZE>(attention);
    let scale = T::of(attention.scale());
    let (q, k, v) = (call.input(0), call.input(1), call.input(2));
    let (query_rows, key_rows) = (attention.query_rows.of(call), attention.key_rows.of(call));
    let (biases, factors) = (attention.biases(call), attention.factors(call));
    let logit_biases = attention.logit_biases(call);
    let (rows, output) = call.output_share_by(queries);
    let (_, weights) = call.saved_share_by(WEIGHTS, queries);
    vectorised(
        #[inline(always)]
        || {
            let asked = rows.zip(output.chunks_exact_mut(width)).zip(weights.chunks_exact_mut(heads * keys));
            for ((row, output), weights) in asked {
                let (example, query) = (row / queries, row % queries);
                let visible = attention.visible(query);
                let q = &q[query_rows.row(example, query) * width..][..width];
                let each = output.chunks_exact_mut(size).zip(weights.chunks_exact_mut(keys)).enumerate();
                for (head, (output, weights)) in each {
                    let weights = &mut weights[..visible];
                    let q = &q[head * size..][..size];
                    let at = |key: usize| key_rows.row(example, key) * width + head * size;
                    for (key, weight) in weights.iter_mut().enumerate() {
                        *weight = dot(q, &k[at(key)..][..size]) * scale;
                    }
                    if let Some(biases) = biases {
                        for (weight, bias) in weights.iter_mut().zip(&biases[example * keys..]) {
                            *weight += *bias;
                        }
                    }
                    if let Some(biases) = logit_biases {
                        for (key, weight) in weights.iter_mut().enumerate() {
                            *weight += biases[attention.logit_bias_at(head, key, query)];
                        }
                    }
                    softmax(weights);
                    output.fill(T::ZERO);
                    let factors = factors.map(|factors| &factors[(row * heads + head) * keys..][..visible]);
                    for (key, weight) in weights.iter().enumerate() {
                        let weight = factors.map_or(*weight, |factors| *weight * factors[key]);
                        add_scaled(output, weight, &v[at(key)..][..size]);
                    }
                }
            }
        },
    );
}

fn to_logits<T: Float, const SIZE: usize>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let size = head_size::<SIZE>(attention);
    let scale = T::of(attention.scale());
    let (v, weights, gradient) = (call.input(2), call.saved(WEIGHTS), call.gradient());
    let (key_rows, factors) = (attention.key_rows.of(call), attention.factors(call));
    let (rows, to_logits) = call.saved_share_by(TO_LOGITS, queries);
    vectorised(
        #[inline(always)]
        || {
            for (row, to_logits) in rows.zip(to_logits.chunks_exact_mut(heads * keys)) {
                let (example, visible) = (row / queries, attention.visible(row % queries));
                for (head, to_logits) in to_logits.chunks_exact_mut(keys).enumerate() {
                    let at = (row * heads + head) * keys;
                    let (to_logits, weights) = (&mut to_logits[..visible], &weights[at..][..visible]);
                    let gradient = &gradient[row * width + head * size..][..size];
                    let mut mean = T::ZERO;
                    for (key, (to_weight, weight)) in to_logits.iter_mut().zip(weights).enumerate() {
                        let value = &v[key_rows.row(example, key) * width + head * size..][..size];
                        *to_weight = dot(gradient, value);
                        if let Some(factors) = factors {
                            *to_weight *= factors[at + key];
                        }
                        mean += *to_weight * *weight;
                    }
                    for (to_logit, weight) in to_logits.iter_mut().zip(weights) {
                        *to_logit = *weight * (*to_logit - mean) * scale;
                    }
                }
            }
        },
    );
}

fn to_queries<T: Float, const SIZE: usize>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let size = head_size::<SIZE>(attention);
    let (k, to_logits) = (call.input(1), call.saved(TO_LOGITS));
    let (query_rows, key_rows) = (attention.query_rows.of(call), attention.key_rows.of(call));
    let Some(sums) = attention.sums(0, call) else { return };
    vectorised(
        #[inline(always)]
        || {
            for example in sums.examples {
                for query in 0..queries {
                    let to_logits = &to_logits[(example * queries + query) * heads * keys..][..heads * keys];
                    let sum = &mut sums.numbers[(query_rows.row(example, query) - sums.first_row) * width..];
                    for key in 0..attention.visible(query) {
                        let k = &k[key_rows.row(example, key) * width..][..width];
                        for head in 0..heads {
                            let place = head * size..(head + 1) * size;
                            add_scaled(&mut sum[place.clone()], to_logits[head * keys + key], &k[place]);
                        }
                    }
                }
            }
        },
    );
}

fn to_keys<T: Float, const SIZE: usize>(attention: &Attention, call: &Call<'_, T>) {
    let (q, query_rows) = (call.input(0), attention.query_rows.of(call));
    let to_logits = call.saved(TO_LOGITS);
    let asking = |example: usize, query: usize| query_rows.row(example, query);
    add_outer_products::<T, SIZE>(attention, call, 1, (to_logits, None), (q, asking));
}

fn to_values<T: Float, const SIZE: usize>(attention: &Attention, call: &Call<'_, T>) {
    let (weights, gradient) = (call.saved(WEIGHTS), call.gradient());
    let queries = attention.queries;
    let own = |example: usize, query: usize| example * queries + query;
    add_outer_products::<T, SIZE>(attention, call, 2, (weights, attention.factors(call)), (gradient, own));
}

/// Adds to the gradient of input number `input`, for every query and visible key, coefficient (times factor) times the
/// query's row of `values`.
fn add_outer_products<T: Float, const SIZE: usize>(
    attention: &Attention,
    call: &Call<'_, T>,
    input: usize,
    (coefficients, factors): (&[T], Option<&[T]>),
    (values, row_of): (&[T], impl Fn(usize, usize) -> usize),
) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let size = head_size::<SIZE>(attention);
    let key_rows = attention.key_rows.of(call);
    let Some(sums) = attention.sums(input, call) else { return };
    vectorised(
        #[inline(always)]
        || {
            for example in sums.examples {
                for query in 0..queries {
                    let values = &values[row_of(example, query) * width..][..width];
                    let at = (example * queries + query) * heads * keys;
                    for key in 0..attention.visible(query) {
                        let row = key_rows.row(example, key) - sums.first_row;
                        let sum = &mut sums.numbers[row * width..][..width];
                        for head in 0..heads {
                            let number = at + head * keys + key;
                            let factor = factors.map_or(T::ONE, |factors| factors[number]);
                            let place = head * size..(head + 1) * size;
                            add_scaled(
                                &mut sum[place.clone()],
                                coefficients[number] * factor,
                                &values[place],
                            );
                        }
                    }
                }
            }
        },
    );
}
