//! The backward pass by panels.
//!
//! It computes the weights once more from what was kept for each query, a block of keys at a time so that the logits and
//! their gradients stay in the first-level cache; panels go from the last to the first, as a causal one's last sees all keys.
//! Gradients of rows that examples share are first written by position and then added up in the order of the examples.

use super::super::{Attention, LOGIT_BIAS};
use super::{
    BY_POSITION, Columns, HIGHEST, KEY_BLOCK, SHARE, Sequence, WIDEST, add_biases, add_logit_biases,
    copy_head, drop_out, hide_later_keys, next_panel, pack_panel, panel, sequences, shared_inputs, take,
    to_logits_saved,
};
use crate::cpu::Call;
use crate::float::{Float, sum_of, vectorised};
use crate::ops::gemm::{Finish, Matrix, multiply};
use crate::ops::rows::RowsOfCall;

/// A stage of the backward pass: the gradients, then the sums of those that examples share.
pub(in super::super) fn backward<T: Float>(attention: &Attention, stage: usize, call: &Call<'_, T>) {
    if stage == 0 {
        gradients(attention, call);
        return;
    }
    for (number, input) in shared_inputs(attention).enumerate() {
        add_up(attention, call, input, BY_POSITION + number);
    }
    add_up_logits(attention, call);
}

/// Adds the gradients of the logits up to those of their bias.
fn add_up_logits<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    if !attention.has_logit_bias {
        return;
    }
    let Attention { heads, queries, keys, .. } = *attention;
    let to_logits = call.saved(to_logits_saved(attention));
    attention.add_to_logit_bias(call, |example, head, key, factor, sum| {
        let own = &to_logits[((example * heads + head) * keys + key) * queries..][..queries];
        // What causal attention does not see was not written.
        let first = if attention.causal { key } else { 0 };
        for (sum, number) in sum[first..].iter_mut().zip(&own[first..]) {
            *sum += *number * factor;
        }
    });
}

/// Adds gradients by position up by row.
fn add_up<T: Float>(attention: &Attention, call: &Call<'_, T>, input: usize, saved: usize) {
    let index = attention.rows_of(input);
    let (map, positions, width) = (index.of(call), index.positions(), attention.width);
    let by_position = call.saved(saved);
    let Some(sums) = attention.sums(input, call) else { return };
    vectorised(
        #[inline(always)]
        || {
            for example in sums.examples {
                for position in 0..positions {
                    let row = map.row(example, position) - sums.first_row;
                    let own = &by_position[(example * positions + position) * width..][..width];
                    for (sum, number) in sums.numbers[row * width..][..width].iter_mut().zip(own) {
                        *sum += *number;
                    }
                }
            }
        },
    );
}

/// Where a part writes one input's gradient: into the rows of its examples, or by position where examples share rows.
struct Target<'a, T> {
    numbers: &'a mut [T],
    /// The map to rows, and the first row; `None`: by position.
    rows: Option<(RowsOfCall<'a>, usize)>,
    positions: usize,
    width: usize,
    add: bool,
    first_example: usize,
}

impl<'a, T: Float> Target<'a, T> {
    fn new(attention: &Attention, call: &Call<'a, T>, input: usize) -> Self {
        let (index, width) = (attention.rows_of(input), attention.width);
        let (positions, first_example) = (index.positions(), call.share_of(call.examples()).start);
        match index.rows_per_example() {
            Some(count) => {
                let share = match attention.ragged {
                    Some(_) => call.to_input_by_sequence(input),
                    None => call.to_input_by(input, count),
                };
                let exact = index.is_one_to_one();
                if !exact && !share.accumulate {
                    share.numbers.fill(T::ZERO);
                }
                let rows = Some((index.of(call), share.rows.start));
                let add = share.accumulate || !exact;
                Target { numbers: share.numbers, rows, positions, width, add, first_example }
            }
            None => {
                let number = shared_inputs(attention).take_while(|shared| *shared != input).count();
                let (_, numbers) = call.saved_share_by(BY_POSITION + number, positions);
                Target { numbers, rows: None, positions, width, add: false, first_example }
            }
        }
    }

