//! Attention: groups of lanes for each query or key, the softmax taken on the way over the keys, nothing of queries x keys.

use super::CardForm;
use super::rows::{Target, add_up, indexed};
use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{AttentionCall, Buffer, Call, THREADS, flag, int, segments};
use crate::ops::attention::{Attention, LOGIT_BIAS};
use crate::ops::rows::RowIndex;

/// Lanes of a group and coordinates of each lane, for heads of up to their product; the kernels are made for these.
const GROUPS: [(usize, usize); 8] = [(1, 4), (2, 4), (4, 4), (8, 4), (16, 4), (32, 4), (32, 8), (32, 32)];

/// Gradients of logits that are kept on the side at once, over all replicas, on their way into a bias of all examples.
const LOGITS_AT_ONCE: usize = 1 << 25;

impl CardForm for Attention {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (q, k, v, y) = (call.input(0), call.input(1), call.input(2), call.output());
        // Of what processors keep, a card needs one number a query and head.
        let log_sums = call.saved(0).address;
        let groups = call.replicas() * call.examples() * self.queries * self.heads;
        let all = arguments![
            y.address,
            log_sums,
            q.address,
            k.address,
            v.address,
            description(self, call)?,
            groups as i64
        ];
        launch(self, call, "forward", groups, all)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (q, k, v, gradient) = (call.input(0), call.input(1), call.input(2), call.gradient());
        let (replicas, examples) = (call.replicas(), call.examples());
        let log_sums = call.saved(0).address;
        let output = if crate::program::Operation::keeps_output(self) { call.output().address } else { 0 };
        let means = call.scratch(replicas * examples * self.queries * self.heads);
        let to_q = by_position(call, 0, &self.query_rows);
        let to_k = by_position(call, 1, &self.key_rows);
        let to_v = by_position(call, 2, &self.key_rows);
        let (Some(to_q), Some(to_k), Some(to_v)) = (to_q, to_k, to_v) else { return Ok(()) };
        let asking = description(self, call)?;
        let groups = replicas * examples * self.queries * self.heads;
        let all = arguments![
            to_q.0.address,
            means,
            gradient.address,
            output,
            log_sums,
            q.address,
            k.address,
            v.address,
            asking,
            groups as i64,
            flag(to_q.1)
        ];
        launch(self, call, "backward_queries", groups, all)?;
        // Where a bias of the logits wants its gradient, examples are taken a few at a time: as many as their logits' gradients
        // have room.
        let logits = self.heads * self.keys * self.queries;
        let biased = self.has_logit_bias && call.needs_gradient(LOGIT_BIAS);
        let most = if biased { (LOGITS_AT_ONCE / (replicas * logits)).clamp(1, examples) } else { examples };
        let to_logits = if biased { call.scratch(replicas * most * logits) } else { 0 };
        // The last stretch may be shorter, and be divided into more segments for that.
        let most_segments = segments(most).0.max(segments(examples % most).0);
        let partial = if biased { call.scratch(replicas * most_segments * logits) } else { 0 };
        for first in (0..examples).step_by(most) {
            let count = most.min(examples - first);
            let groups = replicas * count * self.keys * self.heads;
            let all = arguments![
                to_k.0.address,
                to_v.0.address,
                to_logits,
                gradient.address,
                means,
                log_sums,
                q.address,
                k.address,
                v.address,
                AttentionCall { first: int(first)?, count: int(count)?, ..asking },
                groups as i64,
                flag(to_k.1),
                flag(to_v.1)
            ];
            launch(self, call, "backward_keys", groups, all)?;
            if biased {
                add_to_logit_bias(self, call, (to_logits, partial), (first, count))?;
            }
        }
        add_up_positions(call, 0, &self.query_rows, to_q.0)?;
        add_up_positions(call, 1, &self.key_rows, to_k.0)?;
        add_up_positions(call, 2, &self.key_rows, to_v.0)
    }
}

