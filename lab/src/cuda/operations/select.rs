//! Rows of a value by position.

use super::CardForm;
use super::rows::{Table, Target, add_up, indexed, look_up};
use crate::cuda::error::CudaError;
use crate::cuda::lower::Call;
use crate::ops::select::Select;

impl CardForm for Select {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (x, y, map) = (call.input(0), call.output(), indexed(call, self.index())?);
        look_up(call, y, (Table { address: x.address, stride: x.stride() }, map, 1.0), None)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (gradient, map) = (call.gradient(), indexed(call, self.index())?);
        match call.to_input(0) {
            Some((to_x, accumulate)) => {
                add_up(call, gradient, (map, 1.0), to_x.rows, Target::Value(to_x, accumulate))
            }
            None => Ok(()),
        }
    }
}
