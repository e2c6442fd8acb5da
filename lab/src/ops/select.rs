//! Rows of a value by position: a row of its own for each asked position of each example.

use std::any::Any;

use candle_core::{Result, Tensor};

use super::rows::{RowIndex, RowMap};
use crate::cpu::{Call, CpuOperation, Share};
use crate::float::{Float, vectorised};
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Operation, Rows, Value};

/// Row `map(e, t)` of the input for every position t of every example e.
#[derive(Debug)]
pub struct Select {
    index: RowIndex,
    width: usize,
}

impl Graph {
    /// The rows of `x` at `positions` positions of every example.
    pub fn select(&mut self, x: Value, map: RowMap, positions: usize) -> Result<Value> {
        let width = self.extent(x).width;
        let mut slots = Vec::new();
        let index = map.record(self, x, positions, &mut slots)?;
        let extent = Extent { rows: Rows::PerExample(positions), width };
        Ok(self.record(Select { index, width }, &[x], &[], &slots, extent))
    }
}

impl Select {
    /// Which rows.
    pub fn index(&self) -> &RowIndex {
        &self.index
    }

    /// Adds the gradients of examples' rows to a share of the input's, in order.
    fn scatter<T: Float>(&self, call: &Call<'_, T>, share: Share<'_, T>, examples: std::ops::Range<usize>) {
        if !share.accumulate {
            share.numbers.fill(T::ZERO);
        }
        let (map, positions, width) = (self.index.of(call), self.index.positions(), self.width);
        let gradient = call.gradient();
        vectorised(
            #[inline(always)]
            || {
                for example in examples {
                    for position in 0..positions {
                        let from = &gradient[(example * positions + position) * width..][..width];
                        let to = (map.row(example, position) - share.rows.start) * width;
                        for (sum, number) in share.numbers[to..to + width].iter_mut().zip(from) {
                            *sum += *number;
                        }
                    }
                }
            },
        );
    }
}

impl CpuOperation for Select {
    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let (map, positions, width) = (self.index.of(call), self.index.positions(), self.width);
        let (x, (rows, result)) = (call.input(0), call.output_share());
        for (row, result) in rows.zip(result.chunks_exact_mut(width)) {
            result.copy_from_slice(&x[map.row(row / positions, row % positions) * width..][..width]);
        }
    }

    /// Where examples share rows, the first part adds up all gradients.
    fn backward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        match self.index.rows_per_example() {
            Some(own) => {
                let share = call.to_input_by(0, own);
                let examples = share.rows.start / own..share.rows.end / own;
                self.scatter(call, share, examples);
            }
            None => {
                if let Some(share) = call.to_whole_input(0) {
                    self.scatter(call, share, 0..call.examples());
                }
            }
        }
    }
}

impl Operation for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn keeps_input(&self, _: usize) -> bool {
        false
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        self.index.reference(given, 0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
