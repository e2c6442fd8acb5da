//! Updates in place on the CPU, one pass per state tensor.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};
use plateau_common::config::OptimizerConfig;

use super::Coefficients;
use crate::float::{Float, slice, vectorised, with_float};

/// Updates one parameter `[K, …]` and its moments.
pub(super) fn update(
    rule: &OptimizerConfig,
    coefficients: &[Coefficients],
    update: u64,
    parameter: &Tensor,
    gradient: &Tensor,
    moments: &[Tensor],
) -> Result<()> {
    match (rule, moments) {
        (OptimizerConfig::Adam(adam) | OptimizerConfig::AdamW(adam), [first, second]) => {
            let correction = |beta: f64| 1.0 - beta.powf(update as f64);
            first.inplace_op3(
                gradient,
                parameter,
                &Moment { coefficients, decay: adam.beta1, squared: false },
            )?;
            second.inplace_op3(
                gradient,
                parameter,
                &Moment { coefficients, decay: adam.beta2, squared: true },
            )?;
            let apply = AdamStep {
                coefficients,
                first_correction: correction(adam.beta1),
                second_root: correction(adam.beta2).sqrt(),
                eps: adam.eps,
            };
            parameter.inplace_op3(first, second, &apply)
        }
        (OptimizerConfig::Sgd(sgd), [velocity]) => {
            velocity.inplace_op3(gradient, parameter, &Velocity { coefficients, momentum: sgd.momentum })?;
            parameter.inplace_op3(velocity, gradient, &SgdStep { coefficients })
        }
        _ => candle_core::bail!("the optimiser has {} moments", moments.len()),
    }
}

/// `m = decay m + (1 - decay) g`, or with g squared.
struct Moment<'a> {
    coefficients: &'a [Coefficients],
    decay: f64,
    squared: bool,
}

/// `p = keep p - lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps)`.
struct AdamStep<'a> {
    coefficients: &'a [Coefficients],
    first_correction: f64,
    second_root: f64,
    eps: f64,
}

/// `v = momentum v + g`.
struct Velocity<'a> {
    coefficients: &'a [Coefficients],
    momentum: f64,
}

/// `p = p - lr v`.
struct SgdStep<'a> {
    coefficients: &'a [Coefficients],
}

/// Calls `work(coefficients, target, first source, second source)` for each replica.
fn for_each_replica<T: Float>(
    coefficients: &[Coefficients],
    target: (&mut CpuStorage, &Layout),
    sources: [(&CpuStorage, &Layout); 2],
    work: impl Fn(&Coefficients, &mut [T], &[T], &[T]),
) -> Result<()> {
    let (first, second) = (slice::<T>(sources[0].0, sources[0].1)?, slice::<T>(sources[1].0, sources[1].1)?);
    let Some((start, end)) = target.1.contiguous_offsets() else {
        candle_core::bail!("an optimiser's tensor is not contiguous");
    };
    let target = &mut T::of_storage(target.0)?[start..end];
    let count = target.len() / coefficients.len().max(1);
    if count * coefficients.len() != target.len()
        || first.len() != target.len()
        || second.len() != target.len()
    {
        candle_core::bail!("an optimiser's tensors have different sizes");
    }
    let replicas = target.chunks_exact_mut(count.max(1)).zip(first.chunks_exact(count.max(1)));
    for ((own, (target, first)), second) in
        coefficients.iter().zip(replicas).zip(second.chunks_exact(count.max(1)))
    {
        work(own, target, first, second);
    }
    Ok(())
}

impl Moment<'_> {
    fn run<T: Float>(
        &self,
        target: (&mut CpuStorage, &Layout),
        sources: [(&CpuStorage, &Layout); 2],
    ) -> Result<()> {
        let (decay, rest) = (T::of(self.decay), T::of(1.0 - self.decay));
        for_each_replica::<T>(self.coefficients, target, sources, |own, moments, gradient, parameter| {
            let (clip, coupled) = (T::of(own.clip), T::of(own.coupled_decay));
            vectorised(|| {
                for ((moment, gradient), parameter) in moments.iter_mut().zip(gradient).zip(parameter) {
                    let gradient = *gradient * clip + *parameter * coupled;
                    let news = if self.squared { gradient * gradient } else { gradient };
                    *moment = *moment * decay + news * rest;
                }
            });
        })
    }
}

impl AdamStep<'_> {
    fn run<T: Float>(
        &self,
        target: (&mut CpuStorage, &Layout),
        sources: [(&CpuStorage, &Layout); 2],
    ) -> Result<()> {
        let (scale, eps) = (T::of(1.0 / self.second_root), T::of(self.eps));
        for_each_replica::<T>(self.coefficients, target, sources, |own, parameters, first, second| {
            let (keep, rate) = (T::of(own.keep), T::of(own.lr / self.first_correction));
            vectorised(|| {
                for ((parameter, first), second) in parameters.iter_mut().zip(first).zip(second) {
                    *parameter = *parameter * keep - rate * *first / (second.sqrt() * scale + eps);
                }
            });
        })
    }
}

impl Velocity<'_> {
    fn run<T: Float>(
        &self,
        target: (&mut CpuStorage, &Layout),
        sources: [(&CpuStorage, &Layout); 2],
    ) -> Result<()> {
        let momentum = T::of(self.momentum);
        for_each_replica::<T>(self.coefficients, target, sources, |own, velocities, gradient, parameter| {
            let (clip, coupled) = (T::of(own.clip), T::of(own.coupled_decay));
            vectorised(|| {
                for ((velocity, gradient), parameter) in velocities.iter_mut().zip(gradient).zip(parameter) {
                    *velocity = *velocity * momentum + (*gradient * clip + *parameter * coupled);
                }
            });
        })
    }
}

impl SgdStep<'_> {
    fn run<T: Float>(
        &self,
        target: (&mut CpuStorage, &Layout),
        sources: [(&CpuStorage, &Layout); 2],
    ) -> Result<()> {
        for_each_replica::<T>(self.coefficients, target, sources, |own, parameters, velocity, _| {
            let rate = T::of(own.lr);
            vectorised(|| {
                for (parameter, velocity) in parameters.iter_mut().zip(velocity) {
                    *parameter -= rate * *velocity;
                }
            });
        })
    }
}

macro_rules! in_place {
    ($($name:ident => $words:literal),+) => {$(
        impl InplaceOp3 for $name<'_> {
            fn name(&self) -> &'static str {
                $words
            }

            fn cpu_fwd(
                &self,
                target: &mut CpuStorage,
                target_layout: &Layout,
                first: &CpuStorage,
                first_layout: &Layout,
                second: &CpuStorage,
                second_layout: &Layout,
            ) -> Result<()> {
                with_float!(first.dtype(), T => {
                    self.run::<T>((target, target_layout), [(first, first_layout), (second, second_layout)])
                })
            }
        }
    )+};
}

in_place!(Moment => "moment", AdamStep => "adam-step", Velocity => "velocity", SgdStep => "sgd-step");
