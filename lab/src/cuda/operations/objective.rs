//! Objectives: losses and slopes of every row in one pass, in 64 bits.

use super::CardForm;
use crate::cuda::commands::arguments;
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Call, int};
use crate::ops::objective::Objective;

impl CardForm for Objective {
    /// Nothing: the loss and its gradient are one pass, which only training needs.
    fn forward(&self, _: &mut Call<'_, '_>) -> Result<(), CudaError> {
        Ok(())
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let outputs = call.input(0);
        let Some((to_outputs, _)) = call.to_input(0) else { return Ok(()) };
        let (answers, weights) = (call.slot(0), call.slot_or_none(1));
        let ((losses, distance), scales) = (call.losses(), call.loss_scales());
        let rows = int(outputs.rows)?;
        if self.is_cross_entropy() {
            let all = arguments![
                losses,
                distance,
                to_outputs.address,
                outputs.address,
                answers.address,
                answers.distance,
                weights.address,
                weights.distance,
                scales,
                rows,
                int(outputs.width)?
            ];
            let grid = (outputs.rows.div_ceil(8), call.replicas(), 1);
            return call.launch("cross_entropy", grid, (256, 1, 1), all);
        }
        let all = arguments![
            losses,
            distance,
            to_outputs.address,
            outputs.address,
            answers.address,
            answers.distance,
            weights.address,
            weights.distance,
            scales,
            rows
        ];
        call.launch_by_number("squared_error", outputs.rows, all)
    }
}
