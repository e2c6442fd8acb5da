//! Linear maps: cuBLAS for the products, one kernel for what stands around them.

use super::{CardForm, NONE, RELU};
use crate::cuda::commands::{Product, arguments};
use crate::cuda::error::CudaError;
use crate::cuda::lower::{Call, flag, int, segments};
use crate::ops::linear::{Linear, WeightLayout};

impl CardForm for Linear {
    fn forward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (layout, residual, relu) = self.form();
        let (x, y, weight) = (call.input(0), call.output(), call.parameter(0));
        call.multiply(Product {
            a: (x.address, x.stride(), false),
            b: (weight.address, call.stride(), layout == WeightLayout::OutIn),
            c: (y.address, y.stride()),
            rows: y.rows,
            columns: y.width,
            inner: x.width,
            accumulate: false,
            replicas: call.replicas(),
        });
        let bias = if call.has_parameter(1) { call.parameter(1).address } else { 0 };
        let residual = if residual { call.input(1).address } else { 0 };
        if bias == 0 && residual == 0 && !relu {
            return Ok(());
        }
        let activation = if relu { RELU } else { NONE };
        let (rows, width) = (int(y.rows)?, int(y.width)?);
        let all = arguments![y.address, y.address, bias, call.stride(), residual, rows, width, activation];
        call.launch_by_number("bias_activation", y.count(), all)
    }

    fn backward(&self, call: &mut Call<'_, '_>) -> Result<(), CudaError> {
        let (layout, _, relu) = self.form();
        let (x, gradient, weight) = (call.input(0), call.gradient(), call.parameter(0));
        let (count, segment) = segments(gradient.rows);
        let (rows, width) = (int(gradient.rows)?, int(gradient.width)?);
        let (partial, partial_stride) = match call.has_parameter(1) {
            true => call.partial_sums(1, 0, count, gradient.width)?,
            false => (0, 0),
        };
        let grid = (gradient.width.div_ceil(32), count, call.replicas());
        if relu {
            // In place: nobody reads the gradient afterwards. ReLU's slope can be told from its result.
            let all = arguments![
                gradient.address,
                partial,
                partial_stride,
                gradient.address,
                call.output().address,
                rows,
                width,
                int(segment)?,
                RELU,
                flag(false)
            ];
            call.launch("activation_backward", grid, (32, 8, 1), all)?;
        } else if partial != 0 {
            let all = arguments![partial, partial_stride, gradient.address, rows, width, int(segment)?];
            call.launch("column_sums", grid, (32, 8, 1), all)?;
        }
        let replicas = call.replicas();
        if let Some((to_x, accumulate)) = call.to_input(0) {
            call.multiply(Product {
                a: (gradient.address, gradient.stride(), false),
                b: (weight.address, call.stride(), layout == WeightLayout::InOut),
                c: (to_x.address, to_x.stride()),
                rows: x.rows,
                columns: x.width,
                inner: gradient.width,
                accumulate,
                replicas,
            });
        }
        let to_weight = call.to_parameter(0);
        let (left, right) = match layout {
            WeightLayout::InOut => (x, gradient),
            WeightLayout::OutIn => (gradient, x),
        };
        call.multiply(Product {
            a: (left.address, left.stride(), true),
            b: (right.address, right.stride(), false),
            c: (to_weight.address, call.stride()),
            rows: left.width,
            columns: right.width,
            inner: x.rows,
            accumulate: to_weight.accumulate,
            replicas,
        });
        Ok(())
    }
}
