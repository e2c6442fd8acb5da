//! The part of cuBLAS that Plateau calls.

use std::ffi::{c_int, c_longlong, c_void};

use crate::emulation;
use crate::state::{self, Action};

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 7;

/// A column-major product of 32-bit floats: c = op(a) op(b) + beta c.
#[derive(Clone, Copy)]
pub struct Product {
    transposed: [bool; 2],
    rows: usize,
    columns: usize,
    inner: usize,
    a: (usize, usize, i64),
    b: (usize, usize, i64),
    c: (usize, usize, i64),
    beta: f32,
    count: usize,
}

impl Product {
    /// Calculates it, number by number, where kernels are emulated.
    pub fn run(&self) {
        if !emulation::is_on() {
            return;
        }
        for batch in 0..self.count as i64 {
            let number = |(start, leading, stride): (usize, usize, i64), row: usize, column: usize| {
                (start as *mut f32)
                    .wrapping_offset((batch * stride) as isize)
                    .wrapping_add(column * leading + row)
            };
            for column in 0..self.columns {
                for row in 0..self.rows {
                    let mut sum = 0.0f64;
                    for inner in 0..self.inner {
                        let a = if self.transposed[0] { (inner, row) } else { (row, inner) };
                        let b = if self.transposed[1] { (column, inner) } else { (inner, column) };
                        // SAFETY: the corners of all three matrices were checked to lie in live allocations.
                        let product = unsafe {
                            f64::from(number(self.a, a.0, a.1).read())
                                * f64::from(number(self.b, b.0, b.1).read())
                        };
                        sum += product;
                    }
                    let target = number(self.c, row, column);
                    // SAFETY: as above. With beta 0 the old value is not read, as cuBLAS promises.
                    unsafe {
                        let old = if self.beta == 0.0 { 0.0 } else { self.beta * target.read() };
                        target.write(sum as f32 + old);
                    }
                }
            }
        }
    }

    /// Whether all of a matrix of this many rows and columns lies in one allocation.
    fn owned(
        &self,
        state: &state::State,
        (start, leading, stride): (usize, usize, i64),
        rows: usize,
        columns: usize,
    ) -> bool {
        if rows > leading || stride < 0 {
            return false;
        }
        let last = (self.count - 1) * stride as usize + (columns - 1) * leading + rows;
        state.owns(start, last * 4)
    }

    fn is_valid(&self, state: &state::State) -> bool {
        if self.rows * self.columns * self.inner * self.count == 0 {
            return false;
        }
        let oriented = |transposed: bool, rows: usize, columns: usize| {
            if transposed { (columns, rows) } else { (rows, columns) }
        };
        let a = oriented(self.transposed[0], self.rows, self.inner);
        let b = oriented(self.transposed[1], self.inner, self.columns);
        self.owned(state, self.a, a.0, a.1)
            && self.owned(state, self.b, b.0, b.1)
            && self.owned(state, self.c, self.rows, self.columns)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasCreate_v2(handle: *mut *mut c_void) -> c_int {
    let place = state::with(|state| {
        state.blas_streams.push(0);
        state.blas_streams.len()
    });
    // SAFETY: the caller's promise.
    unsafe { handle.write(place as *mut c_void) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasDestroy_v2(_handle: *mut c_void) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetStream_v2(handle: *mut c_void, stream: *mut c_void) -> c_int {
    let place = (handle as usize).wrapping_sub(1);
    state::with(|state| match state.blas_streams.get_mut(place) {
        Some(own) => {
            *own = stream as usize;
            SUCCESS
        }
        None => INVALID_VALUE,
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetWorkspace_v2(_handle: *mut c_void, workspace: *mut c_void, bytes: usize) -> c_int {
    match state::with(|state| state.owns(workspace as usize, bytes)) {
        true => SUCCESS,
        false => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGemmStridedBatchedEx(
    handle: *mut c_void,
    transposed_a: c_int,
    transposed_b: c_int,
    rows: c_int,
    columns: c_int,
    inner: c_int,
    alpha: *const f32,
    a: *const c_void,
    a_type: c_int,
    a_leading: c_int,
    a_stride: c_longlong,
    b: *const c_void,
    b_type: c_int,
    b_leading: c_int,
    b_stride: c_longlong,
    beta: *const f32,
    c: *mut c_void,
    c_type: c_int,
    c_leading: c_int,
    c_stride: c_longlong,
    count: c_int,
    _compute: c_int,
    _algorithm: c_int,
) -> c_int {
    let extent = |number: c_int| usize::try_from(number).unwrap_or(0);
    // SAFETY: the caller's promise.
    let (alpha, beta) = unsafe { (alpha.read(), beta.read()) };
    let product = Product {
        transposed: [transposed_a != 0, transposed_b != 0],
        rows: extent(rows),
        columns: extent(columns),
        inner: extent(inner),
        a: (a as usize, extent(a_leading), a_stride),
        b: (b as usize, extent(b_leading), b_stride),
        c: (c as usize, extent(c_leading), c_stride),
        beta,
        count: extent(count),
    };
    state::with(|state| {
        state.count("cublasGemmStridedBatchedEx");
        // 32-bit floats have the number 0.
        if [a_type, b_type, c_type] != [0; 3] || alpha != 1.0 || !product.is_valid(state) {
            return INVALID_VALUE;
        }
        let Some(stream) = state.blas_streams.get((handle as usize).wrapping_sub(1)).copied() else {
            return INVALID_VALUE;
        };
        state.queue(stream, Action::Multiply(product));
        SUCCESS
    })
}
