//! Root-mean-square normalisation (Zhang & Sennrich 2019): each row to mean square 1, then a gain.

use std::any::Any;

use candle_core::{Result, Tensor};

use super::layer_norm::EPSILON;
use crate::cpu::{Call, CpuOperation};
use crate::float::{Float, sum_of, vectorised};
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Operation, Value};

/// `x / sqrt(mean(x²) + 1e-5) * gain`, row by row. Parameter: gain. Saves the reciprocal of the root.
#[derive(Debug)]
pub struct RmsNorm {
    extent: Extent,
}

impl Graph {
    /// Root-mean-square normalisation of every row; the gain is as wide as a row.
    pub fn rms_norm(&mut self, x: Value, gain: usize) -> Result<Value> {
        let extent = self.extent(x);
        if self.parameter_shape(gain) != [extent.width] {
            candle_core::bail!(
                "RMS norm of rows of {} with a gain of {:?}",
                extent.width,
                self.parameter_shape(gain)
            );
        }
        Ok(self.record(RmsNorm { extent }, &[x], &[gain], &[], extent))
    }
}

impl CpuOperation for RmsNorm {
    /// Gradients of the rows, then of the gain.
    fn backward_stages(&self) -> usize {
        2
    }

    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let width = self.extent.width;
        let (x, gain) = (call.input(0), call.parameter(0));
        let ((rows, result), (_, saved)) = (call.output_share(), call.saved_share_by(0, 1));
        let x = &x[rows.start * width..rows.end * width];
        let share = T::ONE / T::of(width as f64);
        vectorised(
            #[inline(always)]
            || {
                for ((x, result), saved) in
                    x.chunks_exact(width).zip(result.chunks_exact_mut(width)).zip(saved)
                {
                    let square = sum_of(width, |at| x[at] * x[at]) * share;
                    let scale = T::ONE / (square + T::of(EPSILON)).sqrt();
                    for ((result, x), gain) in result.iter_mut().zip(x).zip(gain) {
                        *result = *x * scale * *gain;
                    }
                    *saved = scale;
                }
            },
        );
    }

    fn backward<T: Float>(&self, stage: usize, call: &Call<'_, T>) {
        let width = self.extent.width;
        let share = T::ONE / T::of(width as f64);
        let (x, gradient, saved) = (call.input(0), call.gradient(), call.saved(0));
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(saved);
        if stage == 0 {
            let (gain, to_x) = (call.parameter(0), call.to_input(0));
            let rows = rows.skip(to_x.rows.start).zip(to_x.numbers.chunks_exact_mut(width));
            vectorised(
                #[inline(always)]
                || {
                    for (((x, gradient), scale), result) in rows {
                        let across =
                            sum_of(width, |at| gradient[at] * gain[at] * x[at]) * share * *scale * *scale;
                        for (((x, gradient), gain), result) in x.iter().zip(gradient).zip(gain).zip(result) {
                            let own = (*gradient * *gain - *x * across) * *scale;
                            *result = if to_x.accumulate { *result + own } else { own };
                        }
                    }
                },
            );
        } else {
            let to_gain = call.to_parameter(0, 1);
            vectorised(
                #[inline(always)]
                || {
                    if !to_gain.accumulate {
                        to_gain.numbers.fill(T::ZERO);
                    }
                    for ((x, gradient), scale) in rows {
                        let numbers = x[to_gain.rows.clone()].iter().zip(&gradient[to_gain.rows.clone()]);
                        for ((x, gradient), sum) in numbers.zip(to_gain.numbers.iter_mut()) {
                            *sum += *gradient * (*x * *scale);
                        }
                    }
                },
            );
        }
    }
}

impl Operation for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn saved(&self) -> Vec<Extent> {
        vec![Extent { width: 1, ..self.extent }]
    }

    fn keeps_input(&self, _: usize) -> bool {
        true
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        let x = given.input(0);
        let root = (x.sqr()?.mean_keepdim(2)? + EPSILON)?.sqrt()?;
        x.broadcast_div(&root)?.broadcast_mul(&given.parameter(0).unsqueeze(1)?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
