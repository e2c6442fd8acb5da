//! Attention: groups of lanes for each query or key, the softmax taken on the way over the keys, nothing of queries x keys.

use super::CardForm;
use super::rows::{Target, add_up, indexed};
use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{AttentionCall, Buffer, Call, THREADS, flag, int};
use crate::ops::attention::Attention;
use crate::ops::rows::RowIndex;

/// Lanes of a group and coordinates of each lane, for heads of up to their product; the kernels are made for these.
const GROUPS: [(usize, usize); 8] = [(1, 4), (2, 4), (4, 4), (8, 4), (16, 4), (32, 4), (32, 8), (32, 32)];

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
        let groups = replicas * examples * self.keys * self.heads;
        let all = arguments![
            to_k.0.address,
            to_v.0.address,
            gradient.address,
            means,
            log_sums,
            q.address,
            k.address,
            v.address,
            asking,
            groups as i64,
            flag(to_k.1),
            flag(to_v.1)
        ];
        launch(self, call, "backward_keys", groups, all)?;
        add_up_positions(call, 0, &self.query_rows, to_q.0)?;
        add_up_positions(call, 1, &self.key_rows, to_k.0)?;
        add_up_positions(call, 2, &self.key_rows, to_v.0)
    }
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
            add_up(call, gradient, map, target.rows, Target::Value(target, accumulate))
        }
        _ => Ok(()),
    }
}

fn description(attention: &Attention, call: &Call<'_, '_>) -> Result<AttentionCall, CudaError> {
    let slot =
        |slot: Option<usize>| slot.map_or((0, 0), |slot| (call.slot(slot).address, call.slot(slot).distance));
    let ((bias, bias_distance), (dropout, dropout_distance)) =
        (slot(attention.key_bias), slot(attention.dropout));
    Ok(AttentionCall {
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