    /// Writes one head's gradients of positions `first..`.
    #[inline(always)]
    fn write(&mut self, sequence: Sequence, first: usize, column: usize, size: usize, values: &[T]) {
        let Sequence { example, offset, .. } = sequence;
        for (position, values) in (first..).zip(values.chunks_exact(size)) {
            let row = match self.rows {
                Some((map, first_row)) => map.row(example, position) + offset - first_row,
                None => (example - self.first_example) * self.positions + position,
            };
            let to = &mut self.numbers[row * self.width + column..][..size];
            if self.add {
                to.iter_mut().zip(values).for_each(|(sum, value)| *sum += *value);
            } else {
                to.copy_from_slice(values);
            }
        }
    }
}

/// Weights from logits, and gradients of the logits from those of the weights, both in place. `shares` are 0 in columns that
/// stand for no query, `means` the weights' mean gradients.
#[inline(always)]
fn logit_gradients<T: Float, const PARTS: usize>(
    weights: &mut [T],
    gradients: &mut [T],
    highest: &Columns<T>,
    shares: &Columns<T>,
    means: &Columns<T>,
) {
    let width = panel::<T, PARTS>();
    for (weights, gradients) in weights.chunks_exact_mut(width).zip(gradients.chunks_exact_mut(width)) {
        for column in 0..width {
            let weight = Float::exp(weights[column] - highest[column]) * shares[column];
            weights[column] = weight;
            gradients[column] = weight * (gradients[column] - means[column]);
        }
    }
}

/// One head of one example on its way back.
struct Head<'a, T> {
    attention: &'a Attention,
    product: &'a mut [T],
    /// Keys, values and their gradients, `[keys, size]`.
    k: &'a mut [T],
    v: &'a mut [T],
    to_k: &'a mut [T],
    to_v: &'a mut [T],
    /// A panel's queries, result's gradients and query gradients, `[panel, size]`, and the first two transposed.
    q: &'a mut [T],
    gradient: &'a mut [T],
    to_q: &'a mut [T],
    q_panel: &'a mut [T],
    gradient_panel: &'a mut [T],
    /// A block's weights and gradients of logits, `[block, panel]`.
    weights: &'a mut [T],
    to_logits: &'a mut [T],
    /// All gradients of the head's logits, `[key, query]`, where they are kept.
    kept_logits: Option<&'a mut [T]>,
}

impl<'a, T: Float> Head<'a, T> {
    fn new(attention: &'a Attention, call: &Call<'a, T>) -> Self {
        let (size, width) = (attention.head_size(), panel::<T, 1>());
        let block = attention.most_keys().min(KEY_BLOCK) * width;
        let all = attention.most_keys() * size;
        let mut scratch = call.scratch();
        Head {
            attention,
            product: call.product_scratch(),
            k: take(&mut scratch, all),
            v: take(&mut scratch, all),
            to_k: take(&mut scratch, all),
            to_v: take(&mut scratch, all),
            q: take(&mut scratch, width * size),
            gradient: take(&mut scratch, width * size),
            to_q: take(&mut scratch, width * size),
            q_panel: take(&mut scratch, width * size),
            gradient_panel: take(&mut scratch, width * size),
            weights: take(&mut scratch, block),
            to_logits: take(&mut scratch, block),
            kept_logits: None,
        }
    }

