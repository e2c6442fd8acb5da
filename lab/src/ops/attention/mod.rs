//! Scaled dot-product attention (Vaswani et al. 2017, 3.2) over rows that examples may share.
//!
//! Owns what attention is, how a model records it and its reference. Three forms compute it on processors, chosen by
//! what is recorded and never by team or cohort: `few` takes few queries one by one, `common` all of them at once where every
//! example asks the same keys, and `panels` as many of many queries at a time as fill two vectors. None keeps queries x keys
//! numbers of a long sequence: the first two keep the weights of their few queries, the third two numbers a query, and it
//! computes the weights once more on the way back (Dao et al. 2022). Positions, dropout factors and which rows exist are left
//! to others.

mod common;
mod few;
mod panels;

use std::any::Any;
use std::ops::Range;

use candle_core::{Result, Tensor};

use super::rows::{RowIndex, RowMap};
use crate::cpu::{Call, CpuOperation};
use crate::float::{Float, vectorised};
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Operation, Rows, SlotKind, Value};

/// From this many queries an example on they are computed in panels.
const MANY_QUERIES: usize = 8;

/// Who attends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionPlan {
    /// Attention heads; each sees `width / heads` consecutive coordinates.
    pub heads: usize,
    /// Queries per example: as many as keys, or the last position's, which sees all.
    pub queries: usize,
    /// Keys per example.
    pub keys: usize,
    /// The row of each query.
    pub query_rows: RowMap,
    /// The row of each key and of its value.
    pub key_rows: RowMap,
    /// Query t sees keys 0..=t only (where there are as many queries as keys).
    pub causal: bool,
    /// Where examples are tokens (one query, one key): each attends within its sequence, of at most so many tokens.
    pub ragged: Option<usize>,
    /// A slot of numbers, `PerExample(keys)` rows of one, added to the scaled logits; minus infinity hides a key. At least one
    /// key must be seen by every query.
    pub key_bias: Option<usize>,
    /// A slot of numbers, `PerExample(queries * heads)` rows of `keys` (the longest sequence, where they are ragged): dropout factors of the
    /// weights.
    pub dropout: Option<usize>,
    /// A value added to the scaled logits of every example: `Fixed(heads * keys)` rows, head by head and key by key, of `keys`
    /// numbers, one for each position of a query. What stands where causal attention sees nothing is not read.
    pub logit_bias: Option<Value>,
}

/// softmax(q kᵀ / sqrt(width / heads) + biases) v, head by head. Inputs: q, k, v, and the logits' bias where there is one.
#[derive(Debug)]
pub struct Attention {
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    pub(crate) query_rows: RowIndex,
    pub(crate) key_rows: RowIndex,
    pub(crate) causal: bool,
    /// Tokens of the longest sequence, where every example is one token of a sequence.
    pub(crate) ragged: Option<usize>,
    /// Number of the biases' slot among the operation's.
    pub(crate) key_bias: Option<usize>,
    /// Number of the dropout factors' slot among the operation's.
    pub(crate) dropout: Option<usize>,
    /// Whether input number [`LOGIT_BIAS`] is there.
    pub(crate) has_logit_bias: bool,
}

/// The input that is added to the logits.
pub(crate) const LOGIT_BIAS: usize = 3;

