//! Linear map: one weight matrix per replica.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::gemm::{Matrix, multiply};
use super::tape::{apply2, apply3};
use crate::float::{Float, read, slice, vectorised, with_float};

/// How the weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[K, in, out]`.
    InOut,
    /// `[K, out, in]`, as an embedding table used for reading out.
    OutIn,
}

/// `x` `[K, N, in]` times `weight`, plus `bias` `[K, out]`: `[K, N, out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, layout: WeightLayout) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return reference(x, weight, bias, layout);
    }
    match bias {
        Some(bias) => apply3(x, weight, bias, Linear { layout }),
        None => apply2(x, weight, Linear { layout }),
    }
}

/// The same from plain tensor operations.
pub fn reference(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, layout: WeightLayout) -> Result<Tensor> {
    let product = match layout {
        WeightLayout::InOut => x.matmul(weight)?,
        WeightLayout::OutIn => x.matmul(&weight.transpose(1, 2)?.contiguous()?)?,
    };
    match bias {
        Some(bias) => product.broadcast_add(&bias.unsqueeze(1)?),
        None => Ok(product),
    }
}

struct Linear {
    layout: WeightLayout,
}

struct Sizes {
    replicas: usize,
    rows: usize,
    input: usize,
    output: usize,
}

impl Linear {
    fn sizes(&self, x: &Shape, weight: &Shape) -> Result<Sizes> {
        let (replicas, rows, input) = x.dims3()?;
        let (weight_replicas, first, second) = weight.dims3()?;
        let (expected, output) = match self.layout {
            WeightLayout::InOut => (first, second),
            WeightLayout::OutIn => (second, first),
        };
        if (replicas, input) != (weight_replicas, expected) {
            candle_core::bail!("linear map of {x:?} by {weight:?} ({:?})", self.layout);
        }
        Ok(Sizes { replicas, rows, input, output })
    }

    fn matrix<'a, T>(&self, weight: &'a [T], sizes: &Sizes) -> Matrix<'a, T> {
        match self.layout {
            WeightLayout::InOut => Matrix::new(weight, sizes.input, sizes.output),
            WeightLayout::OutIn => Matrix::new(weight, sizes.output, sizes.input).transposed(),
        }
    }

    fn forward<T: Float>(&self, x: &[T], weight: &[T], bias: Option<&[T]>, sizes: &Sizes) -> Vec<T> {
        let Sizes { replicas, rows, input, output } = *sizes;
        let mut result = vec![T::ZERO; replicas * rows * output];
        for replica in 0..replicas {
            let result = &mut result[replica * rows * output..][..rows * output];
            if let Some(bias) = bias {
                let bias = &bias[replica * output..][..output];
                result.chunks_exact_mut(output).for_each(|row| row.copy_from_slice(bias));
            }
            let x = Matrix::new(&x[replica * rows * input..][..rows * input], rows, input);
            let weight = self.matrix(&weight[replica * input * output..][..input * output], sizes);
            multiply(result, x, weight, bias.is_some());
        }
        result
    }

    /// Gradients of input and weight.
    fn backward<T: Float>(&self, x: &[T], weight: &[T], gradient: &[T], sizes: &Sizes) -> (Vec<T>, Vec<T>) {
        let Sizes { replicas, rows, input, output } = *sizes;
        let mut to_x = vec![T::ZERO; replicas * rows * input];
        let mut to_weight = vec![T::ZERO; replicas * input * output];
        for replica in 0..replicas {
            let x = Matrix::new(&x[replica * rows * input..][..rows * input], rows, input);
            let gradient = Matrix::new(&gradient[replica * rows * output..][..rows * output], rows, output);
            let weight = self.matrix(&weight[replica * input * output..][..input * output], sizes);
            multiply(
                &mut to_x[replica * rows * input..][..rows * input],
                gradient,
                weight.transposed(),
                false,
            );
            let to_weight = &mut to_weight[replica * input * output..][..input * output];
            match self.layout {
                WeightLayout::InOut => multiply(to_weight, x.transposed(), gradient, false),
                WeightLayout::OutIn => multiply(to_weight, gradient.transposed(), x, false),
            }
        }
        (to_x, to_weight)
    }

    fn backward_tensors(&self, x: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<(Tensor, Tensor)> {
        let sizes = self.sizes(x.shape(), weight.shape())?;
        with_float!(x.dtype(), T => {
            let (to_x, to_weight) = read::<T, _>(x, |x| read::<T, _>(weight, |weight| {
                read::<T, _>(gradient, |gradient| Ok(self.backward(x, weight, gradient, &sizes)))
            }))?;
            Ok((
                Tensor::from_vec(to_x, x.shape(), x.device())?,
                Tensor::from_vec(to_weight, weight.shape(), x.device())?,
            ))
        })
    }
}

fn sum_rows(gradient: &Tensor) -> Result<Tensor> {
    let (replicas, rows, output) = gradient.dims3()?;
    with_float!(gradient.dtype(), T => read::<T, _>(gradient, |gradient| {
        let mut sums = vec![T::ZERO; replicas * output];
        vectorised(|| {
            for (sums, gradient) in sums.chunks_exact_mut(output).zip(gradient.chunks_exact((rows * output).max(1))) {
                for row in gradient.chunks_exact(output) {
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += *value;
                    }
                }
            }
        });
        Tensor::from_vec(sums, (replicas, output), &candle_core::Device::Cpu)
    }))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(x_layout.shape(), weight_layout.shape())?;
        let shape = Shape::from((sizes.replicas, sizes.rows, sizes.output));
        with_float!(x.dtype(), T => {
            let result = self.forward::<T>(slice(x, x_layout)?, slice(weight, weight_layout)?, None, &sizes);
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), shape))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (to_x, to_weight) = self.backward_tensors(x, weight, &gradient.contiguous()?)?;
        Ok((Some(to_x), Some(to_weight)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear-with-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(x_layout.shape(), weight_layout.shape())?;
        if bias_layout.shape().dims() != [sizes.replicas, sizes.output] {
            candle_core::bail!("bias of shape {:?} for {} outputs", bias_layout.shape(), sizes.output);
        }
        let shape = Shape::from((sizes.replicas, sizes.rows, sizes.output));
        with_float!(x.dtype(), T => {
            let bias = slice::<T>(bias, bias_layout)?;
            let result = self.forward::<T>(slice(x, x_layout)?, slice(weight, weight_layout)?, Some(bias), &sizes);
            Ok((candle_core::WithDType::to_cpu_storage_owned(result), shape))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (to_x, to_weight) = self.backward_tensors(x, weight, &gradient)?;
        Ok((Some(to_x), Some(to_weight), Some(sum_rows(&gradient)?)))
    }
}
