//! Layer normalisation (Ba et al. 2016) with one gain and bias vector per replica.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::tape::apply3;
use crate::float::{Float, read, slice, sum_of, vectorised, with_float};

/// Added to the variance, as PyTorch's default.
pub const EPSILON: f64 = 1e-5;

/// (x - mean) / sqrt(variance + 1e-5) * gain + bias over the last dimension of x `[K, N, d]`; gain and bias `[K, d]`.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { apply3(x, gain, bias, LayerNorm) } else { reference(x, gain, bias) }
}

/// The same from plain tensor operations.
pub fn reference(x: &Tensor, gain: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(2)?)?;
    let variance = centred.sqr()?.mean_keepdim(2)?;
    let normal = centred.broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
    normal.broadcast_mul(&gain.unsqueeze(1)?)?.broadcast_add(&bias.unsqueeze(1)?)
}

struct LayerNorm;

/// Mean and reciprocal deviation of a row.
#[inline(always)]
fn moments<T: Float>(row: &[T]) -> (T, T) {
    let share = T::of(1.0 / row.len() as f64);
    let mean = sum_of(row.len(), |index| row[index]) * share;
    let variance = sum_of(row.len(), |index| (row[index] - mean) * (row[index] - mean)) * share;
    (mean, T::ONE / (variance + T::of(EPSILON)).sqrt())
}

fn forward<T: Float>(x: &[T], gain: &[T], bias: &[T], rows: usize, width: usize) -> Vec<T> {
    let mut result = vec![T::ZERO; x.len()];
    vectorised(|| {
        for (at, (row, result)) in x.chunks_exact(width).zip(result.chunks_exact_mut(width)).enumerate() {
            let start = at / rows * width;
            let (gain, bias) = (&gain[start..][..width], &bias[start..][..width]);
            let (mean, scale) = moments(row);
            for index in 0..width {
                result[index] = (row[index] - mean) * scale * gain[index] + bias[index];
            }
        }
    });
    result
}

fn backward<T: Float>(x: &[T], gain: &[T], gradient: &[T], rows: usize, width: usize) -> [Vec<T>; 3] {
    let mut to_x = vec![T::ZERO; x.len()];
    let mut to_gain = vec![T::ZERO; gain.len()];
    let mut to_bias = vec![T::ZERO; gain.len()];
    let share = T::of(1.0 / width as f64);
    vectorised(|| {
        let all = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(to_x.chunks_exact_mut(width));
        for (at, ((row, gradient), to_row)) in all.enumerate() {
            let start = at / rows * width;
            let gain = &gain[start..][..width];
            let (to_gain, to_bias) = (&mut to_gain[start..][..width], &mut to_bias[start..][..width]);
            let (mean, scale) = moments(row);
            for index in 0..width {
                to_gain[index] += gradient[index] * ((row[index] - mean) * scale);
                to_bias[index] += gradient[index];
            }
            let along = sum_of(width, |index| gradient[index] * gain[index]) * share;
            let across =
                sum_of(width, |index| gradient[index] * gain[index] * ((row[index] - mean) * scale)) * share;
            for index in 0..width {
                let normal = (row[index] - mean) * scale;
                to_row[index] = (gradient[index] * gain[index] - along - normal * across) * scale;
            }
        }
    });
    [to_x, to_gain, to_bias]
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (replicas, rows, width) = x_layout.shape().dims3()?;
        if gain_layout.shape().dims() != [replicas, width] || bias_layout.shape() != gain_layout.shape() {
            candle_core::bail!(
                "layer norm of {:?} with a gain of {:?}",
                x_layout.shape(),
                gain_layout.shape()
            );
        }
        with_float!(x.dtype(), T => {
            let (x, gain, bias) = (slice::<T>(x, x_layout)?, slice(gain, gain_layout)?, slice(bias, bias_layout)?);
            let result = forward(x, gain, bias, rows, width);
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, rows, width) = x.dims3()?;
        let gradient = gradient.contiguous()?;
        with_float!(x.dtype(), T => {
            let [to_x, to_gain, to_bias] = read::<T, _>(x, |x| read::<T, _>(gain, |gain| {
                read::<T, _>(&gradient, |gradient| Ok(backward(x, gain, gradient, rows, width)))
            }))?;
            Ok((
                Some(Tensor::from_vec(to_x, x.shape(), x.device())?),
                Some(Tensor::from_vec(to_gain, gain.shape(), x.device())?),
                Some(Tensor::from_vec(to_bias, gain.shape(), x.device())?),
            ))
        })
    }
}