impl Graph {
    /// Attention of the rows `q` to the rows `k`, mixing the rows `v`: `PerExample(queries)` rows as wide as theirs. The three
    /// are different values, and k and v have the same rows.
    pub fn attention(&mut self, q: Value, k: Value, v: Value, plan: AttentionPlan) -> Result<Value> {
        let AttentionPlan { heads, queries, keys, causal, .. } = plan;
        let (width, key_extent) = (self.extent(q).width, self.extent(k));
        if heads == 0
            || !width.is_multiple_of(heads)
            || key_extent.width != width
            || self.extent(v) != key_extent
        {
            candle_core::bail!(
                "attention by {heads} heads of rows of {width} to {key_extent:?} and {:?}",
                self.extent(v)
            );
        }
        if queries == 0 || keys == 0 || (causal && queries != keys && queries != 1) {
            candle_core::bail!("attention of {queries} queries to {keys} keys, causal: {causal}");
        }
        let is_plain = plan.key_rows == RowMap::Own
            && plan.query_rows == RowMap::Own
            && plan.key_bias.is_none()
            && plan.logit_bias.is_none();
        if plan.ragged.is_some() && ((queries, keys) != (1, 1) || !causal || !is_plain) {
            candle_core::bail!("attention within sequences is causal, without biases, of rows of their own");
        }
        if q == k || k == v || q == v {
            candle_core::bail!("attention needs three different values: their gradients are written at once");
        }
        let mut inputs = vec![q, k, v];
        if let Some(bias) = plan.logit_bias {
            let expected = Extent { rows: Rows::Fixed(heads * keys), width: keys };
            if self.extent(bias) != expected || (queries != keys && queries != 1) {
                candle_core::bail!(
                    "a bias of {:?} for logits of {expected:?}, {queries} queries",
                    self.extent(bias)
                );
            }
            inputs.push(bias);
        }
        let mut slots = Vec::new();
        let query_rows = plan.query_rows.record(self, q, queries, &mut slots)?;
        let key_rows = plan.key_rows.record(self, k, keys, &mut slots)?;
        let mut numbers = |slot: Option<usize>, rows: usize, width: usize| -> Result<Option<usize>> {
            let Some(slot) = slot else { return Ok(None) };
            let expected = Extent { rows: Rows::PerExample(rows), width };
            if self.slot_extent(slot) != expected || self.slots[slot].kind != SlotKind::Numbers {
                candle_core::bail!("slot {slot} of attention does not hold numbers of {expected:?}");
            }
            slots.push(slot);
            Ok(Some(slots.len() - 1))
        };
        let key_bias = numbers(plan.key_bias, keys, 1)?;
        let dropout = numbers(plan.dropout, queries * heads, plan.ragged.unwrap_or(keys))?;
        let causal = causal && queries == keys;
        let has_logit_bias = plan.logit_bias.is_some();
        let operation = Attention {
            heads,
            queries,
            keys,
            width,
            query_rows,
            key_rows,
            causal,
            ragged: plan.ragged,
            key_bias,
            dropout,
            has_logit_bias,
        };
        Ok(self.record(operation, &inputs, &[], &slots, Extent { rows: Rows::PerExample(queries), width }))
    }
}

impl Attention {
    /// Coordinates of a head.
    pub fn head_size(&self) -> usize {
        self.width / self.heads
    }

    /// What logits are multiplied by.
    pub fn scale(&self) -> f64 {
        1.0 / (self.head_size() as f64).sqrt()
    }

    /// How many keys a query sees.
    #[inline(always)]
    fn visible(&self, query: usize) -> usize {
        if self.causal { query + 1 } else { self.keys }
    }

    /// Most keys of a query.
    fn most_keys(&self) -> usize {
        self.ragged.unwrap_or(self.keys)
    }

    fn form(&self) -> Form {
        if self.ragged.is_some() {
            return Form::Panels;
        }
        let shares_keys = self.key_rows.map() == RowMap::InOrder
            && self.dropout.is_none()
            && !self.causal
            && !self.has_logit_bias;
        match self.queries < MANY_QUERIES {
            true if shares_keys => Form::Common,
            true => Form::Few,
            false => Form::Panels,
        }
    }

    /// The map of an input's rows.
    fn rows_of(&self, input: usize) -> &RowIndex {
        if input == 0 { &self.query_rows } else { &self.key_rows }
    }

