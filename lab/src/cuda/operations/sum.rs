//! Sums of two values, and products with given factors.

use super::CardForm;
use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Buffer, Call, flag};
use crate::ops::sum::{Scaled, Sum};

impl CardForm for Sum {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (a, b, y) = (call.input(0), call.input(1), call.output());
        let all = arguments![y.address, a.address, b.address, call.all_numbers(y)];
        call.launch_by_number_of_all("add", y, all)
    }

    /// The first input's gradient is handed on; the second's is a copy.
    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let gradient = call.gradient();
        let Some((to_b, accumulate)) = call.to_input(1) else { return Ok(()) };
        let numbers = call.all_numbers(to_b);
        if accumulate {
            let all = arguments![to_b.address, to_b.address, gradient.address, numbers];
            return call.launch_by_number_of_all("add", to_b, all);
        }
        call.copy(to_b.address, gradient.address, numbers as usize * 4);
        Ok(())
    }
}

impl CardForm for Scaled {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (x, y) = (call.input(0), call.output());
        multiply(call, y, x, false)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let gradient = call.gradient();
        match call.to_input(0) {
            Some((to_x, accumulate)) => multiply(call, to_x, gradient, accumulate),
            None => Ok(()),
        }
    }
}

fn multiply(call: &mut Call<'_, '_>, y: Buffer, x: Buffer, accumulate: bool) -> Result<(), CudaError> {
    let factors = call.slot(0);
    let all = arguments![
        y.address,
        x.address,
        factors.address,
        factors.distance,
        y.count() as i64,
        flag(accumulate)
    ];
    call.launch_by_number("multiply", y.count(), all)
}
