//! Linear maps: x W + bias, with a residual added and ReLU applied where the model does so next.

use std::any::Any;

use candle_core::{Result, Tensor};

use super::gemm::{Finish, Matrix, multiply};
use crate::cpu::{Call, CpuOperation};
use crate::float::{Float, vectorised};
use crate::program::reference::Given;
use crate::program::{Extent, Graph, Operation, Value};

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[in, out]`.
    InOut,
    /// `[out, in]`: a table of embeddings used for read-out.
    OutIn,
}

/// `relu(x W + bias + residual)`, each of the three optional. Inputs: x, then the residual; parameters: W, then the bias.
#[derive(Debug)]
pub struct Linear {
    layout: WeightLayout,
    inputs: usize,
    outputs: usize,
    residual: bool,
    relu: bool,
}

impl Graph {
    /// `x W + bias`: rows `[rows, out]` from `[rows, in]`.
    pub fn linear(
        &mut self,
        x: Value,
        weight: usize,
        bias: Option<usize>,
        layout: WeightLayout,
    ) -> Result<Value> {
        let (extent, shape) = (self.extent(x), self.parameter_shape(weight));
        let (inputs, outputs) = match (layout, shape) {
            (WeightLayout::InOut, [inputs, outputs]) | (WeightLayout::OutIn, [outputs, inputs]) => {
                (*inputs, *outputs)
            }
            _ => candle_core::bail!("a linear map needs a matrix, not {shape:?}"),
        };
        if inputs != extent.width {
            candle_core::bail!("a linear map of {inputs} numbers was given rows of {}", extent.width);
        }
        if let Some(bias) = bias
            && self.parameter_shape(bias) != [outputs]
        {
            candle_core::bail!("a bias of {:?} for {outputs} outputs", self.parameter_shape(bias));
        }
        let operation = Linear { layout, inputs, outputs, residual: false, relu: false };
        let parameters: Vec<usize> = std::iter::once(weight).chain(bias).collect();
        Ok(self.record(operation, &[x], &parameters, &[], Extent { width: outputs, ..extent }))
    }

    /// Adds `residual` to a linear map just recorded; whether it could.
    pub(super) fn fuse_residual(&mut self, residual: Value, branch: Value) -> bool {
        let same = self.extent(residual) == self.extent(branch);
        match self.just_made::<Linear>(branch) {
            Some((linear, inputs))
                if same && !linear.residual && !linear.relu && !inputs.contains(&residual) =>
            {
                linear.residual = true;
                inputs.push(residual);
                true
            }
            _ => false,
        }
    }

    /// Applies ReLU in a linear map just recorded; whether it could.
    pub(super) fn fuse_relu(&mut self, x: Value) -> bool {
        match self.just_made::<Linear>(x) {
            Some((linear, _)) if !linear.residual && !linear.relu => {
                linear.relu = true;
                true
            }
            _ => false,
        }
    }
}

impl Linear {
    /// Whether a bias is the second parameter, W lies `[out, in]`, a residual is the second input, and ReLU is applied.
    pub fn form(&self) -> (WeightLayout, bool, bool) {
        (self.layout, self.residual, self.relu)
    }

    /// W as `[in, out]`.
    fn weight<'a, T: Float>(&self, weight: &'a [T]) -> Matrix<'a, T> {
        match self.layout {
            WeightLayout::InOut => Matrix::new(weight, self.inputs, self.outputs),
            WeightLayout::OutIn => Matrix::new(weight, self.outputs, self.inputs).transposed(),
        }
    }
}

impl CpuOperation for Linear {
    /// The gradients of the inputs need this part's rows of the result's gradient, those of the parameters all rows.
    fn backward_stages(&self) -> usize {
        2
    }

    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let x = call.input(0);
        let (rows, result) = call.output_share();
        let bias = call.has_parameter(1).then(|| call.parameter(1));
        let residual = self.residual.then(|| &call.input(1)[rows.start * self.outputs..]);
        let x = Matrix::new(&x[rows.start * self.inputs..rows.end * self.inputs], rows.len(), self.inputs);
        let finish = Finish { bias, residual, relu: self.relu };
        let weight = self.weight(call.parameter(0));
        multiply(call.product_scratch(), (result, self.outputs), x, weight, false, finish);
    }

    fn backward<T: Float>(&self, stage: usize, call: &Call<'_, T>) {
        if stage == 0 {
            self.to_input(call);
        } else {
            self.to_parameters(call);
        }
    }
}

impl Linear {
    /// dx = d W^T, on the part's rows; with ReLU the gradient is cut there first.
    fn to_input<T: Float>(&self, call: &Call<'_, T>) {
        let to_x = call.to_input(0);
        let weight = self.weight(call.parameter(0)).transposed();
        let range = to_x.rows.start * self.outputs..to_x.rows.end * self.outputs;
        let gradient: &[T] = if self.relu {
            let (_, gradient) = call.gradient_share();
            let output = &call.output()[range];
            vectorised(
                #[inline(always)]
                || {
                    for (gradient, output) in gradient.iter_mut().zip(output) {
                        *gradient = if *output > T::ZERO { *gradient } else { T::ZERO };
                    }
                },
            );
            gradient
        } else {
            &call.gradient()[range]
        };
        let gradient = Matrix::new(gradient, to_x.rows.len(), self.outputs);
        let result = (to_x.numbers, self.inputs);
        multiply(call.product_scratch(), result, gradient, weight, to_x.accumulate, Finish::NONE);
    }

    /// dW = x^T d and the column sums of d, on the part's share of each.
    fn to_parameters<T: Float>(&self, call: &Call<'_, T>) {
        let (rows, _) = call.output_size();
        let (x, gradient) = (call.input(0), call.gradient());
        let x = Matrix::new(x, rows, self.inputs);
        let d = Matrix::new(gradient, rows, self.outputs);
        let (left, right, width) = match self.layout {
            WeightLayout::InOut => (x, d, self.outputs),
            WeightLayout::OutIn => (d, x, self.inputs),
        };
        let to_weight = call.to_parameter(0, width);
        let left = left.columns(to_weight.rows.clone()).transposed();
        let result = (to_weight.numbers, width);
        multiply(call.product_scratch(), result, left, right, to_weight.accumulate, Finish::NONE);
        if call.has_parameter(1) {
            let to_bias = call.to_parameter(1, 1);
            vectorised(
                #[inline(always)]
                || {
                    if !to_bias.accumulate {
                        to_bias.numbers.fill(T::ZERO);
                    }
                    for row in gradient.chunks_exact(self.outputs) {
                        for (sum, number) in to_bias.numbers.iter_mut().zip(&row[to_bias.rows.clone()]) {
                            *sum += *number;
                        }
                    }
                },
            );
        }
    }
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn keeps_input(&self, input: usize) -> bool {
        input == 0
    }

    fn keeps_output(&self) -> bool {
        self.relu
    }

    fn passes_to(&self) -> Option<usize> {
        self.residual.then_some(1)
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        let weight = match self.layout {
            WeightLayout::InOut => given.parameter(0).clone(),
            WeightLayout::OutIn => given.parameter(0).transpose(1, 2)?.contiguous()?,
        };
        let mut result = given.input(0).matmul(&weight)?;
        if given.has_parameter(1) {
            result = result.broadcast_add(&given.parameter(1).unsqueeze(1)?)?;
        }
        if self.residual {
            result = (result + given.input(1))?;
        }
        if self.relu { result.relu() } else { Ok(result) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
