//! Rotary positions (Su et al. 2021): coordinates i and i + h/2 of each head turn by position / base^(2i/h).

use std::any::Any;

use candle_core::{Result, Tensor};

use crate::cpu::{Call, CpuOperation};
use crate::float::{Float, vectorised};
use crate::program::reference::Given;
use crate::program::{Graph, Operation, Rows, Value};

/// Turns every row by its position. Input: the rows; slots: cosines and sines, `[positions, head / 2]` each.
#[derive(Debug)]
pub struct Rotary {
    heads: usize,
    width: usize,
    /// Rows of the cosines; row number r of the input is turned by number r modulo this.
    positions: usize,
}

impl Graph {
    /// Turns the rows of `x`, each by its position: `positions` has one for every fixed row, or one for every row of an
    /// example.
    pub fn rotary(&mut self, x: Value, heads: usize, base: f64, positions: &[u32]) -> Result<Value> {
        let extent = self.extent(x);
        let (Rows::Fixed(count) | Rows::PerExample(count)) = extent.rows;
        if heads == 0 || !extent.width.is_multiple_of(2 * heads) || count != positions.len() {
            candle_core::bail!("{heads} heads at {} rotary positions in {extent:?}", positions.len());
        }
        let half = extent.width / heads / 2;
        let angle = |position: u32, index: usize| f64::from(position) / base.powf(index as f64 / half as f64);
        let angles: Vec<f64> = positions
            .iter()
            .flat_map(|position| (0..half).map(move |index| angle(*position, index)))
            .collect();
        let cosines = angles.iter().map(|angle| angle.cos()).collect();
        let sines = angles.iter().map(|angle| angle.sin()).collect();
        let slots = [
            self.constant_numbers("rotary cosines", half, cosines),
            self.constant_numbers("rotary sines", half, sines),
        ];
        let operation = Rotary { heads, width: extent.width, positions: count };
        Ok(self.record(operation, &[x], &[], &slots, extent))
    }
}

impl Rotary {
    /// Coordinates of a head, and how many different rows of cosines there are.
    pub fn form(&self) -> (usize, usize) {
        (self.width / self.heads, self.positions)
    }

    /// Writes (or adds) rows `first..` of `from`, turned forwards (`direction` 1) or backwards (-1).
    fn turn<T: Float>(
        &self,
        call: &Call<'_, T>,
        first: usize,
        from: &[T],
        (to, add): (&mut [T], bool),
        direction: T,
    ) {
        let (size, half) = (self.width / self.heads, self.width / self.heads / 2);
        let (cosines, sines) = (call.numbers(0), call.numbers(1));
        vectorised(
            #[inline(always)]
            || {
                let rows = from.chunks_exact(self.width).zip(to.chunks_exact_mut(self.width));
                for (row, (from, to)) in (first..).zip(rows) {
                    let at = row % self.positions * half;
                    let (cosines, sines) = (&cosines[at..at + half], &sines[at..at + half]);
                    for (from, to) in from.chunks_exact(size).zip(to.chunks_exact_mut(size)) {
                        let ((low, high), (to_low, to_high)) = (from.split_at(half), to.split_at_mut(half));
                        for index in 0..half {
                            let (cosine, sine) = (cosines[index], direction * sines[index]);
                            let turned_low = low[index] * cosine - high[index] * sine;
                            let turned_high = high[index] * cosine + low[index] * sine;
                            to_low[index] = if add { to_low[index] + turned_low } else { turned_low };
                            to_high[index] = if add { to_high[index] + turned_high } else { turned_high };
                        }
                    }
                }
            },
        );
    }
}

impl CpuOperation for Rotary {
    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let x = call.input(0);
        let (rows, output) = call.output_share();
        let x = &x[rows.start * self.width..rows.end * self.width];
        self.turn(call, rows.start, x, (output, false), T::ONE);
    }

    fn backward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let gradient = call.gradient();
        let to_x = call.to_input(0);
        let gradient = &gradient[to_x.rows.start * self.width..to_x.rows.end * self.width];
        self.turn(call, to_x.rows.start, gradient, (to_x.numbers, to_x.accumulate), -T::ONE);
    }
}

impl Operation for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn keeps_input(&self, _: usize) -> bool {
        false
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        let (replicas, rows, width) = given.input(0).dims3()?;
        let half = width / self.heads / 2;
        let repeats = rows / self.positions;
        let angles =
            |slot: usize| given.numbers(slot)?.reshape((replicas, 1, self.positions, 1, half))?.contiguous();
        let (cosines, sines) = (angles(0)?, angles(1)?);
        let split = given.input(0).reshape((replicas, repeats, self.positions, self.heads, 2 * half))?;
        let (low, high) = (split.narrow(4, 0, half)?, split.narrow(4, half, half)?);
        let turned_low = (low.broadcast_mul(&cosines)? - high.broadcast_mul(&sines)?)?;
        let turned_high = (high.broadcast_mul(&cosines)? + low.broadcast_mul(&sines)?)?;
        Tensor::cat(&[turned_low, turned_high], 4)?.reshape((replicas, rows, width))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
