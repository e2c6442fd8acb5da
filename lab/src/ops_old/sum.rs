//! Elementwise sum and scaling of two tensors of one shape, on one thread.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::tape::apply2;
use crate::float::{Float, read, slice, vectorised, with_float};

/// a + b.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() { apply2(a, b, Add) } else { a.add(b) }
}

/// x times constant factors (dropout), which get no gradient.
pub fn scale(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { apply2(x, factors, Scale) } else { x.mul(factors) }
}

struct Add;
struct Scale;

fn combine<T: Float>(a: &[T], b: &[T], function: impl Fn(T, T) -> T) -> Result<Vec<T>> {
    if a.len() != b.len() {
        candle_core::bail!("tensors of {} and {} numbers do not go together", a.len(), b.len());
    }
    Ok(vectorised(|| a.iter().zip(b).map(|(a, b)| function(*a, *b)).collect()))
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_float!(a.dtype(), T => {
            let result = combine::<T>(slice(a, a_layout)?, slice(b, b_layout)?, #[inline(always)] |a, b| a + b)?;
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), a_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(gradient.clone()), Some(gradient.clone())))
    }
}

impl CustomOp2 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_float!(a.dtype(), T => {
            let result = combine::<T>(slice(a, a_layout)?, slice(b, b_layout)?, #[inline(always)] |a, b| a * b)?;
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), a_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        factors: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        with_float!(x.dtype(), T => read::<T, _>(factors, |factors| read::<T, _>(&gradient, |gradient| {
            let result = combine::<T>(gradient, factors, #[inline(always)] |a, b| a * b)?;
            Ok((Some(Tensor::from_vec(result, x.shape(), x.device())?), None))
        })))
    }
}
