//! What one replica's update or evaluation is given besides parameters.

use crate::float::Float;

/// Content of a slot for all examples of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum SlotData<T> {
    /// Constant in the program; nothing to give.
    Constant,
    /// Row or class numbers.
    Ids(Vec<u32>),
    /// Numbers.
    Numbers(Vec<T>),
}

/// The slots of one batch of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Feed<T> {
    /// Examples in the batch.
    pub examples: usize,
    /// By slot, in the program's order.
    pub slots: Vec<SlotData<T>>,
    /// The loss is the sum over rows of weighted losses times this.
    pub loss_scale: f64,
}

impl<T: Float> Feed<T> {
    /// A feed with nothing in it yet.
    pub fn empty(slots: usize) -> Self {
        Feed { examples: 0, slots: vec![SlotData::Constant; slots], loss_scale: 0.0 }
    }

    /// The row numbers of a slot, to fill anew; keeps their memory.
    pub fn ids_mut(&mut self, slot: usize) -> &mut Vec<u32> {
        if !matches!(self.slots[slot], SlotData::Ids(_)) {
            self.slots[slot] = SlotData::Ids(Vec::new());
        }
        match &mut self.slots[slot] {
            SlotData::Ids(ids) => ids,
            _ => unreachable!("just made"),
        }
    }

    /// The numbers of a slot, to fill anew; keeps their memory.
    pub fn numbers_mut(&mut self, slot: usize) -> &mut Vec<T> {
        if !matches!(self.slots[slot], SlotData::Numbers(_)) {
            self.slots[slot] = SlotData::Numbers(Vec::new());
        }
        match &mut self.slots[slot] {
            SlotData::Numbers(numbers) => numbers,
            _ => unreachable!("just made"),
        }
    }
}
