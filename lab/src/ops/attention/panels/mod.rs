//! Attention of many queries: panels of queries side by side, head by head.
//!
//! Logits lie key by key, a panel's queries next to each other, so that softmax runs down the columns in whole vectors and
//! every step is a matrix product of [`gemm`](crate::ops::gemm). A panel is 128 bytes wide on every processor, or half of that
//! where the rest of the queries fits; so no sum depends on the vector width.
//!
//! Owns what both directions share: extents of memory, packing, and what is done to columns.

mod backward;
mod forward;
mod sequence;

pub(super) use backward::backward;
pub(super) use forward::forward;

use super::Attention;
use crate::float::Float;
use crate::program::{Extent, Rows};
use sequence::{Sequence, sequences};

/// Queries of the widest panel, that of 32-bit numbers.
const WIDEST: usize = 32;
/// Most keys of a block of the backward pass.
const KEY_BLOCK: usize = 96;

/// Saved buffers, [example or sequence, head, query]: the highest logit, and 1 / the sum of exp(logit - highest).
const HIGHEST: usize = 0;
const SHARE: usize = 1;
/// Behind them come, for each input with rows that examples share, its gradient by position; and last, where the logits have a
/// bias, their gradients, [example, head, key, query].
const BY_POSITION: usize = 2;

/// Queries of a panel, or of half of one (`PARTS` 2).
const fn panel<T, const PARTS: usize>() -> usize {
    128 / size_of::<T>() / PARTS
}

/// The queries behind the first `first`: how many of them make a panel, and whether half a one will do.
fn next_panel<T>(first: usize, queries: usize) -> (usize, bool) {
    let count = panel::<T, 1>().min(queries - first);
    (count, count <= panel::<T, 2>())
}

/// What the forward pass keeps, and gradients by position.
pub(super) fn saved(attention: &Attention) -> Vec<Extent> {
    let per_query = Extent { rows: Rows::PerExample(attention.heads), width: attention.queries };
    let mut saved = vec![per_query; BY_POSITION];
    for input in shared_inputs(attention) {
        let positions = attention.rows_of(input).positions();
        saved.push(Extent { rows: Rows::PerExample(positions), width: attention.width });
    }
    if attention.has_logit_bias {
        let rows = Rows::PerExample(attention.heads * attention.keys);
        saved.push(Extent { rows, width: attention.queries });
    }
    saved
}

/// Saved buffer of the logits' gradients.
fn to_logits_saved(attention: &Attention) -> usize {
    BY_POSITION + shared_inputs(attention).count()
}

/// One stage for the gradients and, where examples share rows or a bias, one to add them up.
pub(super) fn backward_stages(attention: &Attention) -> usize {
    1 + usize::from(attention.has_logit_bias || shared_inputs(attention).next().is_some())
}

/// Scratch numbers of a part.
pub(super) fn scratch(attention: &Attention) -> usize {
    let (keys, size) = (attention.most_keys(), attention.head_size());
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
    // A copy of a length known to the compiler is no call.
    match size {
        8 => copy_rows::<T, 8>(to, size, table, |at| row_of(at) * width + column),
        16 => copy_rows::<T, 16>(to, size, table, |at| row_of(at) * width + column),
        32 => copy_rows::<T, 32>(to, size, table, |at| row_of(at) * width + column),
        _ => copy_rows::<T, 0>(to, size, table, |at| row_of(at) * width + column),
    }
}

/// Copies to each row of `size` (or `SIZE`, where that is not 0) numbers those that begin at `start_of` it.
#[inline(always)]
fn copy_rows<T: Float, const SIZE: usize>(
    to: &mut [T],
    size: usize,
    table: &[T],
    start_of: impl Fn(usize) -> usize,
) {
    let size = if SIZE > 0 { SIZE } else { size };
    for (at, to) in to.chunks_exact_mut(size).enumerate() {
        to.copy_from_slice(&table[start_of(at)..][..size]);
    }
}

/// Transposes `count` rows of `size` numbers, times `scale`, into a panel `[size, panel]`, and fills up with zeros.
#[inline(always)]
fn pack_panel<'a, T: Float, const PARTS: usize>(
    to: &mut [T],
    size: usize,
    scale: T,
    count: usize,
    row: impl Fn(usize) -> &'a [T],
) {
    if count < panel::<T, PARTS>() {
        to.fill(T::ZERO);
    }
    for column in 0..count {
        for (to, number) in to[column..].iter_mut().step_by(panel::<T, PARTS>()).zip(&row(column)[..size]) {
            *to = *number * scale;
        }
    }
}

/// Hides from each query (column) of a panel whose first query is number `first` the keys behind it; `logits` begin with
/// key number `key`.
#[inline(always)]
fn hide_later_keys<T: Float, const PARTS: usize>(logits: &mut [T], key: usize, first: usize) {
    for (key, logits) in (key..).zip(logits.chunks_exact_mut(panel::<T, PARTS>())) {
        logits[..key.saturating_sub(first).min(panel::<T, PARTS>())].fill(T::MINUS_INFINITY);
    }
}

/// Adds each key's bias to its row of logits.
#[inline(always)]
fn add_biases<T: Float, const PARTS: usize>(logits: &mut [T], biases: &[T]) {
    for (bias, logits) in biases.iter().zip(logits.chunks_exact_mut(panel::<T, PARTS>())) {
        for logit in logits {
            *logit += *bias;
        }
    }
}

/// Adds the bias of each key (row) and query (column); `biases` begins with that of the first key and query, the next key's lies
/// `stride` behind.
#[inline(always)]
fn add_logit_biases<T: Float, const PARTS: usize>(
    logits: &mut [T],
    biases: &[T],
    stride: usize,
    queries: usize,
) {
    for (key, logits) in logits.chunks_exact_mut(panel::<T, PARTS>()).enumerate() {
        for (logit, bias) in logits[..queries].iter_mut().zip(&biases[key * stride..]) {
            *logit += *bias;
        }
    }
}

/// Multiplies the weights (or their gradients) of a panel's queries by their dropout factors. `factors` begins with those of
/// the panel's first query and the block's first key; those of the next query lie `stride` behind.
#[inline(always)]
fn drop_out<T: Float, const PARTS: usize>(weights: &mut [T], factors: &[T], stride: usize, queries: usize) {
    for (key, weights) in weights.chunks_exact_mut(panel::<T, PARTS>()).enumerate() {
        for (weight, factor) in weights[..queries].iter_mut().zip(factors[key..].iter().step_by(stride)) {
            *weight *= *factor;
        }
    }
}

/// Numbers of a panel's queries; only the first [`panel`] of them count.
type Columns<T> = [T; WIDEST];

/// The highest logit of each column.
#[inline(always)]
fn highest_of_columns<T: Float, const PARTS: usize>(logits: &[T]) -> Columns<T> {
    const ROWS: usize = 8;
    let higher = |a: T, b: T| if b > a { b } else { a };
    let width = panel::<T, PARTS>();
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
fn exponentials<T: Float, const PARTS: usize>(logits: &mut [T], highest: &Columns<T>) -> Columns<T> {
    const ROWS: usize = 4;
    let width = panel::<T, PARTS>();
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
