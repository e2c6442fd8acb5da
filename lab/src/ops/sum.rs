//! Sums of two values, and products with given factors (dropout).

use std::any::Any;

use candle_core::{Result, Tensor};

use crate::cpu::{Call, CpuOperation};
use crate::float::{Float, vectorised};
use crate::program::reference::Given;
use crate::program::{Graph, Operation, Value};

/// `a + b`.
#[derive(Debug)]
pub struct Sum;

/// `x * factors`, number by number; the factors come from a slot and get no gradient.
#[derive(Debug)]
pub struct Scaled;

impl Graph {
    /// `residual + branch`, of equal extents; part of the linear map where the branch is one.
    pub fn add(&mut self, residual: Value, branch: Value) -> Result<Value> {
        if self.extent(residual) != self.extent(branch) {
            candle_core::bail!("a sum of {:?} and {:?}", self.extent(residual), self.extent(branch));
        }
        if self.fuse_residual(residual, branch) {
            return Ok(branch);
        }
        Ok(self.record(Sum, &[residual, branch], &[], &[], self.extent(residual)))
    }

    /// `x` times the numbers of a slot of the same extent.
    pub fn scaled(&mut self, x: Value, factors: usize) -> Result<Value> {
        if self.extent(x) != self.slot_extent(factors) {
            candle_core::bail!("factors of {:?} for {:?}", self.slot_extent(factors), self.extent(x));
        }
        Ok(self.record(Scaled, &[x], &[], &[factors], self.extent(x)))
    }
}

impl CpuOperation for Sum {
    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let (rows, result) = call.output_share();
        let width = call.output_size().1;
        let range = rows.start * width..rows.end * width;
        let (a, b) = (&call.input(0)[range.clone()], &call.input(1)[range]);
        vectorised(
            #[inline(always)]
            || {
                for ((result, a), b) in result.iter_mut().zip(a).zip(b) {
                    *result = *a + *b;
                }
            },
        );
    }

    /// The first input's gradient is handed on; the second's is a copy.
    fn backward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let to_b = call.to_input(1);
        let width = call.output_size().1;
        let gradient = &call.gradient()[to_b.rows.start * width..to_b.rows.end * width];
        vectorised(
            #[inline(always)]
            || {
                for (to, gradient) in to_b.numbers.iter_mut().zip(gradient) {
                    *to = if to_b.accumulate { *to + *gradient } else { *gradient };
                }
            },
        );
    }
}

impl Operation for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn keeps_input(&self, _: usize) -> bool {
        false
    }

    fn passes_to(&self) -> Option<usize> {
        Some(0)
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        given.input(0) + given.input(1)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl CpuOperation for Scaled {
    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let (rows, result) = call.output_share();
        let width = call.output_size().1;
        let range = rows.start * width..rows.end * width;
        let (x, factors) = (&call.input(0)[range.clone()], &call.numbers(0)[range]);
        vectorised(
            #[inline(always)]
            || {
                for ((result, x), factor) in result.iter_mut().zip(x).zip(factors) {
                    *result = *x * *factor;
                }
            },
        );
    }

    fn backward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let to_x = call.to_input(0);
        let width = call.output_size().1;
        let range = to_x.rows.start * width..to_x.rows.end * width;
        let (gradient, factors) = (&call.gradient()[range.clone()], &call.numbers(0)[range]);
        vectorised(
            #[inline(always)]
            || {
                for ((to, gradient), factor) in to_x.numbers.iter_mut().zip(gradient).zip(factors) {
                    let own = *gradient * *factor;
                    *to = if to_x.accumulate { *to + own } else { own };
                }
            },
        );
    }
}

impl Operation for Scaled {
    fn name(&self) -> &'static str {
        "scaled"
    }

    fn keeps_input(&self, _: usize) -> bool {
        false
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        given.input(0) * given.numbers(0)?
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
