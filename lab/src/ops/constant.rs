//! Numbers of a constant slot as a value, for operations that take values. It has no gradient.

use std::any::Any;

use candle_core::{Result, Tensor};

use crate::cpu::{Call, CpuOperation};
use crate::float::Float;
use crate::program::reference::Given;
use crate::program::{Graph, Operation, Rows, SlotKind, Value};

/// The numbers of a slot.
#[derive(Debug)]
pub struct Constant;

impl Graph {
    /// The numbers of a constant slot; detached.
    pub fn constant(&mut self, slot: usize) -> Result<Value> {
        let extent = self.slot_extent(slot);
        if self.slots[slot].kind != SlotKind::Numbers || !matches!(extent.rows, Rows::Fixed(_)) {
            candle_core::bail!("slot {slot} does not hold fixed numbers");
        }
        Ok(self.detached(|graph| graph.record(Constant, &[], &[], &[slot], extent)))
    }
}

impl CpuOperation for Constant {
    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let (rows, result) = call.output_share();
        let width = call.output_size().1;
        result.copy_from_slice(&call.numbers(0)[rows.start * width..rows.end * width]);
    }

    fn backward<T: Float>(&self, _: usize, _: &Call<'_, T>) {}
}

impl Operation for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn keeps_input(&self, _: usize) -> bool {
        false
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        Ok(given.numbers(0)?.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