/// Adds the gradients of the logits of `count` examples, `[K, count, H, T, Q]`, to that of the bias they share: by segments of
/// examples first, so that many threads have something to do.
fn add_to_logit_bias(
    attention: &Attention,
    call: &mut Call<'_, '_>,
    (to_logits, partial): (u64, u64),
    (first, count): (usize, usize),
) -> Result<(), CudaError> {
    let Some((target, accumulate)) = call.to_input(LOGIT_BIAS) else { return Ok(()) };
    let Attention { heads, keys, queries, causal, .. } = *attention;
    let (width, (segments, segment)) = (heads * keys * queries, segments(count));
    let all =
        arguments![partial, (segments * width) as i64, to_logits, int(count)?, int(width)?, int(segment)?];
    let grid = (width.div_ceil(32), segments, call.replicas());
    call.launch("column_sums", grid, (32, 8, 1), all)?;
    let all = arguments![
        target.address,
        partial,
        int(segments)?,
        int(heads)?,
        int(keys)?,
        int(queries)?,
        flag(causal),
        flag(accumulate || first > 0)
    ];
    call.launch_by_number("attention_logit_bias", target.count(), all)
}

/// Where a gradient by position goes, and whether it is added: to the input's itself where every row is one position, else
/// to memory on the side.
fn by_position(call: &mut Call<'_, '_>, input: usize, index: &RowIndex) -> Option<(Buffer, bool)> {
    let (target, accumulate) = call.to_input(input)?;
    if index.is_one_to_one() {
        return Some((target, accumulate));
    }
    let rows = call.examples() * index.positions();
    let address = call.scratch(call.replicas() * rows * target.width);
    Some((Buffer { address, rows, width: target.width }, false))
}

/// Adds gradients by position up to those of the rows, where positions share rows.
fn add_up_positions(
    call: &mut Call<'_, '_>,
    input: usize,
    index: &RowIndex,
    gradient: Buffer,
) -> Result<(), CudaError> {
    match call.to_input(input) {
        Some((target, accumulate)) if !index.is_one_to_one() => {
            let map = indexed(call, index)?;
            add_up(call, gradient, (map, 1.0), target.rows, Target::Value(target, accumulate))
        }
        _ => Ok(()),
    }
}

fn description(attention: &Attention, call: &Call<'_, '_>) -> Result<AttentionCall, CudaError> {
    let slot =
        |slot: Option<usize>| slot.map_or((0, 0), |slot| (call.slot(slot).address, call.slot(slot).distance));
    let ((bias, bias_distance), (dropout, dropout_distance)) =
        (slot(attention.key_bias), slot(attention.dropout));
    let logit_bias = attention.has_logit_bias.then(|| call.input(LOGIT_BIAS));
    Ok(AttentionCall {
        logit_bias_distance: logit_bias.map_or(0, |bias| bias.stride()),
        logit_bias: logit_bias.map_or(0, |bias| bias.address),
        first: 0,
        count: int(call.examples())?,
        query_map: indexed(call, &attention.query_rows)?,
        key_map: indexed(call, &attention.key_rows)?,
        bias_distance,
        dropout_distance,
        bias,
        dropout,
        examples: int(call.examples())?,
        queries: int(attention.queries)?,
        keys: int(attention.keys)?,
        heads: int(attention.heads)?,
        head: int(attention.head_size())?,
        query_rows: int(call.input(0).rows)?,
        key_rows: int(call.input(1).rows)?,
        causal: flag(attention.causal),
        scale: attention.scale() as f32,
        padding: 0,
    })
}

fn launch(
    attention: &Attention,
    call: &mut Call<'_, '_>,
    pass: &str,
    groups: usize,
    arguments: crate::cuda::commands::Arguments,
) -> Result<(), CudaError> {
    let head = attention.head_size();
    let Some((lanes, coordinates)) = GROUPS.iter().find(|(lanes, coordinates)| lanes * coordinates >= head)
    else {
        return Err(CudaError::Unsupported(format!(
            "attention heads of {head} coordinates are more than the 1024 a card is prepared for; use more heads"
        )));
    };
    let name = format!("attention_{pass}_{lanes}_{coordinates}");
    let grid = ((groups * lanes).div_ceil(THREADS), 1, 1);
    call.launch(&name, grid, (THREADS as u32, 1, 1), arguments)
}