    fn biases<'a, T: Float>(&self, call: &Call<'a, T>) -> Option<&'a [T]> {
        self.key_bias.map(|slot| call.numbers(slot))
    }

    /// The logits' bias, `[heads, keys, keys]`.
    fn logit_biases<'a, T: Float>(&self, call: &Call<'a, T>) -> Option<&'a [T]> {
        self.has_logit_bias.then(|| call.input(LOGIT_BIAS))
    }

    /// Where the bias of a head, a key and a query begins; those of the next queries follow.
    #[inline(always)]
    pub(crate) fn logit_bias_at(&self, head: usize, key: usize, query: usize) -> usize {
        (head * self.keys + key) * self.keys + self.keys - self.queries + query
    }

    /// Adds to the gradient of the logits' bias where it is needed, in the order of the examples: `add(example, head, key, factor,
    /// numbers by position of the query)` adds the gradients of the logits before scaling times the factor.
    fn add_to_logit_bias<T: Float>(
        &self,
        call: &Call<'_, T>,
        add: impl Fn(usize, usize, usize, T, &mut [T]),
    ) {
        if !self.has_logit_bias || !call.needs_gradient(LOGIT_BIAS) {
            return;
        }
        let unscaled = T::of(1.0 / self.scale());
        let share = call.to_input(LOGIT_BIAS);
        if !share.accumulate {
            share.numbers.fill(T::ZERO);
        }
        vectorised(
            #[inline(always)]
            || {
                for (row, to) in share.rows.zip(share.numbers.chunks_exact_mut(self.keys)) {
                    let (head, key) = (row / self.keys, row % self.keys);
                    (0..call.examples()).for_each(|example| add(example, head, key, unscaled, to));
                }
            },
        );
    }

    /// The weights' dropout factors: the micro-batch's, or those of the whole feed where sequences are ragged.
    fn factors<'a, T: Float>(&self, call: &Call<'a, T>) -> Option<&'a [T]> {
        self.dropout.map(|slot| match self.ragged {
            Some(_) => call.all_numbers(slot),
            None => call.numbers(slot),
        })
    }

    /// Where the gradient of an input is summed by position; `None`: this part has nothing to do. It begins at zero unless
    /// other operations have added to it.
    fn sums<'a, T: Float>(&self, input: usize, call: &Call<'a, T>) -> Option<Sums<'a, T>> {
        let (share, examples) = match self.rows_of(input).rows_per_example() {
            Some(count) => {
                let share = call.to_input_by(input, count);
                let examples = share.rows.start / count..share.rows.end / count;
                (share, examples)
            }
            None => (call.to_whole_input(input)?, 0..call.examples()),
        };
        if !share.accumulate {
            share.numbers.fill(T::ZERO);
        }
        Some(Sums { examples, first_row: share.rows.start, numbers: share.numbers })
    }
}

/// How attention is computed on a processor.
enum Form {
    Common,
    Few,
    Panels,
}

/// A gradient to add to.
struct Sums<'a, T> {
    /// The examples whose contributions are this part's to add, in this order.
    examples: Range<usize>,
    /// The row of the first number.
    first_row: usize,
    numbers: &'a mut [T],
}

impl CpuOperation for Attention {
    fn backward_stages(&self) -> usize {
        match self.form() {
            Form::Common => common::BACKWARD_STAGES,
            Form::Few => few::BACKWARD_STAGES,
            Form::Panels => panels::backward_stages(self),
        }
    }

    fn scratch(&self) -> usize {
        match self.form() {
            Form::Common | Form::Few => 0,
            Form::Panels => panels::scratch(self),
        }
    }

    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        match self.form() {
            Form::Common => common::forward(self, call),
            Form::Few => few::forward(self, call),
            Form::Panels => panels::forward(self, call),
        }
    }

    fn backward<T: Float>(&self, stage: usize, call: &Call<'_, T>) {
        match self.form() {
            Form::Common => common::backward(self, stage, call),
            Form::Few => few::backward(self, stage, call),
            Form::Panels => panels::backward(self, stage, call),
        }
    }
}

