//! Losses: one number per replica, computed in 64 bits whatever the outputs are in.
//!
//! In 32 bits the log-softmax underflows once the loss is small and learning stops or spikes (Prieto et al. 2025;
//! Nanda et al. 2023 use 64 bits for it as well).

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};

use super::tape::apply1;
use crate::float::{Float, highest_of, slice, sum_of, vectorised, with_float};

/// The right answers of N rows of each of K replicas.
#[derive(Clone, Debug)]
pub enum Answers {
    /// Class ids `[K, N]`.
    Classes(Arc<Vec<u32>>),
    /// Values on the output's own scale, `[K, N]`.
    Values(Arc<Vec<f64>>),
}

/// What a batch of outputs is held against.
#[derive(Clone, Debug)]
pub struct Criterion {
    /// The right answers.
    pub answers: Answers,
    /// Weight of each row, `[K, N]`; absent: all 1.
    pub weights: Option<Arc<Vec<f64>>>,
}

/// Weighted mean loss of each replica, `[K]` in f64, of outputs `[K, N, C]`: cross-entropy for classes, squared error
/// for values (C = 1).
pub fn loss(outputs: &Tensor, criterion: &Criterion) -> Result<Tensor> {
    if !outputs.device().is_cpu() {
        return reference(outputs, criterion);
    }
    apply1(outputs, Loss { criterion: criterion.clone(), slope: OnceLock::new() })
}

/// The same from plain tensor operations.
pub fn reference(outputs: &Tensor, criterion: &Criterion) -> Result<Tensor> {
    let (replicas, rows, classes) = outputs.dims3()?;
    let (device, outputs) = (outputs.device(), outputs.to_dtype(DType::F64)?);
    let losses = match &criterion.answers {
        Answers::Classes(ids) => {
            let ids = Tensor::from_vec(ids.to_vec(), (replicas, rows, 1), device)?;
            let shifted = outputs.broadcast_sub(&outputs.max_keepdim(2)?.detach())?;
            let logarithm = shifted.exp()?.sum_keepdim(2)?.log()?;
            (logarithm - shifted.gather(&ids, 2)?)?.squeeze(2)?
        }
        Answers::Values(values) => {
            let values = Tensor::from_vec(values.to_vec(), (replicas, rows, classes), device)?;
            (outputs - values)?.sqr()?.squeeze(2)?
        }
    };
    match &criterion.weights {
        Some(weights) => {
            let weights = Tensor::from_vec(weights.to_vec(), (replicas, rows), device)?;
            (losses * &weights)?.sum(1)?.div(&weights.sum(1)?)
        }
        None => losses.mean(1),
    }
}

/// log(sum(exp(logits))) in 64 bits; fills `shares` with the softmax.
#[inline(always)]
pub(crate) fn log_sum_exp<T: Float>(logits: &[T], shares: &mut [f64]) -> f64 {
    let highest = highest_of(logits).wide();
    for (share, logit) in shares.iter_mut().zip(logits) {
        *share = Float::exp(logit.wide() - highest);
    }
    let sum = sum_of(shares.len(), |class| shares[class]);
    let scale = 1.0 / sum;
    for share in shares.iter_mut() {
        *share *= scale;
    }
    highest + sum.ln()
}

struct Loss {
    criterion: Criterion,
    /// Derivative of each replica's loss by its outputs, kept for the backward pass.
    slope: OnceLock<Tensor>,
}

impl Loss {
    /// Losses `[K]` and their derivatives by the outputs.
    fn forward<T: Float>(
        &self,
        outputs: &[T],
        (replicas, rows, classes): (usize, usize, usize),
    ) -> (Vec<f64>, Vec<T>) {
        let mut losses = vec![0.0; replicas];
        let mut slopes = vec![T::ZERO; outputs.len()];
        let mut shares = vec![0.0; classes];
        vectorised(|| {
            for (replica, loss) in losses.iter_mut().enumerate() {
                let at = replica * rows;
                let weights = self.criterion.weights.as_ref().map(|weights| &weights[at..][..rows]);
                let total = weights.map_or(rows as f64, |weights| weights.iter().sum());
                for row in 0..rows {
                    let start = (at + row) * classes;
                    let (outputs, slope) = (&outputs[start..][..classes], &mut slopes[start..][..classes]);
                    let share = weights.map_or(1.0, |weights| weights[row]) / total;
                    match &self.criterion.answers {
                        Answers::Classes(ids) => {
                            let answer = ids[at + row] as usize;
                            *loss += share * (log_sum_exp(outputs, &mut shares) - outputs[answer].wide());
                            for (slope, probability) in slope.iter_mut().zip(&shares) {
                                *slope = T::of(share * *probability);
                            }
                            slope[answer] = T::of(share * (shares[answer] - 1.0));
                        }
                        Answers::Values(values) => {
                            let error = outputs[0].wide() - values[at + row];
                            *loss += share * error * error;
                            slope[0] = T::of(share * 2.0 * error);
                        }
                    }
                }
            }
        });
        (losses, slopes)
    }

    fn check(&self, (replicas, rows, classes): (usize, usize, usize)) -> Result<()> {
        let fits = match &self.criterion.answers {
            Answers::Classes(ids) => {
                ids.len() == replicas * rows && ids.iter().all(|id| (*id as usize) < classes)
            }
            Answers::Values(values) => values.len() == replicas * rows && classes == 1,
        };
        if !fits || self.criterion.weights.as_ref().is_some_and(|weights| weights.len() != replicas * rows) {
            candle_core::bail!("outputs [{replicas}, {rows}, {classes}] do not fit their answers");
        }
        Ok(())
    }
}

impl CustomOp1 for Loss {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn cpu_fwd(&self, outputs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = layout.shape().dims3()?;
        self.check(sizes)?;
        with_float!(outputs.dtype(), T => {
            let (losses, slope) = self.forward(slice::<T>(outputs, layout)?, sizes);
            // The cell is empty: an op is applied once.
            let _ = self.slope.set(Tensor::from_vec(slope, layout.shape(), &Device::Cpu)?);
            Ok((CpuStorage::F64(losses), Shape::from(sizes.0)))
        })
    }

    fn bwd(&self, outputs: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let Some(slope) = self.slope.get() else {
            candle_core::bail!("a loss went backward before forward");
        };
        let factors: Vec<f64> = gradient.to_vec1()?;
        if factors.iter().all(|factor| *factor == 1.0) {
            return Ok(Some(slope.clone()));
        }
        let factors =
            Tensor::from_vec(factors, (outputs.dims3()?.0, 1, 1), &Device::Cpu)?.to_dtype(outputs.dtype())?;
        Ok(Some(slope.broadcast_mul(&factors)?))
    }
}
