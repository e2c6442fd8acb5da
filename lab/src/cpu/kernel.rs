//! What an operation does on a processor.

use super::Call;
use crate::float::Float;

/// An operation's work on a processor, for one replica. Work is split into stages; all parts of a team finish a stage before
/// the next begins. In one stage a part reads what it likes and writes only its own share of each buffer it writes.
pub trait CpuOperation {
    /// Stages of the forward pass.
    fn forward_stages(&self) -> usize {
        1
    }

    /// Stages of the backward pass.
    fn backward_stages(&self) -> usize {
        1
    }

    /// Numbers of scratch memory each part needs besides that of matrix products.
    fn scratch(&self) -> usize {
        0
    }

    /// 64-bit numbers of scratch memory each part needs.
    fn wide_scratch(&self) -> usize {
        0
    }

    /// One stage of the forward pass.
    fn forward<T: Float>(&self, stage: usize, call: &Call<'_, T>);

    /// One stage of the backward pass.
    fn backward<T: Float>(&self, stage: usize, call: &Call<'_, T>);
}

/// [`CpuOperation`] behind a pointer: one method per float type.
pub trait Kernel {
    /// Stages of the forward and of the backward pass.
    fn stages(&self) -> [usize; 2];
    /// Scratch numbers, and 64-bit scratch numbers.
    fn scratch_counts(&self) -> [usize; 2];
    /// A stage of the forward pass in 32 bits.
    fn forward_f32(&self, stage: usize, call: &Call<'_, f32>);
    /// A stage of the backward pass in 32 bits.
    fn backward_f32(&self, stage: usize, call: &Call<'_, f32>);
    /// A stage of the forward pass in 64 bits.
    fn forward_f64(&self, stage: usize, call: &Call<'_, f64>);
    /// A stage of the backward pass in 64 bits.
    fn backward_f64(&self, stage: usize, call: &Call<'_, f64>);
}

impl<O: CpuOperation> Kernel for O {
    fn stages(&self) -> [usize; 2] {
        [self.forward_stages(), self.backward_stages()]
    }

    fn scratch_counts(&self) -> [usize; 2] {
        [self.scratch(), self.wide_scratch()]
    }

    fn forward_f32(&self, stage: usize, call: &Call<'_, f32>) {
        self.forward(stage, call);
    }

    fn backward_f32(&self, stage: usize, call: &Call<'_, f32>) {
        self.backward(stage, call);
    }

    fn forward_f64(&self, stage: usize, call: &Call<'_, f64>) {
        self.forward(stage, call);
    }

    fn backward_f64(&self, stage: usize, call: &Call<'_, f64>) {
        self.backward(stage, call);
    }
}
