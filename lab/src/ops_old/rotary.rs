//! Rotary positions (Su et al. 2021): coordinates i and i + h/2 of each head turn by position / 10 000^(2i/h).

use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::tape::apply1;
use crate::float::{Float, read, slice, with_float};

/// Which position each row of `[K, N, d]` stands at (the same in every replica), and the head count.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Attention heads.
    pub heads: usize,
    /// Position of each of the N rows.
    pub positions: Arc<Vec<u32>>,
}

impl Rotation {
    /// Cosines and sines, `[N, h/2]`.
    fn angles(&self, width: usize) -> (Vec<f64>, Vec<f64>) {
        let half = width / self.heads / 2;
        let angle =
            |position: u32, index: usize| f64::from(position) / 10_000f64.powf(index as f64 / half as f64);
        let all =
            || self.positions.iter().flat_map(|position| (0..half).map(move |index| angle(*position, index)));
        (all().map(f64::cos).collect(), all().map(f64::sin).collect())
    }

    fn turn<T: Float>(&self, x: &[T], width: usize, direction: f64) -> Vec<T> {
        let size = width / self.heads;
        let half = size / 2;
        let (cosines, sines) = self.angles(width);
        let mut result = x.to_vec();
        for (at, row) in result.chunks_exact_mut(width).enumerate() {
            let angles = at % self.positions.len() * half;
            for head in row.chunks_exact_mut(size) {
                let (low, high) = head.split_at_mut(half);
                for (index, (low, high)) in low.iter_mut().zip(high).enumerate() {
                    let (cosine, sine) =
                        (T::of(cosines[angles + index]), T::of(direction * sines[angles + index]));
                    (*low, *high) = (*low * cosine - *high * sine, *high * cosine + *low * sine);
                }
            }
        }
        result
    }
}

/// Turns every row of x `[K, N, d]` by its position.
pub fn rotary(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    if x.device().is_cpu() {
        apply1(x, Rotary { rotation: rotation.clone() })
    } else {
        reference(x, rotation)
    }
}

/// The same from plain tensor operations.
pub fn reference(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    let (replicas, rows, width) = x.dims3()?;
    let half = width / rotation.heads / 2;
    let (cosines, sines) = rotation.angles(width);
    let constant =
        |values: Vec<f64>| Tensor::from_vec(values, (1, rows, 1, half), x.device())?.to_dtype(x.dtype());
    let (cosines, sines) = (constant(cosines)?, constant(sines)?);
    let split = x.reshape((replicas, rows, rotation.heads, 2 * half))?;
    let (low, high) = (split.narrow(3, 0, half)?, split.narrow(3, half, half)?);
    let turned_low = (low.broadcast_mul(&cosines)? - high.broadcast_mul(&sines)?)?;
    let turned_high = (high.broadcast_mul(&cosines)? + low.broadcast_mul(&sines)?)?;
    Tensor::cat(&[turned_low, turned_high], 3)?.reshape((replicas, rows, width))
}

struct Rotary {
    rotation: Rotation,
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, rows, width) = layout.shape().dims3()?;
        if rows != self.rotation.positions.len() {
            candle_core::bail!("{rows} rows at {} positions", self.rotation.positions.len());
        }
        with_float!(x.dtype(), T => {
            let result = self.rotation.turn(slice::<T>(x, layout)?, width, 1.0);
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (_, _, width) = x.dims3()?;
        with_float!(x.dtype(), T => read::<T, _>(&gradient, |gradient| {
            Ok(Some(Tensor::from_vec(self.rotation.turn(gradient, width, -1.0), x.shape(), x.device())?))
        }))
    }
}
