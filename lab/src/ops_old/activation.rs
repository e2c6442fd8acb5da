//! Elementwise non-linearities of the MLP.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::tape::{apply1, apply2};
use crate::float::{Float, read, slice, vectorised, with_float};

/// max(0, x).
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { apply1(x, Relu) } else { x.relu() }
}

/// x Φ(x), exact (Hendrycks and Gimpel 2016).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { apply1(x, Gelu) } else { x.gelu_erf() }
}

/// gelu(gate) times up, of one shape (Shazeer 2020).
pub fn geglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.device().is_cpu() { apply2(gate, up, Geglu) } else { gate.gelu_erf()?.mul(up) }
}

struct Relu;
struct Gelu;
struct Geglu;

/// gelu(x) and its slope.
fn gelu_and_slope<T: Float>(x: T) -> (T, T) {
    let share = T::of(0.5) * (T::ONE + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf());
    let density = T::of(0.398_942_280_401_432_7) * (-(x * x) * T::of(0.5)).exp();
    (x * share, share + x * density)
}

fn map<T: Float>(x: &[T], function: impl Fn(T) -> T) -> Vec<T> {
    vectorised(|| x.iter().map(|x| function(*x)).collect())
}

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_float!(x.dtype(), T => {
            // Written so that NaN stays NaN.
            let result = map(slice::<T>(x, layout)?, #[inline(always)] |x| if x < T::ZERO { T::ZERO } else { x });
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        with_float!(x.dtype(), T => read::<T, _>(x, |values| read::<T, _>(&gradient, |gradient| {
            let result: Vec<T> = vectorised(|| {
                values.iter().zip(gradient).map(|(x, gradient)| if *x > T::ZERO { *gradient } else { T::ZERO }).collect()
            });
            Ok(Some(Tensor::from_vec(result, x.shape(), x.device())?))
        })))
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_float!(x.dtype(), T => {
            let result = map(slice::<T>(x, layout)?, |x| gelu_and_slope(x).0);
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        with_float!(x.dtype(), T => read::<T, _>(x, |values| read::<T, _>(&gradient, |gradient| {
            let result: Vec<T> =
                values.iter().zip(gradient).map(|(x, gradient)| gelu_and_slope(*x).1 * *gradient).collect();
            Ok(Some(Tensor::from_vec(result, x.shape(), x.device())?))
        })))
    }
}

impl CustomOp2 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if gate_layout.shape() != up_layout.shape() {
            candle_core::bail!("gate of {:?} for {:?}", gate_layout.shape(), up_layout.shape());
        }
        with_float!(gate.dtype(), T => {
            let (gate, up) = (slice::<T>(gate, gate_layout)?, slice::<T>(up, up_layout)?);
            let result: Vec<T> = gate.iter().zip(up).map(|(gate, up)| gelu_and_slope(*gate).0 * *up).collect();
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), gate_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let shape = gate.shape();
        with_float!(gate.dtype(), T => read::<T, _>(gate, |gate| read::<T, _>(up, |up| {
            read::<T, _>(&gradient, |gradient| {
                let mut to_gate = Vec::with_capacity(gate.len());
                let mut to_up = Vec::with_capacity(gate.len());
                for ((gate, up), gradient) in gate.iter().zip(up).zip(gradient) {
                    let (value, slope) = gelu_and_slope(*gate);
                    to_gate.push(*gradient * *up * slope);
                    to_up.push(*gradient * value);
                }
                let device = &candle_core::Device::Cpu;
                Ok((Some(Tensor::from_vec(to_gate, shape, device)?), Some(Tensor::from_vec(to_up, shape, device)?)))
            })
        })))
    }
}
