//! Activations that no linear map took in.

use super::{CardForm, GELU, RELU};
use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Call, flag, int, segments};
use crate::ops::activation::{Activation, Function};

impl CardForm for Activation {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (x, y) = (call.input(0), call.output());
        let activation = match self.function() {
            Function::Relu => RELU,
            Function::Gelu => GELU,
            Function::Geglu => {
                let all = arguments![y.address, x.address, call.input(1).address, call.all_numbers(y)];
                return call.launch_by_number_of_all("gated_gelu", y, all);
            }
        };
        let (rows, width) = (int(y.rows)?, int(y.width)?);
        let (no_bias, no_residual) = (0u64, 0u64);
        let all = arguments![y.address, x.address, no_bias, 0i64, no_residual, rows, width, activation];
        call.launch_by_number("bias_activation", y.count(), all)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (x, gradient) = (call.input(0), call.gradient());
        let Some((to_x, accumulate)) = call.to_input(0) else { return Ok(()) };
        let activation = match self.function() {
            Function::Relu => RELU,
            Function::Gelu => GELU,
            Function::Geglu => {
                let Some((to_other, accumulate_other)) = call.to_input(1) else { return Ok(()) };
                let all = arguments![
                    to_x.address,
                    to_other.address,
                    gradient.address,
                    x.address,
                    call.input(1).address,
                    call.all_numbers(x),
                    flag(accumulate),
                    flag(accumulate_other)
                ];
                return call.launch_by_number_of_all("gated_gelu_backward", x, all);
            }
        };
        let (count, segment) = segments(x.rows);
        let (no_sums, rows, width) = (0u64, int(x.rows)?, int(x.width)?);
        let all = arguments![
            to_x.address,
            no_sums,
            0i64,
            gradient.address,
            x.address,
            rows,
            width,
            int(segment)?,
            activation,
            flag(accumulate)
        ];
        let grid = (x.width.div_ceil(32), count, call.replicas());
        call.launch("activation_backward", grid, (32, 8, 1), all)
    }
}
