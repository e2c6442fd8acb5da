//! The forward pass by panels.

use super::super::Attention;
use super::{
    Columns, HIGHEST, SHARE, Sequence, add_biases, add_logit_biases, copy_head, drop_out, exponentials,
    hide_later_keys, highest_of_columns, next_panel, pack_panel, panel, sequences, take,
};
use crate::cpu::Call;
use crate::float::{Float, vectorised};
use crate::ops::gemm::{Finish, Matrix, multiply};
use crate::ops::rows::RowsOfCall;

/// The forward pass of the part's examples.
pub(in super::super) fn forward<T: Float>(attention: &Attention, call: &Call<'_, T>) {
    let Attention { heads, queries, keys, width, .. } = *attention;
    let size = attention.head_size();
    let (q, k, v) = (call.input(0), call.input(1), call.input(2));
    let (query_rows, key_rows) = (attention.query_rows.of(call), attention.key_rows.of(call));
    let (biases, factors) = (attention.biases(call), attention.factors(call));
    let logit_biases = attention.logit_biases(call);
    let [(rows, output), (_, highest_out), (_, share_out)] = match attention.ragged {
        Some(_) => [
            call.output_share_by_sequence(),
            call.saved_share_by_sequence(HIGHEST),
            call.saved_share_by_sequence(SHARE),
        ],
        None => [
            call.output_share_by(queries),
            call.saved_share_by(HIGHEST, heads),
            call.saved_share_by(SHARE, heads),
        ],
    };
    let mut scratch = call.scratch();
    let mut memory = Memory {
        product: call.product_scratch(),
        k: take(&mut scratch, attention.most_keys() * size),
        v: take(&mut scratch, attention.most_keys() * size),
        asking: take(&mut scratch, size * panel::<T, 1>()),
        logits: take(&mut scratch, attention.most_keys() * panel::<T, 1>()),
    };
    let units = sequences(attention, call).flat_map(|own| (0..heads).map(move |head| (own, head)));
    for (sequence, head) in units {
        let column = head * size;
        let all = sequence.keys * size;
        vectorised(
            #[inline(always)]
            || {
                let row = |key| key_rows.row(sequence.example, key) + sequence.offset;
                copy_head(&mut memory.k[..all], size, k, (width, column), row);
                copy_head(&mut memory.v[..all], size, v, (width, column), row);
            },
        );
        let unit_biases = biases.map(|biases| &biases[sequence.example * keys..][..keys]);
        let mut first = 0;
        while first < sequence.queries {
            let (count, half) = next_panel::<T>(first, sequence.queries);
            let asked = Asked {
                attention,
                sequence,
                q: &q[sequence.offset * width + column..],
                rows: query_rows,
                first,
                count,
                biases: unit_biases,
                factors: factors.map(|factors| &factors[sequence.factors_of(attention, head, first)..]),
                logit_biases: logit_biases.map(|biases| &biases[attention.logit_bias_at(head, 0, first)..]),
            };
            let output = &mut output[(sequence.row - rows.start + first) * width + column..];
            let (highest, shares) = if half {
                asked.answer::<2>(&mut memory, output)
            } else {
                asked.answer::<1>(&mut memory, output)
            };
            let saved = sequence.saved - rows.start * heads + head * sequence.queries + first;
            highest_out[saved..saved + count].copy_from_slice(&highest[..count]);
            share_out[saved..saved + count].copy_from_slice(&shares[..count]);
            first += count;
        }
    }
}

/// Memory of one head of one example.
struct Memory<'a, T> {
    product: &'a mut [T],
    /// Keys and values, `[keys, size]`.
    k: &'a mut [T],
    v: &'a mut [T],
    /// A panel's queries, `[size, panel]`, and their logits, `[keys, panel]`.
    asking: &'a mut [T],
    logits: &'a mut [T],
}

/// A panel of queries of one head of one example.
struct Asked<'a, T> {
    attention: &'a Attention,
    sequence: Sequence,
    /// The rows of the queries that the map names, from the head's first coordinate on.
    q: &'a [T],
    rows: RowsOfCall<'a>,
    first: usize,
    count: usize,
    biases: Option<&'a [T]>,
    /// Factors from the first query's first key on.
    factors: Option<&'a [T]>,
    /// Biases from the first key and query on.
    logit_biases: Option<&'a [T]>,
}

impl<T: Float> Asked<'_, T> {
    /// Writes the panel's results, the first of which begins with `output`; the highest logits, and 1 / the sums.
    fn answer<const PARTS: usize>(
        &self,
        memory: &mut Memory<'_, T>,
        output: &mut [T],
    ) -> (Columns<T>, Columns<T>) {
        let Attention { heads, width, .. } = *self.attention;
        let keys = self.sequence.keys;
        let (size, scale) = (self.attention.head_size(), T::of(self.attention.scale()));
        let (count, across) = (self.count, panel::<T, PARTS>());
        let visible = self.sequence.visible(self.attention, self.first + count - 1);
        let asking = &mut memory.asking[..size * across];
        let logits = &mut memory.logits[..visible * across];
        vectorised(
            #[inline(always)]
            || {
                let row =
                    |at: usize| &self.q[self.rows.row(self.sequence.example, self.first + at) * width..];
                pack_panel::<T, PARTS>(asking, size, scale, count, row);
            },
        );
        let k = Matrix::new(&memory.k[..visible * size], visible, size);
        let v = Matrix::new(&memory.v[..visible * size], visible, size);
        let asking = Matrix::new(asking, size, across);
        multiply(memory.product, (&mut *logits, across), k, asking, false, Finish::NONE);
        let (highest, shares) = vectorised(
            #[inline(always)]
            || {
                if let Some(biases) = self.biases {
                    add_biases::<T, PARTS>(logits, biases);
                }
                if let Some(biases) = self.logit_biases {
                    add_logit_biases::<T, PARTS>(logits, biases, keys, count);
                }
                if self.attention.causal {
                    hide_later_keys::<T, PARTS>(&mut logits[self.first * across..], self.first, self.first);
                }
                let highest = highest_of_columns::<T, PARTS>(logits);
                let shares = exponentials::<T, PARTS>(logits, &highest).map(|sum| T::ONE / sum);
                if let Some(factors) = self.factors {
                    drop_out::<T, PARTS>(logits, factors, heads * keys, count);
                }
                (highest, shares)
            },
        );
        let weights = Matrix::strided(logits, visible, count, across).transposed();
        multiply(memory.product, (&mut *output, width), weights, v, false, Finish::NONE);
        vectorised(
            #[inline(always)]
            || {
                for (share, row) in shares[..count].iter().zip(output.chunks_mut(width)) {
                    row[..size].iter_mut().for_each(|number| *number *= *share);
                }
            },
        );
        (highest, shares)
    }
}
