//! Attention of many queries: panels of queries side by side, head by head.
//!
//! Logits lie key by key, a panel's queries next to each other, so that softmax runs down the columns in whole vectors and
//! every step is a matrix product of [`gemm`](crate::ops::gemm). The backward pass computes the weights once more from
//! the highest logit and the reciprocal sum that were kept for each query, a block of keys at a time so that the logits and
//! their gradients stay in the first-level cache; panels go from the last to the first, as a causal one's last sees all keys.
//! A panel is 128 bytes wide on every processor, so no sum depends on the vector width.
//!
//! Gradients of rows that examples share are first written by position and then added up in the order of the examples.

use super::Attention;
use crate::cpu::Call;
use crate::float::{Float, sum_of, vectorised};
use crate::ops::gemm::{Finish, Matrix, multiply};
use crate::ops::rows::RowsOfCall;
use crate::program::{Extent, Rows};

/// Queries of the widest panel, that of 32-bit numbers.
const WIDEST: usize = 32;
/// Most keys of a block of the backward pass.
const KEY_BLOCK: usize = 96;

/// Saved buffers, [example, head, query]: the highest logit, and 1 / the sum of exp(logit - highest).
const HIGHEST: usize = 0;
const SHARE: usize = 1;
/// Behind them come, for each input with rows that examples share, its gradient by position.
const BY_POSITION: usize = 2;

/// Queries of a panel.
const fn panel<T>() -> usize {
    128 / size_of::<T>()
}

/// What the forward pass keeps, and gradients by position.
pub(super) fn saved(attention: &Attention) -> Vec<Extent> {
    let per_query = Extent { rows: Rows::PerExample(attention.heads), width: attention.queries };
    let mut saved = vec![per_query; BY_POSITION];
    for input in shared_inputs(attention) {
        let positions = attention.rows_of(input).positions();
        saved.push(Extent { rows: Rows::PerExample(positions), width: attention.width });
    }
    saved
}

/// One stage for the gradients and, where examples share rows, one to add them up.
pub(super) fn backward_stages(attention: &Attention) -> usize {
    1 + usize::from(shared_inputs(attention).next().is_some())
}

/// Scratch numbers of a part.
pub(super) fn scratch(attention: &Attention) -> usize {
    let (keys, size) = (attention.keys, attention.head_size());
    let block = keys.min(KEY_BLOCK);
    let forward = 2 * keys * size + size * WIDEST + keys * WIDEST;
    let backward = 4 * keys * size + 5 * size * WIDEST + 2 * block * WIDEST;
    forward.max(backward)
}

/// Inputs whose rows examples share.
fn shared_inputs(attention: &Attention) -> impl Iterator<Item = usize> + '_ {
    (0..3).filter(|input| attention.rows_of(*input).rows_per_example().is_none())
}

/// The next `count` numbers of scratch memory.
fn take<'a, T>(scratch: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (taken, rest) = std::mem::take(scratch).split_at_mut(count);
    *scratch = rest;
    taken
}

/// Copies one head's coordinates of rows into rows of their own, side by side.
#[inline(always)]
fn copy_head<T: Float>(
    to: &mut [T],
    size: usize,
    table: &[T],
    (width, column): (usize, usize),
    row_of: impl Fn(usize) -> usize,
) {
    for (at, to) in to.chunks_exact_mut(size).enumerate() {
        to.copy_from_slice(&table[row_of(at) * width + column..][..size]);
    }
}

/// Transposes `count` rows of `size` numbers, times `scale`, into a panel `[size, panel]`, and fills up with zeros.
#[inline(always)]
fn pack_panel<'a, T: Float>(
    to: &mut [T],
    size: usize,
    scale: T,
    count: usize,
    row: impl Fn(usize) -> &'a [T],
) {
    if count < panel::<T>() {
        to.fill(T::ZERO);
    }
    for column in 0..count {
        for (to, number) in to[column..].iter_mut().step_by(panel::<T>()).zip(&row(column)[..size]) {
            *to = *number * scale;
        }
    }
}

/// Hides from each query (column) of a panel whose first query is number `first` the keys behind it; `logits` begin with
/// key number `key`.
#[inline(always)]
fn hide_later_keys<T: Float>(logits: &mut [T], key: usize, first: usize) {
    for (key, logits) in (key..).zip(logits.chunks_exact_mut(panel::<T>())) {
        logits[..key.saturating_sub(first).min(panel::<T>())].fill(T::MINUS_INFINITY);
    }
}