    /// Adds the contributions of one panel, whose queries and gradients have been packed.
    fn panel<const PARTS: usize>(&mut self, panel: &Panel<'_, T>) {
        let (size, width, count) = (self.attention.head_size(), self::panel::<T, PARTS>(), panel.count);
        let visible = panel.sequence.visible(self.attention, panel.first + count - 1);
        let mut start = 0;
        while start < visible {
            let block = KEY_BLOCK.min(visible - start);
            let keys = start * size..(start + block) * size;
            let (weights, to_logits) =
                (&mut self.weights[..block * width], &mut self.to_logits[..block * width]);
            let k = Matrix::new(&self.k[keys.clone()], block, size);
            let v = Matrix::new(&self.v[keys.clone()], block, size);
            let q_panel = Matrix::new(&self.q_panel[..size * width], size, width);
            let gradient_panel = Matrix::new(&self.gradient_panel[..size * width], size, width);
            multiply(self.product, (weights, width), k, q_panel, false, Finish::NONE);
            multiply(self.product, (to_logits, width), v, gradient_panel, false, Finish::NONE);
            vectorised(
                #[inline(always)]
                || {
                    panel.block::<PARTS>(self.attention, start, weights, to_logits);
                    if let Some(kept) = &mut self.kept_logits {
                        for (key, to_logits) in (start..).zip(to_logits.chunks_exact(width)) {
                            let own = key * panel.sequence.queries + panel.first;
                            kept[own..own + count].copy_from_slice(&to_logits[..count]);
                        }
                    }
                },
            );
            let weights = Matrix::strided(weights, block, count, width);
            let to_logits = Matrix::strided(to_logits, block, count, width);
            let gradient = Matrix::new(&self.gradient[..count * size], count, size);
            let q = Matrix::new(&self.q[..count * size], count, size);
            let (to_v, to_k) = (&mut self.to_v[keys.clone()], &mut self.to_k[keys]);
            multiply(self.product, (to_v, size), weights, gradient, !panel.is_last, Finish::NONE);
            multiply(self.product, (to_k, size), to_logits, q, !panel.is_last, Finish::NONE);
            let to_q = &mut self.to_q[..count * size];
            multiply(self.product, (to_q, size), to_logits.transposed(), k, start > 0, Finish::NONE);
            start += block;
        }
    }
}

/// What is known of a panel's queries.
struct Panel<'a, T> {
    sequence: Sequence,
    first: usize,
    count: usize,
    /// Whether it is the first to contribute to keys and values.
    is_last: bool,
    highest: Columns<T>,
    shares: Columns<T>,
    means: Columns<T>,
    biases: Option<&'a [T]>,
    /// Factors from the first query's first key on.
    factors: Option<&'a [T]>,
    /// Biases from the first key and the panel's first query on.
    logit_biases: Option<&'a [T]>,
}

impl<T: Float> Panel<'_, T> {
    /// From a block's logits and gradients of weights to weights (times dropout factors) and gradients of logits.
    #[inline(always)]
    fn block<const PARTS: usize>(
        &self,
        attention: &Attention,
        start: usize,
        weights: &mut [T],
        gradients: &mut [T],
    ) {
        let stride = attention.heads * self.sequence.keys;
        if let Some(biases) = self.biases {
            add_biases::<T, PARTS>(weights, &biases[start..]);
        }
        if let Some(biases) = self.logit_biases {
            let (keys, biases) = (attention.keys, &biases[start * attention.keys..]);
            add_logit_biases::<T, PARTS>(weights, biases, keys, self.count);
        }
        if attention.causal {
            hide_later_keys::<T, PARTS>(weights, start, self.first);
        }
        if let Some(factors) = self.factors {
            drop_out::<T, PARTS>(gradients, &factors[start..], stride, self.count);
        }
        logit_gradients::<T, PARTS>(weights, gradients, &self.highest, &self.shares, &self.means);
        if let Some(factors) = self.factors {
            drop_out::<T, PARTS>(weights, &factors[start..], stride, self.count);
        }
    }
}

