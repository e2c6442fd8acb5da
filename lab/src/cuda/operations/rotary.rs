//! Rotary positions.

use super::CardForm;
use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Buffer, Call, flag, int};
use crate::ops::rotary::Rotary;

impl CardForm for Rotary {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (x, y) = (call.input(0), call.output());
        turn(self, call, y, x, 1.0, false)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let gradient = call.gradient();
        match call.to_input(0) {
            Some((to_x, accumulate)) => turn(self, call, to_x, gradient, -1.0, accumulate),
            None => Ok(()),
        }
    }
}

fn turn(
    rotary: &Rotary,
    call: &mut Call<'_, '_>,
    y: Buffer,
    x: Buffer,
    direction: f32,
    accumulate: bool,
) -> Result<(), CudaError> {
    let (head, positions) = rotary.form();
    let all = arguments![
        y.address,
        x.address,
        call.slot(0).address,
        call.slot(1).address,
        int(positions)?,
        int(x.rows)?,
        int(x.width)?,
        int(head)?,
        direction,
        flag(accumulate)
    ];
    call.launch_by_number("rotary", x.count() / 2, all)
}