/// Adds each key's bias to its row of logits.
#[inline(always)]
fn add_biases<T: Float>(logits: &mut [T], biases: &[T]) {
    for (bias, logits) in biases.iter().zip(logits.chunks_exact_mut(panel::<T>())) {
        for logit in logits {
            *logit += *bias;
        }
    }
}

/// Multiplies the weights (or their gradients) of a panel's queries by their dropout factors. `factors` begins with those of
/// the panel's first query and the block's first key; those of the next query lie `stride` behind.
#[inline(always)]
fn drop_out<T: Float>(weights: &mut [T], factors: &[T], stride: usize, queries: usize) {
    for (key, weights) in weights.chunks_exact_mut(panel::<T>()).enumerate() {
        for (weight, factor) in weights[..queries].iter_mut().zip(factors[key..].iter().step_by(stride)) {
            *weight *= *factor;
        }
    }
}

/// Numbers of a panel's queries; only the first [`panel`] of them count.
type Columns<T> = [T; WIDEST];

/// The highest logit of each column.
#[inline(always)]
fn highest_of_columns<T: Float>(logits: &[T]) -> Columns<T> {
    const ROWS: usize = 8;
    let higher = |a: T, b: T| if b > a { b } else { a };
    let width = panel::<T>();
    let mut highest = [T::MINUS_INFINITY; WIDEST];
    let blocks = logits.chunks_exact(ROWS * width);
    let rest = blocks.remainder();
    for rows in blocks {
        for column in 0..width {
            let mut own = rows[column];
            for row in 1..ROWS {
                own = higher(own, rows[row * width + column]);
            }
            highest[column] = higher(highest[column], own);
        }
    }
    for row in rest.chunks_exact(width) {
        for column in 0..width {
            highest[column] = higher(highest[column], row[column]);
        }
    }
    highest
}

/// Logits become exp(logit - highest of the column); their sums.
#[inline(always)]
fn exponentials<T: Float>(logits: &mut [T], highest: &Columns<T>) -> Columns<T> {
    const ROWS: usize = 4;
    let width = panel::<T>();
    let mut sums = [T::ZERO; WIDEST];
    let mut blocks = logits.chunks_exact_mut(ROWS * width);
    for rows in &mut blocks {
        for column in 0..width {
            let mut own = T::ZERO;
            for row in 0..ROWS {
                let weight = Float::exp(rows[row * width + column] - highest[column]);
                rows[row * width + column] = weight;
                own += weight;
            }
            sums[column] += own;
        }
    }
    for row in blocks.into_remainder().chunks_exact_mut(width) {
        for column in 0..width {
            let weight = Float::exp(row[column] - highest[column]);
            row[column] = weight;
            sums[column] += weight;
        }
    }
    sums
}

