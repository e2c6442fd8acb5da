//! Layer and root-mean-square normalisation: a warp for each row, and partial sums for gain and bias.

use super::CardForm;
use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Call, flag, int, segments};
use crate::ops::layer_norm::{EPSILON, LayerNorm};
use crate::ops::rms_norm::RmsNorm;

/// Rows a block of 256 threads works on at once.
const ROWS_OF_BLOCK: usize = 8;

impl CardForm for LayerNorm {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        forward(call, true)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        backward(call, true)
    }
}

impl CardForm for RmsNorm {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        forward(call, false)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        backward(call, false)
    }
}

/// Where means (0 where rows are not centred) and scales are kept, `[K, rows]` each in one saved buffer.
fn kept(call: &Call<'_, '_>, centred: bool) -> (u64, u64) {
    let saved = call.saved(0);
    match centred {
        true => (saved.address, saved.address + (call.replicas() * saved.rows * 4) as u64),
        false => (0, saved.address),
    }
}

fn forward(call: &mut Call<'_, '_>, centred: bool) -> Result<(), CudaError> {
    let (x, y, gain) = (call.input(0), call.output(), call.parameter(0));
    let bias = if call.has_parameter(1) { call.parameter(1).address } else { 0 };
    let (means, scales) = kept(call, centred);
    let all = arguments![
        y.address,
        means,
        scales,
        x.address,
        gain.address,
        bias,
        call.stride(),
        int(x.rows)?,
        int(x.width)?,
        EPSILON as f32,
        flag(centred)
    ];
    let grid = (x.rows.div_ceil(ROWS_OF_BLOCK), call.replicas(), 1);
    call.launch("norm_forward", grid, (256, 1, 1), all)
}

fn backward(call: &mut Call<'_, '_>, centred: bool) -> Result<(), CudaError> {
    let (x, gradient, gain) = (call.input(0), call.gradient(), call.parameter(0));
    let (means, scales) = kept(call, centred);
    let (rows, width) = (int(x.rows)?, int(x.width)?);
    // Gain and bias first: the gradient of the input may be that of the result, in place.
    let (count, segment) = segments(x.rows);
    let (to_gain, partial_stride) = call.partial_sums(0, 0, count, x.width)?;
    let to_bias = if call.has_parameter(1) { call.partial_sums(1, 0, count, x.width)?.0 } else { 0 };
    let all = arguments![
        to_gain,
        to_bias,
        partial_stride,
        gradient.address,
        x.address,
        means,
        scales,
        rows,
        width,
        int(segment)?
    ];
    let grid = (x.width.div_ceil(32), count, call.replicas());
    call.launch("norm_backward_parameters", grid, (32, 8, 1), all)?;
    let Some((to_x, accumulate)) = call.to_input(0) else { return Ok(()) };
    let all = arguments![
        to_x.address,
        gradient.address,
        x.address,
        gain.address,
        call.stride(),
        means,
        scales,
        rows,
        width,
        flag(centred),
        flag(accumulate)
    ];
    let grid = (x.rows.div_ceil(ROWS_OF_BLOCK), call.replicas(), 1);
    call.launch("norm_backward_input", grid, (256, 1, 1), all)
}
