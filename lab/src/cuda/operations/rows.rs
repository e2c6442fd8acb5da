//! Rows of tables by number, and their gradients: for embeddings, and for whatever else looks rows up.

use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Buffer, Call, RowMapCall, SlotPlace, flag, int};
use crate::ops::rows::{RowIndex, RowMap};

/// Matches of one row of a table that one block adds up.
const MATCHES_OF_SEGMENT: usize = 128;

/// Most segments.
const SEGMENTS: usize = 64;

/// A table of each replica: address, distance between replicas in numbers.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub address: u64,
    pub stride: i64,
}

/// Every place has a row of its own in a list `[count]` that examples do not share rows by.
pub(super) fn listed(rows: SlotPlace, count: usize) -> Result<RowMapCall, CudaError> {
    let positions = int(count.max(1))?;
    Ok(RowMapCall {
        table: rows.address,
        distance: rows.distance,
        positions,
        table_step: positions,
        ..Default::default()
    })
}

/// The rows of a list `[period]` that begins anew after `period` places.
pub(super) fn repeated(rows: SlotPlace, period: usize) -> Result<RowMapCall, CudaError> {
    let positions = int(period.max(1))?;
    Ok(RowMapCall { table: rows.address, distance: rows.distance, positions, ..Default::default() })
}

/// The rows of positions of examples.
pub(super) fn indexed(call: &Call<'_, '_>, index: &RowIndex) -> Result<RowMapCall, CudaError> {
    let per_example = index.rows_per_example().unwrap_or(0);
    let table = index.slot().map(|slot| call.slot(slot));
    Ok(RowMapCall {
        table: table.map_or(0, |place| place.address),
        distance: table.map_or(0, |place| place.distance),
        positions: int(index.positions())?,
        table_step: int(index.positions())?,
        rows_per_group: int(per_example)?,
        first: if index.map() == RowMap::Last { int(per_example.saturating_sub(1))? } else { 0 },
    })
}

/// Where the gradient of a table goes.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// To this parameter of the operation.
    Parameter(usize),
    /// To this buffer, added to what is there or not.
    Value(Buffer, bool),
}

/// `y[n] = factor table[map(n)] + second[second_map(n)]`, the second where there is one.
pub(super) fn look_up(
    call: &mut Call<'_, '_>,
    y: Buffer,
    (table, map, factor): (Table, RowMapCall, f32),
    second: Option<(Table, RowMapCall)>,
) -> Result<(), CudaError> {
    let none = (Table { address: 0, stride: 0 }, RowMapCall { positions: 1, ..Default::default() });
    let (second, second_map) = second.unwrap_or(none);
    let all = arguments![
        y.address,
        table.address,
        table.stride,
        map,
        second.address,
        second.stride,
        second_map,
        int(y.rows)?,
        int(y.width)?,
        factor
    ];
    call.launch_by_number("gather_rows", y.count(), all)
}

/// The gradient of a table of `table_rows` rows that `gradient` was looked up in, times a factor.
pub(super) fn add_up(
    call: &mut Call<'_, '_>,
    gradient: Buffer,
    (map, factor): (RowMapCall, f32),
    table_rows: usize,
    target: Target,
) -> Result<(), CudaError> {
    let replicas = call.replicas();
    // Where examples have rows of their own, a row looks at its example only.
    let matches = if map.rows_per_group > 0 { 1 } else { gradient.rows / table_rows.max(1) };
    let segments = matches.div_ceil(MATCHES_OF_SEGMENT).clamp(1, SEGMENTS);
    let segment = gradient.rows.div_ceil(segments).max(1);
    let segments = gradient.rows.div_ceil(segment).max(1);
    let table = table_rows * gradient.width;
    let (sums, stride, accumulate) = match target {
        // All gradients of parameters are zero at first, so adding is always right.
        Target::Parameter(parameter) if segments == 1 => {
            (call.to_parameter(parameter).address, call.stride(), true)
        }
        Target::Parameter(parameter) => {
            let (sums, stride) = call.partial_sums(parameter, 0, segments, table)?;
            (sums, stride, false)
        }
        Target::Value(buffer, accumulate) if segments == 1 => (buffer.address, buffer.stride(), accumulate),
        Target::Value(..) => (call.scratch(replicas * segments * table), (segments * table) as i64, false),
    };
    let all = arguments![
        sums,
        stride,
        gradient.address,
        gradient.stride(),
        map,
        int(gradient.rows)?,
        int(gradient.width)?,
        int(segment)?,
        flag(accumulate),
        factor
    ];
    // As many threads as there are columns, in whole warps.
    let threads = gradient.width.next_multiple_of(32).clamp(64, 256) as u32;
    call.launch("gather_backward", (table_rows, segments, replicas), (threads, 1, 1), all)?;
    if let (Target::Value(buffer, accumulate), 2..) = (target, segments) {
        let all =
            arguments![buffer.address, buffer.stride(), sums, int(segments)?, table as i64, flag(accumulate)];
        call.launch_by_number("add_segments", table, all)?;
    }
    Ok(())
}