fn gradients<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, keys, width, .. } = *attention;
    let (size, scale) = (attention.head_size(), T::of(attention.scale()));
    let (q, k, v) = (call.input(0), call.input(1), call.input(2));
    let (output, gradient) = (call.output(), call.gradient());
    let (highest, shares) = (call.saved(HIGHEST), call.saved(SHARE));
    let (query_rows, key_rows) = (attention.query_rows.of(call), attention.key_rows.of(call));
    let (biases, factors) = (attention.biases(call), attention.factors(call));
    let logit_biases = attention.logit_biases(call);
    let keeps_logits = logit_biases.is_some() && call.needs_gradient(LOGIT_BIAS);
    let mut kept_logits =
        keeps_logits.then(|| call.saved_share_by(to_logits_saved(attention), heads * keys).1);
    let [mut to_q, mut to_k, mut to_v] = [0, 1, 2].map(|input| Target::new(attention, call, input));
    let mut own = Head::new(attention, call);
    let units = sequences(attention, call).flat_map(|own| (0..heads).map(move |head| (own, head)));
    for (sequence, head) in units {
        let Sequence { queries, example, offset, .. } = sequence;
        let (column, all) = (head * size, sequence.keys * size);
        own.kept_logits = kept_logits.as_mut().map(|kept| take(kept, keys * queries));
        vectorised(
            #[inline(always)]
            || {
                let row = |key| key_rows.row(example, key) + offset;
                copy_head(&mut own.k[..all], size, k, (width, column), row);
                copy_head(&mut own.v[..all], size, v, (width, column), row);
            },
        );
        for number in (0..queries.div_ceil(panel::<T, 1>())).rev() {
            let first = number * panel::<T, 1>();
            let (count, half) = next_panel::<T>(first, queries);
            let row = sequence.row + first;
            let saved = sequence.saved + head * queries + first;
            let mut columns = [[T::ZERO; WIDEST]; 3];
            columns[0][..count].copy_from_slice(&highest[saved..saved + count]);
            columns[1][..count].copy_from_slice(&shares[saved..saved + count]);
            vectorised(
                #[inline(always)]
                || {
                    let (q_rows, gradient_rows) =
                        (&mut own.q[..count * size], &mut own.gradient[..count * size]);
                    let asking = |at| query_rows.row(example, first + at) + offset;
                    copy_head(q_rows, size, q, (width, column), asking);
                    copy_head(gradient_rows, size, gradient, (width, column), |at| row + at);
                    let (q_row, gradient_row) =
                        (|at: usize| &q_rows[at * size..], |at: usize| &gradient_rows[at * size..]);
                    if half {
                        pack_panel::<T, 2>(
                            &mut own.q_panel[..size * panel::<T, 2>()],
                            size,
                            scale,
                            count,
                            q_row,
                        );
                        pack_panel::<T, 2>(
                            &mut own.gradient_panel[..size * panel::<T, 2>()],
                            size,
                            scale,
                            count,
                            gradient_row,
                        );
                    } else {
                        pack_panel::<T, 1>(own.q_panel, size, scale, count, q_row);
                        pack_panel::<T, 1>(own.gradient_panel, size, scale, count, gradient_row);
                    }
                    for (at, (mean, gradient)) in
                        columns[2].iter_mut().zip(gradient_rows.chunks_exact(size)).enumerate()
                    {
                        let output = &output[(row + at) * width + column..][..size];
                        *mean = sum_of(size, |index| gradient[index] * output[index]) * scale;
                    }
                },
            );
            let [highest, shares, means] = columns;
            let panel = Panel {
                sequence,
                first,
                count,
                is_last: first + count == queries,
                highest,
                shares,
                means,
                biases: biases.map(|biases| &biases[example * keys..][..keys]),
                factors: factors.map(|factors| &factors[sequence.factors_of(attention, head, first)..]),
                logit_biases: logit_biases.map(|biases| &biases[attention.logit_bias_at(head, 0, first)..]),
            };
            if half {
                own.panel::<2>(&panel)
            } else {
                own.panel::<1>(&panel)
            }
            vectorised(
                #[inline(always)]
                || to_q.write(sequence, first, column, size, &own.to_q[..count * size]),
            );
        }
        vectorised(
            #[inline(always)]
            || {
                to_k.write(sequence, 0, column, size, &own.to_k[..all]);
                to_v.write(sequence, 0, column, size, &own.to_v[..all]);
            },
        );
    }
}
