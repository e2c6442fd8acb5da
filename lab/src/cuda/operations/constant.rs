//! Numbers of a constant slot as a value.

use super::CardForm;
use super::rows::{Table, look_up, repeated};
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Call, SlotPlace};
use crate::ops::constant::Constant;

impl CardForm for Constant {
    /// Every row is looked up by its own number.
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (y, numbers) = (call.output(), call.slot(0));
        let in_order = repeated(SlotPlace { address: 0, distance: 0 }, y.rows)?;
        look_up(call, y, (Table { address: numbers.address, stride: numbers.distance }, in_order, 1.0), None)
    }

    /// Nothing: it is detached.
    fn backward(&self, _: &mut Call<'_, '_>) -> Result<(), CudaError> {
        Ok(())
    }
}
