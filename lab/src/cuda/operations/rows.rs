//! Rows of tables by number, and their gradients: for embeddings, and for whatever else looks rows up.

use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Buffer, Call, SlotPlace, flag, int};

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

/// Rows that stand for others: their numbers, and after how many rows the numbers repeat.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub rows: SlotPlace,
    pub period: usize,
}

/// Where the gradient of a table goes.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// To this parameter of the operation.
    Parameter(usize),
    /// To this buffer, added to what is there or not.
    Value(Buffer, bool),
}

/// `y[n] = table[rows[n]] + second[numbers[n mod period]]`, the second where there is one.
pub(super) fn look_up(
    call: &mut Call<'_, '_>,
    y: Buffer,
    table: Table,
    rows: SlotPlace,
    second: Option<(Table, Numbers)>,
) -> Result<(), CudaError> {
    let (second, numbers) = second.unwrap_or((
        Table { address: 0, stride: 0 },
        Numbers { rows: SlotPlace { address: 0, distance: 0 }, period: 1 },
    ));
    let all = arguments![
        y.address, table.address, table.stride, rows.address, rows.distance, second.address, second.stride,
        numbers.rows.address, int(numbers.period)?, int(y.rows)?, int(y.width)?
    ];
    call.launch_by_number("gather_rows", y.count(), all)
}

/// The gradient of a table of `table_rows` rows that `gradient` was looked up in.
pub(super) fn add_up(
    call: &mut Call<'_, '_>,
    gradient: Buffer,
    numbers: Numbers,
    table_rows: usize,
    target: Target,
) -> Result<(), CudaError> {
    let replicas = call.replicas();
    let segments = (gradient.rows / table_rows.max(1)).div_ceil(MATCHES_OF_SEGMENT).clamp(1, SEGMENTS);
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
        sums, stride, gradient.address, gradient.stride(), numbers.rows.address, numbers.rows.distance,
        int(numbers.period)?, int(gradient.rows)?, int(gradient.width)?, int(segment)?, flag(accumulate)
    ];
    // As many threads as there are columns, in whole warps.
    let threads = gradient.width.next_multiple_of(32).clamp(64, 256) as u32;
    call.launch("gather_backward", (table_rows, segments, replicas), (threads, 1, 1), all)?;
    if let (Target::Value(buffer, accumulate), 2..) = (target, segments) {
        let all = arguments![
            buffer.address, buffer.stride(), sums, int(segments)?, table as i64, flag(accumulate)
        ];
        call.launch_by_number("add_segments", table, all)?;
    }
    Ok(())
}