/// The forward pass of the part's examples.
pub(super) fn forward<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let (size, scale) = (attention.head_size(), T::of(attention.scale()));
    let (q, k, v) = (call.input(0), call.input(1), call.input(2));
    let (query_rows, key_rows) = (attention.query_rows.of(call), attention.key_rows.of(call));
    let (biases, factors) = (attention.biases(call), attention.factors(call));
    let (rows, output) = call.output_share_by(queries);
    let (_, highest_out) = call.saved_share_by(HIGHEST, heads);
    let (_, share_out) = call.saved_share_by(SHARE, heads);
    let (product, mut scratch) = (call.product_scratch(), call.scratch());
    let own_k = take(&mut scratch, keys * size);
    let own_v = take(&mut scratch, keys * size);
    let asking = take(&mut scratch, size * panel::<T>());
    let logits = take(&mut scratch, keys * panel::<T>());
    let examples = rows.start / queries..rows.end / queries;
    let units = examples.flat_map(|example| (0..heads).map(move |head| (example, head))).enumerate();
    for (unit, (example, head)) in units {
        let column = head * size;
        vectorised(#[inline(always)] || {
            copy_head(own_k, size, k, (width, column), |key| key_rows.row(example, key));
            copy_head(own_v, size, v, (width, column), |key| key_rows.row(example, key));
        });
        let mut first = 0;
        while first < queries {
            let count = panel::<T>().min(queries - first);
            let visible = attention.visible(first + count - 1);
            let logits = &mut logits[..visible * panel::<T>()];
            vectorised(#[inline(always)] || {
                let row = |at: usize| &q[query_rows.row(example, first + at) * width + column..];
                pack_panel(asking, size, scale, count, row);
            });
            multiply(
                product,
                (logits, panel::<T>()),
                Matrix::new(&own_k[..visible * size], visible, size),
                Matrix::new(asking, size, panel::<T>()),
                false,
                Finish::NONE,
            );
            let shares = vectorised(#[inline(always)] || {
                if let Some(biases) = biases {
                    add_biases(logits, &biases[example * keys..][..visible]);
                }
                if attention.causal {
                    hide_later_keys(&mut logits[first * panel::<T>()..], first, first);
                }
                let highest = highest_of_columns(logits);
                let shares = exponentials(logits, &highest).map(|sum| T::ONE / sum);
                let place = unit * queries + first..unit * queries + first + count;
                highest_out[place.clone()].copy_from_slice(&highest[..count]);
                share_out[place].copy_from_slice(&shares[..count]);
                if let Some(factors) = factors {
                    let own = ((example * queries + first) * heads + head) * keys;
                    drop_out(logits, &factors[own..], heads * keys, count);
                }
                shares
            });
            let output = &mut output[((unit / heads) * queries + first) * width + column..];
            multiply(
                product,
                (&mut *output, width),
                Matrix::strided(logits, visible, count, panel::<T>()).transposed(),
                Matrix::new(&own_v[..visible * size], visible, size),
                false,
                Finish::NONE,
            );
            vectorised(#[inline(always)] || {
                for (share, row) in shares[..count].iter().zip(output.chunks_mut(width)) {
                    row[..size].iter_mut().for_each(|number| *number *= *share);
                }
            });
            first += count;
        }
    }
}

/// A stage of the backward pass: the gradients, then the sums of those that examples share.
pub(super) fn backward<T: Float>(attention: &Attention, stage: usize, call: &Call<'_, T>) {
    if stage == 0 {
        gradients(attention, call);
        return;
    }
    for (number, input) in shared_inputs(attention).enumerate() {
        add_up(attention, call, input, BY_POSITION + number);
    }
}

