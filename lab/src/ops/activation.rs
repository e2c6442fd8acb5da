//! Activations of the MLP: ReLU, GELU with the exact error function (Hendrycks & Gimpel 2016), and GEGLU (Shazeer 2020).

use std::any::Any;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

use candle_core::{Result, Tensor};

use crate::cpu::{Call, CpuOperation};
use crate::float::{Float, vectorised};
use crate::program::reference::Given;
use crate::program::{Graph, Operation, Value};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `max(x, 0)`.
    Relu,
    /// `x Φ(x)`.
    Gelu,
    /// `gate Φ(gate) x` of two inputs: the gate, then x.
    Geglu,
}

/// A function of every number.
#[derive(Debug)]
pub struct Activation {
    function: Function,
}

impl Graph {
    /// ReLU; part of the linear map where it follows one.
    pub fn relu(&mut self, x: Value) -> Value {
        if self.fuse_relu(x) { x } else { self.activation(Function::Relu, &[x]) }
    }

    /// GELU.
    pub fn gelu(&mut self, x: Value) -> Value {
        self.activation(Function::Gelu, &[x])
    }

    /// `gelu(gate) * x`; both have the same extent.
    pub fn geglu(&mut self, gate: Value, x: Value) -> Result<Value> {
        if self.extent(gate) != self.extent(x) {
            candle_core::bail!("a gate of {:?} for {:?}", self.extent(gate), self.extent(x));
        }
        Ok(self.activation(Function::Geglu, &[gate, x]))
    }

    fn activation(&mut self, function: Function, inputs: &[Value]) -> Value {
        self.record(Activation { function }, inputs, &[], &[], self.extent(inputs[0]))
    }
}

impl Activation {
    /// The function.
    pub fn function(&self) -> Function {
        self.function
    }
}

/// Φ(x).
#[inline(always)]
fn distribution<T: Float>(x: T) -> T {
    let magnitude = if x < T::ZERO { -x } else { x };
    let tail = T::of(0.5) * Float::erfc(magnitude * T::of(FRAC_1_SQRT_2));
    if x < T::ZERO { tail } else { T::ONE - tail }
}

/// Φ(x) and its derivative.
#[inline(always)]
fn normal<T: Float>(x: T) -> (T, T) {
    let density = T::of(1.0 / (2.0 * PI).sqrt()) * Float::exp(-(T::of(0.5) * x * x));
    (distribution(x), density)
}

/// `x Φ(x)` by plain tensor operations; candle's own GELU has a derivative of 6 digits only.
fn gelu_reference(x: &Tensor) -> Result<Tensor> {
    x.mul(&((x * FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5))?)
}

#[inline(always)]
fn put<T: Float>(to: &mut T, value: T, accumulate: bool) {
    *to = if accumulate { *to + value } else { value };
}

impl CpuOperation for Activation {
    fn forward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let (rows, result) = call.output_share();
        let width = call.output_size().1;
        let range = rows.start * width..rows.end * width;
        let x = &call.input(0)[range.clone()];
        match self.function {
            Function::Relu => vectorised(
                #[inline(always)]
                || {
                    for (result, x) in result.iter_mut().zip(x) {
                        *result = if *x < T::ZERO { T::ZERO } else { *x };
                    }
                },
            ),
            Function::Gelu => vectorised(
                #[inline(always)]
                || {
                    for (result, x) in result.iter_mut().zip(x) {
                        *result = *x * distribution(*x);
                    }
                },
            ),
            Function::Geglu => {
                let others = &call.input(1)[range];
                vectorised(
                    #[inline(always)]
                    || {
                        for ((result, gate), other) in result.iter_mut().zip(x).zip(others) {
                            *result = *gate * distribution(*gate) * *other;
                        }
                    },
                );
            }
        }
    }

    fn backward<T: Float>(&self, _: usize, call: &Call<'_, T>) {
        let to_x = call.to_input(0);
        let width = call.output_size().1;
        let range = to_x.rows.start * width..to_x.rows.end * width;
        let (x, gradient) = (&call.input(0)[range.clone()], &call.gradient()[range.clone()]);
        let numbers = to_x.numbers.iter_mut().zip(x).zip(gradient);
        match self.function {
            Function::Relu => vectorised(
                #[inline(always)]
                || {
                    for ((to, x), gradient) in numbers {
                        put(to, if *x > T::ZERO { *gradient } else { T::ZERO }, to_x.accumulate);
                    }
                },
            ),
            Function::Gelu => vectorised(
                #[inline(always)]
                || {
                    for ((to, x), gradient) in numbers {
                        let (distribution, density) = normal(*x);
                        put(to, *gradient * (distribution + *x * density), to_x.accumulate);
                    }
                },
            ),
            Function::Geglu => {
                let to_second = call.to_input(1);
                let others = to_second.numbers.iter_mut().zip(&call.input(1)[range]);
                vectorised(
                    #[inline(always)]
                    || {
                        for (((to, gate), gradient), (to_other, other)) in numbers.zip(others) {
                            let (distribution, density) = normal(*gate);
                            put(to, *gradient * *other * (distribution + *gate * density), to_x.accumulate);
                            put(to_other, *gradient * *gate * distribution, to_second.accumulate);
                        }
                    },
                );
            }
        }
    }
}

impl Operation for Activation {
    fn name(&self) -> &'static str {
        match self.function {
            Function::Relu => "relu",
            Function::Gelu => "gelu",
            Function::Geglu => "geglu",
        }
    }

    fn keeps_input(&self, _: usize) -> bool {
        true
    }

    fn reference(&self, given: &Given<'_>) -> Result<Tensor> {
        match self.function {
            Function::Relu => given.input(0).relu(),
            Function::Gelu => gelu_reference(given.input(0)),
            Function::Geglu => gelu_reference(given.input(0))?.mul(given.input(1)),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
