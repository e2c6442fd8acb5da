//! Layer normalisation (Ba, Kiros & Hinton 2016): each row to mean 0 and variance 1, then gain and bias.

use std::any::Any;

use candle_core::{Result, Tensor};

use crate::cpu::{Call, CpuOperation};
use crate::float::{Float, sum_of, vectorised};
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Operation, Value};

/// Added to the variance.
pub const EPSILON: f64 = 1e-5;

/// `(x - mean) / sqrt(variance + 1e-5) * gain + bias`, row by row. Parameters: gain, bias. Saves mean and reciprocal deviation.
#[derive(Debug)]
pub struct LayerNorm {
    extent: Extent,
}

impl Graph {
    /// Layer normalisation of every row; gain and bias are as wide as a row.
    pub fn layer_norm(&mut self, x: Value, gain: usize, bias: usize) -> Result<Value> {
        let extent = self.extent(x);
        for parameter in [gain, bias] {
            if self.parameter_shape(parameter) != [extent.width] {
                candle_core::bail!(
                    "layer norm of rows of {} with a parameter of {:?}",
                    extent.width,
                    self.parameter_shape(parameter)
                );
            }
        }
        Ok(self.record(LayerNorm { extent }, &[x], &[gain, bias], &[], extent))
    }
}

impl CpuOperation for LayerNorm {
    /// Gradients of the rows, then of gain and bias.
    fn backward_stages(&self) -> usize {
        2
    }

    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let width = self.extent.width;
        let (x, gain, bias) = (call.input(0), call.parameter(0), call.parameter(1));
        let ((rows, result), (_, saved)) = (call.output_share(), call.saved_share_by(0, 1));
        let x = &x[rows.start * width..rows.end * width];
        let share = T::ONE / T::of(width as f64);
        vectorised(
            #[inline(always)]
            || {
                let (saved, _) = saved.as_chunks_mut::<2>();
                for ((x, result), saved) in
                    x.chunks_exact(width).zip(result.chunks_exact_mut(width)).zip(saved)
                {
                    let mean = sum_of(width, |at| x[at]) * share;
                    let variance = sum_of(width, |at| (x[at] - mean) * (x[at] - mean)) * share;
                    let scale = T::ONE / (variance + T::of(EPSILON)).sqrt();
                    for (((result, x), gain), bias) in result.iter_mut().zip(x).zip(gain).zip(bias) {
                        *result = (*x - mean) * scale * *gain + *bias;
                    }
                    *saved = [mean, scale];
                }
            },
        );
    }

    fn backward<T: Float>(&self, stage: usize, call: &Call<'_, T>) {
        let width = self.extent.width;
        let (x, gradient, saved) = (call.input(0), call.gradient(), call.saved(0));
        let (saved, _) = saved.as_chunks::<2>();
        if stage == 0 {
            let (gain, to_x) = (call.parameter(0), call.to_input(0));
            let numbers = to_x.rows.start * width..to_x.rows.end * width;
            vectorised(
                #[inline(always)]
                || {
                    to_rows(
                        &x[numbers.clone()],
                        &gradient[numbers],
                        &saved[to_x.rows],
                        gain,
                        to_x.numbers,
                        to_x.accumulate,
                    );
                },
            );
        } else {
            let (to_gain, to_bias) = (call.to_parameter(0, 1), call.to_parameter(1, 1));
            let columns = to_gain.rows.clone();
            vectorised(
                #[inline(always)]
                || {
                    if !to_gain.accumulate {
                        to_gain.numbers.fill(T::ZERO);
                    }
                    if !to_bias.accumulate {
                        to_bias.numbers.fill(T::ZERO);
                    }
                    let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(saved);
                    for ((x, gradient), [mean, scale]) in rows {
                        let numbers = x[columns.clone()].iter().zip(&gradient[columns.clone()]);
                        let sums = to_gain.numbers.iter_mut().zip(to_bias.numbers.iter_mut());
                        for ((x, gradient), (to_gain, to_bias)) in numbers.zip(sums) {
                            *to_gain += *gradient * ((*x - *mean) * *scale);
                            *to_bias += *gradient;
                        }
                    }
                },
            );
        }
    }
}

/// Gradients of rows x with these gradients of their norms.
#[inline(always)]
fn to_rows<T: Float>(
    x: &[T],
    gradient: &[T],
    saved: &[[T; 2]],
    gain: &[T],
    result: &mut [T],
    accumulate: bool,
) {
    let width = gain.len();
    let share = T::ONE / T::of(width as f64);
    let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(result.chunks_exact_mut(width));
    for (((x, gradient), result), [mean, scale]) in rows.zip(saved) {
        let (mean, scale) = (*mean, *scale);
        let along = sum_of(width, |at| gradient[at] * gain[at]) * share;
        let across = sum_of(width, |at| gradient[at] * gain[at] * ((x[at] - mean) * scale)) * share;
        let numbers = x.iter().zip(gradient).zip(gain).zip(result.iter_mut());
        if accumulate {
            for (((x, gradient), gain), result) in numbers {
                *result += (*gradient * *gain - along - (*x - mean) * scale * across) * scale;
            }
        } else {
            for (((x, gradient), gain), result) in numbers {
                *result = (*gradient * *gain - along - (*x - mean) * scale * across) * scale;
            }
        }
    }
}

impl Operation for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn saved(&self) -> Vec<Extent> {
        vec![Extent { width: 2, ..self.extent }]
    }

    fn keeps_input(&self, _: usize) -> bool {
        true
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        let x = given.input(0);
        let centred = x.broadcast_sub(&x.mean_keepdim(2)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(2)? + EPSILON)?.sqrt()?;
        let (gain, bias) = (given.parameter(0).unsqueeze(1)?, given.parameter(1).unsqueeze(1)?);
        centred.broadcast_div(&deviation)?.broadcast_mul(&gain)?.broadcast_add(&bias)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