impl Attention {
    /// The logits' bias of all replicas' examples, `[K examples, heads, queries, keys]`, from the input.
    fn reference_bias(&self, given: &Given<'_>) -> Result<Option<Tensor>> {
        if !self.has_logit_bias {
            return Ok(None);
        }
        let (replicas, keys) = (given.replicas, self.keys);
        let bias = given.input(LOGIT_BIAS).reshape((replicas, 1, self.heads, keys, keys))?;
        let bias = bias.narrow(4, keys - self.queries, self.queries)?.transpose(3, 4)?;
        let all = (replicas, given.examples, self.heads, self.queries, keys);
        let bias = bias.broadcast_as(all)?.contiguous()?;
        Ok(Some(bias.reshape((replicas * given.examples, self.heads, self.queries, keys))?))
    }
}

impl Operation for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn saved(&self) -> Vec<Extent> {
        match self.form() {
            Form::Common => common::saved(self),
            Form::Few => few::saved(self),
            Form::Panels => panels::saved(self),
        }
    }

    fn keeps_input(&self, _: usize) -> bool {
        true
    }

    fn may_skip(&self, input: usize) -> bool {
        input == LOGIT_BIAS
    }

    fn keeps_output(&self) -> bool {
        matches!(self.form(), Form::Panels)
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        if self.ragged.is_some() {
            candle_core::bail!("attention within sequences is held against that of each sequence alone");
        }
        let (examples, size) = (given.replicas * given.examples, self.head_size());
        let q = self.query_rows.reference(given, 0)?.reshape((examples, self.queries, self.width))?;
        let k = self.key_rows.reference(given, 1)?.reshape((examples, self.keys, self.width))?;
        let v = self.key_rows.reference(given, 2)?.reshape((examples, self.keys, self.heads, size))?;
        let bias = match self.key_bias {
            Some(slot) => Some(given.numbers(slot)?.reshape((examples, self.keys))?),
            None => None,
        };
        let mut weights =
            weights(&q, &k, self.heads, self.causal, bias.as_ref(), self.reference_bias(given)?.as_ref())?;
        if let Some(slot) = self.dropout {
            let factors = given.numbers(slot)?.reshape((examples, self.queries, self.heads, self.keys))?;
            weights = (weights * factors.transpose(1, 2)?)?;
        }
        let mixed = weights.matmul(&v.transpose(1, 2)?.contiguous()?)?.transpose(1, 2)?.contiguous()?;
        mixed.reshape((given.replicas, given.examples * self.queries, self.width))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Attention weights `[examples, heads, queries, keys]` by plain tensor operations, before dropout, of queries
/// `[examples, queries, width]` to keys `[examples, keys, width]`. `bias` is `[examples, keys]`, `logit_bias` `[examples or 1,
/// heads, queries, keys]`; `causal` as in [`AttentionPlan`].
pub fn weights(
    q: &Tensor,
    k: &Tensor,
    heads: usize,
    causal: bool,
    bias: Option<&Tensor>,
    logit_bias: Option<&Tensor>,
) -> Result<Tensor> {
    let ((examples, queries, width), keys) = (q.dims3()?, k.dim(1)?);
    let size = width / heads;
    let split = |rows: &Tensor, count: usize| {
        rows.reshape((examples, count, heads, size))?.transpose(1, 2)?.contiguous()
    };
    let (q, k) = (split(q, queries)?, split(k, keys)?);
    let mut logits = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (size as f64).sqrt())?;
    if let Some(bias) = bias {
        logits = logits.broadcast_add(&bias.reshape((examples, 1, 1, keys))?)?;
    }
    if let Some(bias) = logit_bias {
        logits = logits.broadcast_add(bias)?;
    }
    if causal && queries == keys {
        let hidden = |query: usize, key: usize| if key > query { f64::NEG_INFINITY } else { 0.0 };
        let hidden: Vec<f64> =
            (0..queries).flat_map(|query| (0..keys).map(move |key| hidden(query, key))).collect();
        let hidden = Tensor::from_vec(hidden, (1, 1, queries, keys), q.device())?.to_dtype(q.dtype())?;
        logits = logits.broadcast_add(&hidden)?;
    }
    let shifted = logits.broadcast_sub(&logits.max_keepdim(3)?.detach())?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(3)?)
}
