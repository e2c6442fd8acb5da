//! Matrix products on one thread, through the `gemm` crate.
//!
//! The only unsafe code of this crate: `gemm` takes raw pointers. The wrapper checks every extent first.

use crate::float::Float;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Row-major `rows` x `columns`.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a matrix of {rows} x {columns} in {} numbers", data.len());
        Matrix { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// `rows` x `columns` whose rows begin `row_stride` numbers apart; `data` begins with the first.
    pub fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, columns, row_stride),
            "a matrix of {rows} x {columns} by {row_stride}"
        );
        Matrix { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Its transpose, without a copy.
    pub fn transposed(self) -> Self {
        Matrix {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// Whether a matrix with rows `row_stride` apart lies within `length` numbers, without overlap.
fn fits(length: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    rows == 0 || columns == 0 || (columns <= row_stride && (rows - 1) * row_stride + columns <= length)
}

/// `result` (row-major) = lhs rhs, or result + lhs rhs where `accumulate`. One thread; the order of additions depends on
/// the three sizes only.
pub(crate) fn multiply<T: Float>(result: &mut [T], lhs: Matrix<'_, T>, rhs: Matrix<'_, T>, accumulate: bool) {
    assert_eq!(result.len(), lhs.rows * rhs.columns, "size of the result of a matrix product");
    multiply_into(result, rhs.columns, lhs, rhs, accumulate);
}

/// The same into rows that begin `row_stride` numbers apart.
#[allow(unsafe_code, reason = "gemm takes raw pointers; every bound is checked first")]
pub(crate) fn multiply_into<T: Float>(
    result: &mut [T],
    row_stride: usize,
    lhs: Matrix<'_, T>,
    rhs: Matrix<'_, T>,
    accumulate: bool,
) {
    let (m, k, n) = (lhs.rows, lhs.columns, rhs.columns);
    assert_eq!(k, rhs.rows, "inner sizes of a matrix product");
    assert!(fits(result.len(), m, n, row_stride), "size of the result of a matrix product");
    // SAFETY: the constructors of `Matrix` checked that its strides stay inside its slice for its rows and columns
    // (transposition swaps both alike), the result was checked above, and a `&mut` slice overlaps no `&` slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            result.as_mut_ptr(),
            1,
            row_stride as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