/// Adds gradients by position up by row.
fn add_up<T: Float>(attention: &Attention, call: &Call<'_, T>, input: usize, saved: usize) {
    let index = attention.rows_of(input);
    let (map, positions, width) = (index.of(call), index.positions(), attention.width);
    let by_position = call.saved(saved);
    let Some(sums) = attention.sums(input, call) else { return };
    vectorised(#[inline(always)] || {
        for example in sums.examples {
            for position in 0..positions {
                let row = map.row(example, position) - sums.first_row;
                let own = &by_position[(example * positions + position) * width..][..width];
                for (sum, number) in sums.numbers[row * width..][..width].iter_mut().zip(own) {
                    *sum += *number;
                }
            }
        }
    });
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
                let share = call.to_input_by(input, count);
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
    fn write(&mut self, example: usize, first: usize, column: usize, size: usize, values: &[T]) {
        for (position, values) in (first..).zip(values.chunks_exact(size)) {
            let row = match self.rows {
                Some((map, first_row)) => map.row(example, position) - first_row,
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
fn logit_gradients<T: Float>(
    weights: &mut [T],
    gradients: &mut [T],
    highest: &Columns<T>,
    shares: &Columns<T>,
    means: &Columns<T>,
) {
    let width = panel::<T>();
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
}

impl<'a, T: Float> Head<'a, T> {
    fn new(attention: &'a Attention, call: &Call<'a, T>) -> Self {
        let (size, width) = (attention.head_size(), panel::<T>());
        let block = attention.keys.min(KEY_BLOCK) * width;
        let all = attention.keys * size;
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
        }
    }

    /// Adds the contributions of one panel, whose queries and gradients have been packed.
    fn panel(&mut self, panel: &Panel<'_, T>) {
        let (size, width, count) = (self.attention.head_size(), self::panel::<T>(), panel.count);
        let visible = self.attention.visible(panel.first + count - 1);
        let mut start = 0;
        while start < visible {
            let block = KEY_BLOCK.min(visible - start);
            let keys = start * size..(start + block) * size;
            let (weights, to_logits) = (&mut self.weights[..block * width], &mut self.to_logits[..block * width]);
            let k = Matrix::new(&self.k[keys.clone()], block, size);
            let v = Matrix::new(&self.v[keys.clone()], block, size);
            let q_panel = Matrix::new(self.q_panel, size, width);
            let gradient_panel = Matrix::new(self.gradient_panel, size, width);
            multiply(self.product, (weights, width), k, q_panel, false, Finish::NONE);
            multiply(self.product, (to_logits, width), v, gradient_panel, false, Finish::NONE);
            vectorised(#[inline(always)] || panel.block(self.attention, start, weights, to_logits));
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
}

impl<T: Float> Panel<'_, T> {
    /// From a block's logits and gradients of weights to weights (times dropout factors) and gradients of logits.
    #[inline(always)]
    fn block(&self, attention: &Attention, start: usize, weights: &mut [T], gradients: &mut [T]) {
        let stride = attention.heads * attention.keys;
        if let Some(biases) = self.biases {
            add_biases(weights, &biases[start..]);
        }
        if attention.causal {
            hide_later_keys(weights, start, self.first);
        }
        if let Some(factors) = self.factors {
            drop_out(gradients, &factors[start..], stride, self.count);
        }
        logit_gradients(weights, gradients, &self.highest, &self.shares, &self.means);
        if let Some(factors) = self.factors {
            drop_out(weights, &factors[start..], stride, self.count);
        }
    }
}

fn gradients<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let (size, scale) = (attention.head_size(), T::of(attention.scale()));
    let (q, k, v) = (call.input(0), call.input(1), call.input(2));
    let (output, gradient) = (call.output(), call.gradient());
    let (highest, shares) = (call.saved(HIGHEST), call.saved(SHARE));
    let (query_rows, key_rows) = (attention.query_rows.of(call), attention.key_rows.of(call));
    let (biases, factors) = (attention.biases(call), attention.factors(call));
    let [mut to_q, mut to_k, mut to_v] = [0, 1, 2].map(|input| Target::new(attention, call, input));
    let mut own = Head::new(attention, call);
    let units = call.share_of(call.examples()).flat_map(|example| (0..heads).map(move |head| (example, head)));
    for (example, head) in units {
        let column = head * size;
        vectorised(#[inline(always)] || {
            copy_head(own.k, size, k, (width, column), |key| key_rows.row(example, key));
            copy_head(own.v, size, v, (width, column), |key| key_rows.row(example, key));
        });
        for number in (0..queries.div_ceil(panel::<T>())).rev() {
            let first = number * panel::<T>();
            let count = panel::<T>().min(queries - first);
            let row = example * queries + first;
            let saved = (example * heads + head) * queries + first;
            let mut columns = [[T::ZERO; WIDEST]; 3];
            columns[0][..count].copy_from_slice(&highest[saved..saved + count]);
            columns[1][..count].copy_from_slice(&shares[saved..saved + count]);
            vectorised(#[inline(always)] || {
                let (q_rows, gradient_rows) = (&mut own.q[..count * size], &mut own.gradient[..count * size]);
                copy_head(q_rows, size, q, (width, column), |at| query_rows.row(example, first + at));
                copy_head(gradient_rows, size, gradient, (width, column), |at| row + at);
                pack_panel(own.q_panel, size, scale, count, |at| &q_rows[at * size..]);
                pack_panel(own.gradient_panel, size, scale, count, |at| &gradient_rows[at * size..]);
                for (at, (mean, gradient)) in columns[2].iter_mut().zip(gradient_rows.chunks_exact(size)).enumerate() {
                    let output = &output[(row + at) * width + column..][..size];
                    *mean = sum_of(size, |index| gradient[index] * output[index]) * scale;
                }
            });
            let [highest, shares, means] = columns;
            own.panel(&Panel {
                first,
                count,
                is_last: first + count == queries,
                highest,
                shares,
                means,
                biases: biases.map(|biases| &biases[example * keys..][..keys]),
                factors: factors.map(|factors| &factors[(row * heads + head) * keys..]),
            });
            vectorised(#[inline(always)] || to_q.write(example, first, column, size, &own.to_q[..count * size]));
        }
        vectorised(#[inline(always)] || {
            to_k.write(example, 0, column, size, own.to_k);
            to_v.write(example, 0, column, size, own.to_v);
        });
    }
}
