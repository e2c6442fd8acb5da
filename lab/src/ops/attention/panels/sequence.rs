//! What panels see of a micro-batch: examples of one shape, or sequences of lengths of their own whose rows are the examples.

use super::Attention;
use crate::cpu::Call;
use crate::float::Float;

/// One sequence: its queries and keys, and where its numbers are.
#[derive(Clone, Copy)]
pub(super) struct Sequence {
    /// Queries and keys.
    pub queries: usize,
    pub keys: usize,
    /// Its number for row maps, and what is added to the rows they name.
    pub example: usize,
    pub offset: usize,
    /// Row of its first query's result.
    pub row: usize,
    /// Place of its first saved number, [head, query].
    pub saved: usize,
    /// Place of its first dropout factor, [query, head, key].
    pub factors: usize,
}

impl Sequence {
    /// How many keys a query sees.
    #[inline(always)]
    pub fn visible(&self, attention: &Attention, query: usize) -> usize {
        if attention.causal { query + 1 } else { self.keys }
    }

    /// Place of the dropout factor of a query's first key.
    #[inline(always)]
    pub fn factors_of(&self, attention: &Attention, head: usize, query: usize) -> usize {
        self.factors + (query * attention.heads + head) * self.keys
    }
}

/// The part's sequences, in order.
pub(super) fn sequences<'a, T: Float>(
    attention: &'a Attention,
    call: &Call<'a, T>,
) -> impl Iterator<Item = Sequence> + 'a {
    let Attention { heads, queries, keys, .. } = *attention;
    let (all, own) = call.sequences();
    let ragged = attention.ragged.is_some();
    let share = call.share_of(if ragged { own.len() } else { call.examples() });
    let start = if own.is_empty() { 0 } else { all.tokens(own.start).start };
    share.map(move |number| {
        if !ragged {
            return Sequence {
                queries,
                keys,
                example: number,
                offset: 0,
                row: number * queries,
                saved: number * heads * queries,
                factors: number * queries * heads * keys,
            };
        }
        let tokens = all.tokens(own.start + number);
        let (row, length) = (tokens.start - start, tokens.len());
        Sequence {
            queries: length,
            keys: length,
            example: 0,
            offset: row,
            row,
            saved: row * heads,
            factors: heads * all.squares_before(own.start + number),
        }
    })
}
